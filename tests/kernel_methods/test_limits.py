"""λ = ∞, which every default grid has at its end: the model without a kernel, by every solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import kernel_methods, kernels, select

KEY = jax.random.key(0)
SOLVERS = [
    kernel_methods.Eigen(),
    kernel_methods.Tridiagonal(),
    kernel_methods.Cholesky(),
    kernel_methods.Mixed(),
    jxr.Nystroem(KEY, rank=10),
    jxr.Iterative(KEY),
]
RULES = {"loo": select.loo, "gcv": select.gcv, "evidence": select.evidence}
SCORES = [
    (solver, rule)
    for solver in SOLVERS[:4]
    for rule in RULES
    if rule != "loo" or isinstance(solver, kernel_methods.Eigen | kernel_methods.Cholesky)
]


def problem(n=30):
    rng = np.random.default_rng(1)
    return rng.standard_normal((n, 2)), 3.0 + rng.standard_normal(n)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_infinite_lam_is_the_mean(solver):
    X, y = problem()
    fit = jxr.kernel_ridge(X, y, jnp.inf, kernel=kernels.RBF(1.0), solver=solver)
    assert fit.result == jxr.RESULTS.successful
    assert jnp.all(fit.dual_coef == 0)
    np.testing.assert_allclose(fit.predict(X), y.mean(), rtol=1e-13)
    np.testing.assert_allclose(fit.rss, np.sum(np.square(y - y.mean())), rtol=1e-13)


@pytest.mark.parametrize(("solver", "rule"), SCORES, ids=lambda x: x if isinstance(x, str) else type(x).__name__)
def test_scores_go_over_into_those_of_infinity(solver, rule):
    """At λ = 1e13 a kernel matrix of trace 30 is worth 3e-12."""
    X, y = problem()
    options = {"kernel": kernels.RBF(1.0), "rule": RULES[rule], "solver": solver}
    infinite, far = (jxr.kernel_ridge_score(X, y, lam, **options) for lam in (jnp.inf, 1e13))
    # The determinants of `Mixed` are those of float32.
    np.testing.assert_allclose(infinite, far, rtol=1e-5 if isinstance(solver, kernel_methods.Mixed) else 1e-10)


def test_no_signal_chooses_infinity_in_silence():
    X, y = problem(200)
    choice = jxr.kernel_ridge_cv(X, y, kernel=kernels.RBF(1.0))
    assert jnp.isinf(choice.lams[-1])
    assert choice.scores[choice.index] <= 1.001 * jnp.nanmin(choice.scores)
    assert not choice.at_edge
    assert choice.message() == ""
