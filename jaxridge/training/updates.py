"""Where an update and its noise act on a synapse: five rules, of which some regularise and some do not.

With u = −ηg the step that gradient descent asks for, w = φ(x), σ the noise of the device, ξ a standard normal number,
to lowest order (tanh, loss ½ mean (Xw − y)², λ in units of the ridge problem):

    `ClosedLoop`    x ← φ⁻¹(φ(x) + u) + σξ           λ = nσ²/η      ridge, with a cubic correction: E[w − w³] for E w
    `StateStep`     x ← x + u + σξ                   λ = 0          noise on a state does not by itself regularise
    `ChainRule`     x ← x + u φ′(x) + σξ             λ = −nσ²/η     pushed outward
    `SoftBounds`    w ← w + u − |u| w/b              λⱼ = n E|gⱼ|/b   with single rows; none in full batches
    `PulseNoise`    x ← φ⁻¹(φ(x) + u) + σ√|u| ξ      λⱼ = n σ²E|gⱼ|   likewise, with the cubic correction
"""

from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp

from jaxridge.core.numbers import safe_sqrt
from jaxridge.core.types import Array
from jaxridge.training.maps import Conductance

__all__ = ["ChainRule", "ClosedLoop", "PulseNoise", "SoftBounds", "StateStep", "Update"]


class Update(eqx.Module):
    """A rule for the next state; `Device` then holds it between the limits of the map."""

    sets_weights: ClassVar[bool] = True  # through the inverse of the map

    @abstractmethod
    def __call__(self, map: Conductance, x: Array, u: Array, noise: Array) -> Array:
        """The state after a step u, with ``noise`` = σξ, before the limits."""


class ClosedLoop(Update):
    """Programmed and verified: the weight moves by u exactly, and then its state by noise."""

    def __call__(self, map: Conductance, x: Array, u: Array, noise: Array) -> Array:
        return map.state(map(x) + u) + noise


class StateStep(Update):
    """The state itself moves by u: at rest E g = 0, least squares whatever the noise, while no limit is met."""

    sets_weights: ClassVar[bool] = False

    def __call__(self, map: Conductance, x: Array, u: Array, noise: Array) -> Array:
        return x + u + noise


class ChainRule(Update):
    """The gradient with respect to the state: the density is exp(−2ηf/σ²) in x, so the map's flat ends hold weights.

    There is a stationary state only because states are limited.
    """

    sets_weights: ClassVar[bool] = False

    def __call__(self, map: Conductance, x: Array, u: Array, noise: Array) -> Array:
        return x + u * map.slope(x) + noise


class SoftBounds(Update):
    """A pulse moves the weight by less the nearer its bound b: u − |u| w/b.

    Fusi and Abbott (2007), Nat. Neurosci. 10, 485.
    """

    bound: Any = 1.0

    def __call__(self, map: Conductance, x: Array, u: Array, noise: Array) -> Array:
        w = map(x)
        return map.state(w + u - jnp.abs(u) * w / self.bound) + noise


class PulseNoise(Update):
    """Noise of every pulse: the state's variance grows by σ²|u|, the number of pulses."""

    def __call__(self, map: Conductance, x: Array, u: Array, noise: Array) -> Array:
        return map.state(map(x) + u) + safe_sqrt(jnp.abs(u)) * noise
