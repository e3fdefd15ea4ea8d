"""The verbs: options against brute force, paths, norm constraints, codes, and what is refused."""

import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pandas as pd
import pytest
import scipy.optimize
import scipy.sparse
from jax.experimental import sparse
from problems import conditioned

import jaxridge as jxr
from jaxridge import RESULTS
from jaxridge.kernel_methods import from_kernel
from jaxridge.linear.design import checked
from jaxridge.linear.spectrum import from_cholesky, from_gram

verbs = importlib.import_module("jaxridge.linear.ridge")  # the package has a function of that name

RNG = np.random.default_rng(5)
X, Y = np.array([3.0, 0.0, 0.0, -2.0]) + RNG.standard_normal((9, 4)), RNG.standard_normal((9, 2))
WIDE_X, WIDE_Y = RNG.standard_normal((4, 9)), RNG.standard_normal((4, 2))
WEIGHTS, PENALTY = np.exp(RNG.standard_normal(9)), np.exp(RNG.standard_normal(4))
LAM = 0.7

OPTIONS = {
    "none": {},
    "standardize, weights": {"standardize": True, "weights": WEIGHTS},
    "penalty, two unpenalised columns": {"penalty": PENALTY, "unpenalized": (3, 1)},
    "everything but the intercept": {
        "intercept": False,
        "standardize": True,
        "weights": WEIGHTS,
        "penalty": PENALTY,
        "unpenalized": (1, 3),
    },
}


def same(fit, coef, intercept, rtol=1e-11):
    """Well-conditioned problems: nothing but rounding is left."""
    np.testing.assert_allclose(fit.coef, coef, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(fit.intercept, intercept, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("options", OPTIONS)
def test_options(options):
    """Coefficients, intercept, dof and weighted rss are those of augmented least squares."""
    options = OPTIONS[options]
    fit, omega = jxr.ridge(X, Y, LAM, **options), options.get("weights", np.ones(9))
    coef, intercept = oracles.ridge(X, Y, LAM, **options)
    same(fit, coef, intercept)
    np.testing.assert_allclose(fit.dof, np.trace(oracles.hat(X, LAM, **options)), rtol=1e-11)
    np.testing.assert_allclose(fit.rss, omega @ (Y - X @ coef - intercept) ** 2, rtol=1e-11)
    np.testing.assert_allclose(fit.predict(X[:3] + 1), (X[:3] + 1) @ coef + intercept, rtol=1e-11)
    assert np.all(np.asarray(fit.result == RESULTS.successful))


def test_options_of_wide_data():
    weights, penalty = np.array([0.5, 1.0, 2.0, 3.0]), np.linspace(0.5, 2.0, 9)
    options = {"weights": weights, "penalty": penalty, "unpenalized": (4,), "standardize": True}
    same(jxr.ridge(WIDE_X, WIDE_Y, LAM, **options), *oracles.ridge(WIDE_X, WIDE_Y, LAM, **options))


@pytest.mark.parametrize("free", [(3, 1), (1, 3), [1, 3], (-1, 1), (np.int64(3), 1, 1)])
def test_unpenalised_columns_in_any_order(free):
    """Coefficients come back in the order of X; columns may be named from the end, or twice."""
    same(jxr.ridge(X, Y, LAM, unpenalized=free), *oracles.ridge(X, Y, LAM, unpenalized=(1, 3)))


def test_one_unpenalised_column_is_a_number():
    same(jxr.ridge(X, Y, LAM, unpenalized=2), *oracles.ridge(X, Y, LAM, unpenalized=(2,)))


def test_a_lam_for_each_target():
    fit = jxr.ridge(X, Y, [0.1, 10.0])
    for t, lam in enumerate((0.1, 10.0)):
        coef, intercept = oracles.ridge(X, Y[:, t], lam)
        np.testing.assert_allclose(fit.coef[:, t], coef, rtol=1e-11)
        np.testing.assert_allclose(fit.intercept[t], intercept, rtol=1e-11)
    assert fit.dof.shape == fit.lam.shape == (2,)


def test_shapes_follow_y():
    """One vector gives one vector of coefficients and scalars; a column or two keep the axis of targets."""
    one, column, two = (jxr.ridge(X, y, LAM) for y in (Y[:, 0], Y[:, :1], Y))
    assert (one.coef.shape, one.intercept.shape, one.rss.shape, one.dof.shape) == ((4,), (), (), ())
    assert (column.coef.shape, column.intercept.shape, column.rss.shape) == ((4, 1), (1,), (1,))
    assert (two.coef.shape, two.intercept.shape, two.rss.shape) == ((4, 2), (2,), (2,))
    assert one.predict(X).shape == (9,)
    assert two.predict(X).shape == (9, 2)
    np.testing.assert_allclose(one.coef, column.coef[:, 0], rtol=1e-13)
    path = jxr.ridge_path(X, Y[:, 0], [0.0, LAM])
    assert path.coef.shape == (2, 4)
    assert path.predict(X).shape == (2, 9)
    assert path[1].coef.shape == (4,)


def test_lam_zero_and_infinite():
    """λ = 0 is least squares; λ = ∞ leaves the intercept, the mean, and one degree of freedom."""
    same(jxr.ridge(X, Y, 0.0), *oracles.ridge(X, Y, 0.0))
    none = jxr.ridge(X, Y, np.inf)
    same(none, np.zeros((4, 2)), Y.mean(0))
    assert float(none.dof) == 1.0
    assert np.all(np.asarray(none.result == RESULTS.successful))


@pytest.mark.parametrize("solver", [from_gram, from_cholesky])
def test_other_solvers(solver):
    """The same numbers by way of the Gram matrix, for one λ and for a path."""
    for data in ((X, Y), (WIDE_X, WIDE_Y)):
        same(jxr.ridge(*data, LAM, solver=solver), *oracles.ridge(*data, LAM), rtol=1e-10)
    path = jxr.ridge_path(X, Y, [LAM, 3.0], solver=solver)
    same(path[0], *oracles.ridge(X, Y, LAM), rtol=1e-10)


GRID = np.array([1.0, 1e-3, np.nan, 10.0, 1.0, -1.0, 0.0])


def test_path_in_any_order():
    """Every λ has its own fit and code: repeated ones agree, bad ones spoil nothing."""
    path = jxr.ridge_path(X, Y, GRID)
    assert len(path) == 7
    np.testing.assert_array_equal(path.lams, GRID)
    good = [k for k, lam in enumerate(GRID) if lam >= 0]
    for k in range(7):
        assert np.all(np.asarray(path[k].result == (RESULTS.successful if k in good else RESULTS.invalid_lam)))
    for k in good:
        coef, intercept = oracles.ridge(X, Y, GRID[k])
        same(path[k], coef, intercept)
        np.testing.assert_allclose(path.dof[k], np.trace(oracles.hat(X, GRID[k])), rtol=1e-11)
        np.testing.assert_allclose(path.predict(X)[k], X @ coef + intercept, rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(path.coef[0], path.coef[4])
    assert np.all(np.isnan(path.coef[jnp.array([2, 5])]))
    same(path.at(LAM), *oracles.ridge(X, Y, LAM))
    assert float(path[3].lam) == 10.0


def test_path_with_a_grid_for_each_target():
    lams = np.array([[0.1, 1.0], [2.0, 20.0]])
    path = jxr.ridge_path(X, Y, lams)
    for k, t in np.ndindex(2, 2):
        np.testing.assert_allclose(path.coef[k, :, t], oracles.ridge(X, Y[:, t], lams[k, t])[0], rtol=1e-11)
    assert path.dof.shape == (2, 2)


# Norm constraints: the closed form of NumPy and the roots of SciPy.


def norm_at(lam, X, y, root_penalty=1.0, **options):
    return np.linalg.norm(root_penalty * oracles.ridge(X, y, lam, **options)[0])


def root_of(radius, X, y, **options):
    """λ at which the norm is ``radius``, by bisection on log λ."""
    excess = lambda x: norm_at(np.exp(x), X, y, **options) - radius  # noqa: E731
    return np.exp(scipy.optimize.brentq(excess, -30, 30, xtol=1e-14))


@pytest.mark.parametrize("which", ["tall", "wide"])
def test_ball(which):
    """On the boundary with the multiplier that SciPy finds, inside with λ = 0, a radius for each target."""
    X, Y = {"tall": (globals()["X"], globals()["Y"]), "wide": (WIDE_X, WIDE_Y)}[which]
    full = np.array([norm_at(0.0, X, y) for y in Y.T])
    for radius in (0.3 * full, full * [0.5, 1.5], full * [1e-6, 1 - 1e-6]):
        fit = jxr.ridge_ball(X, Y, radius)
        for t, y in enumerate(Y.T):
            lam = root_of(radius[t], X, y) if radius[t] < full[t] else 0.0
            # Near the full norm the root is as uncertain as the distance to it.
            assert float(fit.lam[t]) == pytest.approx(lam, rel=1e-8 if radius[t] < 0.9 * full[t] else 1e-6)
            np.testing.assert_allclose(fit.coef[:, t], oracles.ridge(X, y, lam)[0], rtol=1e-9)
            assert np.linalg.norm(fit.coef[:, t]) <= radius[t] * (1 + 1e-12)


def test_ball_of_radius_zero_and_infinite():
    none, all_of_it = jxr.ridge_ball(X, Y, 0.0), jxr.ridge_ball(X, Y, np.inf)
    same(none, np.zeros((4, 2)), Y.mean(0))
    assert np.all(np.isinf(none.lam))
    same(all_of_it, *oracles.ridge(X, Y, 0.0))
    assert np.all(np.asarray(all_of_it.lam) == 0)


def test_ball_measures_penalised_coordinates():
    """(Σ pⱼ wⱼ²)^½ = radius, unpenalised columns and the intercept not counted: stationarity of the Lagrangian."""
    fit = jxr.ridge_ball(X, Y[:, 0], 0.2, penalty=PENALTY, unpenalized=(2,), weights=WEIGHTS)
    counted = PENALTY * (np.arange(4) != 2)
    assert np.sqrt(counted @ np.asarray(fit.coef) ** 2) == pytest.approx(0.2, rel=1e-10)
    r = WEIGHTS * (Y[:, 0] - X @ fit.coef - fit.intercept)
    np.testing.assert_allclose(X.T @ r, float(fit.lam) * counted * fit.coef, rtol=1e-9, atol=1e-11)
    assert np.sum(r) == pytest.approx(0.0, abs=1e-11)


@pytest.mark.parametrize("which", ["tall", "wide"])
def test_fraction(which):
    X, Y = {"tall": (globals()["X"], globals()["Y"]), "wide": (WIDE_X, WIDE_Y)}[which]
    for fraction in ([0.4, 0.4], [0.05, 0.95]):
        fit = jxr.ridge_fraction(X, Y, fraction)
        for t, y in enumerate(Y.T):
            lam = root_of(fraction[t] * norm_at(0.0, X, y), X, y)
            assert float(fit.lam[t]) == pytest.approx(lam, rel=1e-8)
            np.testing.assert_allclose(fit.coef[:, t], oracles.ridge(X, y, lam)[0], rtol=1e-9)
    ends = jxr.ridge_fraction(X, Y, [0.0, 1.0])
    np.testing.assert_array_equal(ends.lam, [np.inf, 0.0])
    np.testing.assert_array_equal(ends.coef[:, 0], 0.0)
    np.testing.assert_allclose(ends.coef[:, 1], oracles.ridge(X, Y[:, 1], 0.0)[0], rtol=1e-10)


def test_the_whole_fraction_of_an_ill_conditioned_problem():
    """fraction = 1 at condition 1e9 is least squares itself; half of it lies on the sphere of half the norm."""
    A = conditioned(9, 4, 1e9, np.random.default_rng(1))
    whole, half = (jxr.ridge_fraction(A, Y, fraction, intercept=False) for fraction in (1.0, 0.5))
    least = jxr.ridge(A, Y, 0.0, intercept=False)
    np.testing.assert_array_equal(whole.lam, 0.0)
    np.testing.assert_allclose(whole.coef, least.coef, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(half.coef, axis=0), 0.5 * np.linalg.norm(least.coef, axis=0), rtol=1e-9)
    assert np.all((np.asarray(half.lam) > 0) & (np.asarray(half.lam) < 1e-16))


@pytest.mark.parametrize(("size_X", "size_y"), [(1e-100, 1e100), (1e100, 1e-100), (1e-150, 1e-150), (1e150, 1e150)])
def test_fraction_at_extreme_scales(size_X, size_y):
    """The fraction has no units: coefficients scale by y/X and λ by X²."""
    plain, scaled = jxr.ridge_fraction(X, Y, 0.5), jxr.ridge_fraction(X * size_X, Y * size_y, 0.5)
    np.testing.assert_allclose(scaled.coef * (size_X / size_y), plain.coef, rtol=1e-9)
    np.testing.assert_allclose(scaled.lam / size_X / size_X, plain.lam, rtol=1e-9)


# Codes.

ONES = {"weights": np.ones(9), "penalty": np.ones(4)}


def spoiled(array, value, at=1):
    array = np.array(array)
    array[(at,) * array.ndim] = value
    return array


CODES = {
    "successful": (X, Y, 1.0, ONES),
    "nonfinite_input X": (spoiled(X, np.nan), Y, 1.0, ONES),
    "nonfinite_input weights": (X, Y, 1.0, {**ONES, "weights": spoiled(WEIGHTS, np.inf)}),
    "nonfinite_input penalty": (X, Y, 1.0, {**ONES, "penalty": spoiled(PENALTY, np.nan)}),
    "invalid_lam": (X, Y, -1e-300, ONES),
    "invalid_weights negative": (X, Y, 1.0, {**ONES, "weights": spoiled(WEIGHTS, -1.0)}),
    "invalid_weights none": (X, Y, 1.0, {**ONES, "weights": 0 * WEIGHTS}),
    "invalid_penalty": (X, Y, 1.0, {**ONES, "penalty": spoiled(PENALTY, 0.0)}),
    "overflow": (X * 1e-200, Y * 1e200, 0.0, ONES),
    "rank_deficient": (X[:, [0, 1, 1, 2]], Y, 0.0, ONES),
    "rank_deficient zero": (0 * X, Y, 0.0, ONES),
    "unresolved": (X[:, [0, 1, 1, 2]] * [1, 1, 1 + 1e-15, 1], Y, 1e-20, ONES),
}


@pytest.mark.parametrize("name", CODES)
def test_code(name):
    """Each outcome of `ridge`, with finite numbers for three of them and NaN for the others."""
    X, Y, lam, options = CODES[name]
    code = name.split()[0]
    fit = jxr.ridge(X, Y, lam, **options)
    assert np.all(np.asarray(fit.result == getattr(RESULTS, code))), fit.result
    assert RESULTS[getattr(RESULTS, code)] in str(fit.result)
    finite = np.all(np.isfinite(fit.coef)) and np.all(np.isfinite(fit.intercept))
    assert finite == (code in ("successful", "rank_deficient", "unresolved"))
    if code not in ("successful", "rank_deficient", "unresolved", "overflow"):
        assert np.all(np.isnan(fit.coef))


def test_codes_of_other_verbs():
    """Dependent unpenalised columns, a radius or fraction that cannot be, a matrix that is no kernel."""
    dependent = jxr.ridge(spoiled(X, 1.0) * 0 + 1, Y, 1.0, unpenalized=(1, 3))
    assert np.all(np.asarray(dependent.result == RESULTS.dependent_unpenalized))
    assert np.all(np.isnan(dependent.coef))
    for fit in (
        jxr.ridge_ball(X, Y, [-1.0, 1.0]),
        jxr.ridge_ball(X, Y, [np.nan, 1.0]),
        jxr.ridge_fraction(X, Y, [1.1, 1.0]),
        jxr.ridge_fraction(X, Y, [np.nan, 1.0]),
    ):
        assert np.asarray(fit.result == RESULTS.invalid_radius).tolist() == [True, False]
        assert np.isnan(fit.coef).all(axis=0).tolist() == [True, False]
        assert np.all(np.isfinite(fit.coef[:, 1]))
    kernel = from_kernel(jnp.array([[1.0, 2.0], [2.0, 1.0]]), jnp.ones((2, 1)))
    assert np.all(np.asarray(kernel.result(jnp.array(1.0)) == RESULTS.indefinite_kernel))


def test_unpenalized_columns_that_float32_hardly_tells_apart():
    """Two of them 1e-5 apart: a code, where a sixth of a coefficient may be lost; none at 1e-2 apart."""
    rng = np.random.default_rng(3)
    near = rng.standard_normal((1000, 3))
    for gap, code in ((1e-5, RESULTS.nearly_dependent), (1e-2, RESULTS.successful)):
        columns = np.c_[near, near[:, 1] + gap * rng.standard_normal(1000)].astype(np.float32)
        y = columns.sum(axis=1) + rng.standard_normal(1000).astype(np.float32)
        fit = jxr.ridge(columns, y, np.float32(1.0), unpenalized=(1, 3))
        assert bool(fit.result == code)
        assert np.all(np.isfinite(fit.coef))


def test_a_year_column_is_not_constant():
    """2015 ± 5 beside N(0, 1), float32, standardised: each column's own variance, whatever its mean and the rows."""
    rng = np.random.default_rng(0)
    n = 20_000
    columns = np.c_[2015 + 5 * rng.standard_normal(n), rng.standard_normal(n)].astype(np.float32)
    y = (columns @ np.array([0.4, 2.0])).astype(np.float32)
    lam = 0.2 * n
    wide = columns.astype(float) - columns.astype(float).mean(axis=0)
    penalty = lam * np.diag(wide.var(axis=0))
    exact = np.linalg.solve(wide.T @ wide + penalty, wide.T @ (y.astype(float) - y.astype(float).mean()))
    fit = jxr.ridge(columns, y, np.float32(lam), standardize=True)
    assert bool(fit.result == RESULTS.successful)
    np.testing.assert_allclose(fit.coef, exact, rtol=1e-5)


@pytest.mark.parametrize("rows", [1000, 200_000])
def test_rows_take_no_digits(rows):
    """Columns of sizes 100, 1, 10 in float32 at any number of rows: no direction is cut off."""
    rng = np.random.default_rng(0)
    columns = (rng.standard_normal((rows, 3)) * [100.0, 1.0, 10.0] + [3e3, 0.0, 50.0]).astype(np.float32)
    y = (columns @ np.array([1.0, 1.0, 1.0]) + rng.standard_normal(rows)).astype(np.float32)
    wide = columns.astype(float) - columns.astype(float).mean(axis=0)
    exact = np.linalg.lstsq(np.r_[wide, np.eye(3)], np.r_[y.astype(float) - y.astype(float).mean(), np.zeros(3)])[0]
    fit = jxr.ridge(columns, y, np.float32(1.0))
    assert bool(fit.result == RESULTS.successful)
    np.testing.assert_allclose(fit.coef, exact, rtol=1e-5)


def test_derivatives_where_the_ball_just_holds_least_squares():
    """At fraction 1, and at the norm of the least-squares solution, they are those from below, to second order."""
    y = jnp.asarray(Y[:, 0])
    total = lambda fraction: jnp.sum(jxr.ridge_fraction(X, y, fraction).coef)  # noqa: E731
    slope, h = jax.grad(total), 1e-4
    below = (3 * total(1.0) - 4 * total(1 - h) + total(1 - 2 * h)) / (2 * h)
    assert float(slope(1.0)) == pytest.approx(float(below), rel=1e-6)
    below = (3 * slope(1.0) - 4 * slope(1 - h) + slope(1 - 2 * h)) / (2 * h)
    assert float(jax.grad(slope)(1.0)) == pytest.approx(float(below), rel=1e-5)
    norm = jnp.linalg.norm(jxr.ridge(X, y, 0.0).coef)
    inside = lambda radius: jnp.sum(jxr.ridge_ball(X, y, radius).coef)  # noqa: E731
    assert float(jax.grad(inside)(norm) * norm) == pytest.approx(float(slope(1.0)), rel=1e-9)
    assert float(jax.grad(inside)(1.1 * norm)) == 0.0


def test_every_code_is_tested():
    words = set(re.findall(r"\w+", "".join(file.read_text() for file in Path(__file__).parents[1].rglob("test_*.py"))))
    assert set(RESULTS._name_to_item) <= words


def test_a_bad_target_spoils_no_other():
    y = Y.copy()
    y[2, 0] = np.nan
    fit = jxr.ridge(X, y, LAM)
    assert np.asarray(fit.result == RESULTS.nonfinite_input).tolist() == [True, False]
    np.testing.assert_allclose(fit.coef[:, 1], oracles.ridge(X, Y[:, 1], LAM)[0], rtol=1e-11)
    assert np.all(np.isnan(fit.coef[:, 0]))


# What is refused, each with the name of the argument and what to write.

MISUSE = {
    "one feature as a vector": (lambda: jxr.ridge(X[:, 0], Y, 1.0), r"X must be 2-D.*X\[:, None\]"),
    "three axes": (lambda: jxr.ridge(X[None], Y, 1.0), "X must be 2-D, got shape"),
    "y of three axes": (lambda: jxr.ridge(X, Y[None], 1.0), "y must be 1-D or 2-D"),
    "rows that differ": (lambda: jxr.ridge(X, Y[:5], 1.0), "y has 5 rows and X has 9"),
    "no rows": (lambda: jxr.ridge(X[:0], Y[:0], 1.0), "X has no rows"),
    "a grid for ridge": (lambda: jxr.ridge(X, Y, [1.0, 2.0, 3.0]), "lam has shape.*ridge_path"),
    "a grid for ridge of one target": (lambda: jxr.ridge(X, Y[:, 0], [1.0, 2.0]), "lam has shape.*ridge_path"),
    "radii that do not match": (lambda: jxr.ridge_ball(X, Y, [1.0, 2.0, 3.0]), "radius has shape.*each target"),
    "one lam for a path": (lambda: jxr.ridge_path(X, Y, 1.0), "lams must be 1-D or 2-D"),
    "no lam for a path": (lambda: jxr.ridge_path(X, Y, []), "lams is empty"),
    "grids that do not match": (lambda: jxr.ridge_path(X, Y, np.ones((4, 3))), r"lams has shape.*\(k, 2\)"),
    "weights of another length": (lambda: jxr.ridge(X, Y, 1.0, weights=np.ones(4)), r"weights has shape.*\(9,\)"),
    "a matrix of weights": (lambda: jxr.ridge(X, Y, 1.0, weights=np.ones((9, 1))), "weights must be 1-D"),
    "penalties of another length": (lambda: jxr.ridge(X, Y, 1.0, penalty=np.ones(9)), r"penalty has shape.*\(4,\)"),
    "a column too far": (lambda: jxr.ridge(X, Y, 1.0, unpenalized=(4,)), "unpenalized names column 4.*below 4"),
    "a column by name": (lambda: jxr.ridge(X, Y, 1.0, unpenalized=("age",)), "unpenalized names column 'age'"),
    "a mask of columns": (lambda: jxr.ridge(X, Y, 1.0, unpenalized=(True, False)), "unpenalized names column True"),
    "more free columns than rows": (
        lambda: jxr.ridge(X[:2], Y[:2], 1.0, unpenalized=(0, 1)),
        "unpenalized: 3 columns.*2 rows",
    ),
    "another model's columns": (lambda: jxr.ridge(X, Y, 1.0).predict(X[:, :2]), "X has 2 columns.*fitted on 4"),
    "sparse of JAX": (lambda: jxr.ridge_ball(sparse.BCOO.fromdense(jnp.asarray(X)), Y, 1.0), "X is sparse.*todense"),
    "sparse of SciPy": (lambda: jxr.ridge_fraction(scipy.sparse.csr_array(X), Y, 0.5), "X is sparse.*todense"),
    "complex": (lambda: jxr.ridge(X * 1j, Y, 1.0), r"X is complex.*\[\[Re, -Im\], \[Im, Re\]\]"),
    "complex lam": (lambda: jxr.ridge(X, Y, 1.0j), "lam is complex"),
    "half precision": (lambda: jxr.ridge(X.astype("float16"), Y, 1.0), "X is float16.*float32"),
    "bfloat16": (lambda: jxr.ridge(jnp.asarray(X, jnp.bfloat16), Y, 1.0), "X is bfloat16.*float32"),
    "text": (lambda: jxr.ridge(X.astype(str), Y, 1.0), "X holds values that are not numbers"),
    "objects": (lambda: jxr.ridge(X, [None] * 9, 1.0), "y holds values that are not numbers"),
    "no lam": (lambda: jxr.ridge(X, Y, None), "lam holds values that are not numbers"),
    "dates": (lambda: jxr.ridge(X, np.zeros(9, "datetime64[s]"), 1.0), "y holds values that are not numbers"),
    "durations": (lambda: jxr.ridge(X, np.zeros(9, "timedelta64[s]"), 1.0), "y holds values that are not numbers"),
    "rows of unequal length": (lambda: jxr.ridge([[1.0, 2.0], [3.0]], [1.0, 2.0], 1.0), "X "),
    "a table with text": (lambda: jxr.ridge(pd.DataFrame({"a": ["x", "y"]}), [1.0, 2.0], 1.0), "X holds values"),
    "a solver by name": (lambda: jxr.ridge(X, Y, 1.0, solver="svd"), r"solver is 'svd'; pass spectrum\.from_design"),
    "a masked array": (lambda: jxr.ridge(np.ma.masked_less(X, 0), Y, 1.0), "X is masked"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_named(name):
    call, message = MISUSE[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="fit_intercept"):
        jxr.ridge(X, Y, 1.0, fit_intercept=False)


# What is taken.

WHOLE = np.random.default_rng(6).integers(0, 10, (9, 4))
INPUTS = {
    "whole numbers": (WHOLE, Y, 1),
    "lists": (WHOLE.tolist(), Y.tolist(), 1),
    "small integers": (WHOLE.astype(np.int8), Y, 1),
    "unsigned": (WHOLE.astype(np.uint16), Y, np.float32(1)),
    "a table": (pd.DataFrame(WHOLE, columns=list("abcd")), pd.DataFrame(Y), 1.0),
    "a table of mixed columns": (
        pd.DataFrame({k: WHOLE[:, i] * (1.0 if i else 1) for i, k in enumerate("abcd")}),
        Y,
        1.0,
    ),
    "not contiguous": (np.asfortranarray(np.repeat(WHOLE, 2, axis=1))[:, ::2].astype(float), Y[::-1][::-1], 1.0),
    "byte order": (WHOLE.astype(">f8"), Y, 1.0),
    "jax": (jnp.asarray(WHOLE), jnp.asarray(Y), jnp.asarray(1)),
    "read-only": (np.broadcast_to(WHOLE.astype(float), WHOLE.shape), Y, 1.0),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name):
    """All that is plainly an array of real numbers gives the fit in float64."""
    fit = jxr.ridge(*INPUTS[name])
    same(fit, *oracles.ridge(WHOLE.astype(float), Y, 1.0))
    assert fit.coef.dtype == jnp.float64
    predicted = WHOLE @ np.asarray(fit.coef) + np.asarray(fit.intercept)
    np.testing.assert_allclose(fit.predict(INPUTS[name][0]), predicted, rtol=1e-12)


def test_truth_values_and_a_series():
    mask = X[:, :2] > [3.0, 0.0]
    fit = jxr.ridge(mask, pd.Series(Y[:, 0]), 1.0, weights=pd.Series(WEIGHTS))
    same(fit, *oracles.ridge(mask.astype(float), Y[:, 0], 1.0, weights=WEIGHTS))


@pytest.mark.parametrize(("of_X", "of_y"), [("float32", "float64"), ("float64", "float32"), ("int32", "float32")])
def test_mixed_dtypes(of_X, of_y):
    """The wider of two dtypes; integers are float64 here, where x64 is on."""
    A, y = WHOLE.astype(of_X), Y.astype(of_y)
    fit = jxr.ridge(A, y, 1.0)
    assert fit.coef.dtype == jnp.float64
    same(fit, *oracles.ridge(A.astype(float), y.astype(float), 1.0))
    assert fit.predict(A.astype("float32")).dtype == jnp.float64


def test_single_precision_stays_single():
    fit = jxr.ridge(X.astype("float32"), Y.astype("float32"), 1.0, weights=WEIGHTS, penalty=PENALTY)
    assert fit.coef.dtype == fit.dof.dtype == fit.rss.dtype == fit.intercept.dtype == jnp.float32
    same(fit, *oracles.ridge(X, Y, 1.0, weights=WEIGHTS, penalty=PENALTY), rtol=1e-5)


def test_predictions_of_a_path_from_a_table():
    path, table = jxr.ridge_path(X, Y, [0.1, 1.0]), pd.DataFrame(X)
    np.testing.assert_allclose(path.predict(table), path.predict(X), rtol=1e-13)
    np.testing.assert_allclose(path.predict(X.tolist()), path.predict(X), rtol=1e-13)


# Small and degenerate shapes.


def test_one_row():
    """With an intercept it is the row itself; without one the row is shared out by the penalty."""
    x, y = np.array([[1.0, 2.0, 2.0]]), np.array([5.0])
    fit = jxr.ridge(x, y, 1.0)
    same(fit, np.zeros(3), 5.0)
    same(jxr.ridge(x, y, 1.0, intercept=False), x[0] * 5.0 / 10.0, 0.0)
    same(jxr.ridge(x, y, 0.0, intercept=False), x[0] * 5.0 / 9.0, 0.0)


@pytest.mark.parametrize("intercept", [True, False])
def test_no_columns(intercept):
    """Nothing but the mean, or nothing at all."""
    fit = jxr.ridge(np.zeros((9, 0)), Y, 1.0, intercept=intercept)
    assert fit.coef.shape == (0, 2)
    np.testing.assert_allclose(fit.intercept, Y.mean(0) * intercept, rtol=1e-14)
    np.testing.assert_allclose(fit.dof, float(intercept))
    np.testing.assert_allclose(fit.rss, np.sum((Y - Y.mean(0) * intercept) ** 2, axis=0), rtol=1e-13)


def test_every_column_unpenalised():
    """Least squares at any λ."""
    same(jxr.ridge(X, Y, 5.0, unpenalized=range(4)), *oracles.ridge(X, Y, 0.0))


def test_as_many_free_columns_as_rows():
    """Nothing is left for the penalised columns."""
    fit = jxr.ridge(X[:3], Y[:3], 1.0, unpenalized=(0, 1))
    coef, intercept = oracles.ridge(X[:3][:, :2], Y[:3], 0.0)
    np.testing.assert_allclose(fit.coef, [*coef, [0, 0], [0, 0]], atol=1e-11)
    np.testing.assert_allclose(fit.intercept, intercept, rtol=1e-10)


def test_no_targets():
    fit = jxr.ridge(X, Y[:, :0], 1.0)
    assert fit.coef.shape == (4, 0)


# Weights.


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("junk", [1.0, 1e8, 1e200])
def test_weight_zero_is_no_row(standardize, junk):
    """Whatever such a row holds: the fit, its dof, rss and GCV are those of the others."""
    weights = WEIGHTS * (np.arange(9) % 3 > 0)
    kept = weights > 0
    A, y = np.where(kept[:, None], X, junk * X), np.where(kept[:, None], Y, junk * Y)
    options = {"penalty": PENALTY, "unpenalized": (2,), "standardize": standardize}
    with_them = jxr.ridge_cv(A, y, [0.1, 10.0], rule=jxr.select.gcv, weights=weights, **options)
    without = jxr.ridge_cv(X[kept], Y[kept], [0.1, 10.0], rule=jxr.select.gcv, weights=weights[kept], **options)
    for name in ("coef", "intercept", "dof", "rss"):
        np.testing.assert_allclose(getattr(with_them.fit, name), getattr(without.fit, name), rtol=1e-11, err_msg=name)
    np.testing.assert_allclose(with_them.scores, without.scores, rtol=1e-11)


def test_weight_two_is_two_rows():
    """For the fit, its dof and rss."""
    weights = np.array([1.0, 2, 1, 1, 3, 1, 2, 1, 1])
    rows = np.repeat(np.arange(9), weights.astype(int))
    once, many = jxr.ridge(X, Y, LAM, weights=weights), jxr.ridge(X[rows], Y[rows], LAM)
    for name in ("coef", "intercept", "dof", "rss"):
        np.testing.assert_allclose(getattr(once, name), getattr(many, name), rtol=1e-11, err_msg=name)


def test_equal_weights_scale_lam():
    """Weights of c and λ of c·λ are weights of 1."""
    same(jxr.ridge(X, Y, 7 * LAM, weights=np.full(9, 7.0)), *oracles.ridge(X, Y, LAM))


def test_verbs_are_jitted_once():
    """A new λ, and new data of the same shape, compile nothing."""
    jxr.ridge(X, Y, 1.0)
    before = verbs._ridge._cache_size()
    for lam in (2.0, 3, np.float32(4)):
        jxr.ridge(X + lam, Y, lam)
    assert verbs._ridge._cache_size() == before


def test_no_copy_of_x_per_lam():
    """A path of 100 λ on 1000 rows needs no array of 100 × 1000 × d: under a tenth of that."""
    n, d, k = 1000, 20, 100
    data, terms = checked(np.zeros((n, d)), np.zeros(n))
    lowered = verbs._ridge_path.lower(data, jnp.ones(k), terms=terms, solver=jxr.spectrum.from_design)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 0.1 * 8 * n * d * k


@pytest.mark.parametrize("shape", [(442, 10), (64, 3), (1000, 1), (20, 300)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_entry_of_many_rows_is_found(shape, bad):
    """A maximum over many rows may lose NaN where it is vectorised; nothing else may be blamed for it."""
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    x[shape[0] // 3, 0] = bad
    y = np.ones(shape[0], np.float32)
    for solver in (jxr.spectrum.from_design, jxr.spectrum.from_gram, jxr.spectrum.from_cholesky):
        assert jxr.ridge(x, y, np.float32(1.0), solver=solver).result == RESULTS.nonfinite_input
    assert jxr.ridge(np.nan_to_num(x, posinf=0.0), np.where(y > 0, x[:, 0], y), 1.0).result == RESULTS.nonfinite_input
    if shape[0] < 500 and np.isnan(bad):
        fit = jxr.kernel_ridge(x, y, np.float32(1.0), kernel=jxr.kernels.Linear())
        assert fit.result == RESULTS.nonfinite_kernel
