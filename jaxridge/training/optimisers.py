"""Optimisers with weight decay: how optax chains each, and the decay that the gradient balances when it rests.

With g the gradient of the loss and w the weights, full-batch training ends where

    g + a w = 0                                                      a the ``decay`` of the optimiser

for every optimiser here but `AdamW`, which has none. Gradient descent stays there exactly; Adam and cautious decay come
as near as their learning rate is small.
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from jaxridge.core.checks import as_floats
from jaxridge.core.types import Array, Bool, Float, Scalar

__all__ = [
    "AdamL2",
    "AdamW",
    "CautiousDecay",
    "CoupledDecay",
    "DecoupledDecay",
    "IndependentDecay",
    "Optimiser",
    "PreconditionedDecay",
    "cautious_decay",
    "group_decay",
]


def group_decay(decays: Any) -> optax.GradientTransformation:
    """``optax.add_decayed_weights`` with a number for each group of weights, which may be differentiated.

    Args:
        decays: a tree that is a prefix of the parameters': each number is the decay of all below it.

    Before the optimiser it is an L2 penalty, Σ_g ½ a_g‖w_g‖²; after its preconditioner it is decoupled. Gradients with
    respect to ``decays`` flow through the steps that are unrolled. Equals ``optax.add_decayed_weights`` group by group.

    >>> import jax.numpy as jnp
    >>> from jaxridge.training import group_decay
    >>> w = {"layer": jnp.ones(2), "bias": jnp.ones(1)}
    >>> print(group_decay({"layer": 0.5, "bias": 0.0}).update(w, None, w)[0]["layer"])
    [1.5 1.5]
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        below = lambda a, g, w: jax.tree.map(lambda g, w: g + a * w, g, w)  # noqa: E731
        return jax.tree.map(below, decays, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)  # pyright: ignore[reportArgumentType]


def cautious_decay(weight_decay: Any) -> optax.GradientTransformation:
    """Decay only where the step shrinks the weight too: where gⱼ wⱼ ≥ 0.

    Chen, Li, Liang, Su, Xie, Xing, Long, Tang and Liu (2025), arXiv:2510.12402.

    >>> import jax.numpy as jnp
    >>> from jaxridge.training import cautious_decay
    >>> print(cautious_decay(0.5).update(jnp.array([1.0, -1.0]), None, jnp.array([2.0, 2.0]))[0])
    [ 2. -1.]
    """

    def shrunk(g: Array, w: Array) -> Array:
        return g + jnp.where(g * w >= 0, weight_decay * w, 0.0)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(shrunk, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)  # pyright: ignore[reportArgumentType]


class Optimiser(eqx.Module):
    """A learning rate η, a number or a schedule of optax, and a weight decay."""

    learning_rate: Any
    weight_decay: Any

    @abstractmethod
    def transform(self) -> optax.GradientTransformation:
        """What optax runs."""

    @property
    @abstractmethod
    def decay(self) -> Any:
        """The a of g + a w = 0, where training rests."""

    def stable(self, curvature: Scalar) -> Bool[Array, ""]:
        """Whether full-batch steps on a quadratic of this largest curvature converge; true where steps are bounded."""
        return jnp.ones((), bool)

    @property
    def rate(self) -> Any:
        """η, NaN for a schedule: what is stable then depends on how it ends."""
        return jnp.nan if callable(self.learning_rate) else self.learning_rate


def _contracts(trace: Any, determinant: Any) -> Bool[Array, ""]:
    """Whether both roots of z² − trace·z + determinant lie inside the unit circle (Jury's conditions).

    NaN, the rate of a schedule, passes: nothing is known to be wrong.
    """
    return ~((jnp.abs(trace) >= 1 + determinant) | (jnp.abs(determinant) >= 1))


class CoupledDecay(Optimiser):
    """Gradient descent with momentum β on loss + ½ wd‖w‖²: ridge, a = wd.

    ``optax.chain(add_decayed_weights(wd), sgd(η, β))``.

    >>> from jaxridge.training import CoupledDecay
    >>> CoupledDecay(0.1, 0.3, momentum=0.9).decay
    0.3
    """

    momentum: Any = 0.0

    def transform(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            optax.sgd(self.learning_rate, self.momentum),
        )

    @property
    def decay(self) -> Any:
        return self.weight_decay

    def stable(self, curvature: Scalar) -> Bool[Array, ""]:
        h = curvature + self.weight_decay
        return _contracts(1 + self.momentum - self.rate * h, jnp.asarray(self.momentum))


class DecoupledDecay(Optimiser):
    """Decay after the momentum: ridge at a = wd(1 − β), because momentum multiplies the gradient alone by 1/(1 − β).

    ``optax.chain(trace(β), add_decayed_weights(wd), scale_by_learning_rate(η))``.

    >>> from jaxridge.training import DecoupledDecay
    >>> print(f"{DecoupledDecay(0.1, 0.3, momentum=0.9).decay:.2f}")
    0.03
    """

    momentum: Any = 0.0

    def transform(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.trace(self.momentum),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(self.learning_rate),
        )

    @property
    def decay(self) -> Any:
        return self.weight_decay * (1 - self.momentum)

    def stable(self, curvature: Scalar) -> Bool[Array, ""]:
        shrink = self.rate * self.weight_decay
        trace = 1 + self.momentum - self.rate * curvature - shrink
        return _contracts(trace, jnp.asarray(self.momentum * (1 - shrink)))


class IndependentDecay(Optimiser):
    """Decay after the learning rate, w ← (1 − wd)w − ηm: ridge at a = wd(1 − β)/η, so that η sets λ too.

    ``optax.chain(sgd(η, β), add_decayed_weights(−wd))``. Under a schedule the penalty grows as η falls, and no one λ
    describes it: ``decay`` is a ``ValueError`` then.

    >>> from jaxridge.training import IndependentDecay
    >>> print(f"{IndependentDecay(0.1, 0.03).decay:.2f}")
    0.30
    """

    momentum: Any = 0.0

    def transform(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.sgd(self.learning_rate, self.momentum),
            optax.add_decayed_weights(-self.weight_decay),
        )

    @property
    def decay(self) -> Any:
        if callable(self.learning_rate):
            raise ValueError(
                "learning_rate is a schedule, and a decay after it is another λ at each step; pass a number."
            )
        return self.weight_decay * (1 - self.momentum) / self.learning_rate

    def stable(self, curvature: Scalar) -> Bool[Array, ""]:
        trace = 1 + self.momentum - self.rate * curvature - self.weight_decay
        return _contracts(trace, jnp.asarray(self.momentum * (1 - self.weight_decay)))


class CautiousDecay(Optimiser):
    """Gradient descent whose decay acts only where the gradient shrinks the weight too: least squares, a = 0, as η → 0.

    ``optax.chain(cautious_decay(wd), scale_by_learning_rate(η))``. From 0 a weight comes to
    its goal from inside, where nothing decays: with orthogonal columns that is exact. Otherwise least squares is where
    every gradient is 0, and weights keep crossing it by what one step decays: they stay within η wd ‖w‖ of it. Under
    noise gradients have either sign, and about half of the steps decay: a penalty ½ aⱼwⱼ² for each column with
    aⱼ = wd P(gⱼwⱼ ≥ 0), gⱼ normal, to 1 % of the weights with single rows and 0.1 % with sixteen.
    """

    def transform(self) -> optax.GradientTransformation:
        return optax.chain(
            cautious_decay(self.weight_decay),
            optax.scale_by_learning_rate(self.learning_rate),
        )

    @property
    def decay(self) -> Any:
        return 0.0 * self.weight_decay

    def stable(self, curvature: Scalar) -> Bool[Array, ""]:
        return ~(self.rate * (curvature + self.weight_decay) >= 2)


class PreconditionedDecay(Optimiser):
    """Steps −η(Mg + wd w) with a fixed M: general-form Tikhonov, a = wd in the norm ‖Lw‖² with L = M^(−1/2).

    Args: as for the others, and M (d, d), symmetric and positive definite.
    ``optax.chain(stateless(M g), add_decayed_weights(wd), scale_by_learning_rate(η))``. With the decay before M the
    penalty is ridge's own, since M cannot move where Mx = 0.
    """

    M: Float[Array, "d d"] = eqx.field(converter=lambda M: as_floats("M", M, (2,)))

    def transform(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.stateless(lambda g, _: jax.tree.map(lambda g: self.M.astype(g.dtype) @ g, g)),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(self.learning_rate),
        )

    @property
    def decay(self) -> Any:
        return self.weight_decay

    def stable(self, curvature: Scalar) -> Bool[Array, ""]:
        """``curvature`` that of the loss in the coordinates M^(−1/2)w."""
        return ~(self.rate * (curvature + self.weight_decay) >= 2)


class AdamL2(Optimiser):
    """Adam on loss + ½ wd‖w‖²: ridge, a = wd, as η → 0, and under noise as β₂ → 1.

    ``optax.chain(add_decayed_weights(wd), adam(η, β₁, β₂, eps))``: the zeros of a preconditioned gradient are those of
    the gradient. Under noise that holds while the second moments hardly move: 4e-4 off with single rows at β₂ = .9999.
    """

    b1: Any = 0.9
    b2: Any = 0.999
    eps: Any = 1e-8

    def transform(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            optax.adam(self.learning_rate, self.b1, self.b2, self.eps),
        )

    @property
    def decay(self) -> Any:
        return self.weight_decay


class AdamW(Optimiser):
    """Adam with decoupled decay, ``optax.adamw``: no ridge.

    In full batches, as η → 0, the steps are −η(sign g + wd w), which rest at least squares inside ‖w‖∞ ≤ 1/wd: nothing
    shrinks before that bound does. Xie and Li (2024), ICML, arXiv:2404.04454. Under noise the steps are
    −η(gⱼ/√E gⱼ² + wd wⱼ): a penalty ½ aⱼwⱼ² for each column, aⱼ = wd √E gⱼ², to 0.1 to 0.4 % with single rows.
    """

    b1: Any = 0.9
    b2: Any = 0.999
    eps: Any = 1e-8

    def transform(self) -> optax.GradientTransformation:
        return optax.adamw(self.learning_rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay)

    @property
    def decay(self) -> Any:
        raise ValueError(
            "optimizer is AdamW, whose decay is no ridge: fixed_point gives the bound on the largest weight that it is "
            "in full batches, and with batch= the penalty of each column that it is under noise."
        )
