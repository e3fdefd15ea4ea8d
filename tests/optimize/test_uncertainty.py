"""Uncertainty of robust fits against simulation and a plain sum, and what it refuses to say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxridge as jxr
from jaxridge.optimize import losses, uncertainty

T = jnp.linspace(0.0, 4.0, 60)
TRUTH = jnp.array([2.5, 0.9])


def decay(x, y):
    return x[0] * jnp.exp(-x[1] * T) - y


def soiled(rng, size=1.0):
    """Errors of 0.05, one in twelve of them thirty times as large."""
    wild = np.where(rng.random(T.shape) < 1 / 12, 30.0, 1.0)
    return size * (decay(TRUTH, 0.0) + 0.05 * wild * rng.standard_normal(T.shape))


LOSSES = {
    "huber": losses.scaled(losses.huber, 0.07),
    "soft_l1": losses.scaled(losses.soft_l1, 0.05),
    "cauchy": losses.scaled(losses.cauchy, 0.1),
}


@pytest.mark.parametrize(
    "name", ["huber", *(pytest.param(name, marks=pytest.mark.whole) for name in ("soft_l1", "cauchy"))]
)
def test_robust_standard_errors_are_those_of_simulation(name):
    """Of 1000 fits: their spread is known to 1/√2000, 2 %."""
    rng, loss = np.random.default_rng(3), LOSSES[name]
    data = jnp.asarray(np.stack([soiled(rng) for _ in range(1000)]))

    @jax.jit
    def run(data):
        fits = jxr.least_squares_batch(decay, jnp.tile(TRUTH, (len(data), 1)), data, loss=loss)
        errors = jax.vmap(lambda fit, y: uncertainty(decay, fit, y, loss=loss).standard_errors)(fits, data)
        return fits.value, fits.success, errors

    values, good, errors = run(data)
    assert np.mean(good) > 0.99
    found, simulated = np.median(errors[good], axis=0), np.std(values[good], axis=0)
    np.testing.assert_allclose(found, simulated, rtol=0.1)


def test_the_covariance_of_a_robust_fit_written_out():
    """Huber's, with ψ and ψ' of soft_l1 at scale 1: r/√(1 + r²) and (1 + r²)^(-3/2); m = 60, n = 2."""
    y = jnp.asarray(soiled(np.random.default_rng(1), 20.0))
    fit = jxr.least_squares(decay, 20.0 * TRUTH * jnp.array([1.0, 1 / 20]), y, loss=losses.soft_l1)
    found = uncertainty(decay, fit, y, loss=losses.soft_l1)
    r, J = np.asarray(decay(fit.value, y)), np.asarray(jax.jacfwd(decay)(fit.value, y))
    psi, slope = r / np.sqrt(1 + r**2), (1 + r**2) ** -1.5
    K = 1 + 2 / 60 * np.var(slope) / np.mean(slope) ** 2
    expected = K**2 * np.sum(psi**2) / 58 / np.mean(slope) ** 2 * np.linalg.inv(J.T @ J)
    # J is at a point that is right to √eps of a standard error.
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-9)
    np.testing.assert_allclose(found.sigma, 1.4826022 * np.median(np.abs(r)) * np.sqrt(60 / 58), rtol=1e-7)
    assert found.result == jxr.RESULTS.successful


def refusals():
    y = jnp.asarray(soiled(np.random.default_rng(2)))
    loss = LOSSES["soft_l1"]
    fit = lambda **options: jxr.least_squares(decay, TRUTH, y, **options)  # noqa: E731
    robust = fit(loss=loss)
    yield "another loss", uncertainty(decay, robust, y), "not_at_minimum"
    yield "other data", uncertainty(decay, robust, 1.2 * y, loss=loss), "not_at_minimum"
    yield "a penalty", uncertainty(decay, fit(lam=100.0), y), "not_at_minimum"
    yield "no convergence", uncertainty(decay, fit(max_steps=1), y), "max_steps"
    yield "a fit", uncertainty(decay, robust, y, loss=loss), "successful"
    yield "a coarse fit", uncertainty(decay, fit(ftol=1e-4), y), "successful"
    exact = jxr.least_squares(decay, TRUTH + 0.1, decay(TRUTH, 0.0))
    yield "an exact fit", uncertainty(decay, exact, decay(TRUTH, 0.0)), "successful"


def test_what_did_not_converge_or_is_another_fit_is_refused_by_code():
    for name, found, code in refusals():
        assert found.result == getattr(jxr.RESULTS, code), name
        assert np.isfinite(found.covariance).all() == (code == "successful"), name


def test_sigma_with_a_robust_loss_is_misuse():
    fit = jxr.least_squares(decay, TRUTH, decay(TRUTH, 0.0), loss=losses.huber)
    with pytest.raises(ValueError, match="sigma"):
        uncertainty(decay, fit, decay(TRUTH, 0.0), loss=losses.huber, sigma=1.0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_standard_errors_follow_units(size, dtype):
    """Data in other units: those of the amplitude in these, of the rate as before."""
    rng = np.random.default_rng(5)
    y = jnp.asarray(decay(TRUTH, 0.0) + 0.05 * rng.standard_normal(T.shape))
    start = jnp.array([size, 1.0]).astype(dtype) * TRUTH.astype(dtype)
    one = uncertainty(decay, jxr.least_squares(decay, TRUTH, y), y).standard_errors
    line = lambda x, y: x[0] * jnp.exp(-x[1] * T.astype(dtype)) - y  # noqa: E731
    data = (size * y).astype(dtype)
    found = uncertainty(line, jxr.least_squares(line, start, data), data)
    errors = np.asarray(found.standard_errors, float) / np.array([size, 1.0])
    # Half of the digits of a dtype: at an answer that is right to √eps of a standard error.
    np.testing.assert_allclose(errors, one, rtol=3 * np.sqrt(np.finfo(dtype).eps))
