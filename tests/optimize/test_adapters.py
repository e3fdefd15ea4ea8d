"""What adapters of other libraries ask for: the final Jacobian, something beside the residual, starts outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxridge as jxr
from jaxridge import optimize

T = np.linspace(0.0, 3.0, 12)
Y = 2.0 * np.exp(-0.7 * T) + 0.05 * np.cos(5 * T)


def decay(x, y):
    return x["height"] * jnp.exp(-x["rate"] * T.astype(y.dtype)) - y


START = {"height": 1.0, "rate": 1.0}


def test_final_residual_and_jacobian_are_those_of_scipy():
    fit = jxr.least_squares(decay, START, Y)
    want = scipy.optimize.least_squares(lambda x: x[0] * np.exp(-x[1] * T) - Y, [1.0, 1.0], xtol=1e-15, ftol=1e-15)
    for jacobian in (jax.jacfwd, jax.jacrev):
        found = optimize.linearised(decay, fit, Y, jacobian=jacobian)
        np.testing.assert_allclose(found.residual, want.fun, atol=1e-6)
        J = np.stack([np.exp(-want.x[1] * T), -want.x[0] * T * np.exp(-want.x[1] * T)], 1)
        np.testing.assert_allclose(found.jacobian, J, atol=1e-6)


def test_aux_at_the_end_with_its_derivative():
    def both(x, y):
        curve = x["height"] * jnp.exp(-x["rate"] * T)
        return curve - y, {"area": jnp.sum(curve)}

    fit = jxr.least_squares(both, START, Y, has_aux=True)
    plain = jxr.least_squares(decay, START, Y)
    np.testing.assert_allclose(fit.value["rate"], plain.value["rate"], rtol=1e-12)
    np.testing.assert_allclose(fit.aux["area"], np.sum(decay(plain.value, Y) + Y), rtol=1e-12)
    area = lambda y: jxr.least_squares(both, START, y, has_aux=True).aux["area"]  # noqa: E731
    h = 1e-5 * np.eye(12)[4]
    slope = (area(Y + h) - area(Y - h)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(area))(Y)[4], slope, rtol=1e-6)
    assert plain.aux is None
    with pytest.raises(ValueError, match="returns no pair; with has_aux=True"):
        jxr.least_squares(decay, START, Y, has_aux=True)


def test_a_start_outside_its_bounds_is_named():
    with pytest.warns(UserWarning, match=r"x0\['rate'\] lies outside its bounds"):
        fit = jxr.least_squares(decay, START, Y, bounds=({"height": 0.0, "rate": 0.0}, {"height": 9.0, "rate": 0.9}))
    assert fit.success
    fit = jax.jit(lambda y: jxr.least_squares(decay, START, y, bounds=(2.0, None)))(Y)
    assert float(fit.value["rate"]) >= 2.0


def test_tolerances_that_are_all_0_end_by_rounding():
    fit = jxr.least_squares(decay, START, Y, ftol=0.0, xtol=0.0, gtol=0.0)
    assert fit.success
    np.testing.assert_allclose(fit.value["rate"], jxr.least_squares(decay, START, Y).value["rate"], rtol=1e-7)
