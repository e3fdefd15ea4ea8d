"""Lasso and elastic net: references, scikit-learn, options by their gap, ties, derivatives, codes, what is refused."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lines import check_derivatives

import jaxridge as jxr
from jaxridge import RESULTS, select

datasets = pytest.importorskip("sklearn.datasets")
linear_model = pytest.importorskip("sklearn.linear_model")

REFERENCES = json.loads((Path(__file__).parents[1] / "data" / "margins_and_sparsity.json").read_text())
FIXED = REFERENCES["lasso_diabetes"]
RNG = np.random.default_rng(12)
N, D = 40, 6
X = RNG.standard_normal((N, D)) * np.exp(RNG.standard_normal(D)) + 3.0
Y = X @ [1.0, -2.0, 0.0, 0.5, 0.0, 1.0] + RNG.standard_normal(N)
W, P = np.exp(RNG.standard_normal(N)), np.exp(0.5 * RNG.standard_normal(D))


def diabetes():
    X, y = datasets.load_diabetes(return_X_y=True)
    return (X - X.mean(axis=0)) / X.std(axis=0), (y - y.mean()) / y.std()


def excess(X, y, fit, *, lam2=0.0, weights=None, factors=None, quadratic=None):
    """The duality gap of a fit with an intercept, relative to its objective, from scratch in NumPy."""
    weights = np.ones(len(y)) if weights is None else weights
    factors = np.ones(X.shape[1]) if factors is None else factors
    quadratic = factors if quadratic is None else quadratic
    lam, w = float(fit.lam), np.asarray(fit.coef, float)
    r = np.asarray(y - X @ w - float(fit.intercept), float)
    r = r - weights @ r / weights.sum()
    centred = X - weights @ X / weights.sum()
    rho = centred.T @ (weights * r) - lam2 * quadratic * w
    used = factors > 0
    share = min(1.0, 0.5 * lam / np.max(np.abs(rho[used] / factors[used]), initial=1e-300))
    fitted = weights @ r**2 + lam2 * quadratic @ w**2
    gap = (1.0 - share) ** 2 * fitted + lam * factors @ np.abs(w) - 2.0 * share * w @ rho
    return gap / (fitted + lam * factors @ np.abs(w))


def objective(X, y, coef, lam, lam2=0.0):
    return np.sum((y - X @ coef) ** 2) + lam * np.sum(np.abs(coef)) + lam2 * np.sum(coef**2)


def test_lasso_and_elastic_net_are_the_references():
    """Coordinate descent to 1e-15 on the diabetes data: the objective no higher, the coefficients to 1e-8."""
    X, y = diabetes()
    n, alphas = len(y), np.array(FIXED["alphas"])
    path = jxr.lasso_path(X, y, 2 * n * alphas)
    np.testing.assert_allclose(path.coef, FIXED["lasso"], atol=1e-10)
    assert bool(jnp.all(path.result == RESULTS.successful))
    for i, alpha in enumerate(alphas):
        lam, lam2 = n * alpha, 0.5 * n * alpha
        fit, theirs = jxr.lasso(X, y, lam, lam2=lam2), np.array(FIXED["enet_l1_ratio_half"][i])
        np.testing.assert_allclose(fit.coef, theirs, atol=1e-10)
        for ours, fixed, quadratic in [
            (fit.coef, theirs, lam2),
            (path.coef[i], np.array(FIXED["lasso"][i]), 0.0),
        ]:
            strength = lam if quadratic else 2 * lam
            mine = objective(X, y, np.asarray(ours), strength, quadratic)
            assert mine <= objective(X, y, fixed, strength, quadratic) * (1 + 1e-12)
    np.testing.assert_array_equal(path.dof, 1 + np.sum(np.array(FIXED["lasso"]) != 0, axis=1))


def test_knots_are_those_of_least_angle_regression():
    X, y = diabetes()
    n = len(y)
    knots = np.asarray(jxr.lasso_path(X, y, [0.0]).factored.knots())
    # Theirs end with λ = 0, which is no knot.
    np.testing.assert_allclose(knots[: np.sum(~np.isnan(knots))] / (2 * n), FIXED["lars_knots"][:-1], rtol=1e-10)
    alphas, _, coef = linear_model.lars_path(X, y, method="lasso")
    np.testing.assert_allclose(jxr.lasso_path(X, y, 2 * n * alphas).coef, coef.T, atol=1e-10)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("lam2", [None, 0.0, 3.0])
def test_options_by_their_duality_gap(standardize, lam2):
    """Weights, penalty factors, a column without a penalty: judged by the gap, which is a bound on what is lost."""
    options = {"weights": W, "penalty": P, "unpenalized": (3,), "standardize": standardize}
    fit = jxr.lasso(X, Y, 20.0, lam2=lam2, **options)
    sd = np.sqrt(W @ (X - W @ X / W.sum()) ** 2 / W.sum()) if standardize else np.ones(D)
    free = np.arange(D) != 3
    kwargs = {"factors": free * P * sd, "quadratic": free * P * sd**2}
    assert abs(excess(X, Y, fit, lam2=lam2 or 0.0, weights=W, **kwargs)) < 1e-12
    r = Y - X @ fit.coef - fit.intercept
    np.testing.assert_allclose(fit.rss, W @ r**2, rtol=1e-12)
    np.testing.assert_allclose(W @ r, 0.0, atol=1e-10)
    np.testing.assert_allclose((W * r) @ X[:, 3], 0.0, atol=1e-9)


def test_scalings_of_scikit_learn():
    n = len(Y)
    theirs = linear_model.Lasso(0.4, tol=1e-14, max_iter=100_000).fit(X, Y)
    ours = jxr.lasso(X, Y, 2 * n * 0.4)
    np.testing.assert_allclose(ours.coef, theirs.coef_, atol=1e-7)
    np.testing.assert_allclose(ours.intercept, theirs.intercept_, atol=1e-6)
    theirs = linear_model.ElasticNet(0.4, l1_ratio=0.3, tol=1e-14, max_iter=100_000).fit(X, Y, sample_weight=W)
    # They scale weights to a sum of n.
    ours = jxr.lasso(X, Y, 2 * n * 0.3 * 0.4, lam2=n * 0.7 * 0.4, weights=W * n / W.sum())
    np.testing.assert_allclose(ours.coef, theirs.coef_, atol=1e-7)


def test_scaling_of_glmnet():
    """It minimises ‖y − Xw‖²/2n + lambda (α‖w‖₁ + (1 − α)‖w‖²/2) on a y of unit variance, whose optimality this is."""
    n, alpha, strength = len(Y), 0.6, 0.1
    y = (Y - Y.mean()) / Y.std()
    fit = jxr.lasso(X, y, 2 * n * alpha * strength, lam2=n * (1 - alpha) * strength)
    w = np.asarray(fit.coef)
    slope = (X - X.mean(axis=0)).T @ (y - X @ w - float(fit.intercept)) / n - strength * (1 - alpha) * w
    on = w != 0
    assert on.any()
    np.testing.assert_allclose(slope[on], alpha * strength * np.sign(w[on]), rtol=1e-10)
    assert np.all(np.abs(slope[~on]) <= alpha * strength)


@pytest.mark.whole
def test_targets_paths_and_other_lams():
    """Each target is its own problem; ``at`` is the fit at that λ; λ in any order, 0 and infinity among them."""
    both, lams = np.stack([Y, Y**2 / 10], axis=1), np.array([3.0, np.inf, 0.0, 30.0])
    path = jxr.lasso_path(X, both, lams)
    for t in range(2):
        alone = jxr.lasso_path(X, both[:, t], lams)
        np.testing.assert_allclose(path.coef[:, :, t], alone.coef, rtol=1e-9, atol=1e-11)
        for i in range(4):
            fit = jxr.lasso(X, both[:, t], lams[i])
            np.testing.assert_allclose(fit.coef, alone.coef[i], rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(fit.rss, alone.rss[i], rtol=1e-10)
            np.testing.assert_allclose(alone.at(lams[i]).coef, alone.coef[i], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(path[2].coef, jxr.ridge(X, both, 0.0).coef, rtol=1e-9)
    np.testing.assert_array_equal(path[1].coef, 0.0)
    np.testing.assert_allclose(path[1].intercept, both.mean(axis=0), rtol=1e-12)
    grid = jxr.lasso_path(X, both)
    assert grid.coef.shape == (100, D, 2)
    assert bool(jnp.all(grid.result == RESULTS.successful))
    assert bool(jnp.all(grid.coef[0] == 0))
    assert bool(jnp.any(grid.coef[-1] != 0))


def test_two_equal_columns_share_the_ridge_and_not_the_lasso():
    """Ridge halves the coefficient; the lasso takes one and says so; the elastic net shares."""
    twice = np.concatenate([X, X[:, :1]], axis=1)
    alone, fit = jxr.lasso(X, Y, 5.0), jxr.lasso(twice, Y, 5.0)
    np.testing.assert_allclose(fit.coef[:D], alone.coef, rtol=1e-9, atol=1e-11)
    assert float(fit.coef[D]) == 0.0
    assert fit.result == RESULTS.not_unique
    shared = jxr.lasso(twice, Y, 5.0, lam2=1e-3)
    np.testing.assert_allclose(shared.coef[0], shared.coef[D], rtol=1e-9)
    assert shared.result == RESULTS.successful
    ridge = jxr.ridge(twice, Y, 5.0).coef
    np.testing.assert_allclose(ridge[0], ridge[D], rtol=1e-9)


TIES = {
    "small whole numbers": lambda: (RNG.integers(-1, 2, (8, 5)), RNG.integers(-3, 4, 8)),
    "wide": lambda: (RNG.integers(-1, 2, (5, 9)), RNG.integers(-3, 4, 5)),
    "binary": lambda: (RNG.integers(0, 2, (15, 12)), RNG.integers(0, 2, 15)),
    "each column three times": lambda: (np.tile(RNG.integers(-2, 3, (10, 4)), 3), RNG.integers(-3, 4, 10)),
    "nearly equal columns": lambda: (
        np.tile(RNG.standard_normal((12, 4)), 2) + 1e-6 * RNG.standard_normal((12, 8)),
        RNG.standard_normal(12),
    ),
}


@pytest.mark.parametrize("kind", TIES)
def test_ties_are_never_silently_wrong(kind):
    """Two hundred problems whose columns meet the boundary together: a code without fault is a gap below 1e-9."""
    problems = [TIES[kind]() for _ in range(200)]
    Xs, ys = (jnp.asarray(np.stack(part), float) for part in zip(*problems, strict=True))
    lams = jnp.array([0.1, 1.0, 3.0, 10.0])
    paths = jax.jit(jax.vmap(lambda X, y: jxr.lasso_path(X, y, lams, intercept=False)))(Xs, ys)
    coef, a = np.asarray(paths.coef), np.asarray(lams) / 2
    r = np.asarray(ys)[:, None, :] - np.einsum("pnd,pkd->pkn", Xs, coef)
    rho = np.einsum("pnd,pkn->pkd", Xs, r)
    share = np.minimum(1.0, a / np.maximum(np.abs(rho).max(axis=2), 1e-300))
    size = np.sum(r**2, axis=2)
    gap = (1 - share) ** 2 * size + 2 * a * np.abs(coef).sum(axis=2) - 2 * share * np.sum(coef * rho, axis=2)
    gap = gap / np.maximum(size + 2 * a * np.abs(coef).sum(axis=2), 1e-300)
    faulty = np.asarray(paths.result == RESULTS.open_gap)
    assert np.all(gap[~faulty] < 2e-9)
    solved = [RESULTS.successful, RESULTS.not_unique, RESULTS.at_kink, RESULTS.open_gap]
    assert bool(jnp.all(jnp.stack([paths.result == code for code in solved]).any(axis=0)))
    if kind != "nearly equal columns":
        assert not faulty.any()


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_units(unit):
    fit = jxr.lasso(X * unit, Y, 20.0 * unit)
    np.testing.assert_allclose(fit.coef * unit, jxr.lasso(X, Y, 20.0).coef, rtol=1e-9, atol=1e-11)
    fit = jxr.lasso(X, Y * unit, 20.0 * unit)
    np.testing.assert_allclose(fit.coef / unit, jxr.lasso(X, Y, 20.0).coef, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n", [10, pytest.param(1_000_000, marks=pytest.mark.whole)])
def test_float32_with_an_offset(n):
    """Means of a hundred deviations, ten rows and a million: as good as what float32 says of the columns."""
    rng = np.random.default_rng(n)
    X = (rng.standard_normal((n, 3)) + 100.0).astype(np.float32)
    y = (X[:, 0] - X[:, 1] + rng.standard_normal(n)).astype(np.float32)
    lam = np.float32(0.3 * n)
    single, double = jxr.lasso(X, y, lam), jxr.lasso(X.astype(float), y.astype(float), float(lam))
    assert single.coef.dtype == jnp.float32
    assert single.result == RESULTS.successful
    np.testing.assert_allclose(single.coef, double.coef, rtol=1e-3, atol=1e-5)


@pytest.mark.whole
def test_ball_is_the_lasso_at_its_multiplier():
    for radius in (0.5, 2.0):
        fit = jxr.lasso_ball(X, Y, radius, weights=W, penalty=P)
        np.testing.assert_allclose(P @ np.abs(fit.coef), radius, rtol=1e-11)
        lasso = jxr.lasso(X, Y, fit.lam, weights=W, penalty=P)
        np.testing.assert_allclose(fit.coef, lasso.coef, rtol=1e-9, atol=1e-11)
        assert fit.result == RESULTS.successful
    inside = jxr.lasso_ball(X, Y, 1e3)
    np.testing.assert_allclose(inside.coef, jxr.ridge(X, Y, 0.0).coef, rtol=1e-8)
    assert float(inside.lam) == 0.0
    nothing = jxr.lasso_ball(X, Y, 0.0)
    np.testing.assert_array_equal(nothing.coef, 0.0)
    assert np.isinf(nothing.lam)
    assert jxr.lasso_ball(X, Y, -1.0).result == RESULTS.invalid_radius


@pytest.mark.whole
def test_folds_are_refits():
    lams = np.array([2.0, 20.0, 60.0])
    choice = jxr.lasso_cv(X, Y, lams, rule=select.kfold(4), weights=W)
    blocks = np.array_split(np.arange(N), 4)
    for i, lam in enumerate(lams):
        losses = []
        for test in blocks:
            train = np.setdiff1d(np.arange(N), test)
            fit = jxr.lasso(X[train], Y[train], lam, weights=W[train])
            losses.append(np.average((Y[test] - fit.predict(X[test])) ** 2, weights=W[test]))
        np.testing.assert_allclose(choice.scores[i], np.mean(losses), rtol=1e-9)
    assert float(choice.lam) == lams[int(np.argmin(choice.scores))]
    gcv = jxr.lasso_cv(X, Y, lams, rule=select.gcv)
    path = jxr.lasso_path(X, Y, lams)
    np.testing.assert_allclose(gcv.scores, N * path.rss / (N - path.dof) ** 2, rtol=1e-9)
    with pytest.raises(ValueError, match=r"select\.kfold"):
        jxr.lasso_cv(X, Y, lams, rule=select.loo)


ARGUMENTS = {
    "lasso": (
        lambda X, y, lam, w, p: jxr.lasso(X, y, lam, weights=w, penalty=p, standardize=True),
        (X, Y, 20.0, W, P),
        2e-3,
    ),
    "elastic net": (
        lambda X, y, lam, lam2, w, p: jxr.lasso(X, y, lam, lam2=lam2, weights=w, penalty=p),
        (X, Y, 20.0, 3.0, W, P),
        2e-3,
    ),
    "ball": (lambda X, y, radius, w, p: jxr.lasso_ball(X, y, radius, weights=w, penalty=p), (X, Y, 2.0, W, P), 5e-4),
}


@pytest.mark.parametrize(
    "kind", ["lasso", *(pytest.param(kind, marks=pytest.mark.whole) for kind in list(ARGUMENTS)[1:])]
)
def test_derivatives_in_every_argument(kind):
    """Coefficients, intercept and rss, to second order in every mode, against differences."""
    verb, args, step = ARGUMENTS[kind]

    def numbers(*args):
        fit = verb(*args)
        return fit.coef, fit.intercept, 0.01 * fit.rss, 0.01 * fit.lam

    check_derivatives(numbers, tuple(jnp.asarray(x) for x in args), rtol=1e-6, step=step)


@pytest.mark.whole
def test_derivative_in_lam_is_that_of_the_segment():
    """−G_SS⁻¹ s / 2 on the support, and 0 elsewhere; the vmapped gradient is the loop's."""
    lams = jnp.array([5.0, 20.0, 60.0])
    slopes = jax.jit(jax.vmap(jax.jacfwd(lambda lam: jxr.lasso(X, Y, lam).coef)))(lams)
    centred = X - X.mean(axis=0)
    for lam, slope in zip(lams, slopes, strict=True):
        coef = np.asarray(jxr.lasso(X, Y, lam).coef)
        on = coef != 0
        G = centred[:, on].T @ centred[:, on]
        np.testing.assert_allclose(slope[on], -0.5 * np.linalg.solve(G, np.sign(coef[on])), rtol=1e-9)
        np.testing.assert_array_equal(slope[~on], 0.0)
    total = lambda y, lam: jnp.sum(jnp.sin(jxr.lasso(X, y, lam).coef))  # noqa: E731
    batch = jax.jit(jax.vmap(jax.grad(total, (0, 1)), (None, 0)))(jnp.asarray(Y), lams)
    for i, lam in enumerate(lams):
        np.testing.assert_allclose(batch[0][i], jax.grad(total)(jnp.asarray(Y), lam), rtol=1e-9)


def test_a_knot_is_a_kink_with_a_code():
    knots = jxr.lasso_path(X, Y, [0.0]).factored.knots()
    for knot in knots[1:3]:
        fit = jxr.lasso(X, Y, knot)
        assert fit.result == RESULTS.at_kink
        assert jxr.lasso(X, Y, 1.001 * knot).result == RESULTS.successful
        assert (jxr.lasso_path(X, Y, [0.5 * float(knot), knot]).result == RESULTS.at_kink).tolist() == [False, True]


HOLED = X * np.where(np.arange(N)[:, None] == 3, np.nan, 1.0)
CODES = [
    ({"lam": -1.0}, RESULTS.invalid_lam),
    ({"lam": np.nan}, RESULTS.invalid_lam),
    ({"lam2": -1.0}, RESULTS.invalid_lam),
    ({"X": HOLED}, RESULTS.nonfinite_input),
    ({"y": Y * np.where(np.arange(N) == 3, np.inf, 1.0)}, RESULTS.nonfinite_input),
    ({"weights": -W}, RESULTS.invalid_weights),
    ({"penalty": -P}, RESULTS.invalid_penalty),
    ({"penalty": 0 * P}, RESULTS.invalid_penalty),
    ({"max_knots": 2}, RESULTS.path_ended),
    ({"X": np.tile(X[:, :2], 3), "unpenalized": (0, 2)}, RESULTS.dependent_unpenalized),
]


@pytest.mark.parametrize("i", range(len(CODES)))
def test_what_cannot_be_has_a_code_and_no_number(i):
    changed, code = CODES[i]
    fit = jxr.lasso(**{"X": X, "y": Y, "lam": 1.0, "lam2": 1.0, "weights": W, "penalty": P} | changed)
    assert fit.result == code, RESULTS[fit.result]
    assert bool(jnp.all(jnp.isnan(fit.coef)))


def test_a_path_has_no_lam_below_its_end():
    beyond = jxr.lasso_path(X, Y, [5.0, 20.0, 60.0]).at(1.0)
    assert beyond.result == RESULTS.path_ended
    assert bool(jnp.all(jnp.isnan(beyond.coef)))


def test_a_bad_member_leaves_the_others_alone():
    Xs = jnp.stack([X, X + 0.1])
    total = lambda X: jnp.sum(jxr.lasso(X, Y, 10.0).coef ** 2)  # noqa: E731
    program = jax.jit(jax.vmap(jax.value_and_grad(total)))
    good, bad = program(Xs), program(Xs.at[1, 0, 0].set(jnp.nan))
    np.testing.assert_array_equal(good[1][0], bad[1][0])
    assert bool(jnp.isnan(bad[0][1]))
    assert bool(jnp.all(jnp.isnan(bad[1][1])))


REFUSED = [
    (lambda: jxr.lasso(np.zeros((3, 2001)), np.zeros(3), 1.0), "celer and skglm"),
    (lambda: jxr.lasso(X, Y, [1.0, 2.0]), "lam"),
    (lambda: jxr.lasso(X, Y, 1.0, lam2=[1.0]), "lam2"),
    (lambda: jxr.lasso(X, Y, 1.0, max_knots=0.5), "max_knots"),
    (lambda: jxr.lasso_cv(X, np.stack([Y, Y], 1), np.ones((2, 2))), "per_target"),
    (lambda: jxr.lasso_ball(X, Y, [1.0, 2.0]), "radius"),
]


@pytest.mark.parametrize(("call", "word"), REFUSED, ids=[word for _, word in REFUSED])
def test_what_cannot_be_meant_is_refused_by_name(call, word):
    with pytest.raises(ValueError, match=word):
        call()
