"""The same numbers as scikit-learn and others on what both do, and right where they are known to fail."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import select

linear_model = pytest.importorskip("sklearn.linear_model")
model_selection = pytest.importorskip("sklearn.model_selection")

LAMS = np.logspace(-3, 3, 13)


def data(n=60, d=8, t=3):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d)) + 2
    return X, X @ rng.standard_normal((d, t)) + rng.standard_normal((n, t)), np.exp(rng.standard_normal(n))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_ridge_equals_ridge(weighted, intercept):
    X, y, weights = data()
    weights = weights if weighted else None
    theirs = linear_model.Ridge(2.5, fit_intercept=intercept, solver="svd").fit(X, y, sample_weight=weights)
    ours = jxr.ridge(X, y, 2.5, weights=weights, intercept=intercept)
    np.testing.assert_allclose(ours.coef.T, theirs.coef_, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-10)


@pytest.mark.parametrize("shape", [(60, 8), (20, 30)])
def test_leave_one_out_equals_ridgecv(shape):
    X, y, weights = data(*shape)
    theirs = linear_model.RidgeCV(LAMS, store_cv_results=True).fit(X, y)
    ours = jxr.ridge_cv(X, y, LAMS)
    np.testing.assert_allclose(ours.scores, theirs.cv_results_.mean(axis=0).T, rtol=1e-8)
    np.testing.assert_allclose(ours.lam, theirs.alpha_)
    np.testing.assert_allclose(ours.fit.coef.T, theirs.coef_, rtol=1e-9, atol=1e-11)
    theirs = linear_model.RidgeCV(LAMS, alpha_per_target=True).fit(X, y, sample_weight=weights)
    ours = jxr.ridge_cv(X, y, LAMS, per_target=True, weights=weights)
    np.testing.assert_allclose(ours.lam, theirs.alpha_)
    np.testing.assert_allclose(ours.fit.coef.T, theirs.coef_, rtol=1e-9, atol=1e-11)


SPLITS = [(np.arange(20), np.arange(20, 25)), (np.arange(3, 40), np.arange(40, 60))]


@pytest.mark.parametrize(
    ("shape", "rule", "splitter"),
    [
        ((60, 8), select.kfold(5), model_selection.KFold(5)),
        ((60, 8), select.kfold(7), model_selection.KFold(7)),
        ((30, 50), select.kfold(4), model_selection.KFold(4)),
        ((60, 8), select.kfold(splits=SPLITS), SPLITS),
    ],
    ids=["even", "ragged", "wide", "splits"],
)
def test_kfold_equals_grid_search(shape, rule, splitter):
    X, y, _ = data(*shape)
    search = model_selection.GridSearchCV(
        linear_model.Ridge(solver="svd"), {"alpha": LAMS}, cv=splitter, scoring="neg_mean_squared_error"
    ).fit(X, y)
    ours = jxr.ridge_cv(X, y, LAMS, rule=rule)
    np.testing.assert_allclose(jnp.mean(ours.scores, axis=1), -search.cv_results_["mean_test_score"], rtol=1e-9)
    np.testing.assert_allclose(ours.lam, search.best_params_["alpha"])


def exact_leave_one_out(X, y, lam):
    """Errors of refits with 60 digits."""
    errors = []
    with mpmath.workdps(60):
        A, b = mpmath.matrix(X.tolist()), mpmath.matrix(y.tolist())
        for i in range(A.rows):
            keep = [j for j in range(A.rows) if j != i]
            B, c = mpmath.matrix([A[j, :].tolist()[0] for j in keep]), mpmath.matrix([b[j] for j in keep])
            w = mpmath.lu_solve(B.T * B + mpmath.mpf(lam) * mpmath.eye(A.cols), B.T * c)
            errors.append(float(b[i] - (A[i, :] * w)[0]))
    return np.array(errors)


@pytest.mark.parametrize("shape", [(14, 5), (6, 9)], ids=["tall", "wide"])
def test_leave_one_out_at_condition_1e8_and_lam_1e_14(shape):
    """Where scikit-learn's default is 90 % off, within 4 eps s₁/max(s_r, √λ) of the largest error."""
    rng = np.random.default_rng(3)
    (n, d), r = shape, min(shape)
    U, V = np.linalg.qr(rng.standard_normal((n, r)))[0], np.linalg.qr(rng.standard_normal((d, r)))[0]
    s = np.logspace(0, -8, r) if n > d else np.linspace(1, 0.5, r)
    X, y, lam = (U * s) @ V.T, rng.standard_normal(n), 1e-14
    want = exact_leave_one_out(X, y, lam)
    design = jxr.design.make_design(X, y, intercept=False)
    got = jxr.spectrum.from_design(design).loo_residual(jnp.asarray(lam))[:, 0]
    bound = 4 * np.finfo(float).eps * s[0] / max(s[-1], np.sqrt(lam)) * np.max(np.abs(want))
    assert np.max(np.abs(got - want)) <= bound


def test_penalties_per_feature_with_more_features_than_rows():
    rng = np.random.default_rng(0)
    X, y, penalty = rng.standard_normal((5, 9)), rng.standard_normal(5), np.exp(rng.standard_normal(9))
    want = np.linalg.solve(X.T @ X + 0.3 * np.diag(penalty), X.T @ y)
    np.testing.assert_allclose(jxr.ridge(X, y, 0.3, penalty=penalty, intercept=False).coef, want, rtol=1e-10)


def test_full_fraction_at_condition_1e9_is_least_squares():
    rng = np.random.default_rng(0)
    U, V = np.linalg.qr(rng.standard_normal((40, 6)))[0], np.linalg.qr(rng.standard_normal((6, 6)))[0]
    X = (U * np.logspace(0, -9, 6)) @ V.T
    y = X @ rng.standard_normal(6)
    fit = jxr.ridge_fraction(X, y, 1.0, intercept=False)
    assert fit.lam == 0
    full = jxr.ridge(X, y, 0.0, intercept=False)
    np.testing.assert_allclose(np.linalg.norm(fit.coef), np.linalg.norm(full.coef), rtol=1e-12)
    # Condition 1e9 leaves 1e-7 of a consistent system's solution.
    np.testing.assert_allclose(fit.coef, np.linalg.lstsq(X, y, rcond=None)[0], rtol=1e-5, atol=1e-5)


def test_a_lam_per_target_takes_no_array_of_targets_by_rows_by_rows():
    rng = np.random.default_rng(0)
    X, y = jnp.asarray(rng.standard_normal((100, 20))), jnp.asarray(rng.standard_normal((100, 800)))
    lam = jnp.asarray(np.exp(rng.standard_normal(800)))
    compiled = jax.jit(lambda X, y, lam: jxr.ridge(X, y, lam).coef).lower(X, y, lam).compile()
    # Ten arrays the size of y; an array of targets × rows × features would be twenty times that.
    assert compiled.memory_analysis().temp_size_in_bytes < 10 * 8 * y.size
    got = jxr.ridge(X, y, lam).coef
    for t in (0, 799):
        np.testing.assert_allclose(got[:, t], jxr.ridge(X, y[:, t], lam[t]).coef, rtol=1e-10)


def test_the_edge_of_the_grid_is_said():
    X, y, _ = data()
    choice = jxr.ridge_cv(X, y, [1e-3, 1e-2])
    assert bool(choice.at_edge)
    assert "widen lams" in choice.message()
    assert jxr.ridge_cv(X, y, LAMS).message() == ""


# Longley (1967), J. Amer. Statist. Assoc. 62, 819: GNP deflator (the target), GNP, unemployed, armed forces,
# population, year, employed.
LONGLEY = np.array(
    [
        [83.0, 234.289, 235.6, 159.0, 107.608, 1947, 60.323],
        [88.5, 259.426, 232.5, 145.6, 108.632, 1948, 61.122],
        [88.2, 258.054, 368.2, 161.6, 109.773, 1949, 60.171],
        [89.5, 284.599, 335.1, 165.0, 110.929, 1950, 61.187],
        [96.2, 328.975, 209.9, 309.9, 112.075, 1951, 63.221],
        [98.1, 346.999, 193.2, 359.4, 113.270, 1952, 63.639],
        [99.0, 365.385, 187.0, 354.7, 115.094, 1953, 64.989],
        [100.0, 363.112, 357.8, 335.0, 116.219, 1954, 63.761],
        [101.2, 397.469, 290.4, 304.8, 117.388, 1955, 66.019],
        [104.6, 419.180, 282.2, 285.7, 118.734, 1956, 67.857],
        [108.4, 442.769, 293.6, 279.8, 120.445, 1957, 68.169],
        [110.8, 444.546, 468.1, 263.7, 121.950, 1958, 66.513],
        [112.6, 482.704, 381.3, 255.2, 123.366, 1959, 68.655],
        [114.2, 502.601, 393.1, 251.4, 125.368, 1960, 69.564],
        [115.7, 518.173, 480.6, 257.2, 127.852, 1961, 69.331],
        [116.9, 554.894, 400.7, 282.7, 130.081, 1962, 70.551],
    ]
)


def gcv_of_mass(design, spectrum, lam):
    """GCV as R's ``MASS::lm.ridge`` has it: rss / (n − dof)², with a dof that leaves the intercept out."""
    return spectrum.rss(lam) / jnp.square(spectrum.residual_dof(lam) + 1.0)


def test_longley_equals_lm_ridge():
    """``lm.ridge(y ~ ., longley, lambda = seq(0, 0.1, 1e-4))``: "smallest value of GCV at 0.0057".

    Its columns have unit standard deviation with divisor n, as ours have.
    """
    y, X = LONGLEY[:, 0], LONGLEY[:, 1:]
    choice = jxr.ridge_cv(X, y, np.arange(1001) * 1e-4, rule=gcv_of_mass, standardize=True)
    assert float(choice.lam) == pytest.approx(0.0057, abs=1e-9)


# NIST StRD, Longley: the certified estimates and their standard deviations, the constant first.
NIST = (
    [-3482258.63459582, 15.0618722713733, -0.358191792925910e-01, -2.02022980381683, -1.03322686717359,
     -0.511041056535807e-01, 1829.15146461355],
    [890420.383607373, 84.9149257747669, 0.334910077722432e-01, 0.488399681651699, 0.214274163161675,
     0.226073200069370, 455.478499142212],
)  # fmt: skip


def test_longley_has_the_certified_errors():
    """Employment on the other columns, in the units of the archive; the condition number of X takes six digits."""
    X, y = LONGLEY[:, [0, 1, 2, 3, 4, 5]] * [1.0, 1e3, 10.0, 10.0, 1e3, 1.0], 1e3 * LONGLEY[:, 6]
    found = jxr.ridge_inference(X, y, 0.0)
    np.testing.assert_allclose(np.append(found.intercept, found.coef), NIST[0], rtol=1e-7)
    np.testing.assert_allclose(np.append(found.intercept_error, found.standard_error), NIST[1], rtol=1e-7)


# By NumPy's algebra of the hat matrix on columns of unit deviation: λ, dof, rss, GCV, leave-one-out, Cp, AIC and BIC;
# there the variance counts as a parameter, and the constant n(1 + log 2π) is left out.
CRITERIA = {
    0: (7.0, 836424.0555059016, 165219.56651968427, 180430.7838407574,
          7.0, 189.82883655441134, 196.0095463323296),
    0.005: (6.415117759899732, 910133.6811545298, 158508.15327111742, 164256.42072645505,
          6.623357891724089, 190.01036428510778, 195.73920064048622),
    0.1: (5.015219066897667, 1827125.619343944, 242273.31916445482, 240317.75715578187,
          13.690478356035774, 198.36109202057304, 203.00838243345987),
    10: (2.806857240612697, 11337143.658996487, 1042142.5034361143, 991834.0622941181,
          111.60242613927795, 223.14981400720637, 226.09094897848058),
}  # fmt: skip


def test_criteria_of_longley_at_four_lams():
    X, y = LONGLEY[:, :6], 1e3 * LONGLEY[:, 6]
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    rules = [select.gcv, select.loo, select.cp(92936.0061673224), select.aic, select.bic]
    found = [jxr.ridge_cv(X, y, list(CRITERIA), rule=rule).scores for rule in rules]
    path = jxr.ridge_path(X, y, list(CRITERIA))
    for i, (dof, rss, gcv, loo, cp, aic, bic) in enumerate(CRITERIA.values()):
        np.testing.assert_allclose([path.dof[i], path.rss[i]], [dof, rss], rtol=1e-10)
        constant = 16 * (1 + np.log(2 * np.pi))
        want = [gcv, loo, cp, aic + constant - 2, bic + constant - np.log(16)]
        np.testing.assert_allclose([scores[i] for scores in found], want, rtol=1e-10)


def test_least_squares_has_the_table_of_statsmodels():
    sm = pytest.importorskip("statsmodels.api")
    inflation = pytest.importorskip("statsmodels.stats.outliers_influence").variance_inflation_factor
    X, y, w = LONGLEY[:, 1:4], LONGLEY[:, 6], LONGLEY[:, 0]
    ours, theirs = jxr.ridge_inference(X, y, 0.0, weights=w), sm.WLS(y, sm.add_constant(X), weights=w).fit()
    np.testing.assert_allclose(np.append(ours.intercept, ours.coef), theirs.params, rtol=1e-8)
    np.testing.assert_allclose(np.append(ours.intercept_error, ours.standard_error), theirs.bse, rtol=1e-8)
    np.testing.assert_allclose(np.stack(ours.interval(), 1), theirs.conf_int()[1:], rtol=1e-6)
    np.testing.assert_allclose(
        [ours.r2, ours.adjusted_r2, ours.aic, ours.bic],
        [theirs.rsquared, theirs.rsquared_adj, theirs.aic, theirs.bic],
        rtol=1e-9,
    )
    factors = [inflation(sm.add_constant(X), j) for j in (1, 2, 3)]
    np.testing.assert_allclose(jxr.risk.variance_inflation(X), factors, rtol=1e-8)
