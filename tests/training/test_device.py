"""What memristive synapses regularise: predictions against simulations, and drifts against quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lines import check_derivatives
from scipy.integrate import quad

import jaxridge as jxr
from jaxridge.training import (
    ChainRule,
    ClosedLoop,
    Custom,
    Device,
    Exponential,
    Linear,
    PulseNoise,
    SoftBounds,
    StateStep,
    Tanh,
    differential,
    drift,
    drift_expansion,
    effective_lam,
    field,
    simulate,
)

N, D = 100, 4
rng = np.random.default_rng(1)
X = rng.standard_normal((N, D))
y = X @ np.array([0.6, -0.4, 0.25, -0.1]) + 0.5 * rng.standard_normal(N)
H, c = X.T @ X / N, X.T @ y / N
least = np.linalg.solve(H, c)


def off(found, wanted):
    return np.linalg.norm(np.asarray(found) - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 2e-5), (np.float64, 1e-8)])
def test_drift_is_the_integral(dtype, rtol):
    """E[tanh(x + σξ) − tanh x − σξ tanh′ x], whose last term has mean 0, by SciPy; 1e-8: 40 nodes at σ = .5."""
    for x in (-2.0, 0.1, 0.4, 1.0):
        for sigma in (0.01, 0.1, 0.3, 0.5):

            def weighted(t, x=x, s=sigma):
                change = np.tanh(x + s * t) - np.tanh(x) - s * t * (1 - np.tanh(x) ** 2)
                return change * np.exp(-t * t / 2) / np.sqrt(2 * np.pi)

            wanted = quad(weighted, -12, 12, epsabs=1e-16, epsrel=1e-13, limit=400)[0]
            found = drift(jnp.tanh, np.asarray([x], dtype), sigma)
            assert found.dtype == dtype
            np.testing.assert_allclose(found[0], wanted, rtol=rtol)
        # Where a difference would have no digit left, the expansion is exact.
        tiny = drift(jnp.tanh, np.asarray([x], dtype), 1e-6)
        np.testing.assert_allclose(tiny[0], -1e-12 * np.tanh(x) * (1 - np.tanh(x) ** 2), rtol=1e-6)


# E[tanh(x + σξ)] − tanh(x) by a difference and 80 nodes of Gauss–Hermite, another program: rows x, columns σ.
DRIFTS = {
    0.1: (-9.865848563689328e-06, -8.865304552328757e-05, -0.0009678590305832874, -0.007607912498245661),
    0.4: (-3.250481385819182e-05, -0.00029217727689723194, -0.003201034714850892, -0.025746824398388712),
    1.0: (-3.198416877481236e-05, -0.00028779745689155867, -0.003189909769406807, -0.02795081561403301),
}


def test_drift_against_another_rule():
    """1e-11: the differences keep no more digits."""
    found = drift(jnp.tanh, jnp.array(list(DRIFTS))[:, None], jnp.array([[0.01, 0.03, 0.1, 0.3]]))
    np.testing.assert_allclose(found, np.array(list(DRIFTS.values())), rtol=1e-9, atol=1e-16)
    print("largest relative difference", np.max(np.abs(found / np.array(list(DRIFTS.values())) - 1)))


def test_expansion():
    exact = drift(jnp.tanh, 0.4, jnp.array([0.1, 0.3]))
    second = drift_expansion(jnp.tanh, 0.4, jnp.array([0.1, 0.3]), order=2)
    w = np.tanh(0.4)
    np.testing.assert_allclose(second, -np.array([0.01, 0.09]) * w * (1 - w**2), rtol=1e-12)
    np.testing.assert_allclose(second / exact - 1, [0.0156, 0.136], rtol=0.01)
    fourth = drift_expansion(jnp.tanh, 0.4, jnp.array([0.1, 0.3]))
    np.testing.assert_allclose(fourth / exact - 1, [-3.08e-4, -0.0239], rtol=0.01)
    # Of a lognormal conductance in closed form: outward.
    np.testing.assert_allclose(drift(jnp.exp, 0.5, 0.3), np.exp(0.5) * np.expm1(0.045), rtol=1e-12)


# Rule, map, η, σ, batch.
RULES = {
    "closed loop": (ClosedLoop(), Tanh(), 0.02, 0.03, None),
    "closed loop, strong noise": (ClosedLoop(), Tanh(), 0.05, 0.1, None),
    "state": (StateStep(), Tanh(), 0.05, 0.05, None),
    "chain rule": (ChainRule(), Tanh(), 0.05, 0.03, None),
    "soft bounds": (SoftBounds(), Linear(), 0.01, 0.0, 1),
    "pulses": (PulseNoise(), Tanh(), 0.02, 0.3, 1),
    "pulses, strong noise": (PulseNoise(), Tanh(), 0.02, 0.6, 1),
}


@pytest.mark.parametrize("name", RULES)
def test_predictions_against_simulations(name, request):
    """Means within 3 standard errors of at most 0.5 % of the weights, in every column and together."""
    if name != "closed loop, strong noise" and not request.config.getoption("--whole"):
        pytest.skip("run by `make training`")
    update, map, rate, noise, batch = RULES[name]
    device = Device(map, noise)
    predicted = effective_lam(device, update, X, y, rate, batch=batch)
    key = jax.random.key(list(RULES).index(name))
    measured = simulate(device, update, X, y, rate, 6000, burn=2000, key=key, batch=batch)
    for record in (predicted, measured):
        assert bool(record.result == jxr.RESULTS.successful)
    error = np.asarray(measured.weight_error)
    assert np.linalg.norm(error) < 0.005 * np.linalg.norm(measured.weight)
    z = np.asarray(predicted.weight - measured.weight) / error
    print(f"{name}: z {z.round(2)}, standard error {np.linalg.norm(error) / np.linalg.norm(measured.weight):.4f}")
    assert np.all(np.abs(z) < 3)
    assert np.all(np.abs(predicted.lam - measured.lam) < 3 * measured.lam_error)
    # The penalty is that of the mean weights, by jaxridge where it is one (all positive), by NumPy always.
    np.testing.assert_allclose(np.linalg.solve(H + np.diag(predicted.lam) / N, c), predicted.weight, rtol=1e-9)


@pytest.mark.whole
def test_many_rows_by_groups(monkeypatch):
    """Against every row by itself: 0.5 % of λ and a twentieth of that of the weights."""
    rng = np.random.default_rng(5)
    many = rng.standard_normal((600, 3))
    target = many @ np.array([0.6, -0.4, 0.25]) + 0.5 * rng.standard_normal(600)
    found = []
    for alike in ((600, 1, 1), field.ALIKE):
        monkeypatch.setattr(field, "ALIKE", alike)
        jax.clear_caches()
        found.append(effective_lam(Device(Tanh(), 0.6), PulseNoise(), many, target, 0.02, batch=1))
    rows, groups = found
    np.testing.assert_allclose(groups.lam, rows.lam, rtol=5e-3)
    assert off(groups.weight, np.asarray(rows.weight)) < 5e-4
    assert not np.array_equal(groups.lam, rows.lam)


def test_noise_on_a_state_does_not_regularise():
    """E g = 0 is exact while no limit is met, whatever the map and the noise; the closed loop's is σ²/η."""
    for map in (Tanh(), Custom(lambda x: x / jnp.sqrt(1 + x**2))):
        found = effective_lam(Device(map, 0.03), StateStep(), X, y, 0.05)
        assert off(found.weight, least) < 1e-5
    weak = effective_lam(Device(Tanh(), 0.003), ClosedLoop(), X, y, 0.05)
    w = np.asarray(weak.weight)
    # To lowest order σ²/η times 1 − w², of which the noise of w itself takes a little more.
    np.testing.assert_allclose(weak.lam / N, 0.003**2 / 0.05 * (1 - w**2), rtol=2e-3)
    pushed = effective_lam(Device(Tanh(), 0.003), ChainRule(), X, y, 0.05)
    np.testing.assert_allclose(
        pushed.lam / N, -(0.003**2) / 0.05 / (1 - np.asarray(pushed.weight) ** 2) * 1.0, rtol=0.5
    )
    assert np.all(pushed.lam < 0)


def test_soft_bounds():
    """No penalty in full batches, E|g|/b with single rows, with |g| from its definition at the mean weights."""
    still = effective_lam(Device(Linear()), SoftBounds(), X, y, 0.05)
    assert off(still.weight, least) < 1e-6
    noisy = effective_lam(Device(Linear()), SoftBounds(), X, y, 0.001, batch=1)
    sizes = np.mean(np.abs(X * (X @ np.asarray(noisy.weight) - y)[:, None]), axis=0)
    np.testing.assert_allclose(noisy.lam / N, sizes, rtol=0.02)


@pytest.mark.whole
def test_spread_and_pairs():
    """A synapse that moves by γ times the step has λ/γ; pairs learn twice as fast, and have less than λ/2."""
    gain = np.array([0.5, 1.0, 1.5, 2.0])
    one = effective_lam(Device(Tanh(), 0.005), ClosedLoop(), X, y, 0.05)
    spread = effective_lam(Device(Tanh(), 0.005, gain), ClosedLoop(), X, y, 0.05)
    np.testing.assert_allclose(spread.lam * gain, one.lam, rtol=0.01)
    # The sum of a pair's weights relaxes in 1/σ² = 400 steps.
    keys = jax.random.split(jax.random.key(5), 16)

    def run(key):
        return simulate(Device(Tanh(), 0.05), ClosedLoop(), differential(X), y, 0.02, 4000, key=key, chains=32)

    found = np.asarray(jax.vmap(run)(keys).weight)
    pairs = np.linalg.norm(found[:, :D] - found[:, D:], axis=1)
    pair, error = pairs.mean(), pairs.std(ddof=1) / 4
    half = np.linalg.solve(H + 0.05**2 / 0.02 / 2 * np.eye(D), c)
    assert np.linalg.norm(half) + 3 * error < pair < np.linalg.norm(least) - 3 * error
    predicted = effective_lam(Device(Tanh(), 0.05), ClosedLoop(), differential(X), y, 0.02)
    assert bool(predicted.result == jxr.RESULTS.correlated_columns)
    assert np.all(np.isnan(predicted.weight))


def test_derivatives():
    """Of the stationary equations, in data and rate and noise; the grid of a density moves with it."""

    def weights(X, y, rate, noise, gain):
        return effective_lam(Device(Tanh(), noise, gain), ClosedLoop(), X, y, rate).weight

    check_derivatives(weights, (X, y, jnp.array(0.3), jnp.array(0.25), jnp.ones(D)), rtol=1e-4, order=1, step=5e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_and_units(dtype):
    found = effective_lam(Device(Tanh(), 0.03), ClosedLoop(), X.astype(dtype), y.astype(dtype), 0.02)
    assert found.weight.dtype == dtype
    assert bool(found.result == jxr.RESULTS.successful)
    same = effective_lam(Device(Tanh(), 0.03), ClosedLoop(), X, y, 0.02)
    assert off(found.weight, np.asarray(same.weight)) < 1e-4
    # Columns in other units and the rate with them: the same synapses.
    units = effective_lam(Device(Tanh(), 0.03), ClosedLoop(), X * 1e6, y * 1e6, 0.02 * 1e-12)
    assert off(units.weight, np.asarray(same.weight)) < 1e-9


def test_bad_input():
    codes = {
        "invalid_noise": (Device(Tanh(), -0.1), ClosedLoop(), 0.05),
        "unstable_rate": (Device(Tanh(), 0.1), ClosedLoop(), 50.0),
        "not_inverse": (Device(Custom(jnp.tanh, lambda w: 2 * w), 0.1), ClosedLoop(), 0.05),
    }
    for code, (device, update, rate) in codes.items():
        for found in (
            effective_lam(device, update, X, y, rate),
            simulate(device, update, X, y, rate, 10, key=jax.random.key(0), chains=4),
        ):
            assert bool(found.result == getattr(jxr.RESULTS, code)), code
            assert np.all(np.isnan(found.weight))
    outside = simulate(Device(Tanh()), ClosedLoop(), X, y, 0.05, 10, key=jax.random.key(0), chains=4, start=1.5)
    assert bool(outside.result == jxr.RESULTS.outside_conductance)
    bare = Device(Custom(jnp.tanh), 0.1)
    bad = [
        (lambda: effective_lam(bare, ClosedLoop(), X, y, 0.05), "no inverse"),
        (lambda: effective_lam(Tanh(), ClosedLoop(), X, y, 0.05), "pass Device"),
        (lambda: effective_lam(Device(Tanh()), "closed", X, y, 0.05), "ClosedLoop"),
        (lambda: effective_lam(Device(Tanh()), ClosedLoop(), X, y, 0.05, batch=8), "batch is 8"),
        (lambda: effective_lam(Device(Tanh(), gain=np.ones(3)), ClosedLoop(), X, y, 0.05), "gain has shape"),
        (lambda: Custom(3), "map is 3"),
        (lambda: drift_expansion(jnp.tanh, 0.1, 0.1, order=3), "order is 3"),
        (lambda: simulate(bare, StateStep(), X, y, 0.05, 10, key=0), "key is 0"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()
    assert np.all(Exponential()(jnp.array([-5.0, 2.0])) > 0)
