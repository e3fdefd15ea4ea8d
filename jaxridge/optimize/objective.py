"""What is minimised, as a function of one flat vector: its value, its quadratic model, and how much a step gains.

SumOfSquares   F(x) = ½ (Σ ρ(rᵢ(x)²) + λ‖x − x_ref‖²)
Smooth         F(x) = f(x)

Squares of residuals leave the range of a dtype long before the residuals do. So residuals are held over 2ᵉ, with an
exponent e of the point, and columns of J over 2^cⱼ; a step q of the model in these units is x + unit·q with
unitⱼ = 2^(e − cⱼ). Powers of two round nothing. A robust loss fixes the unit of residuals: there e = 0.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core.numbers import exponent, matmul, power_of_two
from jaxridge.core.types import Array, Bool, Float, Int, Scalar
from jaxridge.optimize.losses import Loss, linear
from jaxridge.optimize.small import added, gram_of, greatest, total, totals
from jaxridge.optimize.steps import SMALL, Dense, Matrix, Small, Triangle

Flat = Callable[[Array], Array]
# A model as a loop carries it: one that is made of products is its gradient alone.
Stored = Matrix | Array


class Point(eqx.Module):
    """What one evaluation gives, in units of 2ᵉ."""

    values: Array  # residuals over 2ᵉ, or f itself
    cost: Scalar  # F over 4ᵉ
    exponent: Int[Array, ""]


class Compared(NamedTuple):
    """Another point in the units of this one, how much is gained there, and whether its values are finite."""

    there: Point
    gain: Scalar
    finite: Bool[Array, ""]


class Rounding(eqx.Module):
    """What rounding does to a cost: how much of a gain it may hide, and the cost of residuals that are nothing else."""

    gain: Scalar
    floor: Scalar


class Local(eqx.Module):
    """The quadratic model at a point, in steps q that lead to x + unit·q."""

    stored: Stored
    unit: Float[Array, " n"]
    noise: Rounding

    @property
    def gradient(self) -> Float[Array, " n"]:
        return self.stored.gradient if isinstance(self.stored, Matrix) else self.stored


class Linear(eqx.Module):
    """J and r as least squares sees them, in units."""

    J: Float[Array, "m n"]
    r: Float[Array, " m"]
    unit: Float[Array, " n"]
    noise: Rounding


def qr(objective: "SumOfSquares", x: Array, point: Point) -> Local:
    """QR of [J; √λ I]: the linear step to the condition of J. The default."""
    here = objective.linearise(x, point)
    stacked = jnp.concatenate([here.J, here.r[:, None]], axis=1)
    n = x.shape[0]
    if objective.lam is not None:
        below = jnp.concatenate(
            [jnp.diag(objective.root(point) * here.unit), objective.pull(x, point)[:, None]], axis=1
        )
        stacked = jnp.concatenate([stacked, below])
    S = jnp.linalg.qr(stacked, mode="r")
    return Local(Triangle.of(S[:n]), here.unit, here.noise)


def cholesky(objective: "SumOfSquares", x: Array, point: Point) -> Local:
    """The normal equations JᵀJ + λI: several times faster than `qr` for many residuals, the condition squared."""
    if objective.small(x):
        return _small_cholesky(objective, x, point)
    here = objective.linearise(x, point)
    H, g = matmul(here.J.T, here.J), matmul(here.J.T, here.r)
    if objective.lam is not None:
        root = objective.root(point) * here.unit
        H, g = H + jnp.diag(jnp.square(root)), g + root * objective.pull(x, point)
    return Local(Dense(H, g), here.unit, here.noise)


def _small_cholesky(objective: "SumOfSquares", x: Array, point: Point) -> Local:
    """The same, number by number."""
    *columns, r = objective.linearise_small(x, point)
    # Not of what the weights make of an outlier.
    own = total(objective.weights(point.values)[1] * jnp.square(point.values))
    c = exponent(jnp.stack([greatest(jnp.abs(column)) for column in columns]))
    down, unit = power_of_two(-c, x.dtype), power_of_two(point.exponent - c, x.dtype)
    columns = [column * down[j] for j, column in enumerate(columns)]

    *H, g = gram_of([*columns, r])
    squared, diagonal = g.pop(), [row[-1] for row in H]
    squared = squared if objective.loss is linear else own
    # By Cauchy and Schwarz from the sums at hand.
    size = added([jnp.sqrt(squared), *(jnp.abs(x[j]) * (jnp.sqrt(h) / unit[j]) for j, h in enumerate(diagonal))])
    rounding = jnp.finfo(x.dtype).eps * size
    noise = Rounding(rounding * (jnp.sqrt(squared) + rounding), 0.5 * jnp.square(rounding))
    if objective.lam is not None:
        root, pull = objective.root(point) * unit, objective.pull(x, point)
        H = [[*row[:-1], row[-1] + root[j] * root[j]] for j, row in enumerate(H)]
        g = [g[j] + root[j] * pull[j] for j in range(len(g))]
    return Local(Small(tuple(map(tuple, H)), tuple(g)), unit, noise)


def products(objective: "SumOfSquares", x: Array, point: Point) -> Local:
    """Products Jv and Jᵀu by automatic differentiation, for conjugate gradients: never a matrix."""
    e = point.exponent
    return Local(jax.grad(lambda x: objective.evaluate(x, e).cost)(x), jnp.ones_like(x), _of_cost(point))


def _of_cost(point: Point) -> Rounding:
    """Where the sizes of what was subtracted are not known."""
    return Rounding(jnp.finfo(point.cost.dtype).eps * jnp.abs(point.cost), jnp.zeros_like(point.cost))


def _floor(slope: Array) -> Array:
    """The least second derivative that a loss counts with."""
    return jnp.maximum(0.01 * slope, jnp.finfo(slope.dtype).eps)


class SumOfSquares(eqx.Module):
    """½ (Σ ρ(rᵢ²) + λ‖x − x_ref‖²)."""

    residual: Flat
    lam: Scalar | None  # None for the number 0, so that nothing is added up
    x_ref: Float[Array, " n"]
    axes: Float[Array, " n"] | None  # what a penalised variable is multiplied by; None for 1
    loss: Loss = eqx.field(static=True)
    linear: Callable[..., Local] = eqx.field(static=True)
    jacobian: Callable[[Flat], Flat] | None = eqx.field(static=True)

    def evaluate(self, x: Float[Array, " n"], e: Int[Array, ""]) -> Point:
        r = self._residual(x, e)
        return Point(r, self._cost(r, x, e), e)

    def _residual(self, x: Array, e: Int[Array, ""]) -> Array:
        r = self.residual(x)
        return r * power_of_two(-e, r.dtype)

    def rescaled(self, x: Float[Array, " n"], point: Point) -> Point:
        """The same point in units of its own residuals."""
        if self.loss is not linear:
            return point
        size = greatest(jnp.abs(point.values))
        if self.lam is not None:
            size = jnp.maximum(size, greatest(jnp.abs(self.pull(x, point))))
        limit = jnp.finfo(x.dtype).maxexp - 4
        e = jnp.clip(point.exponent + exponent(size), -limit, limit)
        r = point.values * power_of_two(point.exponent - e, x.dtype)
        return Point(r, self._cost(r, x, e), e)

    def root(self, point: Point) -> Float[Array, " n"]:
        """√λ of each variable, in units of a point."""
        assert self.lam is not None
        return jnp.sqrt(self.lam) * self._axes() * power_of_two(-point.exponent, self.lam.dtype)

    def pull(self, x: Array, point: Point) -> Float[Array, " n"]:
        """√λ (x − x_ref) in units of a point."""
        return self.root(point) * (x - self.x_ref)

    def _axes(self) -> Float[Array, " n"]:
        return jnp.ones_like(self.x_ref) if self.axes is None else self.axes

    def _cost(self, r: Array, x: Array, e: Int[Array, ""]) -> Scalar:
        return total(0.5 * self.loss(jnp.square(r))) + self._penalty(x, e)

    def _penalty(self, x: Array, e: Int[Array, ""]) -> Scalar | float:
        """½λ‖x − x_ref‖² over 4ᵉ."""
        if self.lam is None:
            return 0.0
        return 0.5 * self.lam * total(jnp.square((x - self.x_ref) * (self._axes() * power_of_two(-e, x.dtype))))

    def compare(self, x: Array, to: Array, here: Point) -> Compared:
        """F(x) − F(to) from differences of residuals, not of their sums of squares."""
        e, loss = here.exponent, self.loss
        r = self._residual(to, e)
        more = (r - here.values) * (r + here.values)
        if loss is not linear:
            more = loss(jnp.square(r)) - loss(jnp.square(here.values))
        # 0 times what is not finite is NaN.
        cost, gain, zero = totals(0.5 * loss(jnp.square(r)), -0.5 * more, 0.0 * r)
        if self.lam is not None:
            root, p = self.root(here), to - x
            gain = gain - 0.5 * total((root * p) * (root * (2.0 * (x - self.x_ref) + p)))
        return Compared(Point(r, cost + self._penalty(to, e), e), gain, zero == 0)

    def weights(self, r: Array) -> tuple[Array, Array]:
        """Roots of the second derivatives ρ' + 2ρ''r² in r, held above a hundredth of ρ', and ρ'.

        Triggs et al. (2000) hold them positive; so low a floor leaves steps as they are.
        """
        if self.loss is linear:
            return jnp.ones_like(r), jnp.ones_like(r)
        curved, first = self._bends(r)
        return jnp.sqrt(jnp.maximum(curved, _floor(first))), first

    def _bends(self, r: Array) -> tuple[Array, Array]:
        """ρ' + 2ρ''r² and ρ'."""
        one, z = jnp.ones_like(r), jnp.square(r)
        slope = lambda z: jax.jvp(self.loss, (z,), (one,))[1]  # noqa: E731
        first, second = jax.jvp(slope, (z,), (one,))
        return first + 2.0 * second * z, first

    def linearise(self, x: Array, point: Point) -> Linear:
        """J and r as least squares sees them, and what rounding of the residuals does to the cost."""
        J, r = self.jacobian_at(x), point.values
        down = power_of_two(-point.exponent, x.dtype)
        # A residual is a difference of numbers of about the size of |J||x|.
        rounding = jnp.finfo(x.dtype).eps * (jnp.abs(r) + matmul(jnp.abs(J), jnp.abs(x)) * down)
        root, outer = self.weights(r)
        noise = Rounding(*totals(outer * rounding * (jnp.abs(r) + rounding), 0.5 * outer * jnp.square(rounding)))
        if self.loss is not linear:
            J, r = root[:, None] * J, r * outer / root
        largest = jnp.max(jnp.abs(J), axis=0)
        if self.lam is not None:
            largest = jnp.maximum(largest, jnp.sqrt(self.lam) * self._axes())
        c = exponent(largest)
        unit = power_of_two(point.exponent - c, x.dtype)
        return Linear(J * power_of_two(-c, x.dtype)[None, :], r, unit, noise)

    def linearise_small(self, x: Array, point: Point) -> list[Array]:
        """J and r column by column: what one parameter does not touch stays zero and falls away."""
        columns = [jax.jvp(self.residual, (x,), (e,))[1] for e in np.eye(x.shape[0], dtype=x.dtype)]
        if self.loss is linear:
            return [*columns, point.values]
        root, outer = self.weights(point.values)
        return [*(root * column for column in columns), point.values * outer / root]

    def small(self, x: Array) -> bool:
        """Whether `linearise_small` is the better way."""
        return self.jacobian is None and x.shape[0] <= SMALL

    def bend(self, x: Array, p: Array, point: Point) -> tuple[Float[Array, " n"], Scalar]:
        """Jᵀ d²r/dt² along x + tp, over 2ᵉ, which the second-order part of a step has to balance; and what the
        curvature of F along p, over 4ᵉ, has beyond that of the model."""
        along = lambda x: jax.jvp(self.residual, (x,), (p,))[1]  # noqa: E731
        _, backward = jax.vjp(self.residual, x)
        slope, second = jax.jvp(along, (x,), (p,))
        down = power_of_two(-point.exponent, x.dtype)
        outer, lost = self._beyond(point.values)
        pull = outer * (second * down)
        beyond = total(point.values * pull)
        if lost is not None:
            beyond = beyond + total(lost * jnp.square(slope * down))
        return backward(pull)[0], beyond

    def _beyond(self, r: Array) -> tuple[Array, Array | None]:
        """ρ', and what `weights` held positive."""
        if self.loss is linear:
            return jnp.ones_like(r), None
        curved, outer = self._bends(r)
        return outer, jnp.minimum(curved - _floor(outer), 0.0)

    def second_order(self, x: Array, point: Point, unit: Array) -> Float[Array, "n n"]:
        """What the Hessian has beyond the model, Σ ρ' rᵢ∇²rᵢ and what `weights` held positive, in steps q."""
        r, down = point.values, power_of_two(-point.exponent, x.dtype)
        outer, lost = self._beyond(r)

        def rest(q: Array) -> Scalar:
            moved = self.residual(x + unit * q) * down
            value = jnp.sum(outer * r * moved)
            return value if lost is None else value + 0.5 * jnp.sum(lost * jnp.square(moved - r))

        return jax.jacfwd(jax.grad(rest))(jnp.zeros_like(x))

    def jacobian_at(self, x: Array) -> Float[Array, "m n"]:
        """Forward mode unless there are fewer residuals than parameters, or as the user says."""
        if self.jacobian is not None:
            return self.jacobian(self.residual)(x)
        rows, n = jax.eval_shape(self.residual, x).shape[0], x.shape[0]
        return (jax.jacrev if rows < n else jax.jacfwd)(self.residual)(x)

    def model(self, x: Array, point: Point) -> Local:
        return self.linear(self, x, point)

    def product_at(self, x: Array, point: Point) -> Callable[[Array], Array]:
        """p ↦ (JᵀJ + λ)p over 4ᵉ."""
        _, forward = jax.linearize(self.residual, x)
        backward = jax.linear_transpose(forward, x)
        root, _ = self.weights(point.values)
        down = power_of_two(-point.exponent, x.dtype)

        def product(p: Array) -> Array:
            Hp = backward(jnp.square(root * down) * forward(p))[0]
            return Hp if self.lam is None else Hp + jnp.square(self.root(point)) * p

        return product

    def slope_unit(self, point: Point) -> Scalar:
        """‖r‖², so that a slope g/(d‖r‖) is a cosine."""
        return jnp.where(point.cost > 0, 2.0 * point.cost, 1.0)

    def cost(self, x: Array) -> Scalar:
        """F(x), for derivatives."""
        return self._cost(self.residual(x), x, jnp.zeros((), jnp.int32))

    def around(self, x: Array, unit: Array, e: Int[Array, ""]) -> "SumOfSquares":
        """q ↦ F(x + unit·q) over 4ᵉ, for derivatives."""
        down = power_of_two(-e, x.dtype)
        residual = lambda q: self.residual(x + unit * q) * down  # noqa: E731
        axes = self._axes() * unit * down
        return dataclasses.replace(self, residual=residual, x_ref=(self.x_ref - x) / unit, axes=axes)


class Smooth(eqx.Module):
    """Any twice differentiable f."""

    fn: Flat
    dense: bool = eqx.field(static=True)

    def evaluate(self, x: Float[Array, " n"], e: Int[Array, ""]) -> Point:
        value = self.fn(x)
        return Point(value, value, e)

    def rescaled(self, x: Float[Array, " n"], point: Point) -> Point:
        return point

    def compare(self, x: Array, to: Array, here: Point) -> Compared:
        there = self.evaluate(to, here.exponent)
        return Compared(there, here.cost - there.cost, jnp.isfinite(there.cost))

    def model(self, x: Array, point: Point) -> Local:
        gradient = jax.grad(self.fn)
        stored = Dense(jax.jacfwd(gradient)(x), gradient(x)).as_small() if self.dense else gradient(x)
        return Local(stored, jnp.ones_like(x), _of_cost(point))

    def product_at(self, x: Array, point: Point) -> Callable[[Array], Array]:
        """p ↦ ∇²f p."""
        return jax.linearize(jax.grad(self.fn), x)[1]

    def cost(self, x: Array) -> Scalar:
        return self.fn(x)

    def around(self, x: Array, unit: Array, e: Int[Array, ""]) -> "Smooth":
        return Smooth(lambda q: self.fn(x + unit * q), self.dense)


Objective = SumOfSquares | Smooth
