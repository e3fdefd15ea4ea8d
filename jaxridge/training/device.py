"""Synapses of hardware in training: their map, their noise and spread, and what of it cannot be meant."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxridge.core.checks import as_floats
from jaxridge.core.results import RESULTS
from jaxridge.core.types import Array, Bool, Float
from jaxridge.training.maps import Conductance
from jaxridge.training.regression import Regression, with_arrays
from jaxridge.training.updates import Update

__all__ = ["Device", "Synapses", "differential"]


class Device(eqx.Module):
    """Synapses of one kind: their map, the noise σ of every write, and a gain for each.

    Args:
        map: a `Conductance`. noise: σ ≥ 0, in units of the state.
        gain: by which the step of a synapse is larger than asked, 1 or (d,): the spread from device to device.
    """

    map: Conductance
    noise: Any = 0.0
    gain: Any = 1.0

    def step(self, update: Update, x: Array, u: Array, xi: Array) -> Array:
        """The next state, between the limits of the map."""
        return self.map.held(update(self.map, x, self.gain * u, self.noise * xi))


def differential(X: Any) -> Float[Array, "n 2d"]:
    """The features of differential pairs, [X, −X]: w = w⁺ − w⁻ has a synapse for each sign.

    Each half moves by the same step with the opposite sign, so that a pair learns twice as fast: noise that is ridge at
    λ for single synapses is less than ridge at λ/2 for pairs. Less, because the loss does not see w⁺ + w⁻, which noise
    spreads over the range of the map, where its curvature is smaller. `simulate` measures; halves are too correlated to
    be predicted one by one.

    >>> import jax.numpy as jnp
    >>> from jaxridge.training import differential
    >>> print(differential(jnp.array([[1.0, 2.0]])))
    [[ 1.  2. -1. -2.]]
    """
    X = as_floats("X", X, (2,))
    return jnp.concatenate([X, -X], axis=1)


class Synapses(eqx.Module):
    """A device in training: what `effective_lam` predicts and `simulate` measures."""

    device: Device
    update: Update
    loss: Regression
    rate: Array

    @classmethod
    def of(cls, device: Any, update: Any, X: Any, y: Any, learning_rate: Any) -> "Synapses":
        if not isinstance(device, Device) or not isinstance(device.map, Conductance):
            raise ValueError(f"device is {device!r}; pass Device(map, noise), with a map such as Tanh().")
        if not isinstance(update, Update):
            raise ValueError(
                f"update is {update!r}; pass ClosedLoop(), StateStep(), ChainRule(), SoftBounds() or PulseNoise()."
            )
        loss = Regression.of(X, y)
        dtype, d = loss.X.dtype, loss.X.shape[1]
        device, update, rate = with_arrays((device, update, learning_rate), dtype)
        if device.gain.shape not in ((), (d,)):
            shape = device.gain.shape
            raise ValueError(f"gain has shape {shape}; pass a number, or one for each of the {d} columns of X.")
        device = eqx.tree_at(lambda device: device.gain, device, jnp.broadcast_to(device.gain, (d,)))
        return cls(device, update, loss, rate)

    def judged(self, start: Array) -> Any:
        """The code of numbers that cannot be meant, for weights that begin at ``start``."""
        device, map = self.device, self.device.map
        ends = jnp.stack([jnp.asarray(map.low, self.rate.dtype), jnp.asarray(map.high, self.rate.dtype)])
        valid = (device.noise >= 0) & jnp.all(device.gain >= 0) & (self.rate > 0)
        inside = jnp.all((start >= map(ends)[0]) & (start <= map(ends)[1]))
        stable = self.rate * jnp.max(device.gain) * self.loss.curvature() < 2
        return self.loss.judged(
            (~valid, RESULTS.invalid_noise),
            (~self.inverts(ends), RESULTS.not_inverse),
            (~inside, RESULTS.outside_conductance),
            (~stable, RESULTS.unstable_rate),
        )

    def inverts(self, ends: Array) -> Bool[Array, ""]:
        """Whether φ rises and, where the update asks for it, φ⁻¹ undoes it, at states between the limits."""
        map = self.device.map
        x = jnp.linspace(ends[0], ends[1], 33)
        w = map(x)
        rises = jnp.all(jnp.diff(w) > 0)
        if not self.update.sets_weights:
            return rises
        room = jnp.sqrt(jnp.finfo(x.dtype).eps) * (w[-1] - w[0])
        return rises & jnp.all(jnp.abs(map(map.inverse(w)) - w) <= room)

    def middle(self) -> Array:
        """The state in the middle of those that there are, where a search and a simulation begin: (d,)."""
        map = self.device.map
        middle = (jnp.asarray(map.low, self.rate.dtype) + jnp.asarray(map.high, self.rate.dtype)) / 2
        return jnp.broadcast_to(middle, self.loss.X.shape[1:])
