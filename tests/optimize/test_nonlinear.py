"""Nonlinear least squares against certified values, SciPy, ridge, and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import nist
import numpy as np
import oracles
import pytest
import scipy.optimize
import scipy.stats

import jaxridge as jxr
from jaxridge import optimize
from jaxridge.optimize import losses
from jaxridge.optimize.control import LevenbergMarquardt, TrustRegion
from jaxridge.optimize.steps import Dense, Triangle
from jaxridge.optimize.uncertainty import student, uncertainty

RNG = np.random.default_rng(8)
LM, TR = LevenbergMarquardt(), TrustRegion()
SOLVERS = {
    "LM": LM,
    "LM by Cholesky": LevenbergMarquardt(linear=optimize.cholesky),
    "LM by products": LevenbergMarquardt(linear=optimize.products),
    "LM without acceleration": LevenbergMarquardt(acceleration=False),
    "TR": TR,
    "TR by Cholesky": TrustRegion(linear=optimize.cholesky),
    "dogleg": TrustRegion(step=optimize.dogleg),
    "steihaug": TrustRegion(step=optimize.steihaug, linear=optimize.products),
}


@partial(jax.jit, static_argnames=("names",))
def sum_of_squares(names, x, data):
    r = nist.residual_of_any(names)(x, data)
    return r, jnp.sum(jnp.square(r))


def cast_minimum(name, data):
    """Where MINPACK ends from the certified answer."""
    residual = lambda b: np.asarray(sum_of_squares(nist.alike(name), jnp.asarray(b), data)[0])  # noqa: E731
    options = {"method": "lm", "xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "x_scale": "jac"}
    return scipy.optimize.least_squares(residual, nist.DATA[name]["certified"], **options).x


@partial(jax.jit, static_argnames=("names",))
def nist_fits(names, x0, data):
    """By both solvers, and in float64 the standard errors: one program for all regressions of a kind."""
    residual = nist.residual_of_any(names)
    found = [jxr.least_squares(residual, x0, data, solver=solver) for solver in (LM, TR)]
    return found, uncertainty(residual, found[0], data).standard_errors if x0.dtype == jnp.float64 else None


def nearby(name):
    """Starts from which rounding soon hides every gain."""
    certified, rng = np.asarray(nist.DATA[name]["certified"]), np.random.default_rng(0)
    return [jnp.asarray(certified * (1 + size * rng.standard_normal(certified.shape))) for size in (1e-3, 1e-6, 1e-9)]


GIVEN_UP = ("Bennett5", "MGH10", "MGH17")  # in float32, by TrustRegion the Lanczos sums of exponentials too


# Each number of parameters is a program; in float32 those of up to four, the others by `make fits`.
REGRESSIONS = [
    pytest.param(
        name, dtype, marks=pytest.mark.whole if dtype == "float32" and len(nist.DATA[name]["certified"]) > 4 else ()
    )
    for name in sorted(nist.MODELS, key=nist.alike)
    for dtype in ("float64", "float32")
]


@pytest.mark.parametrize(("name", "dtype"), REGRESSIONS)
def test_nist(name, dtype):
    """Both solvers from both starts and, in float64, from three near the answer; float32 may give up on some, and says
    so.
    """
    (x, y), starts = nist.problem(name, dtype)
    near = nearby(name) if dtype == "float64" else []
    names, data = nist.alike(name), nist.padded(name, (x, y))
    if dtype == "float32":
        which, *wide, counts = data
        cast = which, *map(jnp.float64, wide), counts
        rss = lambda b: float(sum_of_squares(names, jnp.asarray(b, float), cast)[1])  # noqa: E731
        least = rss(cast_minimum(name, cast))
    for start in [*starts, *near]:
        both, deviations = nist_fits(names, start, data)
        if dtype == "float64" and not any(start is other for other in near):
            # Rounding n residuals by eps |y| each changes their root mean square by eps |y|/(σ√n): 1.3e-3 for Lanczos1,
            # whose data are exact but for 14 digits, and nothing elsewhere.
            certified = np.asarray(nist.DATA[name]["certified_sd"])
            sigma = np.sqrt(nist.DATA[name]["rss"] / nist.DATA[name]["dof"])
            rounding = np.finfo(float).eps * np.max(np.abs(y)) / (sigma * np.sqrt(len(y)))
            # Rows that do not count were counted in the degrees of freedom.
            freedom = np.sqrt((len(data[2]) - len(start)) / (len(y) - len(start)))
            np.testing.assert_allclose(deviations * freedom, certified, rtol=1e-4 + rounding)
        for found, given_up in zip(both, (GIVEN_UP, (*GIVEN_UP, "Lanczos2", "Lanczos3")), strict=True):
            assert found.value.dtype == dtype
            score = nist.digits(name, found.value)
            if dtype == "float64":
                assert found.success
                # The certificates have 11 digits.
                assert score >= 10.2
            elif name in given_up:
                assert score >= 2 or not found.success
            else:
                assert score >= 2
            if dtype == "float32" and found.success:
                # No success far above the least cost of the rounded data, but for rounding of the residuals.
                eps = np.finfo(np.float32).eps
                assert rss(found.value) <= 1.01 * least + len(y) * (eps * np.max(np.abs(y))) ** 2


T = jnp.linspace(0.0, 4.0, 25)
Y = 2.5 * jnp.exp(-0.9 * T) + 0.6 + jnp.asarray(0.05 * RNG.standard_normal(25))


def decay(x, args):
    """Three parameters at a residual that is not zero."""
    t, y = args
    return x[0] * jnp.exp(-x[1] * t) + x[2] - y


START = jnp.array([1.0, 0.3, 0.0])


@pytest.mark.parametrize("name", list(SOLVERS))
def test_every_solver_finds_what_scipy_finds(name):
    found = jxr.least_squares(decay, START, (T, Y), solver=SOLVERS[name])
    theirs = scipy.optimize.least_squares(lambda x: np.asarray(decay(x, (T, Y))), START, xtol=1e-15, ftol=1e-15)
    assert found.success
    # Gauss-Newton with conjugate gradients converges linearly, the rest to rounding.
    np.testing.assert_allclose(found.value, theirs.x, rtol=1e-6)
    np.testing.assert_allclose(found.cost, theirs.cost, rtol=1e-12)
    assert found.residual_evaluations >= found.jacobian_evaluations


def test_a_linear_residual_is_ridge():
    X, y, lam = RNG.standard_normal((12, 4)), RNG.standard_normal(12), 0.7
    expected = oracles.ridge(X, y, lam, intercept=False)[0]
    for solver in (LM, TR, SOLVERS["LM by Cholesky"]):
        found = jxr.least_squares(lambda w, args: args[0] @ w - args[1], jnp.zeros(4), (X, y), lam=lam, solver=solver)
        np.testing.assert_allclose(found.value, expected, rtol=1e-11)
        cost = 0.5 * (np.sum((X @ expected - y) ** 2) + lam * np.sum(expected**2))
        np.testing.assert_allclose(found.cost, cost, rtol=1e-13)
    lams = jnp.array([0.01, 1.0, 100.0])
    path = jxr.least_squares_path(lambda w, args: args[0] @ w - args[1], jnp.zeros(4), (X, y), lams=lams)
    np.testing.assert_allclose(path.value, jxr.ridge_path(X, y, lams, intercept=False).coef, rtol=1e-10)


def test_reference_point():
    X, y, ref = RNG.standard_normal((9, 3)), RNG.standard_normal(9), RNG.standard_normal(3)
    found = jxr.least_squares(lambda w, _: X @ w - y, jnp.zeros(3), lam=2.0, x_ref=ref)
    np.testing.assert_allclose(found.value - ref, oracles.ridge(X, y - X @ ref, 2.0, intercept=False)[0], rtol=1e-10)


def test_damped_step_is_ridge_is_the_trust_region_step():
    """The step of Levenberg-Marquardt, ridge on (J, -r), and the step inside a ball of its length are one."""
    J, r, mu = RNG.standard_normal((8, 3)), RNG.standard_normal(8), 0.37
    ridge = oracles.ridge(J, -r, mu, intercept=False)[0]
    stacked = jnp.linalg.qr(jnp.concatenate([jnp.asarray(J), jnp.asarray(r)[:, None]], axis=1), mode="r")
    for model in (Triangle.of(stacked[:3]), Dense(jnp.asarray(J.T @ J), jnp.asarray(J.T @ r))):
        step = model.damped(jnp.ones(3), jnp.asarray(mu))
        np.testing.assert_allclose(step.p, ridge, rtol=1e-12)
        within = model.within(jnp.ones(3), jnp.linalg.norm(step.p))
        np.testing.assert_allclose(within.p, ridge, rtol=1e-11)
        np.testing.assert_allclose(within.mu, mu, rtol=1e-11)
    boxed = jxr.trust_region_subproblem(J.T @ J, J.T @ r, np.linalg.norm(ridge))
    np.testing.assert_allclose(boxed.step, ridge, rtol=1e-11)
    ball = jxr.ridge_ball(J, -r, np.linalg.norm(ridge), intercept=False)
    np.testing.assert_allclose([ball.lam, boxed.multiplier], mu, rtol=1e-10)


def differences(fn, x, h=1e-5):
    """Central differences of fourth order."""
    x = np.asarray(x, float)
    columns = []
    for j in range(x.size):
        e = np.zeros_like(x)
        e.flat[j] = h * max(1.0, abs(x.flat[j]))
        near, far = fn(x + e) - fn(x - e), fn(x + 2 * e) - fn(x - 2 * e)
        columns.append((8 * near - far) / (12 * e.flat[j]))
    return np.stack(columns, axis=-1).reshape(np.shape(columns[0]) + x.shape)


BOXES = {
    "free": None,
    "inactive": (jnp.array([0.0, 0.0, -1.0]), jnp.array([9.0, 9.0, 9.0])),
    "active": (None, jnp.array([9.0, 0.5, 9.0])),
}
PROBLEMS = {
    "LM": (LM, losses.linear, "free"),
    "TR": (TR, losses.linear, "free"),
    "inactive bounds": (LM, losses.linear, "inactive"),
    "active bounds": (LM, losses.linear, "active"),
    "active bounds, TR": (TR, losses.linear, "active"),
    "robust": (LM, losses.scaled(losses.soft_l1, 0.05), "free"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.whole if name == "active bounds, TR" else ()) for name in PROBLEMS]
)
def test_derivatives_of_a_fit(name):
    """In the data, the penalty and the reference point, at a residual that is not zero."""
    solver, loss, box = PROBLEMS[name]

    def fit(y, lam, ref):
        options = {"solver": solver, "loss": loss, "bounds": BOXES[box]}
        return jxr.least_squares(decay, START, (T, y), lam=lam, x_ref=ref, **options).value

    point = Y, jnp.asarray(0.3), jnp.array([1.0, 1.0, 0.0])
    program = jax.jit(lambda *p: (fit(*p), jax.jacrev(fit, (0, 1, 2))(*p), jax.jacfwd(fit, (0, 1, 2))(*p)))
    _, reverse, forward = program(*point)
    for i in range(3):
        at = lambda x, i=i: np.asarray(program(*point[:i], jnp.asarray(x), *point[i + 1 :])[0])  # noqa: E731
        expected = differences(at, point[i])
        scale = np.max(np.abs(expected))
        np.testing.assert_allclose(reverse[i], expected, rtol=1e-6, atol=1e-6 * scale)
        np.testing.assert_allclose(forward[i], reverse[i], rtol=1e-10, atol=1e-12 * scale)
    if box == "active":
        assert not np.any(reverse[0][1])


def test_derivative_of_an_active_bound():
    fit = lambda top: jxr.least_squares(decay, START, (T, Y), bounds=(None, jnp.array([9.0, top, 9.0]))).value  # noqa: E731
    gradient = jax.jacfwd(fit)(0.5)
    np.testing.assert_allclose(gradient[1], 1.0, rtol=1e-14)
    np.testing.assert_allclose(gradient, differences(lambda x: np.asarray(fit(float(x))), 0.5), rtol=1e-6)


def test_second_derivatives_under_jit_and_vmap():
    def fit(y):
        return jxr.least_squares(decay, START, (T[:8], y), lam=0.1).value[1]

    gradient = jax.jit(jax.grad(fit))
    hessian = jax.jit(jax.hessian(fit))(Y[:8])
    np.testing.assert_allclose(
        hessian, differences(lambda y: np.asarray(gradient(jnp.asarray(y))), Y[:8]), rtol=1e-6, atol=1e-7
    )
    batch = jnp.stack([Y[:8], 1.1 * Y[:8], Y[:8] ** 2])
    together = jax.jit(jax.vmap(jax.grad(fit)))(batch)
    np.testing.assert_allclose(together, np.stack([gradient(y) for y in batch]), rtol=1e-7)


def test_gauss_newton_derivative_leaves_the_second_order_out():
    def fit(y, derivative):
        return jxr.least_squares(decay, START, (T, y), derivative=derivative).value

    exactly = jax.jacrev(fit)(Y, optimize.full_hessian)
    nearly = jax.jacrev(fit)(Y, optimize.gauss_newton)
    J = jax.jacfwd(decay)(fit(Y, optimize.full_hessian), (T, Y))
    np.testing.assert_allclose(nearly, np.linalg.pinv(J), rtol=1e-8, atol=1e-10)
    assert np.max(np.abs(nearly - exactly)) > 1e-3 * np.max(np.abs(exactly))


def peak(x, t):
    return x[0] * jnp.exp(-0.5 * ((t - x[1]) / x[2]) ** 2) + x[3]


def logistic(x, t):
    return x[0] / (1 + jnp.exp(-x[1] * (t - x[2])))


# One function for each model, so that its fits share a program.
RESIDUALS = {model: lambda x, args, model=model: model(x, args[0]) - args[1] for model in (peak, logistic)}
SLOPES = {residual: jax.jit(jax.jacfwd(residual)) for residual in (decay, *RESIDUALS.values())}
COSTS = {residual: lambda x, args, residual=residual: 0.5 * jnp.sum(residual(x, args) ** 2) for residual in SLOPES}
NEWTON = {residual: (jax.jit(jax.grad(cost)), jax.jit(jax.hessian(cost))) for residual, cost in COSTS.items()}
TRUTH = {decay: (2.5, 0.9, 0.6), peak: (3.0, 1.7, 0.5, 0.2), logistic: (2.0, 3.0, 1.4)}
# Model, start, lower and upper bounds: some hold at the answer, some do not, some are one-sided.
BOUNDED = [
    (decay, (1.0, 0.3, 0.0), (0.0, 0.0, 0.0), (9.0, 9.0, 9.0)),
    (decay, (1.0, 0.3, 0.0), (0.0, 0.0, 0.0), (9.0, 0.5, 9.0)),
    (decay, (1.0, 0.3, 0.0), (0.0, 0.0, -1.0), (2.0, 9.0, 0.3)),
    (decay, (4.0, 2.0, 1.0), (3.0, -np.inf, -np.inf), (np.inf, np.inf, np.inf)),
    (peak, (1.0, 1.0, 1.0, 0.0), (0.0, 0.0, 0.1, 0.0), (9.0, 4.0, 2.0, 1.0)),
    (peak, (1.0, 1.0, 1.0, 0.0), (0.0, 0.0, 0.7, -1.0), (9.0, 4.0, 2.0, 1.0)),
    (peak, (2.0, 2.5, 0.9, 0.4), (0.0, 1.9, 0.1, 0.3), (2.5, 4.0, 2.0, 1.0)),
    (logistic, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (9.0, 9.0, 4.0)),
    (logistic, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (9.0, 2.0, 4.0)),
    (logistic, (1.5, 1.0, 2.5), (0.0, 0.0, 1.6), (1.7, 9.0, 4.0)),
]


SEEN = []


def see(step, cost, x):
    SEEN.append(x)


@pytest.mark.parametrize("solver", ["LM", "TR by Cholesky"])
@pytest.mark.parametrize("index", range(len(BOUNDED)))
def test_bounds_find_what_scipy_finds_and_no_iterate_leaves_them(index, solver):
    model, start, lower, upper = BOUNDED[index]
    if model is decay:
        residual, y = decay, Y
    else:
        residual = RESIDUALS[model]
        y = model(TRUTH[model], T) + 0.05 * jnp.asarray(np.random.default_rng(index).standard_normal(25))
    SEEN.clear()
    bounds = jnp.array(lower), jnp.array(upper)
    found = jxr.least_squares(
        residual,
        jnp.array(start),
        (T, y),
        bounds=bounds,
        solver=SOLVERS[solver],
        callback=see,
    )
    jax.effects_barrier()
    assert found.success
    fn = lambda x: np.asarray(residual(jnp.asarray(x), (T, y)))  # noqa: E731
    jac = lambda x: np.asarray(SLOPES[residual](jnp.asarray(x), (T, y)))  # noqa: E731
    options = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "jac": jac, "method": "dogbox"}
    theirs = scipy.optimize.least_squares(fn, start, bounds=(lower, upper), **options)
    np.testing.assert_allclose(found.cost, theirs.cost, rtol=1e-8)
    # SciPy ends where the cost no longer falls, with half of the digits; Newton's method gives it the others.
    x, free = theirs.x, (theirs.x > lower) & (theirs.x < upper)
    for _ in range(2):
        g, H = (np.asarray(d(jnp.asarray(x), (T, y))) for d in NEWTON[residual])
        x[free] -= np.linalg.solve(H[np.ix_(free, free)], g[free])
    np.testing.assert_allclose(x, theirs.x, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.value, x, rtol=1e-8, atol=1e-8)
    assert len(SEEN) == found.steps
    assert all(np.all(x >= np.array(lower)) and np.all(x <= np.array(upper)) for x in SEEN)
    held = np.isclose(theirs.x, lower, atol=1e-7) | np.isclose(theirs.x, upper, atol=1e-7)
    assert np.array_equal(found.active, held)


@pytest.mark.parametrize("loss", ["huber", "soft_l1", "cauchy", "arctan", "own"])
def test_robust_losses_are_those_of_scipy(loss):
    y = Y.at[jnp.array([3, 9, 16])].add(jnp.array([2.0, -1.5, 3.0]))
    rho = getattr(losses, loss) if loss != "own" else lambda z: jnp.log1p(z)
    found = jxr.least_squares(decay, jnp.array([2.0, 1.0, 0.5]), (T, y), loss=losses.scaled(rho, 0.1))
    fn = lambda x: np.asarray(decay(jnp.asarray(x), (T, y)))  # noqa: E731
    jac = lambda x: np.asarray(SLOPES[decay](jnp.asarray(x), (T, y)))  # noqa: E731
    options = {"loss": "cauchy" if loss == "own" else loss, "f_scale": 0.1, "jac": jac, "xtol": 1e-15, "ftol": 1e-15}
    theirs = scipy.optimize.least_squares(fn, (2.0, 1.0, 0.5), gtol=1e-15, **options)
    assert found.success
    np.testing.assert_allclose(found.cost, theirs.cost, rtol=1e-10)
    np.testing.assert_allclose(found.value, theirs.x, rtol=1e-6)


def rosenbrock(x, scale):
    return jnp.sum(scale * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


@pytest.mark.parametrize("step", [optimize.exact, optimize.dogleg, optimize.steihaug])
def test_minimize(step):
    found = jxr.minimize(rosenbrock, jnp.array([-1.2, 1.0, 0.8]), 100.0, solver=TrustRegion(step=step))
    assert found.success
    np.testing.assert_allclose(found.value, 1.0, rtol=1e-8)


def test_minimize_leaves_a_saddle_and_respects_bounds():
    fn = lambda x, _: x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2 * (1 + x[0] ** 2)  # noqa: E731
    found = jxr.minimize(fn, jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(jnp.abs(found.value), [1.0, 0.0], atol=1e-8)
    boxed = jxr.minimize(fn, jnp.array([0.0, 1.0]), bounds=(jnp.array([-0.5, 0.25]), jnp.array([0.5, 2.0])))
    np.testing.assert_allclose(jnp.abs(boxed.value), [0.5, 0.25], atol=1e-12)
    slope = jax.grad(lambda s: jxr.minimize(rosenbrock, jnp.array([-1.2, 1.0]), s, bounds=(None, 0.5)).cost)(100.0)
    cost = lambda s: float(jxr.minimize(rosenbrock, jnp.array([-1.2, 1.0]), float(s), bounds=(None, 0.5)).cost)  # noqa: E731
    np.testing.assert_allclose(slope, differences(cost, np.array(100.0)), rtol=1e-6)


def outcome(residual, x0, **options):
    return jxr.least_squares(residual, x0, **options)


CODES = {
    "nonfinite_start": lambda: outcome(lambda x, _: jnp.log(x), jnp.array([-1.0])),
    "nonfinite_start of a Jacobian": lambda: outcome(lambda x, _: jnp.sqrt(x), jnp.array([0.0])),
    "nonfinite_region": lambda: outcome(
        lambda x, _: jnp.where(x < 1.0, 2.0 - x, jnp.nan) + 0.0 * x, jnp.array([1.0 - 1e-9])
    ),
    "crossed_bounds": lambda: outcome(lambda x, _: x, jnp.ones(2), bounds=(jnp.ones(2), jnp.zeros(2))),
    "invalid_lam": lambda: outcome(lambda x, _: x, jnp.ones(2), lam=-1.0),
    "max_steps": lambda: outcome(decay, START, args=(T, Y), max_steps=2),
    "stalled": lambda: outcome(wrong_derivative, jnp.array([1.0, 2.0])),
    "rounding_limited": lambda: outcome(*noisy()),
    "gradient_converged": lambda: outcome(decay, START, args=(T, Y), gtol=1e-3),
    "cost_converged": lambda: outcome(decay, START, args=(T, Y), ftol=1e-6),
    "step_converged": lambda: outcome(decay, START, args=(T, Y)),
}


@jax.custom_jvp
def _misled(x):
    return x**2 + 1.0


_misled.defjvp(lambda primals, tangents: (_misled(*primals), -2.0 * primals[0] * tangents[0]))


def wrong_derivative(x, _):
    return _misled(x)


def noisy():
    """Bennett5 in float32: residuals are what is left of numbers a thousand times larger."""
    data, starts = nist.problem("Bennett5", "float32")
    return lambda b, _: nist.residual("Bennett5")(b, data), starts[1]


@pytest.mark.parametrize("name", list(CODES))
def test_every_outcome(name):
    found = CODES[name]()
    code = name.split()[0]
    assert found.result == getattr(jxr.RESULTS, code), jxr.RESULTS[found.result]
    assert bool(found.success) == code.endswith("converged")
    if code not in ("nonfinite_start", "invalid_lam", "crossed_bounds"):
        assert np.isfinite(found.value).all()


def test_a_failure_has_nan_derivatives_in_its_lane_only():
    def fit(y, steps):
        return jxr.least_squares(decay, START, (T, y), max_steps=steps).value.sum()

    gradient = jax.vmap(jax.grad(fit))(jnp.stack([Y, Y]), jnp.array([2, 1000]))
    assert np.isnan(gradient[0]).all()
    np.testing.assert_allclose(gradient[1], jax.grad(fit)(Y, 1000), rtol=1e-8)


def test_awkward_problems():
    # Fewer residuals than parameters: the nearest solution, for steps are of minimum norm.
    found = outcome(lambda x, _: x[:1] + x[1:] - 2.0, jnp.zeros(2))
    assert found.success
    np.testing.assert_allclose(found.value, [1.0, 1.0], rtol=1e-12)
    # A parameter without influence, and a Jacobian of rank one.
    found = outcome(
        lambda x, _: jnp.stack([x[0] + x[1] - 1.0, 2 * (x[0] + x[1]) - 2.0, x[0] + x[1] - 1.3]), jnp.zeros(3)
    )
    assert found.success
    np.testing.assert_allclose(found.value[0] + found.value[1], 1.05, rtol=1e-10)
    assert found.value[2] == 0.0
    # Already there.
    found = outcome(lambda x, _: x - 1.0, jnp.ones(3))
    assert found.success
    assert found.cost == 0.0
    # NaN at a trial: the full step from 8 leaves the domain of the logarithm, shorter ones do not.
    found = outcome(lambda x, _: jnp.log(x) - 1.0, jnp.array([8.0]))
    assert found.success
    np.testing.assert_allclose(found.value, np.e, rtol=1e-12)
    # Outside the bounds at the start.
    with pytest.warns(UserWarning, match="x0 lies outside its bounds"):
        found = outcome(lambda x, _: x - jnp.array([3.0, -1.0]), jnp.array([9.0, 9.0]), bounds=(0.0, 1.0))
    np.testing.assert_allclose(found.value, [1.0, 0.0], atol=1e-14)
    # Whole numbers, pytrees, and a parameter in its own shape.
    found = outcome(
        lambda x, _: {"a": x["a"] - 2.0, "b": x["b"] - jnp.arange(4.0).reshape(2, 2)},
        {"a": 1, "b": jnp.zeros((2, 2), int)},
    )
    np.testing.assert_allclose(found.value["b"], [[0, 1], [2, 3]], atol=1e-12)
    assert found.value["b"].dtype == jnp.float64
    # float32 stays float32 with x64 on.
    assert outcome(lambda x, _: x - 1, jnp.zeros(2, jnp.float32)).value.dtype == jnp.float32


def test_a_residual_without_forward_mode():
    @jax.custom_vjp
    def model(x):
        return decay(x, (T, Y))

    model.defvjp(lambda x: (model(x), x), lambda x, r: jax.vjp(lambda x: decay(x, (T, Y)), x)[1](r))
    found = jxr.least_squares(lambda x, _: model(x), START)
    np.testing.assert_allclose(found.value, jxr.least_squares(decay, START, (T, Y)).value, rtol=1e-9)
    with pytest.raises(ValueError, match="custom_vjp has none"):
        jax.grad(lambda s: jxr.least_squares(lambda x, s: s * model(x), START, s).cost)(2.0)


MATRIX_FREE_DOGLEG = TrustRegion(step=optimize.dogleg, linear=optimize.products)


def same(x, _):
    return x


MISUSE = {
    "complex start": (lambda: outcome(decay, jnp.ones(3, complex)), "x0 is complex"),
    "complex residual": (lambda: outcome(lambda x, _: x.astype(complex), jnp.ones(3)), "residual returns complex"),
    "no parameters": (lambda: outcome(lambda x, _: jnp.ones(2), {}), "x0 holds no number"),
    "no residuals": (lambda: outcome(lambda x, _: (), jnp.ones(2)), "residual returns no number"),
    "another tree": (
        lambda: outcome(lambda x, _: x["a"], {"a": 1.0}, x_ref={"b": 1.0}),
        "x_ref is .* where x0 is .*; write one number, or a tree like x0",
    ),
    "a bound of another shape": (
        lambda: outcome(lambda x, _: x, jnp.ones(3), bounds=(jnp.zeros(2), 1.0)),
        r"bounds\[0\]",
    ),
    "one bound": (lambda: outcome(lambda x, _: x, jnp.ones(3), bounds=(0.0,)), "bounds"),
    "steihaug with a matrix": (
        lambda: outcome(decay, START, solver=TrustRegion(step=optimize.dogleg, linear=optimize.products)),
        "products",
    ),
    "LM for minimize": (lambda: jxr.minimize(rosenbrock, jnp.ones(2), 1.0, solver=LM), "solver"),
    "vector-valued": (lambda: jxr.minimize(lambda x, _: x, jnp.ones(2)), "fn must return one number"),
}


@pytest.mark.parametrize("name", list(MISUSE))
def test_misuse_is_named(name):
    call, message = MISUSE[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_vmap_is_a_loop_and_new_numbers_do_not_compile_again():
    traces = []

    def residual(x, args):
        traces.append(1)
        return decay(x, args)

    fit = jax.jit(lambda x, y, lam: jxr.least_squares(residual, x, (T, y), lam=lam).value)
    one = fit(START, Y, 0.1)
    count = len(traces)
    two = fit(2 * START, 2 * Y, 0.2)
    assert len(traces) == count
    both = jax.vmap(fit)(jnp.stack([START, 2 * START]), jnp.stack([Y, 2 * Y]), jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(both, np.stack([one, two]), rtol=1e-9)


def test_bands_are_those_of_curve_fit():
    fit = jxr.least_squares(decay, START, (T, Y))
    spread = uncertainty(decay, fit, (T, Y))
    model = lambda t, a, b, c: a * np.exp(-b * t) + c  # noqa: E731
    slopes = lambda t, a, b, c: np.stack([np.exp(-b * t), -a * t * np.exp(-b * t), np.ones_like(t)], axis=1)  # noqa: E731
    tight = {"xtol": 1e-14, "ftol": 1e-14}
    _, pcov = scipy.optimize.curve_fit(model, T, Y, START, jac=slopes, **tight)
    np.testing.assert_allclose(spread.covariance, pcov, rtol=1e-6)
    _, known = scipy.optimize.curve_fit(model, T, Y, START, np.full(25, 0.1), True, jac=slopes, **tight)
    np.testing.assert_allclose(uncertainty(decay, fit, (T, Y), sigma=0.1).covariance, known, rtol=1e-6)
    new = jnp.array([0.5, 6.0])
    curve = lambda x: x[0] * jnp.exp(-x[1] * new) + x[2]  # noqa: E731
    G = np.asarray(jax.jacfwd(curve)(fit.value))
    width = scipy.stats.t.ppf(0.95, 22) * np.sqrt(np.sum(G @ pcov * G, axis=1))
    centre, low, high = spread.confidence(curve, 0.9)
    np.testing.assert_allclose([centre - low, high - centre], [width, width], rtol=1e-5)
    _, low, high = spread.prediction(curve, 0.9)
    np.testing.assert_allclose(high - low, 2 * np.hypot(width, scipy.stats.t.ppf(0.95, 22) * spread.sigma), rtol=1e-5)
    low, high = spread.interval()
    np.testing.assert_allclose(high - low, 2 * scipy.stats.t.ppf(0.975, 22) * np.sqrt(np.diag(pcov)), rtol=1e-5)


def test_what_is_not_determined_has_infinite_variance_and_what_is_held_none():
    flat = lambda x, _: T * x[0] + x[1] + x[2] - Y  # noqa: E731
    spread = uncertainty(flat, jxr.least_squares(flat, jnp.zeros(3)))
    assert np.isfinite(spread.standard_errors[0])
    assert np.isinf(spread.standard_errors[1:]).all()
    held = uncertainty(decay, jxr.least_squares(decay, START, (T, Y), bounds=BOXES["active"]), (T, Y))
    assert held.standard_errors[1] == 0.0
    assert held.dof == 23


@pytest.mark.parametrize("dof", [1.0, 2.0, 7.0, 300.0, np.inf])
def test_quantiles_of_student(dof):
    for level in (0.5, 0.95, 0.9999):
        np.testing.assert_allclose(student(level, jnp.asarray(dof)), scipy.stats.t.ppf((1 + level) / 2, dof), rtol=1e-9)
