"""Factors of a kernel matrix: each applies G = (K̃ + μ)⁻¹, and that is all. Here by eigenvectors and by Cholesky.

They are frozen, and never differentiated; `jaxridge.kernel_methods.spectrum` has the live equations.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from jaxridge.core.numbers import matmul, poison, safe_divide
from jaxridge.core.types import Array, Bool, Float, Scalar
from jaxridge.kernel_methods.form import KernelDesign, KernelForm, kernel_form, rounding, tolerance


class Factor(eqx.Module):
    """How a factorisation applies G = (K̃ + μ)⁻¹. The formulas here hold for μ > 0; `EigenFactor` has those for 0 too.

    Vectors of rows have coordinates z in which G is simple; the way there and back, which costs n² for each of them,
    does not depend on μ.
    """

    floor: eqx.AbstractVar[Scalar]
    definite: eqx.AbstractVar[Bool[Array, ""]]
    singular: eqx.AbstractVar[Bool[Array, " c"]]  # whether something of K̃ is below the floor

    has_diagonal: ClassVar[bool] = True  # whether the diagonal of G is to be had

    def coordinates(self, form: KernelForm, b: Float[Array, "n t"]) -> Float[Array, "p t"]:
        """z of a b; orthonormal, but for the part of b along u."""
        return form.lower(b)

    def back(self, form: KernelForm, z: Float[Array, "p t"]) -> Float[Array, "n t"]:
        """b of a z."""
        return form.lift(z)

    def within(self, mu: Float[Array, " c"], z: Float[Array, "p t"]) -> Float[Array, "p t"]:
        """G in these coordinates."""
        raise NotImplementedError

    def times(self, z: Float[Array, "p t"]) -> Float[Array, "p t"]:
        """K̃ in these coordinates."""
        raise NotImplementedError

    def fitted(self, mu: Float[Array, " c"], z: Float[Array, "p t"]) -> Float[Array, "p t"]:
        """K̃G in these coordinates: as I − μG where that does not cancel, so that what K̃ does not see is 0."""
        small = (mu < 1.0)[None, :]
        return jnp.where(small, z - self.damped(mu, z), self.times(self.within(mu, z)))

    def solve(self, form: KernelForm, mu: Float[Array, " c"], b: Float[Array, "n t"]) -> Float[Array, "n t"]:
        """Gb."""
        return self.back(form, self.within(mu, self.coordinates(form, b)))

    def matrix(self, form: KernelForm, mu: Float[Array, "1"]) -> Float[Array, "n n"]:
        """G itself, back in all rows."""
        n = form.root.shape[0]
        return self.solve(form, mu, jnp.eye(n, dtype=mu.dtype))

    def kept_sum(self, form: KernelForm, mu: Float[Array, " c"]) -> Float[Array, " c"]:
        """μ tr G."""
        raise NotImplementedError

    def logdet(self, form: KernelForm, mu: Float[Array, " c"]) -> Float[Array, " c"]:
        """log det(I + K̃/μ)."""
        raise NotImplementedError

    def diagonal(self, form: KernelForm, mu: Float[Array, " c"]) -> Float[Array, "n c"]:
        """Gᵢᵢ."""
        raise NotImplementedError

    def damped(self, mu: Float[Array, " c"], z: Float[Array, "p t"]) -> Float[Array, "p t"]:
        """μG in these coordinates, for the μ that is solved."""
        infinite = jnp.isinf(mu)[None, :]
        return jnp.where(infinite, z, jnp.where(infinite, 0.0, self.held(mu)[None, :]) * self.within(mu, z))

    def damped_squares(self, mu: Float[Array, " c"], z: Float[Array, "p t"]) -> Float[Array, " t"]:
        """‖μGz‖²."""
        return jnp.sum(jnp.square(self.damped(mu, z)), axis=0)

    def damped_diagonal(self, form: KernelForm, mu: Float[Array, " c"]) -> Float[Array, "n c"]:
        """μGᵢᵢ."""
        return self.held(mu)[None, :] * self.diagonal(form, mu)

    def loo(self, form: KernelForm, mu: Float[Array, " c"], z: Float[Array, "p t"]) -> Float[Array, "n t"]:
        """(Gb)ᵢ/Gᵢᵢ."""
        numerator = self.back(form, self.within(mu, z))
        return safe_divide(numerator, jnp.broadcast_to(self.diagonal(form, mu), numerator.shape))

    def effective(self, form: KernelForm, mu: Float[Array, " c"]) -> Float[Array, " c"]:
        """tr K̃G."""
        return form.y.shape[0] - self.kept_sum(form, mu)

    def held(self, mu: Float[Array, " c"]) -> Float[Array, " c"]:
        """μ, finite where K̃ is nothing beside it; where K̃ is singular no smaller than what this dtype tells from 0."""
        infinite = jnp.where(self.floor > 0, self.floor, 1.0) / jnp.finfo(mu.dtype).eps ** 2
        return jnp.where(self.singular & (mu < self.floor), self.floor, jnp.minimum(mu, infinite))


class EigenFactor(Factor):
    """K̃ = U diag(e) Uᵀ, with U back in all rows: every quantity there is, for any number of λ."""

    U: Float[Array, "n p"]
    e: Float[Array, " p"]  # 0 below rounding
    floor: Scalar
    definite: Bool[Array, ""]
    singular: Bool[Array, " c"]

    def seen(self, mu: Float[Array, " c"]) -> Float[Array, "p c"]:
        """1/(e + μ); 0 for a direction that neither e nor a resolved μ sees, for a solution of minimum norm."""
        e, mu = self.e[:, None], mu[None, :]
        return jnp.where((e == 0) & (mu < self.floor), 0.0, safe_divide(jnp.ones_like(e + mu), e + mu))

    def coordinates(self, form: KernelForm, b: Array) -> Array:
        return matmul(self.U.T, b)

    def back(self, form: KernelForm, z: Array) -> Array:
        return matmul(self.U, z)

    def fitted(self, mu: Array, z: Array) -> Array:
        return self.e[:, None] * self.within(mu, z)

    def within(self, mu: Array, z: Array) -> Array:
        return self.seen(mu) * z

    def matrix(self, form: KernelForm, mu: Array) -> Array:
        return matmul(self.U * self.seen(mu).T, self.U.T)

    def kept(self, mu: Float[Array, " c"], least: Any = 0.0) -> Float[Array, "p c"]:
        """(least + μ)/(e + μ): 1 − f for least = 0; 1 where neither e nor μ is anything, and for infinite μ."""
        e, infinite = self.e[:, None], jnp.isinf(mu)[None, :]
        mu = jnp.where(infinite, 0.0, mu[None, :])
        unseen = (e + mu == 0) | infinite
        return jnp.where(unseen, 1.0, (least + mu) / jnp.where(unseen, 1.0, e + mu))

    def damped(self, mu: Array, z: Array) -> Array:
        return self.kept(mu) * z

    def diagonal(self, form: KernelForm, mu: Array) -> Array:
        return matmul(jnp.square(self.U), self.seen(mu))

    def damped_diagonal(self, form: KernelForm, mu: Array) -> Array:
        return matmul(jnp.square(self.U), self.kept(mu))

    def loo(self, form: KernelForm, mu: Array, z: Array) -> Array:
        """Both times e_min + μ, which leaves them as good at μ = 0 as anywhere."""
        kept = self.kept(mu, jnp.min(self.e, initial=jnp.inf))
        numerator = matmul(self.U, kept * z)
        return safe_divide(numerator, jnp.broadcast_to(matmul(jnp.square(self.U), kept), numerator.shape))

    def effective(self, form: KernelForm, mu: Array) -> Array:
        e = jnp.broadcast_to(self.e[:, None], (self.e.shape[0], mu.shape[0]))
        return jnp.sum(safe_divide(e, e + mu[None, :]), axis=0)

    def kept_sum(self, form: KernelForm, mu: Array) -> Array:
        return jnp.sum(self.kept(mu), axis=0)

    def logdet(self, form: KernelForm, mu: Array) -> Array:
        e, mu = self.e[:, None], mu[None, :]
        return jnp.sum(jnp.log1p(jnp.where((e == 0) & (mu == 0), 0.0, e / mu)), axis=0)


def eigen(form: KernelForm, K: Float[Array, "p p"]) -> EigenFactor:
    """One eigendecomposition, 9n³ flops and more."""
    e, U = jnp.linalg.eigh(K, symmetrize_input=False)
    largest = jnp.max(jnp.abs(e), initial=0.0)
    floor = rounding(K, largest)
    definite = jnp.min(e, initial=0.0) >= -tolerance(K) * jnp.maximum(largest, 1.0)
    e = poison(jnp.where(e > floor, e, jnp.where(jnp.isnan(e), e, 0.0)), definite)
    return EigenFactor(form.lift(U), e, floor, definite, jnp.min(e, initial=jnp.inf)[None] <= 0)


class CholeskyFactor(Factor):
    """K̃ + μ factored anew at each μ, one after another also under ``vmap``: a tenth of an eigendecomposition each."""

    K: Float[Array, "p p"]
    floor: Scalar
    definite: Bool[Array, ""]
    singular: Bool[Array, " c"]

    def times(self, z: Array) -> Array:
        return matmul(self.K, z)

    def over(self, form: KernelForm | None, mu: Float[Array, " c"], of: Any, *with_each: Array) -> Array:
        """``of(form, L, μ, ...)`` with LLᵀ = K̃ + μ for each μ."""

        @jax.custom_batching.sequential_vmap
        def one(K: Array, form: KernelForm | None, mu: Array, *args: Array) -> Array:
            K = K + mu * jnp.eye(K.shape[0], dtype=mu.dtype)
            return of(form, jnp.linalg.cholesky(K, symmetrize_input=False), mu, *args)

        each = (self.held(mu), *with_each)
        if mu.shape[0] == 1:
            return one(self.K, form, *(x[0] for x in each))[None]
        return jax.vmap(one, (None, None, *(0 for _ in each)))(self.K, form, *each)

    def within(self, mu: Array, z: Array) -> Array:
        columns = z[None] if mu.shape[0] == 1 else z.T[:, :, None]
        x = self.over(None, mu, lambda form, L, mu, b: cho_solve((L, True), b), columns)
        return x[0] if mu.shape[0] == 1 else x[:, :, 0].T

    def matrix(self, form: KernelForm, mu: Array) -> Array:
        def one(form: KernelForm, L: Array, mu: Array) -> Array:
            return form.lift(form.lift(cho_solve((L, True), jnp.eye(L.shape[0], dtype=mu.dtype))).T)

        return self.over(form, mu, one)[0]

    def diagonal(self, form: KernelForm, mu: Array) -> Array:
        def one(form: KernelForm, L: Array, mu: Array) -> Array:
            half = jax.scipy.linalg.solve_triangular(L, jnp.eye(L.shape[0], dtype=mu.dtype), lower=True)
            return jnp.sum(jnp.square(form.lift(half.T)), axis=1)

        return self.over(form, mu, one).T

    def kept_sum(self, form: KernelForm, mu: Array) -> Array:
        return jnp.sum(self.damped_diagonal(form, self.held(mu)), axis=0)

    def logdet(self, form: KernelForm, mu: Array) -> Array:
        return self.over(form, mu, lambda form, L, mu: jnp.sum(2.0 * jnp.log(jnp.diagonal(L)) - jnp.log(mu)))


def cholesky(form: KernelForm, K: Float[Array, "p p"]) -> CholeskyFactor:
    """Nothing yet: at each λ n³/3 flops, and n³ for leverages or degrees of freedom."""
    size = jnp.max(jnp.sum(jnp.abs(K), axis=0), initial=0.0)
    return CholeskyFactor(K, rounding(K, size), jnp.array(True), jnp.array([True]))


def factor_of(
    decompose: Callable[[KernelForm, Array], Factor], design: KernelDesign
) -> tuple[KernelForm, Factor, Float[Array, "p t"]]:
    """The form of a problem, its frozen factor, and ỹ in the coordinates of that."""
    form, reduced = kernel_form(design)
    # One point and an intercept leave nothing, of which LAPACK has no other form.
    factor = jax.lax.stop_gradient((decompose if reduced.shape[0] else eigen)(form, reduced))
    return form, factor, factor.coordinates(form, form.lift(form.y))
