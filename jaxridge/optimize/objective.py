"""What is minimised, as a function of one flat vector: its value, its quadratic model, and how much a step gains.

SumOfSquares   F(x) = ½ (Σ ρ(rᵢ(x)²) + λ‖x − x_ref‖²)
Smooth         F(x) = f(x)
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Float, Scalar
from jaxridge.optimize.losses import Loss, linear
from jaxridge.optimize.small import added, gram_of, total
from jaxridge.optimize.steps import SMALL, Dense, Matrix, Small, Triangle

Flat = Callable[[Array], Array]
# A model as a loop carries it: one that is made of products is its gradient alone.
Stored = Matrix | Array


class Point(eqx.Module):
    """What one evaluation gives."""

    values: Array  # residuals, or f itself
    cost: Scalar


class Rounding(eqx.Module):
    """What rounding does to a cost: how much of a gain it may hide, and the cost of residuals that are nothing else."""

    gain: Scalar
    floor: Scalar


def qr(objective: "SumOfSquares", x: Array, point: Point) -> tuple[Stored, Rounding]:
    """QR of [J; √λ I]: the linear step to the condition of J. The default."""
    J, r, noise = objective.linearise(x, point)
    stacked = jnp.concatenate([J, r[:, None]], axis=1)
    n = x.shape[0]
    if objective.lam is not None:
        root = jnp.sqrt(objective.lam)
        below = jnp.concatenate([root * jnp.eye(n, dtype=x.dtype), root * (x - objective.x_ref)[:, None]], axis=1)
        stacked = jnp.concatenate([stacked, below])
    S = jnp.linalg.qr(stacked, mode="r")
    return Triangle(S[:n, :n], S[:n, n]), noise


def cholesky(objective: "SumOfSquares", x: Array, point: Point) -> tuple[Stored, Rounding]:
    """The normal equations JᵀJ + λI: several times faster than `qr` for many residuals, the condition squared."""
    if objective.small(x):
        return _small_cholesky(objective, x, point)
    J, r, noise = objective.linearise(x, point)
    H, g = matmul(J.T, J), matmul(J.T, r)
    if objective.lam is not None:
        H, g = H + objective.lam * jnp.eye(x.shape[0], dtype=x.dtype), g + objective.lam * (x - objective.x_ref)
    return Dense(H, g), noise


def _small_cholesky(objective: "SumOfSquares", x: Array, point: Point) -> tuple[Stored, Rounding]:
    """The same, number by number."""
    *H, g = gram_of(objective.linearise_small(x, point))
    squared, diagonal = g.pop(), [row[-1] for row in H]
    # By Cauchy and Schwarz from the sums at hand.
    size = added([jnp.sqrt(squared), *(jnp.abs(x[j]) * jnp.sqrt(h) for j, h in enumerate(diagonal))])
    rounding = jnp.finfo(x.dtype).eps * size
    noise = Rounding(rounding * (jnp.sqrt(squared) + rounding), 0.5 * jnp.square(rounding))
    if objective.lam is not None:
        H = [[*row[:-1], row[-1] + objective.lam] for row in H]
        g = [g[j] + objective.lam * (x[j] - objective.x_ref[j]) for j in range(len(g))]
    return Small(tuple(map(tuple, H)), tuple(g)), noise


def products(objective: "SumOfSquares", x: Array, point: Point) -> tuple[Stored, Rounding]:
    """Products Jv and Jᵀu by automatic differentiation, for conjugate gradients: never a matrix."""
    return jax.grad(objective.cost)(x), _of_cost(point)


def _of_cost(point: Point) -> Rounding:
    """Where the sizes of what was subtracted are not known."""
    return Rounding(jnp.finfo(point.cost.dtype).eps * jnp.abs(point.cost), jnp.zeros_like(point.cost))


class SumOfSquares(eqx.Module):
    """½ (Σ ρ(rᵢ²) + λ‖x − x_ref‖²)."""

    residual: Flat
    lam: Scalar | None  # None for the number 0, so that nothing is added up
    x_ref: Float[Array, " n"]
    loss: Loss = eqx.field(static=True)
    linear: Callable[..., tuple[Stored, Rounding]] = eqx.field(static=True)
    jacobian: Callable[[Flat], Flat] | None = eqx.field(static=True)

    def evaluate(self, x: Float[Array, " n"]) -> Point:
        r = self.residual(x)
        return Point(r, self._cost(r, x))

    def _cost(self, r: Array, x: Array) -> Scalar:
        cost = total(self.loss(jnp.square(r)))
        if self.lam is not None:
            cost = cost + self.lam * total(jnp.square(x - self.x_ref))
        return 0.5 * cost

    def gain(self, x: Array, p: Array, here: Point, there: Point) -> Scalar:
        """F(x) − F(x + p) from differences of residuals, not of their sums of squares."""
        if self.loss is linear:
            gained = -total((there.values - here.values) * (there.values + here.values))
        else:
            gained = total(self.loss(jnp.square(here.values)) - self.loss(jnp.square(there.values)))
        if self.lam is not None:
            gained = gained - self.lam * total(p * (2.0 * (x - self.x_ref) + p))
        return 0.5 * gained

    def weights(self, r: Array) -> tuple[Array, Array]:
        """Roots of the second derivatives ρ' + 2ρ''r² in r, held positive, and ρ' (Triggs et al. 2000)."""
        if self.loss is linear:
            return jnp.ones_like(r), jnp.ones_like(r)
        one, z = jnp.ones_like(r), jnp.square(r)
        slope = lambda z: jax.jvp(self.loss, (z,), (one,))[1]  # noqa: E731
        first, second = jax.jvp(slope, (z,), (one,))
        return jnp.sqrt(jnp.maximum(first + 2.0 * second * z, jnp.finfo(r.dtype).eps)), first

    def linearise(self, x: Array, point: Point) -> tuple[Float[Array, "m n"], Float[Array, " m"], Rounding]:
        """J and r as least squares sees them, and what rounding of the residuals does to the cost."""
        J, r = self.jacobian_at(x), point.values
        # A residual is a difference of numbers of about the size of |J||x|.
        rounding = jnp.finfo(x.dtype).eps * (jnp.abs(r) + matmul(jnp.abs(J), jnp.abs(x)))
        root, outer = self.weights(r)
        floor = 0.5 * jnp.sum(outer * jnp.square(rounding))
        noise = Rounding(jnp.sum(outer * rounding * jnp.abs(r)) + 2.0 * floor, floor)
        if self.loss is linear:
            return J, r, noise
        return root[:, None] * J, r * outer / root, noise

    def linearise_small(self, x: Array, point: Point) -> list[Array]:
        """The same column by column: what one parameter does not touch stays zero and falls away."""
        columns = [jax.jvp(self.residual, (x,), (e,))[1] for e in np.eye(x.shape[0], dtype=x.dtype)]
        if self.loss is linear:
            return [*columns, point.values]
        root, outer = self.weights(point.values)
        return [*(root * column for column in columns), point.values * outer / root]

    def small(self, x: Array) -> bool:
        """Whether `linearise_small` is the better way."""
        return self.jacobian is None and x.shape[0] <= SMALL

    def bend(self, x: Array, p: Array) -> Float[Array, " n"]:
        """Jᵀ d²r/dt² along x + tp: what the second-order part of a step has to balance."""
        along = lambda x: jax.jvp(self.residual, (x,), (p,))[1]  # noqa: E731
        r, backward = jax.vjp(self.residual, x)
        second = jax.jvp(along, (x,), (p,))[1]
        return backward(self.weights(r)[1] * second)[0]

    def jacobian_at(self, x: Array) -> Float[Array, "m n"]:
        """Forward mode unless there are fewer residuals than parameters, or as the user says."""
        if self.jacobian is not None:
            return self.jacobian(self.residual)(x)
        rows, n = jax.eval_shape(self.residual, x).shape[0], x.shape[0]
        return (jax.jacrev if rows < n else jax.jacfwd)(self.residual)(x)

    def model(self, x: Array, point: Point) -> tuple[Stored, Rounding]:
        return self.linear(self, x, point)

    def product_at(self, x: Array, point: Point) -> Callable[[Array], Array]:
        """p ↦ (JᵀJ + λ)p."""
        _, forward = jax.linearize(self.residual, x)
        backward = jax.linear_transpose(forward, x)
        root, _ = self.weights(point.values)

        def product(p: Array) -> Array:
            Hp = backward(jnp.square(root) * forward(p))[0]
            return Hp if self.lam is None else Hp + self.lam * p

        return product

    def slope_unit(self, point: Point) -> Scalar:
        """‖r‖, so that a slope g/(d‖r‖) is a cosine."""
        size = jnp.sqrt(2.0 * point.cost)
        return jnp.where(size > 0, size, 1.0)

    def cost(self, x: Array) -> Scalar:
        """F(x), for derivatives."""
        return self._cost(self.residual(x), x)


class Smooth(eqx.Module):
    """Any twice differentiable f."""

    fn: Flat
    dense: bool = eqx.field(static=True)

    def evaluate(self, x: Float[Array, " n"]) -> Point:
        value = self.fn(x)
        return Point(value, value)

    def gain(self, x: Array, p: Array, here: Point, there: Point) -> Scalar:
        return here.cost - there.cost

    def model(self, x: Array, point: Point) -> tuple[Stored, Rounding]:
        gradient = jax.grad(self.fn)
        noise = _of_cost(point)
        if self.dense:
            return Dense(jax.jacfwd(gradient)(x), gradient(x)).as_small(), noise
        return gradient(x), noise

    def product_at(self, x: Array, point: Point) -> Callable[[Array], Array]:
        """p ↦ ∇²f p."""
        return jax.linearize(jax.grad(self.fn), x)[1]

    def slope_unit(self, point: Point) -> Scalar:
        return jnp.ones_like(point.cost)

    def cost(self, x: Array) -> Scalar:
        return self.fn(x)


Objective = SumOfSquares | Smooth
