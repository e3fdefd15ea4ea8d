"""A λ for every band and target: against normal equations, dense formulas, differences, and himalaya."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import searches
from jaxridge.linear.banded import _system, bands_of, prepared
from jaxridge.linear.design import make_design

RESULTS = jxr.RESULTS
SHAPES = {"tall": (30, 6), "wide": (8, 12)}


def problem(n, d, seed=0):
    rng = np.random.default_rng(seed)
    X, weights, penalty = rng.standard_normal((n, d)) + 1.0, rng.uniform(0.5, 2.0, n), rng.uniform(0.5, 2.0, d)
    return X, rng.standard_normal((n, 3)) + X[:, :1], weights, penalty, np.arange(d) % 3


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fit_against_normal_equations(shape):
    """λs of every target, ∞ and, where there are more rows than columns, 0 among them; parts add up to the whole."""
    X, y, weights, penalty, group = problem(*SHAPES[shape])
    n, d = X.shape
    lams = np.random.default_rng(1).uniform(0.1, 50.0, (3, 3))
    lams[1, 1], lams[0, 0] = np.inf, 0.0 if n > d else 1e-3
    fit = jxr.ridge_banded(X, y, lams, groups=group, weights=weights, penalty=penalty)
    A = np.column_stack([X, np.ones(n)])
    for j in range(3):
        off = np.isinf(lams[group, j])
        kept = np.append(~off, True)
        P = np.diag(np.append(np.where(off, 0.0, lams[group, j]) * penalty, 0.0))[np.ix_(kept, kept)]
        w = np.zeros(d + 1)
        B = A[:, kept]
        w[kept] = np.linalg.solve(B.T @ (weights[:, None] * B) + P, B.T @ (weights * y[:, j]))
        np.testing.assert_allclose(fit.coef[:, j], w[:-1], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(fit.intercept[j], w[-1], rtol=1e-9)
    assert np.all(fit.result == RESULTS.successful)
    np.testing.assert_allclose(fit.predict_bands(X).sum(axis=0) + fit.intercept[None], fit.predict(X), rtol=1e-12)
    np.testing.assert_allclose(fit.score_bands(X, y).sum(axis=0), fit.score(X, y), rtol=1e-10)
    np.testing.assert_allclose(fit.norms()[2], np.linalg.norm(np.asarray(fit.coef)[group == 2], axis=0), rtol=1e-12)
    same = jxr.ridge_banded(X, y, [0.5, 2.0, 8.0], groups=group, standardize=True)
    one = jxr.ridge(X, y, 1.0, penalty=np.array([0.5, 2.0, 8.0])[group], standardize=True)
    np.testing.assert_allclose(same.coef, one.coef, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", ["wide", pytest.param("tall", marks=pytest.mark.whole)])
def test_what_a_target_says_of_its_lams(shape):
    """Misfit, penalties, degrees of freedom, determinant and held-out residuals against dense formulas and refits."""
    X, y, weights, penalty, group = problem(*SHAPES[shape])
    n = len(X)
    form = prepared(make_design(X, y, weights=weights, penalty=penalty))
    system = _system(form, bands_of(group, X.shape[1]))
    lam, target = jnp.array([0.3, 2.0, 0.7]), form.y[:, 0]
    K = [np.asarray(form.X)[:, group == g] @ np.asarray(form.X)[:, group == g].T / float(lam[g]) for g in range(3)]
    M = np.linalg.inv(sum(K) + np.eye(n))
    terms = system.terms(lam, target, None)
    np.testing.assert_allclose(terms.misfit, target @ M @ target, rtol=1e-12)
    np.testing.assert_allclose(terms.logdet, -np.linalg.slogdet(M)[1], rtol=1e-12)
    np.testing.assert_allclose(terms.gamma, [np.trace(part @ M) for part in K], rtol=1e-11)
    np.testing.assert_allclose(terms.penalties, [target @ M @ part @ M @ target for part in K], rtol=1e-10)
    signs = jax.random.rademacher(jax.random.key(0), (system.size, 4000), form.y.dtype)
    np.testing.assert_allclose(system.terms(lam, target, signs).gamma, terms.gamma, rtol=0.1)
    mask = np.arange(n) % 4 != 0
    fold = system.fold(jnp.asarray(mask.astype(float)), form.ones)
    r, J = fold.residuals(lam, target)
    np.testing.assert_allclose(fold.held_out(lam, form.y)[:, 0], r, rtol=1e-12, atol=1e-14)
    lams = np.asarray(lam) / np.asarray(form.scale) ** 2
    refit = jxr.ridge_banded(X[mask], y[mask], lams, groups=group, weights=weights[mask], penalty=penalty)
    missed = (y - refit.predict(X))[:, 0] * np.sqrt(weights) / form.y_scale[0]
    np.testing.assert_allclose(r, np.where(mask, 0.0, missed), rtol=1e-9, atol=1e-12)
    h = 1e-5
    for g in range(3):
        moved = [lam.at[g].multiply(np.exp(k * h)) for k in (-1, 1)]
        slope = (fold.residuals(moved[1], target)[0] - fold.residuals(moved[0], target)[0]) / (2 * h)
        np.testing.assert_allclose(J[:, g], slope, rtol=1e-6, atol=1e-9)


def banded_data(n=60, d=12, t=6, seed=3, noise=0.5):
    rng = np.random.default_rng(seed)
    group = np.arange(d) * 4 // d
    w = rng.standard_normal((d, t)) * np.array([1.0, 0.3, 0.1, 0.0])[group][:, None]
    X = rng.standard_normal((n, d))
    return X, X @ w + noise * rng.standard_normal((n, t)), group


@pytest.mark.whole
@pytest.mark.parametrize("shape", [(60, 12), (25, 40)], ids=["tall", "wide"])
def test_evidence_ends_where_it_is_stationary(shape):
    """After Newton: no slope in any log λ, and less than anywhere around; a band that is off would only lose there."""
    X, y, group = banded_data(*shape, noise=0.5 if shape[0] > shape[1] else 2.0)
    fit = jxr.ridge_banded_cv(X, y, groups=group, search=searches.evidence(30, newton=20))
    form = prepared(make_design(X, y))
    system, N = _system(form, bands_of(group, X.shape[1])), len(X) - 1
    level = jax.jit(lambda lam, y: N * jnp.log(system.terms(lam, y, None).misfit) + system.terms(lam, y, None).logdet)
    rng = np.random.default_rng(0)
    scale = float(form.scale) ** 2
    for j in range(y.shape[1]):
        lam, target = fit.lams[:, j] * scale, form.y[:, j]
        here = level(lam, target)
        # λ of 1e-12, on the way to a perfect fit, loses as many digits.
        np.testing.assert_allclose(here, fit.score_found[j], rtol=1e-9)
        around = [level(lam * np.exp(0.3 * rng.standard_normal(4)), target) for _ in range(20)]
        assert min(around) >= here - 1e-9
        slope = jax.grad(lambda x, target=target: level(jnp.exp(x), target))(jnp.log(lam))
        assert np.max(np.abs(np.where(np.isinf(lam), 0.0, slope))) < 1e-4
        for g in np.flatnonzero(np.isinf(lam)):
            assert level(lam.at[g].set(100.0 * X.shape[0]), target) > here
    off = np.isinf(fit.lams).any(axis=0)
    np.testing.assert_array_equal(fit.result == RESULTS.bands_off, off)
    assert off.any()
    assert np.all(np.asarray(fit.coef)[group == 3][:, np.isinf(fit.lams[3])] == 0)


def test_one_band_is_the_posterior_of_most_evidence():
    X, y, _ = banded_data()
    fit = jxr.ridge_banded_cv(X, y, groups=np.zeros(12), search=searches.evidence(20, newton=5))
    posterior = jxr.ridge_posterior(X, y)
    np.testing.assert_allclose(fit.lams[0], posterior.lam, rtol=1e-7)
    np.testing.assert_allclose(fit.coef, posterior.coef, rtol=1e-6, atol=1e-9)


def held_out_error(X, y, lams, group, folds=5):
    label = np.arange(len(X)) * folds // len(X)
    losses = np.empty_like(y)
    for f in range(folds):
        fit = jxr.ridge_banded(X[label != f], y[label != f], lams, groups=group)
        losses[label == f] = (y[label == f] - fit.predict(X[label == f])) ** 2
    return losses.mean(axis=0)


@pytest.mark.whole
def test_descent_and_random_draws_say_what_refits_say():
    X, y, group = banded_data()
    scale = np.asarray(prepared(make_design(X, y)).y_scale) ** 2
    found = {
        "start": searches.evidence(10),
        "descent": searches.descent(5, steps=5, errors=0.0),
        "random": searches.random_search(jax.random.key(0), np.logspace(-2, 3, 6), count=5),
    }
    fits = {name: jxr.ridge_banded_cv(X, y, groups=group, search=search) for name, search in found.items()}
    errors = {name: held_out_error(X, y, fit.lams, group) for name, fit in fits.items()}
    for name in ("descent", "random"):
        np.testing.assert_allclose(fits[name].score_found * scale, errors[name], rtol=1e-9)
    assert np.all(errors["descent"] <= errors["start"] * (1 + 1e-9))
    kept = jxr.ridge_banded_cv(X, y, groups=group, search=searches.descent(5, errors=1e9))
    np.testing.assert_allclose(kept.lams, fits["start"].lams, rtol=1e-12)


def test_group_ridge_of_himalaya():
    GroupRidge = pytest.importorskip("himalaya.ridge").GroupRidgeCV
    X, y, group = banded_data()
    X, y = X - X.mean(axis=0), y - y.mean(axis=0)
    options = {"n_iter": 3, "alphas": np.logspace(-1, 2, 4), "progress_bar": False}
    theirs = GroupRidge(groups=group, solver_params=options, fit_intercept=False, random_state=0).fit(X, y)
    fit = jxr.ridge_banded(X, y, np.exp(-theirs.deltas_), groups=group, intercept=False)
    np.testing.assert_allclose(fit.predict(X), theirs.predict(X), rtol=1e-6, atol=1e-8)


@pytest.mark.whole
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_units_and_offsets(dtype):
    X, y, group = banded_data()
    plain = jxr.ridge_banded_cv(X, y, groups=group)
    moved = jxr.ridge_banded_cv((1e-6 * X + 1e-4).astype(dtype), (1e9 * y).astype(dtype), groups=group)
    rtol = 2e-2 if dtype == np.float32 else 1e-8
    np.testing.assert_allclose(moved.predict((1e-6 * X + 1e-4).astype(dtype)) / 1e9, plain.predict(X), atol=rtol)


def test_bad_values_and_shapes():
    X, y, group = banded_data()
    for groups, said in (
        (group[:5], "groups has 5 labels and X 12 columns"),
        ({"a": slice(0, 12), "b": []}, "band 'b' has no columns"),
        ({"a": [0, 1], "b": [1]}, "column 1 belongs to two bands"),
        ({"a": [0, 1]}, "column 2 belongs to no band"),
    ):
        with pytest.raises(ValueError, match=said):
            jxr.ridge_banded(X, y, np.ones(2), groups=groups)
    with pytest.raises(ValueError, match="a number for each of 4 bands"):
        jxr.ridge_banded(X, y, np.ones(3), groups=group)
    with pytest.raises(ValueError, match="with lam 0"):
        jxr.ridge_banded(X, y, np.ones(4), groups=group, unpenalized=(0,))
    with pytest.raises(ValueError, match="folds is 100, but X has only 60 rows"):
        jxr.ridge_banded_cv(X, y, groups=group, search=searches.descent(100))
    lams = np.ones((4, 6))
    lams[1, 2] = -1.0
    spoilt = y.copy()
    spoilt[3, 0] = np.nan
    fit = jxr.ridge_banded(X, spoilt, lams, groups=group)
    np.testing.assert_array_equal(fit.result == RESULTS.invalid_lam, np.arange(6) == 2)
    np.testing.assert_array_equal(fit.result == RESULTS.nonfinite_input, np.arange(6) == 0)
    assert np.all(np.isfinite(fit.coef[:, [1, 3, 4, 5]]))
    assert jxr.ridge_banded(X[:8], y[:8, 0], [0.0, 1.0, 1.0, 1.0], groups=group).result == RESULTS.lam_not_positive
    twice = np.concatenate([X, X[:, :1]], axis=1)
    assert jxr.ridge_banded(twice, y[:, 0], [0.0], groups=np.zeros(13)).result == RESULTS.unresolved
    constant = np.concatenate([X, np.ones((60, 1))], axis=1)
    found = jxr.ridge_banded_cv(constant, y[:, 0], groups=np.append(group, 4))
    assert np.isinf(found.lams[4])
    assert found.coef[12] == 0
    with pytest.raises(ValueError, match="ridge_banded_cv has no derivatives"):
        jax.grad(lambda X: jxr.ridge_banded_cv(X, y, groups=group).coef.sum())(jnp.asarray(X))
    codes = jxr.ridge_banded_cv(X, spoilt, groups=group).result
    np.testing.assert_array_equal(codes == RESULTS.nonfinite_input, np.arange(6) == 0)
