"""Standard errors, intervals and the figures of a regression table, against brute force and by simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import select, spectrum


def problem(n=40, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 4)) * [1.0, 3.0, 0.5, 20.0] + [0.0, 5.0, -1.0, 100.0]
    return X, X @ [2.0, 0.5, 1.0, 0.0] + 0.3 * rng.standard_normal(n), rng.uniform(0.5, 2.0, n)


def by_hand(X, y, lam, weights, penalty):
    """Coefficients, covariance and bias from the normal equations, the intercept first."""
    n = len(y)
    A, W, P = np.column_stack([np.ones(n), X]), np.diag(weights), lam * np.diag([0.0, *penalty])
    G = np.linalg.inv(A.T @ W @ A + P)
    w, dof = G @ A.T @ W @ y, np.trace(G @ A.T @ W @ A)
    rss = weights @ np.square(y - A @ w)
    return w, rss / (n - dof) * G @ A.T @ W @ A @ G, -G @ P @ w, rss, dof


@pytest.mark.parametrize("solver", [spectrum.from_design, spectrum.from_gram], ids=["from_design", "from_gram"])
@pytest.mark.parametrize("lam", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("weighted", [False, True])
def test_errors_against_normal_equations(weighted, lam, solver):
    X, y, weights = problem()
    options = {"penalty": [1.0, 1.0, 3.0, 2.0], "unpenalized": (1,)}
    weights = weights if weighted else np.ones(len(y))
    found = jxr.ridge_inference(X, y, lam, solver=solver, weights=weights if weighted else None, **options)
    w, covariance, bias, rss, dof = by_hand(X, y, lam, weights, [1.0, 0.0, 3.0, 2.0])
    sd = np.sqrt(np.diag(covariance))
    # from_gram: the condition of X squared, 1e4, in eps.
    bound = {"rtol": 1e-9, "atol": 1e-11}
    np.testing.assert_allclose(found.coef, w[1:], **bound)
    np.testing.assert_allclose(found.standard_error, sd[1:], **bound)
    np.testing.assert_allclose(found.intercept_error, sd[0], **bound)
    np.testing.assert_allclose(found.covariance(), covariance[1:, 1:], **bound)
    np.testing.assert_allclose(found.bias, bias[1:], **bound)
    np.testing.assert_allclose(found.dof, dof, **bound)
    new = X[:3] + 1.0
    rows = np.column_stack([np.ones(3), new])
    centre, low, high = found.prediction(new)
    variance = np.sum((rows @ covariance) * rows, axis=1) + rss / (len(y) - dof)
    np.testing.assert_allclose(centre, rows @ w, **bound)
    low_mean, high_mean = found.confidence(new)[1:]
    np.testing.assert_allclose(
        (high - low) ** 2 - (high_mean - low_mean) ** 2, (high - low) ** 2 * found.sigma**2 / variance
    )


def test_figures_at_lam_0_are_those_of_least_squares():
    X, y, weights = problem()
    api = pytest.importorskip("statsmodels.api")
    theirs = api.WLS(y, api.add_constant(X), weights=weights).fit()
    ours = jxr.ridge_inference(X, y, 0.0, weights=weights)
    for name, value in [("r2", theirs.rsquared), ("adjusted_r2", theirs.rsquared_adj), ("aic", theirs.aic)]:
        np.testing.assert_allclose(getattr(ours, name), value, rtol=1e-9)
    np.testing.assert_allclose(ours.bic, theirs.bic, rtol=1e-9)
    np.testing.assert_allclose(np.stack(ours.interval(), axis=1), theirs.conf_int()[1:], rtol=1e-8)


@pytest.mark.parametrize("lam", [0.0, 3.0])
def test_criteria_by_their_formulas(lam):
    X, y, weights = problem()
    w, _, _, rss, dof = by_hand(X, y, lam, weights, np.ones(4))
    n = len(y)
    deviance = n * np.log(2 * np.pi * rss / n) + n - np.sum(np.log(weights))
    expected = [
        (select.aic, deviance + 2 * dof),
        (select.aicc, deviance + 2 * dof + 2 * dof * (dof + 1) / (n - dof - 1)),
        (select.bic, deviance + dof * np.log(n)),
        (select.cp(0.1), rss / 0.1 - n + 2 * dof),
    ]
    for rule, value in expected:
        np.testing.assert_allclose(jxr.ridge_score(X, y, lam, rule=rule, weights=weights), value, rtol=1e-10)


def test_intervals_cover_the_expectation():
    """2000 simulations: 95 % intervals of E ŵ hold it as often as a binomial count allows, ridge shrinks it or not."""
    rng = np.random.default_rng(3)
    X, w = rng.standard_normal((20, 3)), np.array([1.0, -2.0, 0.5])
    draws = jnp.asarray(X @ w + rng.standard_normal((2000, 20)))
    for lam in (0.0, 10.0):
        expected = jxr.ridge(X, X @ w, lam).coef

        @jax.vmap
        def covered(y, lam=lam, expected=expected):
            low, high = jxr.ridge_inference(X, y, lam).interval()
            return (low <= expected) & (expected <= high)

        share = np.asarray(covered(draws)).mean(axis=0)
        # Four standard errors; σ̂² of a biased fit is too large, so that λ > 0 covers more.
        assert np.all(share >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / 2000))
        assert lam > 0 or np.all(share <= 0.95 + 4 * np.sqrt(0.95 * 0.05 / 2000))


def test_targets_side_by_side_and_a_traced_lam():
    X, y, _ = problem()
    both = jxr.ridge_inference(X, np.stack([y, -3.0 * y], axis=1), 1.0)
    one = jxr.ridge_inference(X, y, 1.0)
    np.testing.assert_allclose(both.standard_error, np.outer(one.standard_error, [1.0, 3.0]), rtol=1e-12)
    np.testing.assert_allclose(both.covariance()[1], 9.0 * one.covariance(), rtol=1e-12)
    errors = jax.vmap(lambda lam: jxr.ridge_inference(X, y, lam).standard_error)(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(errors[1], one.standard_error, rtol=1e-12)


def test_table_has_names_and_figures():
    pandas = pytest.importorskip("pandas")
    X, y, _ = problem()
    frame = pandas.DataFrame(X, columns=["height", "width", "depth", "price"])
    found = jxr.ridge_inference(frame, y, 1.0)
    lines = found.summary().splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["intercept", "height", "width", "depth", "price"]
    assert float(lines[2].split()[1]) == pytest.approx(float(found.coef[0]), rel=1e-5)
    assert any(line.startswith("adjusted R2") for line in lines)
    with pytest.raises(ValueError, match="one target"):
        jxr.ridge_inference(X, np.stack([y, y], axis=1), 1.0).summary()


def test_one_lam_and_a_spectrum():
    X, y, _ = problem()
    with pytest.raises(ValueError, match="one number for each target"):
        jxr.ridge_inference(X, np.stack([y, y], axis=1), [1.0, 2.0])
    with pytest.raises(ValueError, match="pass spectrum"):
        jxr.ridge_inference(X, y, 1.0, solver=spectrum.from_cholesky)


@pytest.mark.parametrize("argument", [0, 1, 2])
def test_derivatives_are_refused_by_name(argument):
    X, y, _ = problem()
    total = lambda X, y, lam: jnp.sum(jxr.ridge_inference(X, y, lam).standard_error)  # noqa: E731
    for derivative in (jax.grad, jax.jacfwd):
        with pytest.raises(ValueError, match=r"use jaxridge\.ridge for those of coefficients"):
            derivative(total, argument)(jnp.asarray(X), jnp.asarray(y), 1.0)
