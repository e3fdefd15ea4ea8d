"""Ridge with coefficients >= 0 against scikit-learn, SciPy and its optimality conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.optimize
from lines import check_derivatives
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

import jaxridge as jxr
from jaxridge import RESULTS

RNG = np.random.default_rng(19)
X, W, P = (
    RNG.standard_normal((30, 8)) + 0.3,
    np.exp(0.3 * RNG.standard_normal(30)),
    np.exp(0.3 * RNG.standard_normal(8)),
)
Y = X @ RNG.standard_normal((8, 2)) + RNG.standard_normal((30, 2))


@pytest.mark.parametrize("lam", [1e-3, 1.0, 1e2])
@pytest.mark.parametrize("intercept", [True, False])
def test_against_sklearn(lam, intercept):
    fit = jxr.ridge_positive(X, Y, lam, intercept=intercept, weights=W)
    for t in range(2):
        sk = Ridge(alpha=lam, positive=True, fit_intercept=intercept, tol=1e-14, max_iter=100_000)
        sk.fit(X, Y[:, t], sample_weight=W)
        np.testing.assert_allclose(fit.coef[:, t], sk.coef_, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(fit.intercept[t], sk.intercept_, rtol=1e-5, atol=1e-6)
        assert (fit.coef[:, t] == 0).any()


@pytest.mark.parametrize("seed", range(20))
def test_against_nnls_on_stacked_rows(seed):
    """Tall, wide and correlated columns: Lawson and Hanson on [X; √(λp)]."""
    rng = np.random.default_rng(seed)
    n, d = rng.integers(3, 40), rng.integers(2, 60)
    X = rng.standard_normal((n, d)) @ (np.eye(d) + rng.standard_normal((d, d)) * rng.choice([0.0, 1.0])) + rng.choice(
        [0, 3]
    )
    y, lam, p = rng.standard_normal(n), 10.0 ** rng.uniform(-3, 2), np.exp(rng.standard_normal(d))
    fit = jxr.ridge_positive(X, y, lam, penalty=p, intercept=False)
    want, _ = scipy.optimize.nnls(np.r_[X, np.diag(np.sqrt(lam * p))], np.r_[y, np.zeros(d)], maxiter=10_000)
    assert fit.result == RESULTS.successful
    # The condition number of the normal equations is up to 1e6.
    np.testing.assert_allclose(fit.coef, want, rtol=1e-7, atol=1e-8 * np.max(np.abs(want)))


@pytest.mark.parametrize("unit", [1.0, 1e-12, 1e12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_units_offsets_and_float32(dtype, unit):
    x, y = (X + 100.0).astype(dtype), (unit * Y[:, 0]).astype(dtype)
    fit = jxr.ridge_positive(x, y, dtype(1.0), standardize=True)
    want = jxr.ridge_positive(x.astype(float), y.astype(float), 1.0, standardize=True)
    assert fit.coef.dtype == dtype
    assert np.all(fit.coef >= 0)
    np.testing.assert_array_equal(fit.coef == 0, want.coef == 0)
    np.testing.assert_allclose(fit.coef, want.coef, rtol=0, atol=1e-3 * np.max(np.abs(want.coef)))
    free = np.asarray(want.coef) > 0
    coef, intercept = oracles.ridge(x.astype(float)[:, free], y.astype(float), 1.0, standardize=True)
    np.testing.assert_allclose(want.coef[free], coef, rtol=1e-7)
    np.testing.assert_allclose(want.intercept, intercept, rtol=1e-7)


def test_zeros_are_zeros_in_float32():
    """Nearly dependent columns, of which rounding left some a coefficient of 1e-6, negative ones too."""
    table = load_diabetes()
    fit = jxr.ridge_positive(np.float32(table.data), np.float32(table.target), 1.0)
    want = Ridge(alpha=1.0, positive=True, tol=1e-12, max_iter=100_000).fit(table.data, table.target).coef_
    np.testing.assert_array_equal(fit.coef == 0, np.abs(want) < 1e-6)
    np.testing.assert_allclose(fit.coef, want, atol=2e-3 * want.max())


def test_derivatives_in_everything():
    def loss(X, y, lam, w, p):
        fit = jxr.ridge_positive(X, y, lam, weights=w, penalty=p, unpenalized=(1,))
        return jnp.sum(jnp.sin(fit.coef)) + jnp.cos(fit.intercept) + fit.rss

    check_derivatives(loss, tuple(map(jnp.asarray, (X, Y[:, 0], 0.7, W, P))), rtol=1e-5)


def test_codes():
    kink = jxr.ridge_positive(np.eye(3), np.array([2.0, 0.0, 1.0]), 1.0, intercept=False)
    assert kink.result == RESULTS.at_kink
    np.testing.assert_allclose(kink.coef, [1.0, 0.0, 0.5])
    for lam, code in ((0.0, "lam_not_positive"), (np.inf, "lam_not_positive"), (-1.0, "invalid_lam")):
        assert jxr.ridge_positive(X, Y[:, 0], lam).result == getattr(RESULTS, code)
    bad = jxr.ridge_positive(X, np.where(np.arange(30)[:, None] == 3, [np.nan, 1.0], Y), 1.0)
    assert np.asarray(bad.result == RESULTS.nonfinite_input).tolist() == [True, False]
    spoilt = jxr.ridge_positive(np.where(np.arange(30)[:, None] == 3, np.nan, X), Y, 1.0)
    assert np.all(np.asarray(spoilt.result == RESULTS.nonfinite_input))
    assert np.all(np.isnan(spoilt.coef))
    with pytest.raises(TypeError, match=r"ridge has no argument 'positive': ridge_positive"):
        jxr.ridge(X, Y, 1.0, positive=True)
    many = jax.vmap(lambda lam: jxr.ridge_positive(X, Y, lam).coef)(jnp.array([0.1, 1.0]))
    np.testing.assert_allclose(many[1], jxr.ridge_positive(X, Y, 1.0).coef, rtol=1e-10)


def test_signs_of_many_float32_rows_with_an_offset():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((10**6, 4)) + 100.0
    y = X @ np.array([1.0, 0.5, 0.2, 0.7]) + rng.standard_normal(len(X)) + 1000.0
    fit, want = (jxr.ridge_positive(X.astype(dtype), y.astype(dtype), dtype(3.0)) for dtype in (np.float32, np.float64))
    np.testing.assert_allclose(fit.coef, want.coef, atol=1e-5)
    assert fit.result == jxr.RESULTS.successful
