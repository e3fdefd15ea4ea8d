"""A batch of fits is each fit alone, whatever its block, its stragglers and its failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge import optimize
from jaxridge.optimize import losses

RNG = np.random.default_rng(4)
T = jnp.linspace(0.0, 3.0, 12)
COUNT = 700  # more than one block of 256, and no multiple of it
TRUTH = RNG.uniform([1.0, 0.4, 0.0], [3.0, 1.5, 1.0], (COUNT, 3))
Y = jnp.asarray(
    TRUTH[:, :1] * np.exp(-TRUTH[:, 1:2] * np.asarray(T)) + TRUTH[:, 2:] + 0.02 * RNG.standard_normal((COUNT, 12))
)
# A few starts are so far away that they take ten times as many steps.
START = jnp.asarray(TRUTH * RNG.uniform(0.8, 1.2, TRUTH.shape)).at[::90].set(jnp.array([0.1, 6.0, 0.0]))
SOLVER = jxr.LevenbergMarquardt(linear=optimize.cholesky, acceleration=False)


def decay(x, args):
    t, y = args
    return x[0] * jnp.exp(-x[1] * t) + x[2] - y


def together(start, y, **options):
    return jxr.least_squares_batch(decay, start, (T, y), in_axes=(None, 0), **options)


def alone(start, y, **options):
    fit = lambda start, y: jxr.least_squares(decay, start, (T, y), **options)  # noqa: E731
    return jax.vmap(fit)(start, y)


@pytest.mark.parametrize("block", [256, 64])
def test_every_lane_is_the_fit_alone(block):
    found, expected = together(START, Y, block=block), alone(START, Y, solver=SOLVER)
    assert found.success.all()
    steps = np.asarray(found.steps)
    assert steps.max() > 2 * np.median(steps)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-9)
    np.testing.assert_allclose(found.cost, expected.cost, rtol=1e-12)
    np.testing.assert_array_equal(
        found.result == jxr.RESULTS.step_converged, expected.result == jxr.RESULTS.step_converged
    )


whole = pytest.mark.whole


@pytest.mark.parametrize(
    "options",
    [
        {"bounds": (0.0, 1.2)},
        pytest.param({"lam": 0.5, "x_ref": 1.0}, marks=whole),
        pytest.param({"loss": losses.soft_l1}, marks=whole),
    ],
)
def test_options(options):
    start = jnp.clip(START[:90], *options.get("bounds", (-jnp.inf, jnp.inf)))
    found, expected = together(start, Y[:90], **options), alone(start, Y[:90], solver=SOLVER, **options)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-7, atol=1e-9)


def test_a_bad_lane_has_its_code_and_spoils_no_other():
    y = Y[:90].at[7].set(jnp.nan)
    found = together(START[:90], y, max_steps=15)
    assert np.flatnonzero(found.result == jxr.RESULTS.nonfinite_start).tolist() == [7]
    assert (found.result == jxr.RESULTS.max_steps)[0]
    gradient = jax.grad(lambda y: jnp.sum(together(START[:90], y, max_steps=15).value[:, 1]))(y)
    assert np.isnan(gradient[np.array([0, 7])]).all()
    good = np.setdiff1d(np.arange(90), [0, 7])
    expected = jax.vmap(jax.grad(lambda y, x: jxr.least_squares(decay, x, (T, y)).value[1]))(Y[good], START[good])
    np.testing.assert_allclose(gradient[good], expected, rtol=1e-6, atol=1e-9)


def test_trees_and_float32():
    def line(x, args):
        return {"r": x["a"] * args["t"] + x["b"] - args["y"]}

    t = jnp.asarray(RNG.standard_normal((5, 6)), jnp.float32)
    x0 = {"a": jnp.zeros(5, jnp.float32), "b": jnp.zeros(5, jnp.float32)}
    found = jxr.least_squares_batch(line, x0, {"t": t, "y": 2 * t + 1})
    assert found.value["a"].dtype == jnp.float32
    np.testing.assert_allclose(found.value["a"], 2.0, rtol=1e-6)
    np.testing.assert_allclose(found.value["b"], 1.0, rtol=1e-6)


def test_more_parameters_than_are_written_out():
    X = jnp.asarray(RNG.standard_normal((4, 20, 10)))
    w = jnp.asarray(RNG.standard_normal((4, 10)))
    found = jxr.least_squares_batch(
        lambda x, a: a[0] @ jnp.sinh(x) - a[1], w + 0.1, (X, jnp.einsum("kij,kj->ki", X, jnp.sinh(w)))
    )
    np.testing.assert_allclose(found.value, w, rtol=1e-8)


def test_misuse():
    with pytest.raises(ValueError, match="x0 needs an axis of fits"):
        jxr.least_squares_batch(decay, jnp.array(1.0), (T, Y))
    with pytest.raises(ValueError, match="args"):
        jxr.least_squares_batch(decay, START, (T, Y[:5]), in_axes=(None, 0))
