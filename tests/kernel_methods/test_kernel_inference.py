"""Standard errors, bias and bands of kernel ridge against dense algebra, `ridge_inference` and repetitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import kernels
from jaxridge.kernel_methods import Cholesky, Eigen, Tridiagonal

RNG = np.random.default_rng(8)
X, NEW = RNG.standard_normal((14, 2)), RNG.standard_normal((5, 2))
Y = np.stack([np.sin(X[:, 0]), X[:, 1] ** 2], 1) + 0.3 * RNG.standard_normal((14, 2))
WEIGHTS = {"none": None, "some": np.exp(0.5 * Y[:, 0]), "zero": np.exp(0.5 * Y[:, 0]) * (np.arange(14) != 3)}
RBF = kernels.RBF(1.2)


def linear_map(predict):
    """The matrix of a map that is linear in y, a column for each row of y."""
    return np.stack([np.asarray(predict(e)) for e in np.eye(14)], 1)


@pytest.mark.parametrize("solver", [None, Eigen(), Tridiagonal(), Cholesky()])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("intercept", [True, False])
def test_errors_and_bias_from_the_columns_of_the_estimator(weights, intercept, solver):
    """Var f̂ = σ² Σ Sᵢ²/ωᵢ and E f̂ − f̂ = S(f̂ − y), with S and A read off fits to the unit vectors."""
    w, problem = WEIGHTS[weights], {"kernel": RBF, "intercept": intercept, "weights": WEIGHTS[weights]}
    found = jxr.kernel_ridge_inference(X, Y, 0.4, solver=solver, **problem)
    fit = lambda y: jxr.kernel_ridge(X, y, 0.4, solver=Eigen(), **problem)  # noqa: E731
    S, H = (linear_map(lambda y, at=at: fit(y).predict(at)) for at in (NEW, X))
    A = linear_map(lambda y: fit(y).dual_coef)
    w = np.ones(14) if w is None else w
    used = w > 0
    over = np.where(used, 1.0 / np.where(used, w, 1.0), 0.0)
    r = Y - H @ Y
    sigma = np.sqrt(np.sum(w[:, None] * r**2, axis=0) / (used.sum() - np.trace(H)))
    np.testing.assert_allclose(found.sigma, sigma, rtol=1e-9)
    errors = np.sqrt(S**2 @ over)[:, None] * sigma
    np.testing.assert_allclose(found.standard_error(NEW), errors, rtol=1e-8)
    np.testing.assert_allclose(found.bias(NEW), -S @ r, rtol=1e-8, atol=1e-12)
    want = np.multiply.outer(sigma**2, A * over @ A.T)
    np.testing.assert_allclose(found.covariance(), want, rtol=1e-7, atol=1e-9 * np.max(np.abs(want)))
    centre, low, high = found.prediction(NEW, 0.9)
    np.testing.assert_allclose(centre, S @ Y, rtol=1e-8)
    ratio = (high - centre) / np.hypot(errors, sigma)
    np.testing.assert_allclose(ratio, np.full_like(ratio, ratio[0, 0]), rtol=1e-8)
    np.testing.assert_allclose(centre - low, high - centre, rtol=1e-8)


def test_a_linear_kernel_is_ridge_inference():
    w, y = WEIGHTS["some"], Y[:, 0]
    found = jxr.kernel_ridge_inference(X, y, 2.0, kernel=kernels.Linear(), weights=w)
    ridge = jxr.ridge_inference(X, y, 2.0, weights=w)
    for name in ("sigma", "dof", "residual_dof", "r2", "adjusted_r2", "rmse", "aic", "bic"):
        np.testing.assert_allclose(getattr(found, name), getattr(ridge, name), rtol=1e-9)
    for band in ("confidence", "prediction"):
        np.testing.assert_allclose(getattr(found, band)(NEW), getattr(ridge, band)(NEW), rtol=1e-8)
    text = str(found)
    assert all(word in text for word in ("Linear", "sigma", "norm", "AIC", "std err of f, median"))


def test_bands_cover_the_expectation():
    """2000 repetitions: bands of E f̂(x) hold it, and new measurements about it lie in theirs, as a binomial allows."""
    x = np.linspace(-1.0, 1.0, 25)[:, None]
    truth, at = np.sin(2 * x[:, 0]), np.array([[-0.9], [0.05], [0.7]])
    rng = np.random.default_rng(1)
    problem = {"kernel": kernels.RBF(0.7)}
    draws, new = truth + 0.5 * rng.standard_normal((2000, 25)), 0.5 * rng.standard_normal((2000, 3))
    expected = jxr.kernel_ridge(x, truth, 0.01, **problem).predict(at)

    @jax.jit
    @jax.vmap
    def covered(y, error):
        found = jxr.kernel_ridge_inference(x, y, 0.01, solver=Eigen(), **problem)
        inside = lambda band, value: (band[1] <= value) & (value <= band[2])  # noqa: E731
        return inside(found.confidence(at), expected), inside(found.prediction(at), expected + error)

    for share in covered(draws, new):
        # Four standard errors; λ is so small that the bias in σ̂² is none.
        np.testing.assert_allclose(np.asarray(share).mean(axis=0), 0.95, atol=4 * np.sqrt(0.95 * 0.05 / 2000))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jxr.kernel_ridge_inference(X, Y, [1.0, 2.0], kernel=RBF), "one target at a time"),
        (
            lambda: jxr.kernel_ridge_inference(X, Y, 1.0, kernel=RBF, solver=jxr.Nystroem(jax.random.key(0))),
            "kernel_ridge_inference needs a dense solver",
        ),
        (lambda: jxr.kernel_ridge_inference(X, Y, 1.0, kernel=RBF).summary(), "one column of y"),
        (lambda: jxr.kernel_ridge_inference(X, Y, 1.0, kernel=RBF).confidence(NEW[:, :1]), "X has points of shape"),
        (
            lambda: jax.grad(lambda y: jnp.sum(jxr.kernel_ridge_inference(X, y, 1.0, kernel=RBF).sigma))(Y),
            "has no derivatives: use jaxridge.kernel_ridge",
        ),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
