"""Kernel ridge in the space of its n points: every λ from one decomposition of the kernel matrix.

The problem is   min over α, b of   Σᵢ ωᵢ (yᵢ − (Kα)ᵢ − b)² + λ αᵀKα.   With γ = α/√ω and u = √ω/‖√ω‖ it is

    (K̃ + λI) γ = √ω y   on the complement of u,        K̃ = √ωK√ω there,

so a Householder reflection that sends u to the first coordinate, whose row and column then drop out, leaves an
ordinary positive semidefinite K̃. For G = (K̃ + λI)⁻¹, back in all n coordinates, the matrix A = √ωG√ω says it all:

    α = Ay,      r = λα/ω,      1 − hᵢ = λAᵢᵢ/ωᵢ,      leave-one-out residual αᵢ/Aᵢᵢ,      posterior covariance.

The three factors (eigendecomposition, tridiagonal form, Cholesky) differ in how they apply G, and in nothing else.
They are frozen; derivatives are those of the live equations, to every order, by `_carrier` and `_influence`.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from jaxridge import krylov
from jaxridge._implicit import attach, moves, one_by_one
from jaxridge._numerics import exponent, matmul, poison, power_of_two, safe_divide
from jaxridge._result import RESULTS, first_failure
from jaxridge._types import Array, Bool, Float, Lam, Scalar
from jaxridge.design import Terms, householder, reflect


class KernelDesign(eqx.Module):
    """The live problem: derivatives flow through these arrays and no others."""

    K: Float[Array, "n n"]
    y: Float[Array, "n t"]
    weights: Float[Array, " n"] | None
    terms: Terms = eqx.field(static=True)

    @property
    def free(self) -> int:
        """The number of unpenalised columns: 1 for an intercept."""
        return int(self.terms.intercept)

    def weigh(self, r: Float[Array, "n t"]) -> Float[Array, "n t"]:
        """ω r."""
        return r if self.weights is None else self.weights[:, None] * r

    def rows(self) -> Float[Array, ""] | int:
        """The number of measurements: rows of positive weight."""
        return self.K.shape[0] if self.weights is None else jnp.sum(self.weights > 0, dtype=self.K.dtype)

    def centre(self, r: Float[Array, "n t"]) -> Float[Array, "n t"]:
        """r less its weighted mean, if there is an intercept."""
        return r - self.mean(r)[None, :] if self.terms.intercept else r

    def mean(self, r: Float[Array, "n t"]) -> Float[Array, " t"]:
        """Σωr / Σω."""
        return jnp.mean(r, axis=0) if self.weights is None else matmul(self.weights, r) / jnp.sum(self.weights)


class KernelForm(eqx.Module):
    """ỹ in powers of two of K and ω, and the way back from K̃. Nothing here carries a derivative."""

    y: Float[Array, "p t"]
    root: Float[Array, " n"]  # √ω / 2^e
    reflector: Float[Array, " n"] | None
    across: Float[Array, " n"]  # K̃u before the reflection
    scale: Scalar  # of K
    damping_scale: Scalar  # λ = μ · damping_scale
    finite: Bool[Array, ""]
    finite_y: Bool[Array, " t"]
    symmetric: Bool[Array, ""]
    weights: Bool[Array, ""]

    def lift(self, M: Float[Array, "p m"]) -> Float[Array, "n m"]:
        """From the complement of u back to all rows."""
        if self.reflector is None:
            return M
        return reflect(self.reflector, jnp.concatenate([jnp.zeros((1, M.shape[1]), M.dtype), M]))

    def lower(self, M: Float[Array, "n m"]) -> Float[Array, "p m"]:
        """The part of M in the complement of u."""
        return M if self.reflector is None else reflect(self.reflector, M)[1:]

    def inside(self, M: Float[Array, "n m"]) -> Float[Array, "n m"]:
        """M less its part along u."""
        return self.lift(self.lower(M))

    def u(self) -> Float[Array, " n"]:
        """√ω/‖√ω‖."""
        return self.root / jnp.linalg.norm(self.root)

    def unused(self, of_one: Array) -> Array:
        """What rows of weight zero, of eigenvalue 1, add to a sum over directions."""
        return jnp.sum(self.root == 0, dtype=self.root.dtype) * of_one

    def mu(self, lam: Lam) -> Float[Array, " c"]:
        """λ in units of K̃, NaN where it is negative."""
        lam = jnp.atleast_1d(lam)
        return poison(lam, lam >= 0) / self.damping_scale


def _rounding(K: Float[Array, "p p"], size: Array) -> Array:
    """An eigenvalue below this is rounding: (10 + √n)·eps of the largest one, or of K's entries, of size 1.

    Heuristic, between the n·eps of the bound, which in float32 would give up digits that are there, and eps.
    """
    return (10.0 + math.sqrt(K.shape[0])) * jnp.finfo(K.dtype).eps * jnp.maximum(size, 1.0)


def _tolerance(K: Float[Array, "n n"]) -> float:
    """What a matrix may lack in symmetry and definiteness for want of precision in the kernel itself."""
    return 10.0 * K.shape[0] * float(jnp.finfo(K.dtype).eps)


def _standard_form(design: KernelDesign) -> tuple[KernelForm, Float[Array, "p p"]]:
    """The form and K̃ itself."""
    K, y, weights = jax.lax.stop_gradient((design.K, design.y, design.weights))
    n, dtype = K.shape[0], K.dtype
    root = jnp.ones(n, dtype) if weights is None else jnp.sqrt(weights)
    root_scale = jnp.ones((), dtype) if weights is None else power_of_two(exponent(jnp.max(root)), dtype)
    root = root / root_scale
    size = jnp.max(jnp.abs(K))
    scale = power_of_two(exponent(size), dtype)
    finite, finite_y = jnp.isfinite(size), jnp.all(jnp.isfinite(y), axis=0)
    valid = jnp.all(root >= 0) & jnp.any(root > 0)
    if weights is not None:
        # A row of weight zero takes no part, whatever its target.
        y = jnp.where((root == 0)[:, None] & ~jnp.isfinite(y), 0.0, y)
        finite_y = jnp.all(jnp.isfinite(y), axis=0)
    K = K / scale
    symmetric = jnp.max(jnp.abs(K - K.T)) <= _tolerance(K)
    K = poison(0.5 * (K + K.T), finite & valid & symmetric)
    if weights is not None:
        # A row of weight zero becomes a direction of its own with eigenvalue 1, away from all that is counted.
        K = root[:, None] * K * root[None, :] + jnp.diag((root == 0).astype(dtype))
    u = root / jnp.linalg.norm(root)
    across, reflector, y_reduced = matmul(K, u), None, root[:, None] * y
    if design.terms.intercept:
        reflector = householder(u)
        # (I − vvᵀ)K(I − vvᵀ) by the two outer products that it takes.
        Kv = matmul(K, reflector)
        Kv = Kv - 0.5 * matmul(reflector, Kv) * reflector
        K = (K - reflector[:, None] * Kv[None, :] - Kv[:, None] * reflector[None, :])[1:, 1:]
        y_reduced = reflect(reflector, y_reduced)[1:]
    form = KernelForm(
        y=jnp.where(finite_y[None, :], y_reduced, jnp.nan),
        root=root,
        reflector=reflector,
        across=across,
        scale=scale,
        damping_scale=scale * root_scale * root_scale,
        finite=finite,
        finite_y=finite_y,
        symmetric=symmetric,
        weights=valid,
    )
    return form, K


class Factor(eqx.Module):
    """How a factorisation applies G = (K̃ + μ)⁻¹. The formulas here hold for μ > 0; `Eigen` has those for 0 too."""

    floor: eqx.AbstractVar[Scalar]
    definite: eqx.AbstractVar[Bool[Array, ""]]
    singular: eqx.AbstractVar[Bool[Array, " c"]]  # whether something of K̃ is below the floor

    def solve(self, form: KernelForm, mu: Float[Array, " c"], b: Float[Array, "n t"]) -> Float[Array, "n t"]:
        """Gb."""
        raise NotImplementedError

    def kept_sum(self, form: KernelForm, mu: Float[Array, " c"]) -> Float[Array, " c"]:
        """μ tr G."""
        raise NotImplementedError

    def logdet(self, form: KernelForm, mu: Float[Array, " c"]) -> Float[Array, " c"]:
        """log det(I + K̃/μ)."""
        raise NotImplementedError

    def diagonal(self, form: KernelForm, mu: Float[Array, " c"]) -> Float[Array, "n c"]:
        """Gᵢᵢ."""
        raise NotImplementedError

    def damped(self, form: KernelForm, mu: Float[Array, " c"], b: Float[Array, "n t"]) -> Float[Array, "n t"]:
        """μGb."""
        infinite = jnp.isinf(mu)[None, :]
        return jnp.where(infinite, form.inside(b), jnp.where(infinite, 0.0, mu[None, :]) * self.solve(form, mu, b))

    def damped_diagonal(self, form: KernelForm, mu: Float[Array, " c"]) -> Float[Array, "n c"]:
        """μGᵢᵢ."""
        return mu[None, :] * self.diagonal(form, mu)

    def loo(self, form: KernelForm, mu: Float[Array, " c"], b: Float[Array, "n t"]) -> Float[Array, "n t"]:
        """(Gb)ᵢ/Gᵢᵢ."""
        numerator = self.solve(form, mu, b)
        return safe_divide(numerator, jnp.broadcast_to(self.diagonal(form, mu), numerator.shape))

    def effective(self, form: KernelForm, mu: Float[Array, " c"]) -> Float[Array, " c"]:
        """tr K̃G."""
        return form.y.shape[0] - self.kept_sum(form, mu)

    def held(self, mu: Float[Array, " c"]) -> Float[Array, " c"]:
        """μ; where K̃ is singular no smaller than what this dtype tells from 0."""
        return jnp.where(self.singular & (mu < self.floor), self.floor, mu)


class Eigen(Factor):
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

    def solve(self, form: KernelForm, mu: Array, b: Array) -> Array:
        return matmul(self.U, self.seen(mu) * matmul(self.U.T, b))

    def kept(self, mu: Float[Array, " c"], least: Any = 0.0) -> Float[Array, "p c"]:
        """(least + μ)/(e + μ): 1 − f for least = 0; 1 where neither e nor μ is anything, and for infinite μ."""
        e, infinite = self.e[:, None], jnp.isinf(mu)[None, :]
        mu = jnp.where(infinite, 0.0, mu[None, :])
        unseen = (e + mu == 0) | infinite
        return jnp.where(unseen, 1.0, (least + mu) / jnp.where(unseen, 1.0, e + mu))

    def damped(self, form: KernelForm, mu: Array, b: Array) -> Array:
        return matmul(self.U, self.kept(mu) * matmul(self.U.T, b))

    def diagonal(self, form: KernelForm, mu: Array) -> Array:
        return matmul(jnp.square(self.U), self.seen(mu))

    def damped_diagonal(self, form: KernelForm, mu: Array) -> Array:
        return matmul(jnp.square(self.U), self.kept(mu))

    def loo(self, form: KernelForm, mu: Array, b: Array) -> Array:
        """Both times e_min + μ, which leaves them as good at μ = 0 as anywhere."""
        kept = self.kept(mu, jnp.min(self.e, initial=jnp.inf))
        numerator = matmul(self.U, kept * matmul(self.U.T, b))
        return safe_divide(numerator, jnp.broadcast_to(matmul(jnp.square(self.U), kept), numerator.shape))

    def effective(self, form: KernelForm, mu: Array) -> Array:
        e = jnp.broadcast_to(self.e[:, None], (self.e.shape[0], mu.shape[0]))
        return jnp.sum(safe_divide(e, e + mu[None, :]), axis=0)

    def kept_sum(self, form: KernelForm, mu: Array) -> Array:
        return jnp.sum(self.kept(mu), axis=0)

    def logdet(self, form: KernelForm, mu: Array) -> Array:
        e, mu = self.e[:, None], mu[None, :]
        return jnp.sum(jnp.log1p(jnp.where((e == 0) & (mu == 0), 0.0, e / mu)), axis=0)


def eigen(form: KernelForm, K: Float[Array, "p p"]) -> Eigen:
    """One eigendecomposition, 9n³ flops and more."""
    e, U = jnp.linalg.eigh(K, symmetrize_input=False)
    largest = jnp.max(jnp.abs(e), initial=0.0)
    floor = _rounding(K, largest)
    definite = jnp.min(e, initial=0.0) >= -_tolerance(K) * jnp.maximum(largest, 1.0)
    e = poison(jnp.where(e > floor, e, jnp.where(jnp.isnan(e), e, 0.0)), definite)
    return Eigen(form.lift(U), e, floor, definite, jnp.min(e, initial=jnp.inf)[None] <= 0)


def _rotation(transpose: bool) -> Any:
    """x ↦ Qx or Qᵀx from the reflections of a tridiagonalisation."""

    @jax.custom_batching.custom_vmap
    def rotate(packed: Float[Array, "p p"], taus: Float[Array, " q"], x: Float[Array, "p m"]) -> Float[Array, "p m"]:
        if not taus.shape[0]:
            return x
        below = jax.lax.linalg.ormqr(packed[1:, :-1], taus, x[1:], left=True, transpose=transpose)
        return jnp.concatenate([x[:1], below])

    @rotate.def_vmap
    def together(size: int, batched: list[bool], packed: Array, taus: Array, x: Array) -> tuple[Array, bool]:
        """A batch of x becomes columns: a batch of the reflections would be an array of (k, n, n)."""
        if not batched[0] and not batched[1]:
            columns = jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)
            turned = rotate(packed, taus, columns).reshape(x.shape[1], size, x.shape[2])
            return jnp.moveaxis(turned, 1, 0), True
        args = [
            value if has else jnp.broadcast_to(value[None], (size, *value.shape))
            for has, value in zip(batched, (packed, taus, x), strict=True)
        ]
        return jax.lax.map(lambda args: rotate(*args), tuple(args)), True

    return rotate


_rotate, _rotate_back = _rotation(False), _rotation(True)


class Tridiagonal(Factor):
    """K̃ = QTQᵀ with T tridiagonal: a third to a half of an eigendecomposition, then O(n) for each λ.

    No leverages: the diagonal of G would cost as much as the eigenvectors that this saves.
    """

    packed: Float[Array, "p p"]
    taus: Float[Array, " q"]
    d: Float[Array, " p"]
    off: Float[Array, " p"]  # below the diagonal, off[0] = 0
    floor: Scalar
    definite: Bool[Array, ""]
    singular: Bool[Array, " c"]

    def solve(self, form: KernelForm, mu: Array, b: Array) -> Array:
        return form.lift(self.within(mu, form.lower(b)))

    def within(self, mu: Float[Array, " c"], b: Float[Array, "p t"]) -> Float[Array, "p t"]:
        """Gb on the complement of u."""
        z = _rotate_back(self.packed, self.taus, b)
        return _rotate(self.packed, self.taus, _substitute(self.off, self.pivots(self.held(mu)), z))

    def pivots(self, mu: Float[Array, " c"]) -> Float[Array, "p c"]:
        """Those of T + μ, from above."""
        return _pivots(self.d, self.off, mu)

    def kept_sum(self, form: KernelForm, mu: Array) -> Array:
        """By the pivots from above and from below: (T + μ)⁻¹ has the diagonal 1/(δᵢ + ρᵢ − dᵢ − μ)."""
        mu = self.held(mu)
        above = self.pivots(mu)
        below = _pivots(self.d[::-1], jnp.roll(self.off, -1)[::-1], mu)[::-1]
        kept = mu[None, :] / (above + below - (self.d[:, None] + mu[None, :]))
        return jnp.sum(jnp.where(jnp.isinf(mu)[None, :], 1.0, kept), axis=0)

    def logdet(self, form: KernelForm, mu: Array) -> Array:
        return jnp.sum(jnp.log(self.pivots(self.held(mu)) / self.held(mu)[None, :]), axis=0)

    def diagonal(self, form: KernelForm, mu: Array) -> Array:
        raise ValueError("leverages need eigenvectors, which from_kernel_tridiagonal does not make; use from_kernel.")


def _pivots(d: Float[Array, " p"], off: Float[Array, " p"], mu: Float[Array, " c"]) -> Float[Array, "p c"]:
    """δᵢ = dᵢ + μ − offᵢ²/δᵢ₋₁ of the LDLᵀ factorisation of T + μ."""

    def step(last: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        pivot = row[0] + mu - safe_divide(jnp.broadcast_to(jnp.square(row[1]), mu.shape), last)
        return pivot, pivot

    return jax.lax.scan(step, jnp.ones_like(mu), (d, off))[1]


def _substitute(off: Float[Array, " p"], pivots: Float[Array, "p c"], z: Float[Array, "p t"]) -> Float[Array, "p t"]:
    """x of LDLᵀx = z, by substitution from above and back; T + μ is positive definite and needs no interchanges.

    By hand because jaxlib 0.10 runs two batches of ``tridiagonal_solve`` at a time into a deadlock on two threads.
    """
    size = jnp.broadcast_shapes(pivots.shape, z.shape)
    pivots = jnp.broadcast_to(pivots, size)
    multiplier = off[:, None] / jnp.concatenate([jnp.ones((1, size[1]), z.dtype), pivots[:-1]])

    def down(last: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        w = row[0] - row[1] * last
        return w, w

    w = jax.lax.scan(down, jnp.zeros(size[1:], z.dtype), (jnp.broadcast_to(z, size), multiplier), unroll=4)[1]
    after = jnp.concatenate([multiplier[1:], jnp.zeros((1, size[1]), z.dtype)])
    return jax.lax.scan(down, jnp.zeros(size[1:], z.dtype), (w / pivots, after), reverse=True, unroll=4)[1]


def tridiagonal(form: KernelForm, K: Float[Array, "p p"]) -> Tridiagonal:
    """One tridiagonalisation, (4/3)n³ flops, half of them bound by memory. Not on TPU, where XLA has none."""
    packed, d, off, taus = jax.lax.linalg.tridiagonal(K, lower=True)
    off = jnp.concatenate([jnp.zeros(1, d.dtype), off])
    largest = jnp.max(jnp.abs(d) + jnp.abs(off) + jnp.abs(jnp.roll(off, -1)), initial=0.0)
    floor = _rounding(K, largest)
    # The signs of the pivots count the eigenvalues below a shift (Sylvester's law of inertia).
    far = -_tolerance(K) * jnp.maximum(largest, 1.0)
    below = jnp.sum(_pivots(d, off, -jnp.stack([far, floor])) < 0, axis=0)
    definite = below[0] == 0
    return Tridiagonal(packed, taus, poison(d, definite), off, floor, definite, below[1:] > 0)


class Mixed(Factor):
    """A tridiagonal form in float32, which preconditions conjugate gradients on K̃ in float64.

    Coefficients and residuals are those of float64; degrees of freedom and determinants those of float32.
    """

    K: Float[Array, "p p"]
    coarse: Tridiagonal
    floor: Scalar
    definite: Bool[Array, ""]
    singular: Bool[Array, " c"]

    def solve(self, form: KernelForm, mu: Array, b: Array) -> Array:
        g, mu = form.lower(b), self.held(mu)
        lams = jnp.broadcast_to(mu, g.shape[1:])

        def precondition(lams: Array) -> krylov.Block:
            coarse = (mu if mu.shape[0] == 1 else lams).astype(jnp.float32)

            def apply(R: Array) -> Array:
                # In units of its own, since float32 cannot hold every float64.
                unit = power_of_two(exponent(jnp.max(jnp.abs(R), axis=0, initial=0.0)), R.dtype)[None, :]
                return unit * self.coarse.within(coarse, (R / unit).astype(jnp.float32)).astype(R.dtype)

            return apply

        tol = jnp.asarray(8.0 * math.sqrt(g.shape[0]) * float(jnp.finfo(g.dtype).eps), g.dtype)
        x, _ = krylov.run(g, lams, lambda V: matmul(self.K, V), precondition, tol, _REFINEMENTS)
        return form.lift(x)

    def kept_sum(self, form: KernelForm, mu: Array) -> Array:
        return self.coarse.kept_sum(form, mu.astype(jnp.float32)).astype(mu.dtype)

    def logdet(self, form: KernelForm, mu: Array) -> Array:
        return self.coarse.logdet(form, mu.astype(jnp.float32)).astype(mu.dtype)

    def diagonal(self, form: KernelForm, mu: Array) -> Array:
        return self.coarse.diagonal(form, mu)


# Above the floor of float32 the coarse factor leaves a condition number of a few: about ten steps, twice that at most.
_REFINEMENTS = 40


def mixed(form: KernelForm, K: Float[Array, "p p"]) -> Mixed:
    """One tridiagonalisation in float32."""
    if K.dtype != jnp.float64:
        raise ValueError(f"from_kernel_mixed got {K.dtype}; it refines to float64, so pass that, with x64 on.")
    coarse = tridiagonal(form, K.astype(jnp.float32))
    floor = coarse.floor.astype(K.dtype)
    return Mixed(K=K, coarse=coarse, floor=floor, definite=coarse.definite, singular=coarse.singular)


class Cholesky(Factor):
    """K̃ + μ factored anew at each μ, one after another also under ``vmap``: a tenth of an eigendecomposition each."""

    K: Float[Array, "p p"]
    floor: Scalar
    definite: Bool[Array, ""]
    singular: Bool[Array, " c"]

    def over(self, form: KernelForm, mu: Float[Array, " c"], of: Any, *with_each: Array) -> Array:
        """``of(form, L, μ, ...)`` with LLᵀ = K̃ + μ for each μ."""

        @jax.custom_batching.sequential_vmap
        def one(K: Array, form: KernelForm, mu: Array, *args: Array) -> Array:
            K = K + mu * jnp.eye(K.shape[0], dtype=mu.dtype)
            return of(form, jnp.linalg.cholesky(K, symmetrize_input=False), mu, *args)

        each = (self.held(mu), *with_each)
        return jax.vmap(one, (None, None, *(0 for _ in each)))(self.K, form, *each)

    def solve(self, form: KernelForm, mu: Array, b: Array) -> Array:
        b = form.lower(b)
        columns = b[None] if mu.shape[0] == 1 else b.T[:, :, None]
        x = self.over(form, mu, lambda form, L, mu, b: cho_solve((L, True), b), columns)
        return form.lift(x[0] if mu.shape[0] == 1 else x[:, :, 0].T)

    def diagonal(self, form: KernelForm, mu: Array) -> Array:
        def one(form: KernelForm, L: Array, mu: Array) -> Array:
            half = jax.scipy.linalg.solve_triangular(L, jnp.eye(L.shape[0], dtype=mu.dtype), lower=True)
            return jnp.sum(jnp.square(form.lift(half.T)), axis=1)

        return self.over(form, mu, one).T

    def kept_sum(self, form: KernelForm, mu: Array) -> Array:
        return jnp.sum(self.damped_diagonal(form, self.held(mu)), axis=0)

    def logdet(self, form: KernelForm, mu: Array) -> Array:
        return self.over(form, mu, lambda form, L, mu: jnp.sum(2.0 * jnp.log(jnp.diagonal(L)) - jnp.log(mu)))


def cholesky(form: KernelForm, K: Float[Array, "p p"]) -> Cholesky:
    """Nothing yet: at each λ n³/3 flops, and n³ for leverages or degrees of freedom."""
    size = jnp.max(jnp.sum(jnp.abs(K), axis=0), initial=0.0)
    return Cholesky(K, _rounding(K, size), jnp.array(True), jnp.array([True]))


class KernelSpectrum(eqx.Module):
    """A factored kernel ridge problem. Methods take one λ, or one for each target, ``(t,)``; ``vmap`` the grid.

    Derivatives in K, y, λ and weights are those of (K̃ + λI)γ = √ωy, to every order. Those of leverages, dof and
    leave-one-out cost a product of two n × n matrices at each λ that is differentiated.
    """

    design: KernelDesign
    form: KernelForm
    factor: Factor

    def dual_coef(self, lam: Lam) -> Float[Array, "n t"]:
        """α; predictions are the kernel between new points and the old ones, times α, plus the intercept."""
        return _dual(self, lam)

    def intercept(self, lam: Lam) -> Float[Array, " t"]:
        """b = Σω(y − Kα)/Σω, or 0."""
        return _intercept(self, lam)

    def residual(self, lam: Lam) -> Float[Array, "n t"]:
        """y − Kα − b = λα/ω, the part of y in the null space of K also at λ = 0."""
        return _residual(self, lam)

    def rss(self, lam: Lam) -> Float[Array, " t"]:
        """Weighted residual sum of squares."""
        return jnp.sum(self.design.weigh(jnp.square(self.residual(lam))), axis=0)

    def squared_norm(self, lam: Lam) -> Float[Array, " t"]:
        """αᵀKα, the squared norm in the space of the kernel."""
        alpha = self.dual_coef(lam)
        return jnp.sum(alpha * matmul(self.design.K, alpha), axis=0)

    def dof(self, lam: Lam) -> Lam:
        """tr K̃G, and one for the intercept."""
        return _dof(self, lam)

    def residual_dof(self, lam: Lam) -> Lam:
        """Rows of positive weight − dof, without cancellation."""
        return _residual_dof(self, lam)

    def one_minus_leverage(self, lam: Lam) -> Float[Array, "n c"]:
        """1 − hᵢ = λGᵢᵢ."""
        return _one_minus_hat(self, lam)

    def loo_residual(self, lam: Lam) -> Float[Array, "n t"]:
        """yᵢ minus the prediction of the fit without it, αᵢ/Aᵢᵢ; a row of weight 0 never took part."""
        return _loo_residual(self, lam)

    def logdet(self, lam: Lam) -> Lam:
        """log det(I + K̃/λ)."""
        return _logdet(self, lam)

    def solve(self, lam: Lam, a: Float[Array, "n m"], s: Float[Array, " m"]) -> tuple[Array, Array]:
        """α, b of Ω(Kα + b) + λα = a, 1ᵀα = s: what posterior covariances are made of."""
        x = _carrier(self, jnp.atleast_1d(lam), self._stack(a, s))
        return self._split(x)

    def result(self, lam: Lam) -> Any:
        """A `RESULTS` item for each target."""
        form, lam = self.form, jnp.atleast_1d(lam)
        mu = form.mu(jax.lax.stop_gradient(lam))
        known = jnp.all(jnp.isfinite(jax.lax.stop_gradient(_dual_value(self, lam))), axis=0)
        good = form.finite & form.finite_y & form.weights
        return first_failure(
            (~form.finite, RESULTS.nonfinite_kernel),
            (~form.finite_y, RESULTS.nonfinite_input),
            (~form.weights, RESULTS.invalid_weights),
            (~(form.symmetric & self.factor.definite), RESULTS.indefinite_kernel),
            (~(lam >= 0), RESULTS.invalid_lam),
            (good & ~known, RESULTS.indefinite_kernel),
            (self.factor.singular & (mu < self.factor.floor), RESULTS.unresolved),
            shape=(self.design.y.shape[1],),
        )

    def _stack(self, a: Array, s: Array) -> Array:
        return jnp.concatenate([a, s[None, :]]) if self.design.terms.intercept else a

    def _split(self, x: Array) -> tuple[Array, Array]:
        n = self.design.K.shape[0]
        return x[:n], x[n] if self.design.terms.intercept else jnp.zeros(x.shape[1], x.dtype)


def from_kernel(K: Any, y: Any, *, weights: Any = None, intercept: bool = False) -> KernelSpectrum:
    """Factor a symmetric positive semidefinite kernel matrix by one eigendecomposition: all exits, any λ.

    Args:
        K: (n, n). y: (n, t). weights: (n,) precisions >= 0. intercept: whether to add an unpenalised constant.

    Eigenvalues below rounding are taken as 0; a negative one, or a matrix that is not symmetric, comes back as a code
    with NaN.

    >>> import jax.numpy as jnp
    >>> from jaxridge import spectrum
    >>> kernel = spectrum.from_kernel(2.0 * jnp.eye(3), jnp.ones((3, 1)))
    >>> print(kernel.dual_coef(jnp.array(2.0))[:, 0], kernel.dof(jnp.array(2.0)))
    [0.25 0.25 0.25] 1.5
    """
    return _factored(eigen, K, y, weights, intercept)


def from_kernel_tridiagonal(K: Any, y: Any, *, weights: Any = None, intercept: bool = False) -> KernelSpectrum:
    """Factor a kernel matrix by its tridiagonal form: coefficients, GCV and evidence for any number of λ.

    Args as for `from_kernel`, two to three times cheaper; leverages and leave-one-out are a ``ValueError``. A λ below
    rounding gives the solution at the least λ that the dtype resolves, with a code.
    """
    return _factored(tridiagonal, K, y, weights, intercept)


def from_kernel_cholesky(K: Any, y: Any, *, weights: Any = None, intercept: bool = False) -> KernelSpectrum:
    """Factor K + λI anew at each λ: ten times cheaper than `from_kernel`, for one λ or very few.

    Args as for `from_kernel`. A λ below rounding is treated as by `from_kernel_tridiagonal`. That a matrix has
    negative eigenvalues shows only where K + λI has them too.
    """
    return _factored(cholesky, K, y, weights, intercept)


def from_kernel_mixed(K: Any, y: Any, *, weights: Any = None, intercept: bool = False) -> KernelSpectrum:
    """Factor a float64 kernel matrix in float32, and refine: coefficients as exact as those of float64.

    Args as for `from_kernel_tridiagonal`, at half its price; needs x64 on. λ must be above what float32 resolves,
    about (10 + √n)·1e-7 of the largest eigenvalue; below it there is a code. Degrees of freedom, GCV and evidence have
    the precision of float32.
    """
    return _factored(mixed, K, y, weights, intercept)


def _factored(factor: Any, K: Any, y: Any, weights: Any, intercept: bool) -> KernelSpectrum:
    if K.ndim != 2 or K.shape[0] != K.shape[1]:
        raise ValueError(f"K has shape {K.shape}; a kernel matrix is square, (n, n).")
    if y.ndim != 2 or y.shape[0] != K.shape[0]:
        raise ValueError(f"y has shape {y.shape}; targets for a kernel matrix of {K.shape[0]} points are (n, t).")
    if weights is not None and weights.shape != K.shape[:1]:
        raise ValueError(f"weights has shape {weights.shape}; one weight for each point is needed: {K.shape[:1]}.")
    design = KernelDesign(K, y, weights, Terms(intercept, False, (), False))
    form, reduced = _standard_form(design)
    return KernelSpectrum(design, form, jax.lax.stop_gradient(factor(form, reduced)))


def _bordered(spectrum: KernelSpectrum, lam: Array, a: Array, s: Array) -> tuple[Array, Array]:
    """(γ, b) of K̂γ + λγ + √ωb = a, √ωᵀγ = s, with the frozen factor; in the user's units of K and ω."""
    form = spectrum.form
    unit = form.damping_scale
    mu = form.mu(lam)
    if not spectrum.design.terms.intercept:
        return spectrum.factor.solve(form, mu, a) / unit, s
    root_scale = jnp.sqrt(unit / form.scale)
    length = root_scale * jnp.linalg.norm(form.root)
    u, across = form.u(), unit * form.across
    along = s / length
    gamma = spectrum.factor.solve(form, mu, a - across[:, None] * along[None, :]) / unit + u[:, None] * along[None, :]
    return gamma, (matmul(u, a) - matmul(across, gamma) - lam * along) / length


def _carrier(spectrum: KernelSpectrum, lam: Float[Array, " c"], rhs: Float[Array, "m t"]) -> Float[Array, "m t"]:
    """(α, b) of ΩKα + λα + ωb = a, 1ᵀα = s, live: linear in ω, so that a weight may be 0."""
    design, still = spectrum.design, jax.lax.stop_gradient(spectrum)
    still_lam = jax.lax.stop_gradient(lam)
    root = still.form.root * jnp.sqrt(still.form.damping_scale / still.form.scale)
    root, unused = root[:, None], (still.form.root == 0)[:, None]

    def operator(x: Array) -> Array:
        alpha, b = spectrum._split(x)
        seen = matmul(design.K, alpha) + (b[None, :] if design.terms.intercept else 0.0)
        return spectrum._stack(design.weigh(seen) + lam[None, :] * alpha, jnp.sum(alpha, axis=0))

    def below(_: Any, rhs: Array) -> Array:
        a, s = still._split(rhs)
        if design.weights is None:
            return still._stack(*_bordered(still, still_lam, a, s))
        # A row of weight zero stands alone and only adds to the others.
        alone = jnp.where(unused, safe_divide(a, jnp.broadcast_to(still_lam[None, :], a.shape)), 0.0)
        others = safe_divide(a, jnp.broadcast_to(root, a.shape)) - root * matmul(still.design.K, alone)
        gamma, b = _bordered(still, still_lam, others, s - jnp.sum(alone, axis=0))
        return still._stack(root * gamma + alone, b)

    def beside(_: Any, rhs: Array) -> Array:
        c, d = still._split(rhs)
        if design.weights is None:
            return still._stack(*_bordered(still, still_lam, c, d))
        gamma, q = _bordered(still, still_lam, root * c, d)
        rest = c - matmul(still.design.K, root * gamma) - (q[None, :] if design.terms.intercept else 0.0)
        rest = safe_divide(rest, jnp.broadcast_to(still_lam[None, :], rest.shape))
        return still._stack(jnp.where(unused, rest, safe_divide(gamma, jnp.broadcast_to(root, gamma.shape))), q)

    return jax.lax.custom_linear_solve(operator, rhs, below, beside)


def _live_solution(spectrum: KernelSpectrum, lam: Lam) -> tuple[Array, Array]:
    y = spectrum.design.weigh(spectrum.design.y)
    return spectrum.solve(lam, y, jnp.zeros(y.shape[1], y.dtype))


def _gamma(spectrum: KernelSpectrum, lam: Lam) -> Array:
    """The frozen γ, in units of K̃."""
    form = spectrum.form
    return spectrum.factor.solve(form, form.mu(lam), _reduced(form))


def _reduced(form: KernelForm) -> Float[Array, "n t"]:
    """ỹ in all rows."""
    return form.lift(form.y)


def _dual_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    return spectrum.form.root[:, None] * _gamma(spectrum, lam) / spectrum.form.scale


def _intercept_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    form, design = spectrum.form, spectrum.design
    if not design.terms.intercept:
        return jnp.zeros(design.y.shape[1], design.y.dtype)
    along = matmul(form.across, _gamma(spectrum, lam)) / jnp.linalg.norm(form.root)
    used = jnp.where((form.root > 0)[:, None], design.y, 0.0)
    return design.mean(used) - along


def _fitted_rows(spectrum: KernelSpectrum, lam: Lam, scaled: Array) -> Array:
    """scaled/√ω; rows of weight zero from their own definition, y − Kα − b."""
    design, root = spectrum.design, spectrum.form.root[:, None]
    if design.weights is None:
        return scaled
    alone = design.y - matmul(design.K, _dual_value(spectrum, lam)) - _intercept_value(spectrum, lam)[None, :]
    return jnp.where(root > 0, safe_divide(scaled, jnp.broadcast_to(root, scaled.shape)), alone)


def _residual_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    form = spectrum.form
    return _fitted_rows(spectrum, lam, spectrum.factor.damped(form, form.mu(lam), _reduced(form)))


def _residual_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    alpha, b = _live_solution(spectrum, lam)
    return spectrum.design.y - matmul(spectrum.design.K, alpha) - b[None, :]


def _loo_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    form = spectrum.form
    return _fitted_rows(spectrum, lam, spectrum.factor.loo(form, form.mu(lam), _reduced(form)))


def _loo_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    r = _residual_live(spectrum, lam)
    return r / jnp.broadcast_to(_one_minus_hat(spectrum, lam), r.shape)


def _one_minus_hat_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    form = spectrum.form
    return jnp.where((form.root > 0)[:, None], spectrum.factor.damped_diagonal(form, form.mu(lam)), 1.0)


def _dof_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    form, mu = spectrum.form, spectrum.form.mu(lam)
    dof = spectrum.factor.effective(form, mu) - form.unused(1.0 / (1.0 + mu)) + spectrum.design.free
    return dof.reshape(jnp.shape(lam))


def _residual_dof_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    form, mu = spectrum.form, spectrum.form.mu(lam)
    return (spectrum.factor.kept_sum(form, mu) - form.unused(1.0 / (1.0 + 1.0 / mu))).reshape(jnp.shape(lam))


def _logdet_value(spectrum: KernelSpectrum, lam: Lam) -> Array:
    """With weights of 0 their part taken off again: log(1 + 1/μ) each."""
    form, mu = spectrum.form, spectrum.form.mu(lam)
    value = spectrum.factor.logdet(form, mu)
    if spectrum.design.weights is not None:
        value -= form.unused(jnp.log1p(1.0 / mu))
    return value.reshape(jnp.shape(lam))


# The influence matrix A = √ωG√ω, the one thing that derivatives of diagonals and traces need, by its own rule
#
#     dA = −A dK A + Rᵀ (dΩ R − dλ A)/λ,        R = (I − 1ωᵀ/Σω)(I − KA),   r = Ry,   λA = ΩR,
#
# which follows from M(α, b) = (Ωy, 0) of the carrier: M dα = dΩ r for ω, −Ω dK α for K, −dλ α for λ, and
# M⁻¹(Ω·) = A, M⁻¹ = AΩ⁻¹ = Rᵀ/λ. All of it is finite at ω = 0, and A inside the rule is the same function again.


def _residual_map(design: KernelDesign, A: Array) -> Array:
    """R, with r = Ry."""
    return design.centre(jnp.eye(A.shape[0], dtype=A.dtype) - matmul(design.K, A))


@jax.custom_jvp
def _influence(frozen: KernelSpectrum, design: KernelDesign, lam: Scalar) -> Float[Array, "n n"]:
    """A at one λ."""
    form = frozen.form
    root = form.root
    G = frozen.factor.solve(form, form.mu(lam), jnp.eye(root.shape[0], dtype=root.dtype))
    return root[:, None] * form.inside(G) * root[None, :] / form.scale


@jax.custom_jvp
def _influence_diagonal(frozen: KernelSpectrum, design: KernelDesign, lam: Scalar) -> Float[Array, " n"]:
    """Aᵢᵢ at one λ, without weights."""
    form = frozen.form
    return jnp.square(form.root) * frozen.factor.diagonal(form, form.mu(lam))[:, 0] / form.scale


def _moving(tangents: Any) -> tuple[Any, Any, Any]:
    """The tangents of K, ω and λ; None for one that does not move."""
    design, lam = tangents[1], tangents[2]
    still = lambda tangent: None if tangent is None or not moves(tangent) else tangent  # noqa: E731
    return still(design.K), still(design.weights), still(lam)


def _influence_rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
    _, design, lam = primals
    A = _influence(*primals)
    dK, dweights, dlam = _moving(tangents)
    tangent = jnp.zeros_like(A) if dK is None else -matmul(A, matmul(dK, A))
    if dweights is not None or dlam is not None:
        R = _residual_map(design, A)
        change = jnp.zeros_like(A) if dweights is None else dweights[:, None] * R
        tangent += matmul(R.T, change if dlam is None else change - dlam * A) / lam
    return A, tangent


def _influence_diagonal_rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The diagonal of the rule above without weights, at half its price: R = λA."""
    A = _influence(*primals)
    dK, _, dlam = _moving(tangents)
    tangent = jnp.zeros_like(A[0]) if dK is None else -jnp.sum(matmul(A, dK) * A, axis=1)
    if dlam is not None:
        tangent -= dlam * jnp.sum(jnp.square(A), axis=1)
    return _influence_diagonal(*primals), tangent


_influence.defjvp(_influence_rule, symbolic_zeros=True)
_influence_diagonal.defjvp(_influence_diagonal_rule, symbolic_zeros=True)


def _for_each(fn: Any, spectrum: KernelSpectrum, lam: Lam) -> Array:
    """``fn(λ)`` for each λ, in the shape of λ with what fn gives behind; one after another, since each is n × n."""
    frozen = jax.lax.stop_gradient(spectrum)
    return one_by_one(lambda lam: fn(frozen, spectrum.design, lam), jnp.atleast_1d(lam))


def _one_minus_hat_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    """λAᵢᵢ, or with weights, which may be 0, the diagonal of the residual map."""
    if spectrum.design.weights is None:
        return jnp.atleast_1d(lam)[None, :] * _for_each(_influence_diagonal, spectrum, lam).T
    return _for_each(lambda *args: jnp.diagonal(_residual_map(args[1], _influence(*args))), spectrum, lam).T


def _dof_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    """tr KA, and one for the intercept."""
    trace = _for_each(lambda *args: jnp.sum(args[1].K * _influence(*args)), spectrum, lam)
    return (trace + spectrum.design.free).reshape(jnp.shape(lam))


def _residual_dof_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    return spectrum.design.rows() - _dof_live(spectrum, lam)


@jax.custom_jvp
def _log_determinant(frozen: KernelSpectrum, design: KernelDesign, lam: Scalar) -> Scalar:
    """log det(I + K̃/λ) at one λ."""
    return _logdet_value(frozen, lam)


def _determinant(design: KernelDesign, lam: Scalar) -> Scalar:
    """The same by the bordered matrix of the carrier, whose determinant is that of K̃ + λ times −Σω."""
    n = design.K.shape[0]
    weights = jnp.ones(n, lam.dtype) if design.weights is None else design.weights
    M = jnp.eye(n, dtype=lam.dtype) + design.weigh(design.K) / lam
    if not design.terms.intercept:
        return jnp.linalg.slogdet(M)[1]
    last = jnp.pad(jnp.ones((1, n), lam.dtype), ((0, 0), (0, 1)))
    M = jnp.concatenate([jnp.concatenate([M, weights[:, None]], axis=1), last])
    return jnp.linalg.slogdet(M)[1] - jnp.log(jnp.sum(weights))


def _log_determinant_rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """tr(A dK) − dλ tr(KA)/λ; in ω by the determinant itself."""
    _, design, lam = primals
    dK, dweights, dlam = _moving(tangents)
    A = _influence(*primals)
    tangent = jnp.zeros_like(lam) if dK is None else jnp.sum(A * dK)
    if dlam is not None:
        tangent -= dlam * jnp.sum(A * design.K) / lam
    if dweights is not None:
        of_weights = lambda weights: _determinant(KernelDesign(design.K, design.y, weights, design.terms), lam)  # noqa: E731
        tangent += jax.jvp(of_weights, (design.weights,), (dweights,))[1]
    return _log_determinant(*primals), tangent


_log_determinant.defjvp(_log_determinant_rule, symbolic_zeros=True)


def _logdet_live(spectrum: KernelSpectrum, lam: Lam) -> Array:
    return _for_each(_log_determinant, spectrum, lam).reshape(jnp.shape(lam))


_dual = attach(_dual_value, lambda spectrum, lam: _live_solution(spectrum, lam)[0])
_intercept = attach(_intercept_value, lambda spectrum, lam: _live_solution(spectrum, lam)[1])
_residual = attach(_residual_value, _residual_live)
_one_minus_hat = attach(_one_minus_hat_value, _one_minus_hat_live)
_loo_residual = attach(_loo_value, _loo_live)
_dof = attach(_dof_value, _dof_live)
_residual_dof = attach(_residual_dof_value, _residual_dof_live)
_logdet = attach(_logdet_value, _logdet_live)
