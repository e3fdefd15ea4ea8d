"""Multiple-kernel ridge: the sum of kernels by `kernel_ridge`, and bands of columns as linear kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import kernels, searches

BOTH = (kernels.Linear(), kernels.RBF(0.7))


def data(n=15, t=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3))
    return (
        x,
        np.sin(x @ rng.standard_normal((3, t))) + 0.1 * rng.standard_normal((n, t)) + 2.0,
        rng.uniform(0.5, 2.0, n),
    )


@pytest.mark.parametrize("intercept", [True, False])
def test_a_fit_is_that_of_the_summed_kernel(intercept):
    x, y, weights = data()
    lams = np.array([[0.5, 2.0], [3.0, np.inf]])
    fit = jxr.kernel_ridge_banded(x, y, lams, kernels=BOTH, weights=weights, intercept=intercept)
    for j in range(2):
        parts = [kernel * (1.0 / lam) for kernel, lam in zip(BOTH, lams[:, j], strict=True) if np.isfinite(lam)]
        kernel = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        one = jxr.kernel_ridge(x, y[:, j], 1.0, kernel=kernel, weights=weights, intercept=intercept)
        np.testing.assert_allclose(fit.dual_coef[:, j], one.dual_coef, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(fit.predict(x + 0.1)[:, j], one.predict(x + 0.1), rtol=1e-8)
    np.testing.assert_allclose(fit.predict_bands(x)[1, :, 1], 0.0)
    assert np.all(fit.result == jxr.RESULTS.successful)


@pytest.mark.whole
def test_bands_of_columns_are_linear_kernels():
    x, y, weights = data(9)
    wide = np.concatenate([x, np.sin(7 * x), np.cos(5 * x), x**2], axis=1)
    group = np.arange(12) % 2
    parts = [kernels.Linear().on(lambda p, g=g: p[jnp.flatnonzero(group == g, size=6)]) for g in range(2)]
    for search in (searches.evidence(6), searches.descent(3, steps=2, errors=0.0)):
        linear = jxr.ridge_banded_cv(wide, y, groups=group, search=search, weights=weights)
        fit = jxr.kernel_ridge_banded_cv(wide, y, kernels=parts, search=search, weights=weights)
        np.testing.assert_allclose(fit.lams, linear.lams, rtol=1e-6)
        np.testing.assert_allclose(fit.predict(wide), linear.predict(wide), rtol=1e-7)


@pytest.mark.whole
def test_a_kernel_that_explains_nothing_is_left_out():
    x, _, _ = data(40)
    y = 2.0 * x[:, 0] + 0.1 * np.random.default_rng(1).standard_normal(40)
    fit = jxr.kernel_ridge_banded_cv(x, y, kernels=BOTH, search=searches.evidence(40))
    assert fit.lams[0] < 1e-2 * fit.lams[1]
    alone = jxr.kernel_ridge_banded(x, y, [float(fit.lams[0]), np.inf], kernels=BOTH)
    np.testing.assert_allclose(fit.predict(x), alone.predict(x), atol=0.05)


def test_bad_values():
    x, y, _ = data()
    for given in (kernels.RBF(), [], [kernels.RBF(), "linear"], [kernels.RBF]):
        with pytest.raises(ValueError, match="pass a list of jaxridge"):
            jxr.kernel_ridge_banded(x, y, [1.0], kernels=given)
    with pytest.raises(ValueError, match="a number for each of 2 kernels"):
        jxr.kernel_ridge_banded(x, y, [1.0], kernels=BOTH)
    with pytest.raises(ValueError, match="kernel_ridge_banded_cv has no derivatives"):
        jax.grad(lambda x: jxr.kernel_ridge_banded_cv(x, y, kernels=BOTH).dual_coef.sum())(jnp.asarray(x))
    assert np.all(jxr.kernel_ridge_banded(x, y, [0.0, 1.0], kernels=BOTH).result == jxr.RESULTS.lam_not_positive)
    assert np.all(jxr.kernel_ridge_banded(x, y, [-1.0, 1.0], kernels=BOTH).result == jxr.RESULTS.invalid_lam)
    x[0, 0] = np.nan
    assert np.all(jxr.kernel_ridge_banded(x, y, [1.0, 1.0], kernels=BOTH).result == jxr.RESULTS.nonfinite_kernel)
