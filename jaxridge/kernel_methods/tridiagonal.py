"""A kernel matrix in tridiagonal form, after which each λ costs O(n); and the same in float32, refined."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxridge.core.numbers import exponent, matmul, poison, power_of_two, safe_divide
from jaxridge.core.types import Array, Bool, Float, Scalar
from jaxridge.kernel_methods.factor import Factor
from jaxridge.kernel_methods.form import KernelForm, rounding, tolerance
from jaxridge.linalg import conjugate_gradients
from jaxridge.linalg.tridiagonal import Reflections, reflections, rotate
from jaxridge.linalg.tridiagonal import tridiagonal as tridiagonal_form


class TridiagonalFactor(Factor):
    """K̃ = QTQᵀ with T tridiagonal: a third to a half of an eigendecomposition, then O(n) for each λ.

    No leverages: the diagonal of G would cost as much as the eigenvectors that this saves.
    """

    Q: Reflections
    d: Float[Array, " p"]
    off: Float[Array, " p"]  # below the diagonal, off[0] = 0
    floor: Scalar
    definite: Bool[Array, ""]
    singular: Bool[Array, " c"]

    has_diagonal: ClassVar[bool] = False

    def coordinates(self, form: KernelForm, b: Array) -> Array:
        return rotate(self.Q, form.lower(b), transpose=True)

    def back(self, form: KernelForm, z: Array) -> Array:
        return form.lift(rotate(self.Q, z, transpose=False))

    def times(self, z: Array) -> Array:
        below = self.off[:, None] * jnp.roll(z, 1, axis=0)
        above = jnp.roll(self.off[:, None] * z, -1, axis=0)
        return self.d[:, None] * z + below + above

    def within(self, mu: Array, z: Array) -> Array:
        return _substitute(self.off, self.pivots(self.held(mu)), z)

    def damped_squares(self, mu: Array, z: Array) -> Array:
        """Summed on the way, which saves a third of the time of many targets."""
        held = self.held(mu)
        squares = jnp.square(held) * _squares(self.off, self.pivots(held), z)
        return jnp.where(jnp.isinf(mu), jnp.sum(jnp.square(z), axis=0), squares)

    def inverse(self, mu: Float[Array, " c"], b: Float[Array, "p t"]) -> Float[Array, "p t"]:
        """Gb on the complement of u."""
        return rotate(self.Q, self.within(mu, rotate(self.Q, b, transpose=True)), transpose=False)

    def pivots(self, mu: Float[Array, " c"]) -> Float[Array, "p c"]:
        """Those of T + μ, from above."""
        return _pivots(self.d, self.off, mu)

    def kept_sum(self, form: KernelForm, mu: Array) -> Array:
        """By the pivots from above and from below: (T + μ)⁻¹ has the diagonal 1/(δᵢ + ρᵢ − dᵢ − μ)."""
        mu = self.held(mu)
        above = self.pivots(mu)
        below = _pivots(self.d[::-1], jnp.roll(self.off, -1)[::-1], mu)[::-1]
        return jnp.sum(mu[None, :] / (above + below - (self.d[:, None] + mu[None, :])), axis=0)

    def logdet(self, form: KernelForm, mu: Array) -> Array:
        return jnp.sum(jnp.log(self.pivots(self.held(mu)) / self.held(mu)[None, :]), axis=0)


def _pivots(d: Float[Array, " p"], off: Float[Array, " p"], mu: Float[Array, " c"]) -> Float[Array, "p c"]:
    """δᵢ = dᵢ + μ − offᵢ²/δᵢ₋₁ of the LDLᵀ factorisation of T + μ."""

    def step(last: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        pivot = row[0] + mu - safe_divide(jnp.broadcast_to(jnp.square(row[1]), mu.shape), last)
        return pivot, pivot

    return jax.lax.scan(step, jnp.ones_like(mu), (d, off))[1]


def _eliminated(off: Array, pivots: Float[Array, "p c"], z: Float[Array, "p t"]) -> tuple[Array, Array, Array]:
    """L⁻¹z of LDLᵀ = T + μ by substitution, the entries of Lᵀ behind the diagonal, and a row of zeros to start from.

    T + μ is positive definite and needs no interchanges. By hand because jaxlib 0.10 runs two batches of
    ``tridiagonal_solve`` at a time into a deadlock on two threads.
    """
    edge, start = jnp.ones((1, pivots.shape[1]), z.dtype), jnp.zeros(max(pivots.shape[1], z.shape[1]), z.dtype)
    multiplier = off[:, None] / jnp.concatenate([edge, pivots[:-1]])

    def down(last: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        w = row[0] - row[1] * last
        return w, w

    w = jax.lax.scan(down, start, (z, multiplier), unroll=4)[1]
    return w, jnp.concatenate([multiplier[1:], 0.0 * edge]), start


def _substitute(off: Float[Array, " p"], pivots: Float[Array, "p c"], z: Float[Array, "p t"]) -> Float[Array, "p t"]:
    """x of (T + μ)x = z."""
    w, behind, start = _eliminated(off, pivots, z)

    def up(last: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        x = row[0] - row[1] * last
        return x, x

    return jax.lax.scan(up, start, (w / pivots, behind), reverse=True, unroll=4)[1]


def _squares(off: Float[Array, " p"], pivots: Float[Array, "p c"], z: Float[Array, "p t"]) -> Float[Array, " t"]:
    """‖x‖² of (T + μ)x = z, without x."""
    w, behind, start = _eliminated(off, pivots, z)

    def up(carry: tuple[Array, Array], row: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
        x = row[0] / row[1] - row[2] * carry[0]
        return (x, carry[1] + jnp.square(x)), None

    return jax.lax.scan(up, (start, start), (w, pivots, behind), reverse=True, unroll=4)[0][1]


def tridiagonal(form: KernelForm, K: Float[Array, "p p"]) -> TridiagonalFactor:
    """One tridiagonalisation, (4/3)n³ flops, half of them bound by memory."""
    packed, d, off, taus = tridiagonal_form(K)
    off = jnp.concatenate([jnp.zeros(1, d.dtype), off])
    largest = jnp.max(jnp.abs(d) + jnp.abs(off) + jnp.abs(jnp.roll(off, -1)), initial=0.0)
    floor = rounding(K, largest)
    # The signs of the pivots count the eigenvalues below a shift (Sylvester's law of inertia).
    far = -tolerance(K) * jnp.maximum(largest, 1.0)
    below = jnp.sum(_pivots(d, off, -jnp.stack([far, floor])) < 0, axis=0)
    definite = below[0] == 0
    return TridiagonalFactor(
        Q=reflections(packed, taus),
        d=poison(d, definite),
        off=off,
        floor=floor,
        definite=definite,
        singular=below[1:] > 0,
    )


class MixedFactor(Factor):
    """A tridiagonal form in float32, which preconditions conjugate gradients on K̃ in float64.

    Coefficients and residuals are those of float64; degrees of freedom and determinants those of float32.
    """

    K: Float[Array, "p p"]
    coarse: TridiagonalFactor
    floor: Scalar
    definite: Bool[Array, ""]
    singular: Bool[Array, " c"]

    has_diagonal: ClassVar[bool] = False

    def times(self, z: Array) -> Array:
        return matmul(self.K, z)

    def within(self, mu: Array, z: Array) -> Array:
        g, mu = z, self.held(mu)
        lams = jnp.broadcast_to(mu, g.shape[1:])

        def precondition(lams: Array) -> conjugate_gradients.Block:
            coarse = (mu if mu.shape[0] == 1 else lams).astype(jnp.float32)

            def apply(R: Array) -> Array:
                # In units of its own, since float32 cannot hold every float64.
                unit = power_of_two(exponent(jnp.max(jnp.abs(R), axis=0, initial=0.0)), R.dtype)[None, :]
                return unit * self.coarse.inverse(coarse, (R / unit).astype(jnp.float32)).astype(R.dtype)

            return apply

        tol = jnp.asarray(8.0 * math.sqrt(g.shape[0]) * float(jnp.finfo(g.dtype).eps), g.dtype)
        return conjugate_gradients.run(g, lams, lambda V: matmul(self.K, V), precondition, tol, _REFINEMENTS)[0]

    def kept_sum(self, form: KernelForm, mu: Array) -> Array:
        return self.coarse.kept_sum(form, mu.astype(jnp.float32)).astype(mu.dtype)

    def logdet(self, form: KernelForm, mu: Array) -> Array:
        return self.coarse.logdet(form, mu.astype(jnp.float32)).astype(mu.dtype)


# Above the floor of float32 the coarse factor leaves a condition number of a few: about ten steps, twice that at most.
_REFINEMENTS = 40


def mixed(form: KernelForm, K: Float[Array, "p p"]) -> MixedFactor:
    """One tridiagonalisation in float32."""
    if K.dtype != jnp.float64:
        raise ValueError(f"Mixed got {K.dtype}; it refines to float64, so pass that, with x64 on.")
    coarse = tridiagonal(form, K.astype(jnp.float32))
    floor = coarse.floor.astype(K.dtype)
    return MixedFactor(K=K, coarse=coarse, floor=floor, definite=coarse.definite, singular=coarse.singular)
