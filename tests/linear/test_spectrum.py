"""Every exit of every factorisation over the whole zoo, against exact rational arithmetic.

The bounds are those of first-order perturbation theory for an X̂ and ŷ that moved by c·eps of their norms, with
c = 2(n + d): twice the sum of the lengths of the inner products that lie on the way.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import reference
from problems import ZOO, conditioned

from jaxridge import RESULTS, ridge, select
from jaxridge.kernel_methods import from_kernel
from jaxridge.linear.design import checked, design_of, make_design
from jaxridge.linear.spectrum import from_cholesky, from_design, from_gram, from_triangle
from jaxridge.linear.standard_form import _without_mean

CASES = [(name, dtype) for name, problem in ZOO.items() for dtype in ("float64", "float32")[: 1 + problem.single]]


@cache
def systems(name, dtype):
    """The exact problem for each target."""
    problem = ZOO[name].cast(dtype)
    options = {"intercept": True, **problem.options}
    return [reference.System(problem.X, y, **options) for y in problem.y.T]


@jax.jit
def everything(design, lams):
    """All exits at every λ, from one factorisation."""
    spectrum = from_design(design)

    def one(lam):
        exits = (
            "coef",
            "residual",
            "rss",
            "dof",
            "residual_dof",
            "one_minus_leverage",
            "loo_residual",
            "logdet",
            "norm",
        )
        values = {exit: getattr(spectrum, exit)(lam) for exit in exits}
        coef, _ = design.split(values["coef"])
        return {**values, "coef": coef, "gcv": select.gcv(design, spectrum, lam), "result": spectrum.result(lam)}

    return jax.vmap(one)(lams)


def floats(values):
    return np.array([float(value) for value in values])


def close(got, want, allowed, what):
    error = np.max(np.abs(np.asarray(got, float) - np.asarray(want, float)), initial=0.0)
    assert error <= allowed, f"{what}: off by {error:.3g}, allowed {allowed:.3g}"


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_every_exit_within_its_condition(name, dtype):
    """Forward errors at λ = 0, 1e-12 … 1e12 and ∞; success wherever less than a thousandth is in doubt."""
    problem = ZOO[name].cast(dtype)
    design = make_design(problem.X, problem.y, **problem.options)
    lams = np.array(problem.lams, dtype)
    got = everything(design, jnp.asarray(lams))
    result = got.pop("result")
    got = {exit: np.asarray(value, float) for exit, value in got.items()}
    unit = 2 * sum(problem.X.shape) * float(np.finfo(dtype).eps)
    root = np.ones(len(problem.y)) if design.weights is None else np.sqrt(np.asarray(design.weights, float))
    mean_noise = unit * np.max(root) * np.max(np.abs(problem.y))
    for k, lam in enumerate(lams):
        for t, system in enumerate(systems(name, dtype)):
            want, sizes = system.at(lam), system.conditioning
            bound = float(reference.coefficient_bound(system, want, lam, reference.mpf(unit)))
            noise, growth = float(sizes.kappa(lam)) * unit, float(sizes.growth)
            size = float(reference.norm(want.penalised))
            off = floats(want.coef)[system.kept] - got["coef"][k][system.kept, t]
            off = float(
                reference.norm(
                    [reference.mpf(x) * reference.mp.sqrt(reference.big(p)) for x, p in zip(off, system.P, strict=True)]
                )
            )
            assert off <= bound * size + np.finfo(dtype).tiny, (
                f"coef at {lam}: off by {off:.3g}, allowed {bound * size:.3g}"
            )
            close(got["norm"][k, t], size, bound * size, f"norm at {lam}")
            allowed = 3 * noise * growth * float(system.target_size) + mean_noise
            close(root * got["residual"][k, :, t], root * floats(want.residual), allowed, f"residual at {lam}")
            close(np.sqrt(got["rss"][k, t]), np.sqrt(float(want.rss)), allowed, f"rss at {lam}")
            if bound < 1e-3 and (lam > 0 or sizes.full):
                assert bool((result == RESULTS.successful)[k, t])
        # What does not depend on y.
        directions = len(system.kept) + system.q
        close(got["dof"][k], want.dof, noise * directions, f"dof at {lam}")
        close(got["residual_dof"][k], want.residual_dof, noise * directions, f"residual dof at {lam}")
        left = floats(system.hat_complement(lam))
        close(got["one_minus_leverage"][k, :, 0], left, noise * growth, f"leverage at {lam}")
        logdet = float(system.logdet(lam))
        if np.isfinite(logdet):
            close(got["logdet"][k], logdet, 2 * directions * noise * growth + unit * abs(logdet), f"logdet at {lam}")
        else:
            assert float(got["logdet"][k]) == logdet


@pytest.mark.parametrize("name", [name for name, problem in ZOO.items() if problem.loo and problem.single])
def test_leave_one_out_over_the_zoo(name):
    """Exact refits without each row: within unit · κ_λ of the largest error."""
    problem = ZOO[name].cast("float64")
    design = make_design(problem.X, problem.y, **problem.options)
    lams = np.array([lam for lam in problem.lams if lam in (0.0, 1e-8, 1.0) or np.isinf(lam)])
    got = everything(design, jnp.asarray(problem.lams))["loo_residual"]
    unit = 2 * sum(problem.X.shape) * float(np.finfo(float).eps)
    system = systems(name, "float64")[0]
    for lam in lams:
        want = floats(reference.loo(problem.X, problem.y[:, 0], lam, **{"intercept": True, **problem.options}))
        noise = unit * float(system.conditioning.kappa(lam) * system.conditioning.growth)
        close(got[problem.lams.index(lam), :, 0], want, noise * np.max(np.abs(want)), f"leave-one-out at {lam}")


@partial(jax.jit, static_argnums=(0, 1))
def some(factorise, exits, design, lams):
    """Some exits at every λ, by some factorisation."""
    spectrum = factorise(design)
    of = {"gcv": partial(select.gcv, spectrum.problem, spectrum)}
    return jax.vmap(lambda lam: {exit: of.get(exit, getattr(spectrum, exit, None))(lam) for exit in exits})(lams)


@pytest.mark.parametrize("options", [{}, {"intercept": False}, {"standardize": True, "unpenalized": (1,)}])
@pytest.mark.parametrize("name", ["tall", "wide", "weights and penalty"])
def test_gcv_and_dof_of_the_hat_matrix(name, options):
    problem = ZOO[name]
    options = {**{k: v for k, v in problem.options.items() if k != "unpenalized"}, **options}
    lams = np.array([1e-3, 1.0, 1e3])
    data, terms = checked(problem.X, problem.y, **options)
    got = some(lambda data: from_design(design_of(data, terms)), ("dof", "gcv"), data, lams)
    for k, lam in enumerate(lams):
        np.testing.assert_allclose(got["dof"][k], np.trace(oracles.hat(problem.X, lam, **options)), rtol=1e-10)
        np.testing.assert_allclose(got["gcv"][k], oracles.gcv(problem.X, problem.y, lam, **options), rtol=1e-10)


@pytest.mark.parametrize("factorise", [from_gram, from_cholesky])
@pytest.mark.parametrize("shape", [(12, 4), (4, 12)], ids=["tall", "wide"])
def test_gram_routes_to_the_condition_squared(factorise, shape):
    """Coefficients, rss and dof within c eps κ_λ² of the accurate route, whose own error is of the order of κ_λ."""
    rng = np.random.default_rng(4)
    design = make_design(conditioned(*shape, 1e4, rng), rng.standard_normal((shape[0], 2)), intercept=False)
    lams = np.array([1e-6, 1e-2, 1.0, 1e4])
    sizes = {"coef": 0.0, "rss": 0.0, "dof": min(shape)}
    accurate, other = (some(route, (*sizes, "result"), design, lams) for route in (from_design, factorise))
    assert np.all(np.asarray(other["result"] == RESULTS.successful))
    for k, lam in enumerate(lams):
        allowed = 2 * sum(shape) * np.finfo(float).eps * (1 + lam) / (1e-8 + lam)
        for exit, size in sizes.items():
            want = np.asarray(accurate[exit][k])
            # The basis that from_gram makes for the rows of X knows nothing of λ.
            here = 2 * sum(shape) * np.finfo(float).eps * 1e8 if exit == "rss" else allowed
            close(other[exit][k], want, here * max(np.max(np.abs(want)), size), f"{exit} at {lam}")


def test_gram_routes_flag_a_lam_below_their_resolution():
    """Condition 1e12: what QR still solves is beyond a Gram matrix, which says so or gives least norm."""
    rng = np.random.default_rng(4)
    X, y = conditioned(12, 4, 1e12, rng), rng.standard_normal(12)
    design = make_design(X, y, intercept=False)
    for route in (from_cholesky, from_gram):
        result = some(route, ("result",), design, np.array([1e-20]))["result"]
        assert np.all(np.asarray(result == RESULTS.unresolved))


def test_a_triangle_is_the_whole_problem():
    """R, Qᵀy, the number of rows and rss give every exit without rows; leverages are refused by name."""
    rng = np.random.default_rng(4)
    X, y, penalty = rng.standard_normal((30, 5)), rng.standard_normal((30, 2)), np.exp(rng.standard_normal(5))
    A = np.concatenate([np.ones((30, 1)), X], axis=1)
    Q, R = np.linalg.qr(A)
    rss = np.sum((y - Q @ (Q.T @ y)) ** 2, axis=0)
    options = {"unpenalized": (0,), "penalty": np.append(1.0, penalty)}
    triangle = from_triangle(R, Q.T @ y, rows=30, rss=rss, **options)
    whole = from_design(make_design(A, y, intercept=False, **options))
    lams, exits = np.array([0.0, 1e-3, 1.0, np.inf]), ("coef", "rss", "dof", "residual_dof", "logdet", "norm", "gcv")
    got, want = (some(lambda spectrum: spectrum, exits, spectrum, lams) for spectrum in (triangle, whole))
    for exit in exits:
        np.testing.assert_allclose(got[exit], want[exit], rtol=1e-11, atol=1e-13, err_msg=exit)
    missing = {"residual": "residual", "one_minus_leverage": "leave-one-out", "loo_residual": "leave-one-out"}
    for exit, words in missing.items():
        with pytest.raises(ValueError, match=f"{words} needs the rows of X.*gcv"):
            getattr(triangle, exit)(jnp.asarray(1.0))


# Kernels.

EXITS = ("dual_coef", "residual", "rss", "squared_norm", "dof", "one_minus_leverage", "loo_residual", "logdet")


def kernel(n=7, rank=None):
    rng = np.random.default_rng(8)
    F = rng.standard_normal((n, rank or n))
    return F @ F.T, rng.standard_normal((n, 2))


@pytest.mark.parametrize("scale", [1.0, 1e150, 1e-150])
def test_kernel_against_dense_algebra(scale):
    """Coefficients, residuals, leverages, refits and evidence of (K + λI)α = y, in any units of K."""
    K, y = kernel()
    lams = np.array([1e-3, 1.0, 1e3])
    got = some(lambda K: from_kernel(K, y), (*EXITS, "result"), scale * K, scale * lams)
    assert np.all(np.asarray(got["result"] == RESULTS.successful))
    for k, lam in enumerate(lams):
        G = np.linalg.inv(K + lam * np.eye(7))
        np.testing.assert_allclose(got["dual_coef"][k] * scale, G @ y, rtol=1e-9)
        np.testing.assert_allclose(got["residual"][k], lam * G @ y, rtol=1e-9)
        np.testing.assert_allclose(got["rss"][k], np.sum((lam * G @ y) ** 2, axis=0), rtol=1e-9)
        np.testing.assert_allclose(got["squared_norm"][k] * scale, np.sum((G @ y) * (K @ G @ y), axis=0), rtol=1e-9)
        np.testing.assert_allclose(got["dof"][k], np.trace(K @ G), rtol=1e-9)
        np.testing.assert_allclose(got["one_minus_leverage"][k][:, 0], lam * np.diag(G), rtol=1e-9)
        np.testing.assert_allclose(got["logdet"][k], np.linalg.slogdet(np.eye(7) + K / lam)[1], rtol=1e-9)
        for i in range(7):
            rest = np.arange(7) != i
            alpha = np.linalg.solve(K[np.ix_(rest, rest)] + lam * np.eye(6), y[rest])
            np.testing.assert_allclose(got["loo_residual"][k][i], y[i] - K[i, rest] @ alpha, rtol=1e-8)


def test_kernel_at_the_ends_of_lam():
    """λ = 0 fits what K spans and says so; λ = ∞ fits nothing."""
    K, y = kernel(rank=3)
    both = some(lambda K: from_kernel(K, y), (*EXITS, "result"), K, np.array([0.0, np.inf]))
    exact, far = (jax.tree.map(lambda x, k=k: x[k], both) for k in range(2))
    outside = np.eye(7) - K @ np.linalg.pinv(K, rcond=1e-10)
    np.testing.assert_allclose(exact["residual"], outside @ y, atol=1e-12)
    np.testing.assert_allclose(exact["one_minus_leverage"][:, 0], np.diag(outside), atol=1e-12)
    np.testing.assert_allclose(exact["dof"], 3.0, rtol=1e-12)
    np.testing.assert_allclose(exact["dual_coef"], np.linalg.pinv(K, rcond=1e-10) @ y, atol=1e-10)
    loo = exact["loo_residual"]
    np.testing.assert_allclose(loo, (outside @ y) / np.diag(outside)[:, None], rtol=1e-9)
    assert float(exact["logdet"]) == np.inf
    assert np.all(np.asarray(exact["result"] == RESULTS.unresolved))
    for got in (far["residual"], far["loo_residual"]):
        np.testing.assert_allclose(got, y, rtol=1e-13)
    assert np.all(np.asarray(far["dual_coef"]) == 0)
    assert float(far["dof"]) == float(far["logdet"]) == 0.0


def test_kernel_derivatives():
    """First and second derivatives along K, y and λ are those of a dense inverse."""
    K, y = map(jnp.asarray, kernel())
    dK = jnp.asarray(kernel(7, 2)[0])

    def dense(h):
        k, lam, target = K + h[0] * dK, 0.5 + h[1], y * (1.0 + h[2])
        G = jnp.linalg.inv(k + lam * jnp.eye(7))
        alpha = G @ target
        return {
            "dual_coef": alpha,
            "residual": lam * alpha,
            "rss": jnp.sum((lam * alpha) ** 2, axis=0),
            "squared_norm": jnp.sum(alpha * (k @ alpha), axis=0),
            "dof": jnp.trace(k @ G),
            "one_minus_leverage": lam * jnp.diagonal(G)[:, None],
            "loo_residual": alpha / jnp.diagonal(G)[:, None],
            "logdet": jnp.linalg.slogdet(jnp.eye(7) + k / lam)[1],
        }

    def ours(h):
        spectrum = from_kernel(K + h[0] * dK, y * (1.0 + h[2]))
        return {exit: getattr(spectrum, exit)(0.5 + h[1]) for exit in EXITS}

    at = jnp.zeros(3)
    for derivative in (lambda f: f, jax.jacfwd, jax.jacrev, jax.hessian):
        got, want = (jax.jit(derivative(f))(at) for f in (ours, dense))
        for exit in EXITS:
            np.testing.assert_allclose(got[exit], want[exit], rtol=1e-8, atol=1e-9, err_msg=exit)


@pytest.mark.parametrize(("last", "code"), [(-0.5, "indefinite_kernel"), (np.nan, "nonfinite_kernel")])
def test_kernel_codes(last, code):
    spectrum = from_kernel(jnp.diag(jnp.array([1.0, last])), jnp.ones((2, 1)))
    assert np.all(np.asarray(spectrum.result(jnp.asarray(1.0)) == getattr(RESULTS, code)))
    assert np.all(np.isnan(spectrum.dual_coef(jnp.asarray(1.0))))
    assert np.all(
        np.asarray(from_kernel(jnp.eye(2), jnp.ones((2, 1))).result(jnp.asarray(-1.0)) == RESULTS.invalid_lam)
    )


def test_kernel_misuse_is_named():
    with pytest.raises(ValueError, match=r"K has shape.*square"):
        from_kernel(jnp.ones((3, 2)), jnp.ones((3, 1)))
    with pytest.raises(ValueError, match="y has shape"):
        from_kernel(jnp.eye(3), jnp.ones(3))


@pytest.mark.parametrize("offset", [1e6, 1e9, 1e12])
def test_rows_with_an_offset_are_about_one_mean(offset):
    """A product with 1/n is contracted with the subtraction in some loops only; residuals were off by 5e-5."""
    rng = np.random.default_rng(0)
    X, y = jnp.asarray(rng.standard_normal((12, 5))), rng.standard_normal(12) + offset
    centred = y - y.mean()
    centred -= centred.mean()
    two = [X, jnp.asarray(y)[:, None]]
    for blocks in (two, [jnp.concatenate(two, axis=1)]):
        reduced = jax.jit(lambda blocks: _without_mean(blocks, 5))(blocks)
        np.testing.assert_allclose(np.linalg.norm(reduced.y), np.linalg.norm(centred), rtol=1e-14)


@pytest.mark.parametrize(("of_X", "of_y", "of_lam"), [(-12, 150, 307), (-150, 150, 300), (12, -12, 200), (0, 0, 300)])
def test_a_lam_that_leaves_the_range_in_units_of_X_gives_what_does_not(of_X, of_y, of_lam):
    """λ/s² is beyond 1e308 or near it, Xᵀy/λ is not."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 4)), rng.standard_normal(30)
    fit = ridge(X * 10.0**of_X, y * 10.0**of_y, 10.0**of_lam)
    expected = (X - X.mean(0)).T @ y * 10.0 ** (of_X + of_y - of_lam)
    np.testing.assert_allclose(fit.coef, expected, rtol=1e-9)
