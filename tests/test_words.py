"""Natural mistakes: habits of other libraries, each answered in one sentence that has the cure in it."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import inverse, kernels, operators, optimize, select

X = np.arange(12.0).reshape(6, 2) % 5
y = np.arange(6.0) % 4
RBF = kernels.RBF(1.0)
x0 = jnp.array([1.0, 0.5, 2.0])


def line(x, args):
    return x[0] + x[1] * X[:, 0] - y


WORDS = [
    (lambda: jxr.ridge(X, y, alpha=1.0), "ridge has no argument 'alpha': write lam, the same number"),
    (lambda: jxr.ridge(X, y, 1.0, fit_intercept=False), "ridge has no argument 'fit_intercept': write intercept"),
    (lambda: jxr.ridge(X, y, 1.0, sample_weight=np.ones(6)), "'sample_weight': write weights"),
    (lambda: jxr.ridge(X, y, 1.0, normalize=True), "'normalize': write standardize"),
    (lambda: jxr.ridge(X, y, 1.0, standardise=True), "'standardise': is it standardize?"),
    (lambda: jxr.ridge(X, y, 1.0, cv=5), "ridge_cv and kernel_ridge_cv choose"),
    (lambda: jxr.ridge(X, y, 1.0, positive=True), "ridge_positive"),
    (lambda: jxr.ridge(X, y, 1.0, family="binomial"), "for classes there is svm"),
    (lambda: jxr.lasso(X, y, alpha=0.5), "lam = 2n·alpha"),
    (lambda: jxr.ridge(X, y, 1.0, whatever=1), "it takes X, y, lam, solver, intercept"),
    (lambda: jxr.ridge_ball(X, y, 1.0, fit_intercept=True), "ridge_ball has no argument 'fit_intercept'"),
    (lambda: jxr.ridge_cv(X, y, cv=5), "ridge_cv has no argument 'cv': write rule=select.kfold(5)"),
    (lambda: jxr.ridge_cv(X, y, alphas=[1.0]), "ridge_cv has no argument 'alphas': write lams"),
    (lambda: jxr.ridge_cv(X, y, scoring="r2"), "write rule"),
    (lambda: jxr.ridge_path(X, y, alpha=[1.0]), "write lams, a grid"),
    (lambda: jxr.kernel_ridge(X, y, 1.0, kernel=RBF, gamma=0.5), "scale = 1/√(2 gamma)"),
    (lambda: jxr.kernel_ridge(X, y, alpha=1.0, kernel=RBF), "kernel_ridge has no argument 'alpha'"),
    (lambda: jxr.kernel_posterior(X, y, 1.0, kernel=RBF, alpha=1.0), "kernel_posterior has no argument 'alpha'"),
    (lambda: jxr.tikhonov(X, y, alpha=1.0), "tikhonov has no argument 'alpha'"),
    (lambda: jxr.tikhonov(X, y, 1.0, x0=np.zeros(2)), "write x_ref"),
    (lambda: jxr.tikhonov(X, y, damp=1.0), "lam = damp²"),
    (lambda: jxr.least_squares(line, x0, method="lm"), "least_squares has no argument 'method': write solver"),
    (lambda: jxr.least_squares(line, x0, jac="2-point"), "write jacobian=function(x, args)"),
    (lambda: jxr.least_squares(line, x0, max_nfev=3), "write max_steps"),
    (lambda: jxr.least_squares(line, p0=x0), "write x0"),
    (lambda: jxr.least_squares(line, x0, sigma=0.1), "divide the residual by sigma"),
    (
        lambda: jxr.least_squares_batch(line, x0[None], None, x_scale=1.0),
        "has no argument 'x_scale'",
    ),
    (lambda: jxr.minimize(line, x0, method="BFGS"), "minimize has no argument 'method': write solver"),
    (lambda: inverse.picard(X, y, regularizer=1), "picard has no argument 'regularizer'"),
]
VALUES = [
    (lambda: jxr.optimize.uncertainty(line, x0), "pass all of what least_squares returned"),
    (lambda: jxr.optimize.linearised(line, x0), "pass all of what least_squares returned"),
    (lambda: jxr.kernel_ridge(X, y, 1.0, kernel=kernels.RBF), "kernel is the class RBF; pass an instance"),
    (lambda: jxr.kernel_ridge(X, y, 1.0, kernel="rbf"), "pass one of jaxridge.kernels"),
    (lambda: jxr.kernel_ridge(X, y, 1.0, kernel=RBF, solver=jxr.Nystroem), "solver is the class Nystroem; pass an"),
    (lambda: jxr.tikhonov(X, y, 1.0, solver=jxr.GolubKahan), "solver is the class GolubKahan; pass an instance"),
    (lambda: jxr.ridge(X, y, 1.0, solver="svd"), "pass spectrum.from_design"),
    (lambda: jxr.ridge_cv(X, y, rule="gcv"), "pass select.loo, select.gcv"),
    (lambda: jxr.ridge_cv(X, y, rule=select.kfold), "call it, as in select.kfold"),
    (lambda: jxr.least_squares(line, x0, loss="huber"), "pass the function, losses.huber"),
    (lambda: jxr.least_squares(line, x0, solver=jxr.TrustRegion), "solver is the class TrustRegion; pass an instance"),
    (lambda: jxr.least_squares(line, x0, solver="lm"), "pass LevenbergMarquardt() or TrustRegion()"),
    (lambda: jxr.least_squares(line, x0, bounds=[(0, 1), (0, 1), (0, 1)]), "not a pair for each variable"),
    (lambda: jxr.least_squares(line, x0[:2], bounds=[(0, 1), (0, 2)]), "bounds has a pair for each variable"),
    (lambda: jxr.least_squares(line, x0, bounds=np.zeros((3, 2))), "(bounds[:, 0], bounds[:, 1])"),
    (lambda: jxr.least_squares(line, x0, bounds=(jnp.zeros(1), None)), "one number does for all"),
    (lambda: jxr.least_squares(lambda x: line(x, None), x0), "residual takes (x) and is called as residual(x, args)"),
    (lambda: inverse.compare(X, y, rules=[select.gcv]), "pass a dict of names and rules"),
    (lambda: jxr.least_squares(lambda x, _: np.exp(x) - 1.0, x0), "such as jnp.exp for np.exp"),
    (lambda: jxr.tikhonov(X, y, 1.0, L="gradient"), "such as operators.difference(shape)"),
    (lambda: jxr.tikhonov(operators.gaussian_blur((4, 5), 1.0), np.ones(20), 1.0), "pass b.reshape(4, 5)"),
    (lambda: jxr.save(jxr.ridge(X, y, 1.0), "fit.npz"), "write save(path, record)"),
]
ATTRIBUTES = [
    (lambda: jxr.ridge(X, y, 1.0).coef_, "Fit has no attribute 'coef_': write coef."),
    (lambda: jxr.ridge(X, y, 1.0).alpha, "write lam."),
    (lambda: jxr.ridge_cv(X, y).best_score_, "Choice has no attribute 'best_score_': write score_found."),
    (lambda: jxr.ridge_cv(X, y).coef, "write fit.coef."),
    (lambda: jxr.least_squares(line, x0).x, "Solution has no attribute 'x': write value."),
    (lambda: jxr.ridge(X, y, 1.0).support_vectors_, "it has coef, intercept, lam"),
    (lambda: jxr.ridge_path(X, y, [1.0]).coef_, "write coef."),
]


@pytest.mark.parametrize(("call", "said"), WORDS, ids=[said for _, said in WORDS])
def test_unknown_words_are_answered(call, said):
    with pytest.raises(TypeError, match=re.escape(said)):
        call()


@pytest.mark.parametrize(("call", "said"), VALUES, ids=[said for _, said in VALUES])
def test_values_of_another_kind_are_answered(call, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        call()


@pytest.mark.parametrize(("call", "said"), ATTRIBUTES, ids=[said for _, said in ATTRIBUTES])
def test_attributes_of_other_libraries_are_answered(call, said):
    with pytest.raises(AttributeError, match=re.escape(said)):
        call()


def test_a_curve_fit_has_a_table_of_errors():
    residual = lambda x, _: x["level"] + x["slopes"][0] * X[:, 0] - y  # noqa: E731
    fit = jxr.least_squares(residual, {"level": 0.0, "slopes": jnp.ones(1)})
    found = optimize.uncertainty(residual, fit)
    text = found.summary()
    assert all(word in text for word in ("x['level']", "x['slopes'][0]", "std err", "0.975]", "sigma"))
    assert f"{float(found.standard_errors['level']):.6g}" in text


def test_a_gamma_becomes_that_scale():
    """The conversion that the answer gives: exp(−γ‖x − z‖²)."""
    gamma = 0.7
    K = kernels.RBF(1 / np.sqrt(2 * gamma)).matrix(jnp.asarray(X), jnp.asarray(X))
    distance = np.square(X[:, None] - X[None]).sum(axis=2)
    np.testing.assert_allclose(K, np.exp(-gamma * distance), rtol=1e-12)


def test_signatures_show_every_keyword():
    for name in jxr.__all__:
        found = getattr(jxr, name)
        if inspect.isfunction(found) and found.__module__.split(".")[1] in (
            "linear",
            "kernel_methods",
            "inverse",
            "optimize",
        ):
            kinds = {parameter.kind for parameter in inspect.signature(found).parameters.values()}
            assert inspect.Parameter.VAR_KEYWORD not in kinds, name
    assert inspect.signature(jxr.ridge).parameters["standardize"].default is False


@pytest.mark.parametrize("high", [1.0, 5.0])
@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_misclassification_takes_any_two_labels(low, high):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    sign = np.sign(X @ [1.0, 2.0, 3.0] + 2.0 * rng.standard_normal(60))
    of_signs = jxr.ridge_score(X, sign, 1.0, rule=select.misclassification)
    assert 0.1 < of_signs < 0.3
    of_labels = jxr.ridge_score(X, np.where(sign > 0, high, low), 1.0, rule=select.misclassification)
    assert of_labels == of_signs


def test_misclassification_of_numbers_chooses_nothing():
    choice = jxr.ridge_cv(X, np.arange(6.0), [1.0], rule=select.misclassification)
    assert choice.fit.result == jxr.RESULTS.no_score


def test_a_column_against_a_vector_is_no_matrix_of_residuals():
    column = np.ones((6, 1))
    with jax.numpy_rank_promotion("allow"), pytest.raises(ValueError, match=r"ravel the column"):
        jxr.least_squares(lambda x, _: column * x[0] - y, x0)


def test_a_pair_of_lists_are_bounds_and_a_square_residual_is_one():
    found = jxr.least_squares(line, 0.2 * x0[:2], bounds=([0.0, 0.0], [1.0, 0.3]))
    assert jnp.all((found.value >= 0) & (found.value <= jnp.array([1.0, 0.3])))
    square = jxr.least_squares(lambda x, _: x - jnp.eye(2), jnp.zeros((2, 2)))
    np.testing.assert_allclose(square.value, np.eye(2), atol=1e-8)
    # A vector for every row of a picture is meant.
    with jax.numpy_rank_promotion("allow"):
        level = jxr.least_squares(lambda x, _: x - jnp.eye(3), jnp.zeros(3))
    np.testing.assert_allclose(level.value, np.full(3, 1 / 3), atol=1e-8)
