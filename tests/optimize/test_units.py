"""A fit is the same in any units of its data, ends where the gradient does, and says what kind of point that is."""

from functools import partial

import fit_census
import fits
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import optimize
from jaxridge.optimize import losses

LM, TR = jxr.LevenbergMarquardt(), jxr.TrustRegion()
SOLVERS = {
    "LM": LM,
    "TR": TR,
    "LM by Cholesky": jxr.LevenbergMarquardt(linear=optimize.cholesky, acceleration=False),
}
T = jnp.linspace(0.0, 4.0, 40)
DECAY = 2.5 * np.exp(-0.9 * np.asarray(T)) * (1 + 0.01 * np.random.default_rng(0).standard_normal(40))


def decay(x, y):
    return x[0] * jnp.exp(-x[1] * T.astype(x.dtype)) - y


SAMPLE = {("TR", "float32")}  # the others by `make fits` and with --whole
FROM_ONES = [
    pytest.param(solver, dtype, marks=() if (solver, dtype) in SAMPLE else pytest.mark.whole)
    for dtype in ("float64", "float32")
    for solver in ("LM", "TR", "batch")
]


@pytest.mark.parametrize(("solver", "dtype"), FROM_ONES)
def test_everyday_models_from_ones(solver, dtype):
    """Of data down to 1e-15, where the answer has another size than the start; `make fits` has all sizes and starts."""
    with jax.numpy_dtype_promotion("standard"):  # the problems of `fits` share their programs
        for row in fit_census.everyday((-15, -8, 0), ("ones",)):
            verdict = fit_census.try_row(row, solver, dtype)
            assert verdict.kind == "solved", (row, verdict)


@pytest.mark.parametrize("name", list(SOLVERS))
@pytest.mark.parametrize(("dtype", "exponents"), [("float64", (-200, -100, 100, 150)), ("float32", (-30, -20, 15, 20))])
def test_data_whose_squares_leave_the_dtype(name, dtype, exponents):
    fit = jax.jit(lambda x0, y: jxr.least_squares(decay, x0, y, solver=SOLVERS[name]))
    slope = jax.jit(jax.grad(lambda y, x0: jxr.least_squares(decay, x0, y, solver=SOLVERS[name]).value[1]))
    start = jnp.array([2.0, 1.0], dtype)
    expected, slopes = fit(start, jnp.asarray(DECAY, dtype)), slope(jnp.asarray(DECAY, dtype), start)
    rtol = 1e-10 if dtype == "float64" else 1e-5
    for exponent in exponents:
        size = np.array([10.0**exponent, 1.0])
        x0, y = jnp.asarray(np.asarray(start) * size.astype(dtype)), jnp.asarray(DECAY * size[0], dtype)
        found = fit(x0, y)
        assert found.success, exponent
        np.testing.assert_allclose(np.asarray(found.value) / size.astype(dtype), expected.value, rtol=rtol)
        np.testing.assert_allclose(np.asarray(slope(y, x0)) * np.asarray(size[0], dtype), slopes, atol=100 * rtol)


# A residual that stays large where its Jacobian vanishes: SciPy's test_least_squares has x² + 5 from 2.
STATIONARY = {
    "square": (lambda x, a: x**2 + a, [2.0], [0.0]),
    "square, shifted": (lambda x, a: (x - 3.0) ** 2 + a, [1.0], [3.0]),
    "cosh": (lambda x, a: jnp.cosh(x) + a - 4.0, [1.5], [0.0]),
}


@pytest.mark.parametrize("solver", ["LM", "TR"])
@pytest.mark.parametrize("name", list(STATIONARY))
def test_a_stationary_point_at_a_large_residual(name, solver):
    fn, x0, answer = STATIONARY[name]
    found = jxr.least_squares(fn, jnp.array(x0), 5.0, solver=SOLVERS[solver])
    assert found.success
    np.testing.assert_allclose(found.value, answer, atol=1e-7)
    assert found.residual_evaluations <= 15


def test_its_derivative():
    fit = lambda b: jxr.least_squares(lambda x, b: x**2 + b * x + 5.0, jnp.array([2.0]), b).value[0]  # noqa: E731
    for derivative in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(derivative(fit)(0.3), -0.5, rtol=1e-6)  # x = −b/2


KINDS = {
    "saddle": (lambda x, _: jnp.cos(x) + 1.0, [0.0]),
    "saddle of two": (lambda x, _: jnp.stack([x[0] * x[1] - 1.0]), [0.0, 0.0]),
    "no_influence": (lambda x, _: x[:1] - jnp.arange(3.0), [0.0, 7.0]),
    "undetermined": (lambda x, _: (x[0] + x[1]) * T - 2.0 * T + 0.01 * jnp.cos(7 * T), [0.0, 1.0]),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_kinds_of_points(name):
    fn, x0 = KINDS[name]
    found = jxr.least_squares(fn, jnp.array(x0))
    assert found.result == getattr(jxr.RESULTS, name.split()[0]), jxr.RESULTS[found.result]
    assert bool(found.success) == (not name.startswith("saddle"))


def test_what_the_data_determine_has_derivatives():
    fit = lambda y: jxr.least_squares(lambda x, y: (x[0] + x[1]) * T - y, jnp.array([0.0, 1.0]), y).value  # noqa: E731
    slopes = jax.jacrev(fit)(2.0 * T + 0.01 * jnp.cos(7 * T))
    np.testing.assert_allclose(slopes[0] + slopes[1], T / jnp.sum(T * T), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("solver", ["LM", "TR"])
def test_an_absent_signal(solver):
    """An amplitude on its bound leaves the decay rate without influence: the cost and what is held have derivatives."""
    y = jnp.asarray(-np.exp(-np.asarray(T)) + 0.01 * np.random.default_rng(3).standard_normal(40))
    bounds = (jnp.array([0.0, 0.1]), jnp.array([10.0, 9.0]))
    fit = partial(jxr.least_squares, decay, jnp.ones(2), solver=SOLVERS[solver], bounds=bounds)
    found = fit(y)
    assert found.result == jxr.RESULTS.no_influence
    assert found.value[0] == 0.0
    np.testing.assert_allclose(jax.grad(lambda y: fit(y).cost)(y), -decay(found.value, y), rtol=1e-12)
    np.testing.assert_array_equal(jax.jacrev(lambda y: fit(y).value)(y), np.zeros((2, 40)))


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 1e12, 1e100])
def test_minimize_in_any_units(size):
    rosenbrock = lambda x, size: size * (100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2)  # noqa: E731
    found = jxr.minimize(rosenbrock, jnp.array([-1.2, 1.0]), size)
    assert found.success
    np.testing.assert_allclose(found.value, [1.0, 1.0], rtol=1e-8)


@pytest.mark.parametrize("solver", ["LM", "TR"])
@pytest.mark.parametrize("loss", ["huber", "soft_l1", "cauchy", "arctan"])
def test_a_large_residual_under_a_robust_loss(loss, solver):
    fn, x0, _ = STATIONARY["square"]
    found = jxr.least_squares(fn, jnp.array(x0), 5.0, loss=getattr(losses, loss), solver=SOLVERS[solver])
    assert found.success
    np.testing.assert_allclose(found.value, 0.0, atol=1e-7)
    assert found.residual_evaluations <= 20


@pytest.mark.parametrize("solver", ["LM", "TR"])
@pytest.mark.parametrize(("bounds", "answer"), [((-1.0, 3.0), 0.0), ((0.5, 3.0), 0.5), ((-4.0, 2.0), 0.0)])
def test_a_large_residual_within_bounds(bounds, answer, solver):
    fn, x0, _ = STATIONARY["square"]
    found = jxr.least_squares(fn, jnp.array(x0), 5.0, bounds=bounds, solver=SOLVERS[solver])
    assert found.success
    np.testing.assert_allclose(found.value, answer, atol=1e-7)
    assert bool(found.active[0]) == (answer == 0.5)
    assert found.residual_evaluations <= 15


def test_problems_of_each_number_of_parameters_are_known():
    assert len(fits.CLASSIC) >= 35
    assert all(problem.truth or problem.least for problem in fits.PROBLEMS.values())


@pytest.mark.parametrize("solver", [jxr.LevenbergMarquardt(), jxr.TrustRegion()], ids=["LM", "TR"])
def test_a_parameter_whose_influence_was_lost_on_the_way_is_said(solver):
    """A wall at 3 that a long step leaps over: beyond it the residual knows nothing of x₀."""
    wall = lambda x, _: jnp.concatenate([jnp.maximum(3.0 - x[:1], 0.0) + 1.0, x[1:] - 1.0])  # noqa: E731
    fit = jxr.least_squares(wall, jnp.zeros(2), solver=solver)
    assert fit.result == jxr.RESULTS.evaporated
    assert not fit.success
    assert fit.value[0] > 3.0
