"""How far a choice is to be trusted, against refits, differences and simulations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from sklearn.kernel_ridge import KernelRidge

import jaxridge as jxr
from jaxridge import kernels, select

RNG = np.random.default_rng(41)
N, FOLDS = 23, 4
X = RNG.standard_normal((N, 3))
Y = np.stack([np.sin(2 * X[:, 0]), X[:, 1] - X[:, 2]], 1) + 0.5 * RNG.standard_normal((N, 2))
W = np.exp(0.3 * RNG.standard_normal(N)) * (np.arange(N) != 5)
LAMS = np.logspace(-2, 3, 11)
RBF = kernels.RBF(1.5)


def ridge(X, y, lam, weights):
    coef, intercept = oracles.ridge(X, y, lam, weights=weights)
    return lambda new: new @ coef + intercept


def in_kernel(X, y, lam, weights):
    return KernelRidge(alpha=lam, kernel="rbf", gamma=0.5 / 1.5**2).fit(X, y, weights).predict


def nested(fit, weights, shared):
    """Everything refitted: the folds, the folds without another one, the λ of their least mean loss."""
    w, folds = np.ones(N) if weights is None else weights, np.array_split(np.arange(N), FOLDS)

    def losses(left_out, judged):
        train = np.setdiff1d(np.arange(N), np.concatenate(left_out))
        error = [Y[judged] - fit(X[train], Y[train], lam, w[train])(X[judged]) for lam in LAMS]
        return np.einsum("v,kvt->kt", w[judged], np.square(error)) / w[judged].sum()

    score, lams = [], []
    for fold in folds:
        curve = np.mean([losses([fold, other], other) for other in folds if other is not fold], axis=0)
        best = np.full(2, np.argmin(curve.mean(1))) if shared else np.argmin(curve, axis=0)
        score.append(losses([fold], fold)[best, [0, 1]])
        lams.append(LAMS[best[0]] if shared else LAMS[best])
    return np.mean(score, axis=0), np.std(score, axis=0, ddof=1) / np.sqrt(FOLDS), lams


@pytest.mark.parametrize(
    ("kind", "weights", "shared"),
    [
        pytest.param("ridge", None, True, marks=pytest.mark.whole),
        ("ridge", W, False),
        pytest.param("kernel", None, True, marks=pytest.mark.whole),
    ],
)
def test_nested_score_by_refitting(kind, weights, shared):
    options = {"rule": select.kfold(FOLDS), "assess": True, "per_target": not shared}
    if kind == "ridge":
        said = jxr.ridge_cv(X, Y, LAMS, weights=weights, **options).assessment
    else:
        said = jxr.kernel_ridge_cv(X, Y, LAMS, kernel=RBF, intercept=False, **options).assessment
    want = nested(ridge if kind == "ridge" else in_kernel, weights, shared)
    for got, expected in zip((said.nested, said.nested_error, said.fold_lams), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("rule", [select.gcv, pytest.param(select.kfold(FOLDS), marks=pytest.mark.whole)])
def test_influence_is_the_derivative_of_the_optimum(rule):
    """dλ*/dy by differences of refined choices."""
    y = Y[:, 0]
    chosen = partial(jxr.ridge_cv, X, lams=LAMS, rule=rule, refine=True)
    said = chosen(y, assess=True)
    h = 1e-5
    steps = np.stack([(float(chosen(y + h * e).lam) - float(chosen(y - h * e).lam)) / (2 * h) for e in np.eye(N)])
    np.testing.assert_allclose(said.assessment.influence, steps, rtol=1e-5, atol=1e-6 * np.max(np.abs(steps)))
    unrefined = jxr.ridge_cv(X, y, LAMS, rule=rule, assess=True).assessment
    np.testing.assert_allclose(unrefined.influence, said.assessment.influence, rtol=1e-9)


def test_a_row_of_weight_zero_moves_nothing():
    said = jxr.ridge_cv(X, Y, LAMS, weights=W, per_target=True, assess=True).assessment
    np.testing.assert_array_equal(said.influence[5], 0.0)
    assert np.all(np.isfinite(said.log_lam_error))


def test_at_an_edge_there_is_no_standard_error():
    choice = jxr.ridge_cv(X, Y[:, 0], [1e-3, 1e-2], assess=True)
    assert jnp.isnan(choice.assessment.log_lam_error)
    assert "no standard error" in choice.summary()


def test_the_summary_names_the_rows_that_move_lam():
    choice = jxr.ridge_cv(X, Y[:, 1], LAMS, rule=select.kfold(FOLDS), assess=True)
    most = int(np.argmax(np.abs(choice.assessment.influence)))
    text = choice.summary()
    assert text.index("nested score") < text.index("std err of log lam") < text.index(f"row {most} ")


def test_derivatives_are_refused():
    with pytest.raises(ValueError, match="leave assess out"):
        jax.grad(lambda y: jxr.ridge_cv(X, y, LAMS, refine=True, assess=True).lam)(Y[:, 0])


def test_a_rule_by_a_root_is_refused():
    with pytest.raises(ValueError, match="takes a root"):
        jxr.ridge_cv(X, Y, LAMS, rule=select.discrepancy(0.3), assess=True)


@pytest.mark.parametrize("rule", [select.kfold(2), select.kfold(splits=[(range(10), range(10, N))])])
def test_folds_that_cannot_be_nested_are_named(rule):
    with pytest.raises(ValueError, match=r"assess needs 3 folds.*select\.kfold\(5\)"):
        jxr.ridge_cv(X, Y, LAMS, rule=rule, assess=True)


@pytest.mark.whole
def test_the_nested_score_is_unbiased_where_the_least_score_is_not():
    """2000 data sets of 20 rows: the mean error of what kfold(4) chooses on 16 rows, which each nested fold tries."""
    n, d, repeats, lams = 20, 6, 2000, np.logspace(-1, 3, 9)
    coef, sd = jnp.full(d, 0.2), 1.0

    def data(key, n):
        one, other = jax.random.split(key)
        X = jax.random.normal(one, (n, d))
        return X, X @ coef + sd * jax.random.normal(other, (n,))

    def claims(key):
        choice = jxr.ridge_cv(*data(key, n), lams, rule=select.kfold(5), assess=True)
        return choice.assessment.nested, jnp.min(choice.scores)

    def truth(key):
        fit = jxr.ridge_cv(*data(key, n * 4 // 5), lams, rule=select.kfold(4)).fit
        return sd**2 + jnp.sum(jnp.square(fit.coef - coef)) + jnp.square(fit.intercept)

    keys = jax.random.split(jax.random.key(3), repeats)
    honest, least = jax.jit(jax.vmap(claims))(keys)
    true = jax.jit(jax.vmap(truth))(jax.random.split(jax.random.key(4), repeats))
    off = lambda claim: (claim.mean() - true.mean()) / np.sqrt((claim.var() + true.var()) / repeats)  # noqa: E731
    # Standard errors of a difference of means: one beyond 3.3 is met once in a thousand.
    assert abs(off(np.asarray(honest))) < 3.3
    assert off(np.asarray(least)) < -5.0


@pytest.mark.whole
def test_the_standard_error_of_log_lam_is_what_repetitions_scatter():
    """1000 repetitions of the noise on the same X."""
    n, d, repeats = 200, 30, 1000
    X = np.random.default_rng(5).standard_normal((n, d))
    coef = np.random.default_rng(6).standard_normal(d) * 0.4
    noise = np.random.default_rng(7).standard_normal((repeats, n))
    lams = np.logspace(-1, 4, 16)

    def chosen(y):
        choice = jxr.ridge_cv(X, y, lams, rule=select.gcv, refine=True, assess=True)
        return jnp.log(choice.lam), choice.assessment.log_lam_error

    log_lam, error = jax.jit(jax.vmap(chosen))(X @ coef + noise)
    # Four standard errors of the scatter of 1000 numbers, 1/√2000 of it. First order alone would be off by a third.
    assert float(jnp.sqrt(jnp.mean(error**2)) / jnp.std(log_lam)) == pytest.approx(1.0, abs=0.09)
