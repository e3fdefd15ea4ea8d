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
    (lambda: jxr.least_squares(line, x0, jac="2-point"), "or write jax.jacfwd or jax.jacrev"),
    (lambda: jxr.least_squares(line, x0, max_nfev=3), "write max_steps"),
    (lambda: jxr.least_squares(line, p0=x0), "write x0"),
    (lambda: jxr.least_squares(line, x0, sigma=0.1), "divide the residual by sigma"),
    (
        lambda: jxr.least_squares_batch(line, x0[None], None, x_scale=1.0),
        "has no argument 'x_scale'",
    ),
    (lambda: jxr.minimize(line, x0, method="BFGS"), "minimize has no argument 'method': write solver"),
    (lambda: inverse.picard(X, y, regularizer=1), "picard has no argument 'regularizer'"),
    (lambda: jxr.ridge(X, y), "ridge needs lam: a number >= 0; where it is not known, ridge_cv"),
    (lambda: jxr.ridge(X, y, 1.0, np.ones(6)), "ridge takes X, y, lam in this order and the rest by name: solver, "),
    (lambda: jxr.ridge(X, y, 1.0, offset=y), "take it off y"),
    (lambda: jxr.ridge(X, y, 1.0, lower_limits=0), "ridge_positive has coefficients that are not negative"),
    (lambda: jxr.ridge_cv(X, y, type_measure="mse"), "write rule"),
    (lambda: jxr.ridge_cv(X, y, lambda_min_ratio=1e-3), "write lams"),
    (lambda: jxr.kernel_ridge(X, y, 1.0), "kernel_ridge needs kernel: one of jaxridge.kernels"),
    (lambda: jxr.kernel_ridge(X, y, 1.0, kernel=RBF, sigma=0.1), "weights = 1/sigma²"),
    (lambda: jxr.svm(X, y, 1.0, class_weight="balanced"), "write weights, a number for each row"),
    (lambda: jxr.lasso(X, y, 1.0, max_iter=9), "write max_knots"),
    (lambda: jxr.tikhonov(X, y, 1.0, maxiter=9), "it belongs to the solver"),
    (lambda: jxr.tikhonov(X, y, 1.0, mask=y), "write weights=mask"),
    (lambda: jxr.tsvd(X, y, k=1), "write ranks"),
    (lambda: inverse.compare(X, y), "compare needs rules: a dict of names and rules"),
    (lambda: jxr.least_squares(line, x0, lower=0.0), "write bounds=(lower, upper)"),
    (lambda: jxr.least_squares(line, x0, X, y), "least_squares takes residual, x0, args in this order"),
    (lambda: optimize.uncertainty(line, x0, absolute_sigma=True), "write sigma=1.0 for residuals that are divided"),
    (lambda: kernels.RBF(gamma=0.5), "RBF has no argument 'gamma': write scale = 1/√(2 gamma)"),
    (lambda: select.gcv(), "gcv needs problem: a verb gives it to a rule, so pass the rule itself"),
    (lambda: select.kfold(5, shuffle=True), "write key=jax.random.key(0)"),
    (lambda: operators.gaussian_blur((8, 8), sigma=2.0), "gaussian_blur has no argument 'sigma': write width"),
    (lambda: operators.gaussian_blur((8, 8), 2.0, mode="wrap"), "write boundary"),
    (lambda: jxr.ridge(X, y, 1.0).predict(X, s=0.1), "Fit.predict has no argument 's': a fit has one lam"),
    (lambda: jxr.ridge_cv(X, y).predict(X, s=0.1), "Choice.predict has no argument 's'"),
    (lambda: jxr.ridge(X, y, 1.0).score(X, y, sample_weight=y), "Fit.score has no argument 'sample_weight'"),
    (lambda: jxr.ridge(X, y, 1.0).predict(), "Fit.predict needs X; it takes X."),
    (lambda: jxr.plot.path(jxr.ridge_path(X, y)), "path needs ax: Axes of matplotlib"),
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
    (
        lambda: jxr.inverse.picard(operators.gaussian_blur((128, 128), 1.0), jnp.ones((128, 128))),
        "picard factors A as a matrix of 16384 by 16384",
    ),
    (lambda: jxr.save(jxr.ridge(X, y, 1.0), "fit.npz"), "write save(path, record)"),
    (lambda: jxr.ridge(X, y, 1.0, standardize="no"), "standardize is 'no'; pass True or False"),
    (lambda: jxr.ridge(X, y, 1.0, intercept=None), "intercept is None; pass True or False"),
    (lambda: jxr.kernel_ridge(X, y, 1.0, kernel=RBF, intercept="no"), "intercept is 'no'; pass True or False"),
    (lambda: jax.jit(jxr.ridge)(X, y, 1.0, standardize=True), "standardize is traced; keep it out of jit"),
    (
        lambda: jxr.ridge(X, y, 1.0, penalty={"a": 1.0}),
        "penalty holds values that are not numbers (dict); pass an array",
    ),
    (lambda: jxr.ridge(X, y, 1.0, unpenalized="a"), "unpenalized names column 'a'"),
    (lambda: jxr.ridge(X, y, 1.0).predict(X[0]), "X[None, :] for one row"),
    (lambda: jxr.ridge_cv(X, y, select.kfold(3)), "lams holds values that are not numbers (KFold)"),
    (lambda: jxr.ridge_cv(X, y, 10.0), "pass a list, or call the verb that takes one lam"),
    (lambda: jxr.ridge_cv(X, y, rule=select.discrepancy), "call it, as in select.discrepancy(noise)"),
    (lambda: jxr.ridge_cv(X, y, rule=select.holdout), "call it, as in select.holdout(X, y)"),
    (lambda: jxr.ridge_cv(X, y, rule=select.discrepancy(np.ones(6))), "write weights=1 / variance and noise=1.0"),
    (lambda: jxr.ridge_path(X, y, [1.0])["1.0"], "path.at(lam) for any"),
    (lambda: jxr.kernel_ridge(X, y, 1.0, kernel=X @ X.T), "kernel_methods.from_kernel(K, y)"),
    (lambda: kernels.RBF("scale"), "scale is 'scale'; a kernel needs a positive number"),
    (lambda: jxr.least_squares(lambda x, a: a[0] * x[0] - y, x0), "residual was called with args=None"),
    (lambda: jxr.least_squares(lambda x, _: float(x[0]) - y, x0), "leave float() and int() out"),
    (lambda: jxr.least_squares(lambda x, _: x if x[0] > 0 else -x, x0), "write jnp.where for if"),
    (lambda: jxr.minimize(lambda x, _: x[0] if x[0] > 0 else -x[0], x0), "fn needs the values of its parameters"),
    (lambda: jxr.least_squares(line, x0, jacobian="2-point"), "jacobian is '2-point'; pass None, jax.jacfwd"),
    (lambda: jxr.least_squares(line, "auto"), "x0 is 'auto'; pass numbers"),
    (lambda: jxr.least_squares(line, [1.0, 1.0], bounds=({"a": 0}, None)), "write one number, or a tree like x0"),
    (lambda: jxr.losses.scaled("huber", 1.0), "loss is 'huber'; pass the function"),
    (lambda: jxr.tikhonov(X, y, 1.0, L=2), "such as operators.difference(shape)"),
    (
        lambda: jxr.tikhonov(operators.gaussian_blur((4, 5), 1.0), np.ones((4, 5)), 1.0, weights=np.ones(20)),
        "weights is flat, of shape (20,); pass weights.reshape(4, 5)",
    ),
    (lambda: operators.gaussian_blur(np.ones((8, 8)), 1.0), "shape is an array of shape (8, 8)"),
    (lambda: operators.function(lambda x: x**2, 3), "fn has no adjoint, for it is not linear in x"),
    (lambda: operators.function(lambda x: np.asarray(x), 3), "write it with jax.numpy or jax.scipy"),
    (lambda: jxr.plot.path(jxr.ridge_path(X, y), "path.png"), "ax is 'path.png'; pass Axes of matplotlib"),
    (lambda: jxr.plot.images([X], None), "pictures is no dict"),
    (lambda: jxr.load(__file__), "is no record; pass a file that jaxridge.save wrote"),
]
ATTRIBUTES = [
    (lambda: jxr.ridge(X, y, 1.0).coef_, "Fit has no attribute 'coef_': write coef."),
    (lambda: jxr.ridge(X, y, 1.0).alpha, "write lam."),
    (lambda: jxr.ridge_cv(X, y).best_score_, "Choice has no attribute 'best_score_': write score_found."),
    (lambda: jxr.ridge_cv(X, y).coef, "write fit.coef."),
    (lambda: jxr.least_squares(line, x0).x, "Solution has no attribute 'x': write value."),
    (lambda: jxr.ridge(X, y, 1.0).support_vectors_, "it has coef, intercept, lam"),
    (lambda: jxr.ridge_path(X, y, [1.0]).coef_, "write coef."),
    (lambda: jxr.ridge_path(X, y, [1.0]).beta, "Path has no attribute 'beta': write coef."),
    (lambda: jxr.ridge_path(X, y, [1.0]).plot(), "write from jaxridge import plot"),
    (lambda: jxr.ridge_cv(X, y).lambda_min, "Choice has no attribute 'lambda_min': write lam."),
    (lambda: jxr.ridge_cv(X, y).lambda_1se, "pick=select.one_standard_error"),
    (lambda: jxr.ridge_cv(X, y).best_estimator_, "write fit."),
    (lambda: jxr.ridge_inference(X, y, 1.0).conf_int(), "write interval."),
    (lambda: jxr.least_squares(line, x0).pcov, "write optimize.uncertainty(residual, fit, args).covariance"),
    (lambda: jxr.least_squares(line, x0).nfev, "write residual_evaluations."),
    (lambda: jxr.ridge_compare(X, y, {"gcv": select.gcv}).loo, "Comparison has no attribute 'loo'; it has names"),
    (lambda: jxr.RidgeCV(alphas=[1.0]), "jaxridge has no 'RidgeCV': write ridge_cv(X, y, lams)"),
    (lambda: jxr.curve_fit(line, X, y), "write least_squares("),
    (lambda: jxr.unknown, "jaxridge has no 'unknown'"),
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


def test_a_record_is_no_array():
    with pytest.raises(TypeError, match="Fit is a record and no array; write one of its fields: coef, "):
        np.asarray(jxr.ridge(X, y, 1.0))


def test_a_curve_fit_has_a_table_of_errors():
    residual = lambda x, _: x["level"] + x["slopes"][0] * X[:, 0] - y  # noqa: E731
    fit = jxr.least_squares(residual, {"level": 0.0, "slopes": jnp.ones(1)})
    found = optimize.uncertainty(residual, fit)
    text = found.summary()
    assert all(word in text for word in ("x['level']", "x['slopes'][0]", "std err", "0.975]", "sigma"))
    assert f"{float(found.standard_errors['level']):.6g}" in text


def test_habits_that_are_meant_are_taken():
    """A frame's own numbers as objects, columns by name, None in a list of bounds, A @ x, one rule of several."""
    X3 = np.column_stack([X, y])
    objects = np.array([[1.5 * a, int(b), bool(c % 2)] for a, b, c in X3], object)
    np.testing.assert_allclose(jxr.ridge(objects, y, 1.0).coef, jxr.ridge(objects.astype(float), y, 1.0).coef)
    frame = pytest.importorskip("pandas").DataFrame(X3, columns=["a", "b", "c"])
    by_place = jxr.ridge(X3, y, 1.0, unpenalized=(0, 2))
    np.testing.assert_array_equal(jxr.ridge(frame, y, 1.0, unpenalized=("c", "a")).coef, by_place.coef)
    found = jxr.least_squares(line, [0.2, 0.1], bounds=([0.0, None], [None, 0.15]))
    both = jxr.least_squares(line, jnp.array([0.2, 0.1]), bounds=([0.0, None], [None, 0.15]))
    inf = jxr.least_squares(
        line, jnp.array([0.2, 0.1]), bounds=(jnp.array([0.0, -jnp.inf]), jnp.array([jnp.inf, 0.15]))
    )
    np.testing.assert_array_equal(jnp.stack(found.value), inf.value)
    np.testing.assert_array_equal(both.value, inf.value)
    A = operators.gaussian_blur((4, 5), 1.0)
    np.testing.assert_array_equal(A @ np.ones((4, 5)), A.mv(np.ones((4, 5))))
    compared = jxr.ridge_compare(X, y, {"gcv": select.gcv})
    assert compared["gcv"] is compared.choices["gcv"]


def test_messages_say_what_is_wrong_and_no_choice_has_no_arrow():
    assert "lam is negative" in jxr.ridge(X, y, -1.0).message()
    assert jxr.ridge(X, y, 1.0).message() == ""
    assert "1 of 3 lams are negative or NaN" in jxr.ridge_cv(X, y, [0.1, 1.0, -1.0]).message()
    assert "NaN in the data" in jxr.least_squares(lambda x, _: x * jnp.nan, x0).message()
    lost = jxr.ridge_cv(np.where(X[0, 0] == X, np.nan, X), y)
    assert "->" not in lost.summary()
    assert "hold NaN" in lost.message()
    with pytest.raises(ValueError, match="a number of degrees of freedom of products with A needs random probes"):
        jxr.tikhonov_cv(operators.gaussian_blur((64, 64), 2.0, boundary="zero"), np.ones((64, 64)), rule=select.gcv)


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
