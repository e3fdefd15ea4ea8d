"""Derivatives at λ = ∞, where only what is not penalised is left: those at a λ that is large.

The difference is of the order of ‖X‖²/λ, 1e-10 here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO

import jaxridge as jxr
from jaxridge import inverse, kernel_methods, kernels, operators, select, spectrum

FAR, TOL = 1e11, 1e-8
KEY = jax.random.key(0)


def problem(n, d):
    rng = np.random.default_rng(n)
    X = rng.standard_normal((n, d)) + 1.0
    weights = rng.uniform(0.5, 2.0, n)
    weights[1] = 0.0
    return tuple(map(jnp.asarray, (X, X[:, 0] + rng.standard_normal(n), weights, rng.uniform(0.5, 2.0, d))))


def weighted_sum(fit):
    """Coefficients, intercept and residuals in one number."""
    return fit.coef @ jnp.arange(1.0, fit.coef.shape[0] + 1) + fit.intercept + fit.rss


def of_ridge(solver, rules):
    def value(lam, X, y, weights, penalty):
        options = {"weights": weights, "penalty": penalty, "unpenalized": (1,), "solver": solver}
        scores = [jxr.ridge_score(X, y, lam, rule=rule, **options) for rule in rules]
        return weighted_sum(jxr.ridge(X, y, lam, **options)) + sum(scores)

    return value


def of_posterior(lam, X, y, weights, penalty):
    options = {"noise": 2.0, "weights": weights, "penalty": penalty, "unpenalized": (1,)}
    posterior = jxr.ridge_posterior(X, y, lam, **options)
    return posterior.intercept + posterior.intercept_sd + posterior.sd[1] + jnp.sum(posterior.variance(X))


def of_kernel(solver, rules):
    def value(lam, X, y, weights, _):
        options = {"kernel": kernels.RBF(2.0), "weights": weights, "solver": solver}
        scores = [jxr.kernel_ridge_score(X, y, lam, rule=rule, **options) for rule in rules]
        fit = jxr.kernel_ridge(X, y, lam, **options)
        return jnp.sum(fit.predict(X) * jnp.arange(1.0, y.shape[0] + 1)) + fit.rss + sum(scores)

    return value


def of_tikhonov(solver, L):
    def value(lam, X, y, weights, _):
        norm = operators.difference(X.shape[1]) if L else None
        fit = jxr.tikhonov(X, y, lam, L=norm, weights=weights, solver=solver)
        return fit.x @ jnp.arange(1.0, X.shape[1] + 1) + fit.rss

    return value


def of_bands(lam, X, y, weights, penalty):
    lams = jnp.stack([jnp.ones_like(lam), lam])
    groups = ["a", "b"] + ["b"] * (X.shape[1] - 2)
    return weighted_sum(jxr.ridge_banded(X, y, lams, groups=groups, weights=weights, penalty=penalty))


def of_sparse(lam, X, y, weights, penalty):
    places = jnp.asarray(np.argwhere(np.ones(X.shape)))
    sparse = BCOO((X.ravel(), places), shape=X.shape)
    return weighted_sum(jxr.ridge(sparse, y, lam, weights=weights, penalty=penalty))


ALL = (select.loo, select.gcv, select.evidence)
TALL, WIDE = (12, 4), (5, 8)
whole = pytest.mark.whole
CASES = [
    ("design", TALL, of_ridge(spectrum.from_design, ALL), ()),
    ("design", WIDE, of_ridge(spectrum.from_design, ALL), whole),
    ("gram", TALL, of_ridge(spectrum.from_gram, ALL), whole),
    ("exact", TALL, of_ridge(spectrum.from_design, (select.exact(select.loo),)), whole),
    ("exact", WIDE, of_ridge(spectrum.from_design, (select.exact(select.gcv),)), whole),
    ("folds", TALL, of_ridge(spectrum.from_design, (select.kfold(3),)), whole),
    ("cholesky", TALL, of_ridge(spectrum.from_cholesky, (select.gcv,)), ()),
    ("cholesky", WIDE, of_ridge(spectrum.from_cholesky, (select.gcv,)), whole),
    ("posterior", TALL, of_posterior, whole),
    ("posterior", WIDE, of_posterior, whole),
    ("kernel", TALL, of_kernel(kernel_methods.Eigen(), ALL), ()),
    ("kernel tridiagonal", TALL, of_kernel(kernel_methods.Tridiagonal(), ALL[1:]), whole),
    ("kernel cholesky", TALL, of_kernel(kernel_methods.Cholesky(), ALL), whole),
    ("kernel iterative", TALL, of_kernel(jxr.Iterative(KEY, rank=3, tol=1e-12), ()), ()),
    ("kernel nystroem", TALL, of_kernel(jxr.Nystroem(KEY, rank=3), ()), whole),
    ("tikhonov", TALL, of_tikhonov(inverse.Direct(), True), whole),
    ("tikhonov", WIDE, of_tikhonov(inverse.Direct(), True), whole),
    ("tikhonov products", TALL, of_tikhonov(inverse.GolubKahan(), True), whole),
    ("bands", TALL, of_bands, whole),
    ("bands", WIDE, of_bands, whole),
    ("sparse", TALL, of_sparse, whole),
]


@pytest.mark.parametrize(
    ("size", "value"),
    [pytest.param(*case[1:3], id=f"{case[0]} {case[1]}", marks=case[3]) for case in CASES],
)
def test_derivatives_go_over_into_those_of_infinity(size, value):
    gradient = jax.grad(value, (1, 2, 3, 4))
    gradient = gradient if value is of_sparse else jax.jit(gradient)  # places of a sparse matrix are no tracers
    at_infinity, far = (gradient(jnp.asarray(lam), *problem(*size)) for lam in (jnp.inf, FAR))
    largest = max(jnp.max(jnp.abs(g)) for g in far)
    for one, other in zip(at_infinity, far, strict=True):
        np.testing.assert_allclose(one, other, atol=TOL * largest)


@pytest.mark.parametrize("value", [of_ridge(spectrum.from_design, ALL), of_kernel(kernel_methods.Eigen(), ALL)])
@pytest.mark.whole
def test_nothing_moves_with_an_infinite_lam(value):
    assert jax.grad(value)(jnp.inf, *problem(*TALL)) == 0


@pytest.mark.whole
def test_second_derivatives():
    value = of_ridge(spectrum.from_design, ())
    for argnums in (1, 2, 3):
        at_infinity, far = (jax.hessian(value, argnums)(lam, *problem(*TALL)) for lam in (jnp.inf, FAR))
        np.testing.assert_allclose(at_infinity, far, atol=TOL * jnp.max(jnp.abs(far)))


def test_derivatives_where_infinity_is_chosen():
    """Of what no column explains the prior is all there is: coefficients are 0 and stay there, intercepts are means."""
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((40, 3)), rng.standard_normal(40)
    A = np.column_stack([np.ones(40), X])
    X, y = jnp.asarray(X), jnp.asarray(y - A @ np.linalg.lstsq(A, y)[0] + 1.0)

    def found(X, y):
        posterior = jxr.ridge_posterior(X, y)
        return posterior.intercept + jnp.sum(posterior.coef), posterior.result

    assert found(X, y)[1] == jxr.RESULTS.prior_only
    in_X, in_y = jax.grad(lambda *args: found(*args)[0], (0, 1))(X, y)
    np.testing.assert_allclose(in_X, 0.0, atol=1e-15)
    np.testing.assert_allclose(in_y, 1.0 / 40, rtol=1e-13)
