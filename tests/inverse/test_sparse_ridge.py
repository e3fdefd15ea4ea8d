"""Ridge on sparse matrices against the same on dense ones: every term, derivative and rule that there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO

import jaxridge as jxr
from jaxridge import operators, select

rng = np.random.default_rng(0)
N, D = 40, 12
X = scipy.sparse.random_array((N, D), density=0.25, format="csr", rng=rng)
X.data += 1.0
DENSE = X.toarray()
Y = DENSE @ rng.standard_normal((D, 2)) + rng.standard_normal((N, 2))
W, P = rng.uniform(0.5, 2.0, N), rng.uniform(0.5, 2.0, D)
JAX = BCOO.fromdense(jnp.asarray(DENSE), nse=X.nnz + 5)
LAMS = np.array([0.1, 1.0, 10.0])
SOLVER = jxr.GolubKahan(tol=1e-11, budget=60)
TERMS = {
    "plain": {"intercept": False},
    "all": {"weights": W, "penalty": P, "unpenalized": (3, -1), "standardize": True},
}


MADE = {"CSC": (lambda X: X.tocsc(), "all"), "BCOO": (lambda X: JAX, "plain"), "operator": (operators.sparse, "all")}


@pytest.mark.parametrize(("made", "terms"), MADE.values(), ids=MADE)
def test_a_path_equals_that_of_the_dense_matrix(made, terms):
    found = jxr.ridge_path(made(X), Y, LAMS, solver=SOLVER, **TERMS[terms])
    wanted = jxr.ridge_path(DENSE, Y, LAMS, **TERMS[terms])
    for name in ("coef", "intercept", "rss"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-9, atol=1e-11)
    assert np.all(np.isnan(found.dof))
    assert np.all(np.asarray(found.result == jxr.RESULTS.successful))
    if made is not operators.sparse:
        np.testing.assert_allclose(found.predict(made(X)), wanted.predict(DENSE), rtol=1e-9)
        np.testing.assert_allclose(found.at(3.0).coef, wanted.at(3.0).coef, rtol=1e-9)


RULES = {
    "kfold": (select.kfold(5), select.kfold(5)),
    "holdout": (select.holdout(X[:9], Y[:9]), select.holdout(DENSE[:9], Y[:9])),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_that_need_no_rows_choose_as_for_the_dense_matrix(name):
    ours, theirs = RULES[name]
    found = jxr.ridge_cv(X, Y, LAMS, rule=ours, solver=SOLVER, weights=W)
    wanted = jxr.ridge_cv(DENSE, Y, LAMS, rule=theirs, weights=W)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-9)
    np.testing.assert_allclose(found.spread, wanted.spread, rtol=1e-8)
    np.testing.assert_allclose(found.fit.coef, wanted.fit.coef, rtol=1e-9, atol=1e-11)


def test_gcv_and_dof_by_probes():
    """With every direction its probe, √n eᵢ on average: 400 random ones are within their standard error, 5 %."""
    solver = jxr.GolubKahan(jax.random.key(1), tol=1e-9, budget=60, probes=400)
    found = jxr.ridge_cv(X, Y, LAMS, rule=select.gcv, solver=solver)
    wanted = jxr.ridge_cv(DENSE, Y, LAMS, rule=select.gcv)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0.05)
    assert found.lam == wanted.lam
    np.testing.assert_allclose(found.fit.dof, wanted.fit.dof, rtol=0.1)
    assert np.all(np.isfinite(jxr.ridge_cv(X, Y, LAMS, rule=select.gcv).scores))


@pytest.mark.whole
def test_derivatives_are_those_of_the_dense_problem():
    """In the entries, targets, λ, weights and penalty; second ones along a line."""

    def scalar(X):
        def of(data, y, lam, weights, penalty):
            fit = jxr.ridge(X(data), y, lam, weights=weights, penalty=penalty, standardize=True, **solver(X))
            return jnp.sum(jnp.cos(fit.coef)) + jnp.sum(jnp.cos(fit.rss))

        return of

    solver = lambda X: {} if X is dense else {"solver": SOLVER}  # noqa: E731
    sparse = lambda data: BCOO((data, JAX.indices), shape=JAX.shape)  # noqa: E731
    dense = lambda data: sparse(data).todense()  # noqa: E731
    args = (JAX.data, jnp.asarray(Y), jnp.array(0.7), jnp.asarray(W), jnp.asarray(P))
    ours, theirs = (jax.jit(jax.grad(scalar(X), argnums=range(5)))(*args) for X in (sparse, dense))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * np.max(np.abs(b)))
    along = jax.tree.map(lambda x: jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), args)
    line = lambda f: lambda t: f(*jax.tree.map(lambda x, v: x + 0.1 * t * v, args, along))  # noqa: E731
    ours, theirs = (jax.jit(jax.grad(jax.grad(line(scalar(X)))))(0.0) for X in (sparse, dense))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)


def test_the_operator():
    """Products, adjoint, moments; no entries at all, columns that are none, one long row."""
    for matrix in (X, scipy.sparse.csr_array((3, 4)), scipy.sparse.csr_array(np.ones((2, 300)))):
        A = operators.sparse(matrix)
        np.testing.assert_allclose(A.as_matrix(), matrix.toarray(), atol=0)
        np.testing.assert_allclose(A.T.as_matrix(), matrix.toarray().T, atol=0)
        mean, variance = A.centred(None)
        np.testing.assert_allclose(mean, matrix.toarray().mean(axis=0), atol=1e-14)
        np.testing.assert_allclose(variance, matrix.toarray().var(axis=0), atol=1e-14)
    assert operators.check_adjoint(operators.sparse(X), jax.random.key(0)) < 1e-13
    again = operators.sparse(operators.sparse(X), columns=[2, 0])
    np.testing.assert_allclose(again.as_matrix(), DENSE[:, [2, 0]], atol=0)


MISTAKES = {
    "loo": (lambda: jxr.ridge_cv(X, Y), "pass rule=select.gcv, select.kfold"),
    "rows": (lambda: jxr.ridge_cv(X, Y, rule=select.misclassification), "use select.gcv, select.kfold"),
    "refine": (lambda: jxr.ridge_cv(X, Y, rule=select.gcv, refine=True), "refine needs the factor of a dense"),
    "grid": (lambda: jxr.ridge_cv(X, Y, np.ones((3, 2)), rule=select.gcv), "one grid"),
    "solver": (lambda: jxr.ridge(X, Y, 1.0, solver=jxr.spectrum.from_gram), "pass GolubKahan()"),
    "ball": (lambda: jxr.ridge_ball(X, Y, 1.0), "X is sparse"),
    "lengths": (lambda: jxr.ridge(X, Y[1:], 1.0), "same observations"),
    "weights": (lambda: jxr.ridge(X, Y, 1.0, weights=W[1:]), "one weight per row"),
    "penalty": (lambda: jxr.ridge(X, Y, 1.0, penalty=P[1:]), "one positive number per column"),
    "traced": (lambda: jax.jit(lambda X: jxr.ridge(X, Y, 1.0).coef)(JAX), "indices are traced"),
    "columns": (lambda: jxr.ridge(DENSE, Y, 1.0).predict(X[:, 1:]), "fitted on 12"),
    "complex": (lambda: jxr.ridge(X * 1j, Y, 1.0), "complex"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_natural_mistakes_are_answered(name):
    call, said = MISTAKES[name]
    with pytest.raises(ValueError, match=said):
        call()


def test_what_data_are_wrong_has_a_code():
    one = lambda **terms: jxr.ridge(X, Y[:, 0], terms.pop("lam", 1.0), **terms).result  # noqa: E731
    assert one(penalty=-P) == jxr.RESULTS.invalid_penalty
    assert one(weights=-W) == jxr.RESULTS.invalid_weights
    assert one(lam=-1.0) == jxr.RESULTS.invalid_lam
    assert one(lam=1e-12, solver=jxr.GolubKahan(budget=2)) == jxr.RESULTS.max_products
    bad = X.copy()
    bad.data[3] = np.nan
    assert jxr.ridge(bad, Y[:, 0], 1.0).result == jxr.RESULTS.nonfinite_input
