"""Golub–Kahan bidiagonalisation: one Krylov space of an operator, in which every λ is a small ridge problem.

After k steps AV = UB with orthonormal V (n × k) and U (m × (k+1)), u₁ = b/β₁, and B lower bidiagonal. Over x = Vy

    ‖Ax − b‖² + λ‖x‖² = ‖By − β₁e₁‖² + λ‖y‖²,

and the gradient at its minimum is α_{k+1} ρ v_{k+1} with ρ the last entry of β₁e₁ − By. AᵀA + λ is at least λ, so that
‖x − x(λ)‖ ≤ α_{k+1} |ρ| / λ: every λ knows its own error, without a product.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.numbers import exponent, matmul, poison, power_of_two, safe_divide
from jaxridge.core.types import Array, Bool, Float, Int, Scalar

__all__ = [
    "Bidiagonal",
    "Projected",
    "Run",
    "bidiagonalise",
    "largest_singular_value",
    "quadrature",
    "relative_error_bound",
    "residual_share",
]

Map = Callable[[Float[Array, " n"]], Float[Array, " m"]]
# Steps between two looks at the errors.
_STEPS = 8
# Vectors of the basis that are read from memory once and used twice. Measured on CPU, 65 536 numbers each: 8 rows take
# 1.80 s where 32 take 2.26 and 160 take 2.19.
_ROWS = 8


class Bidiagonal(eqx.Module):
    """Where a bidiagonalisation of at most p steps stands; what lies beyond ``steps`` is 0.

    ``V`` has a vector in each row, in whole blocks of rows, or is None where it is not kept.
    """

    V: Float[Array, "_ n"] | None
    u: Float[Array, " m"]  # u_{k+1}
    v: Float[Array, " n"]  # v_{k+1}
    alpha: Float[Array, " p+1"]  # α₁ … α_{k+1}
    beta: Float[Array, " p+1"]  # β₁ … β_{k+1}
    unit: Scalar  # A is divided by this power of two
    steps: Int[Array, ""]

    @property
    def budget(self) -> int:
        """p, the steps that there is room for."""
        return self.alpha.shape[0] - 1

    @property
    def exhausted(self) -> Bool[Array, ""]:
        """Whether the Krylov space has ended, so that every λ is solved in it."""
        return (self.beta[self.steps] == 0) | (self.alpha[self.steps] == 0)

    def matrix(self) -> Float[Array, "p+1 p"]:
        """B in units of A, with zeros beyond k."""
        p = self.budget
        used = jnp.arange(p, dtype=jnp.int32) < self.steps
        B = jnp.zeros((p + 1, p), self.alpha.dtype)
        i = jnp.arange(p)
        B = B.at[i, i].set(jnp.where(used, self.alpha[:p], 0.0)).at[i + 1, i].set(jnp.where(used, self.beta[1:], 0.0))
        return B

    def along(self, y: Float[Array, "p c"]) -> Float[Array, "n c"]:
        """Vy."""
        assert self.V is not None
        return matmul(self.V[: self.budget].T, y)


def _norm(x: Float[Array, " n"]) -> Scalar:
    return jnp.sqrt(jnp.sum(jnp.square(x)))


def _unless(small: Bool[Array, ""], size: Scalar, x: Float[Array, " n"]) -> tuple[Scalar, Float[Array, " n"]]:
    """‖x‖ and x/‖x‖, both 0 where that is rounding."""
    return jnp.where(small, 0.0, size), jnp.where(small, 0.0, x / jnp.where(small, 1.0, size))


def _orthogonal(x: Float[Array, " n"], basis: Float[Array, "_ n"], count: Int[Array, ""]) -> Float[Array, " n"]:
    """x less its part along the first ``count`` rows, which are orthonormal."""

    def block(i: Array, x: Array) -> Array:
        rows = jax.lax.dynamic_slice_in_dim(basis, i * _ROWS, min(_ROWS, basis.shape[0]))
        return x - matmul(matmul(rows, x), rows)

    return jax.lax.fori_loop(0, (count + _ROWS - 1) // _ROWS, block, x)


def start(adjoint: Map, b: Float[Array, " m"], n: int, budget: int, keep: bool) -> Bidiagonal:
    """β₁u₁ = b and α₁v₁ = Aᵀu₁: one product."""
    dtype = b.dtype
    # Powers of two keep the squares of b and of A inside the range of the dtype.
    b_unit = power_of_two(exponent(jnp.max(jnp.abs(b), initial=0.0)), dtype)
    size = _norm(b / b_unit)
    size, u = _unless(size == 0, size, b / b_unit)
    v = adjoint(u)
    unit = power_of_two(exponent(jnp.max(jnp.abs(v), initial=0.0)), dtype)
    v = v / unit
    alpha, v = _unless(_norm(v) == 0, _norm(v), v)
    rows = math.ceil((budget + 1) / _ROWS) * _ROWS
    V = jnp.zeros((rows, n), dtype).at[0].set(v) if keep else None
    none = jnp.zeros(budget + 1, dtype)
    return Bidiagonal(V, u, v, none.at[0].set(alpha), none.at[0].set(size * b_unit), unit, jnp.zeros((), jnp.int32))


def step(state: Bidiagonal, apply: Map, adjoint: Map, orthogonal: bool) -> Bidiagonal:
    """β_{k+1}u_{k+1} = Av_k − α_k u_k and α_{k+1}v_{k+1} = Aᵀu_{k+1} − β_{k+1}v_k: two products.

    If ``orthogonal``, v is made so to all before it, which keeps u orthogonal too as far as B is well conditioned.
    Simon and Zha (2000), SIAM J. Sci. Comput. 21, 2257.
    """
    k = state.steps
    floor = jnp.finfo(state.u.dtype).eps * jnp.max(jnp.maximum(state.alpha, state.beta.at[0].set(0.0)))
    u = apply(state.v) / state.unit - state.alpha[k] * state.u
    beta, u = _unless(_norm(u) <= floor, _norm(u), u)
    v = adjoint(u) / state.unit - beta * state.v
    if orthogonal:
        assert state.V is not None
        v = _orthogonal(v, state.V, k + 1)
    alpha, v = _unless((_norm(v) <= floor) | (beta == 0), _norm(v), v)
    return Bidiagonal(
        None if state.V is None else state.V.at[k + 1].set(v),
        u,
        v,
        state.alpha.at[k + 1].set(alpha),
        state.beta.at[k + 1].set(beta),
        state.unit,
        k + 1,
    )


def relative_error_bound(state: Bidiagonal, lams: Float[Array, " c"]) -> Float[Array, " c"]:
    """α_{k+1} |ρ| / (λ‖y‖) for each λ, a bound on ‖x − x(λ)‖/‖x‖.

    y by rotations of [B; √λ I] into a bidiagonal R, row by row, and back-substitution, as in LSQR.
    Paige and Saunders (1982), ACM Trans. Math. Softw. 8, 43.
    """
    p = state.budget
    valid = lams >= 0
    root = jnp.sqrt(jnp.where(valid & jnp.isfinite(lams), lams, 1.0)) / state.unit
    used = jnp.arange(p, dtype=jnp.int32) < state.steps
    # In units of β₁, which cancels.
    first = jnp.where(state.beta[0] == 0, 0.0, jnp.ones_like(lams))

    def forward(carry: Any, row: Any) -> tuple[Any, Any]:
        rho_bar, phi_bar, rho_last = carry
        beta, alpha, present = row
        damped = jnp.hypot(rho_bar, root)
        phi_damped = safe_divide(rho_bar, damped) * phi_bar
        rho = jnp.hypot(damped, beta)
        c, s = safe_divide(damped, rho), safe_divide(beta, rho)
        after = (-c * alpha, s * phi_damped, s * c * phi_damped)
        carry = tuple(jnp.where(present, new, old) for new, old in zip(after, carry, strict=True))
        return carry, (jnp.where(present, rho, 1.0), s * alpha, jnp.where(present, c * phi_damped, 0.0))

    rows = (state.beta[1:], state.alpha[1:], used)
    start = (jnp.broadcast_to(state.alpha[0], lams.shape), first, first)
    (_, _, last), (rho, theta, phi) = jax.lax.scan(forward, start, rows)

    def backward(carry: Any, row: Any) -> tuple[Any, None]:
        below, square = carry
        rho, theta, phi = row
        y = safe_divide(phi - theta * below, rho)
        return (y, square + jnp.square(y)), None

    zero = jnp.zeros_like(lams)
    theta = jnp.where((jnp.arange(p, dtype=jnp.int32) < state.steps - 1)[:, None], theta, 0.0)
    (_, square), _ = jax.lax.scan(backward, (zero, zero), (rho, theta, phi), reverse=True)
    gradient = state.alpha[state.steps] * jnp.abs(last)
    bound = jnp.where(gradient == 0, 0.0, gradient / (jnp.square(root) * jnp.sqrt(square)))
    return jnp.where(valid, jnp.where(jnp.isinf(lams), 0.0, bound), jnp.nan)


class Run(eqx.Module):
    """A bidiagonalisation that has ended: after how many steps each λ was solved to tol, or −1."""

    bidiagonal: Bidiagonal
    steps: Int[Array, " c"]


def bidiagonalise(
    apply: Map,
    adjoint: Map,
    b: Float[Array, " m"],
    n: int,
    lams: Float[Array, " c"],
    *,
    tol: Any = 1e-6,
    budget: int = 150,
    orthogonal: bool = True,
) -> Run:
    """Steps until ``relative_error_bound`` is at most tol for every λ > 0, or ``budget`` of them are done.

    Args:
        apply, adjoint: x (n,) ↦ Ax (m,) and y ↦ Aᵀy; 2k + 1 products for k steps. b: (m,). lams: (c,), λ ≥ 0.

    The basis of x is kept (n numbers for each step), and each new vector made orthogonal to it unless ``orthogonal`` is
    False. Without, a space of as many steps is smaller by the directions that it finds twice, and ‖y‖ and ‖By − β₁e₁‖
    are those of x to ‖VᵀV − I‖ only; the gradient, and so its bound on the error, keeps its meaning.
    Golub and Kahan (1965), SIAM J. Numer. Anal. 2, 205.

    >>> import jax.numpy as jnp
    >>> from jaxridge.linalg import golub_kahan
    >>> A = jnp.diag(jnp.array([3.0, 2.0, 1.0]))
    >>> run = golub_kahan.bidiagonalise(lambda x: A @ x, lambda y: A.T @ y, jnp.ones(3), 3, jnp.array([1.0]))
    >>> print(run.bidiagonal.steps, run.steps)
    3 [3]
    """
    # Directions that are found twice take steps of their own.
    budget = min(budget, n, b.shape[0]) if orthogonal else budget
    wanted = lams > 0

    def unfinished(carry: tuple[Bidiagonal, Array]) -> Array:
        state, steps = carry
        # λ = 0 has no bound but the end of the space.
        left = jnp.any(wanted & (steps < 0)) | ~jnp.any(wanted)
        return (state.steps < budget) & ~state.exhausted & left

    def some(carry: tuple[Bidiagonal, Array]) -> tuple[Bidiagonal, Array]:
        state, steps = carry
        last = jnp.minimum(state.steps + _STEPS, budget)
        more = lambda state: (state.steps < last) & ~state.exhausted  # noqa: E731
        state = jax.lax.while_loop(more, lambda state: step(state, apply, adjoint, orthogonal), state)
        solved = (relative_error_bound(state, lams) <= tol) & (steps < 0)
        return state, jnp.where(solved, state.steps, steps)

    state = start(adjoint, b, n, budget, keep=True)
    none = jnp.where(relative_error_bound(state, lams) <= tol, 0, -jnp.ones(lams.shape, jnp.int32))
    return Run(*jax.lax.while_loop(unfinished, some, (state, none)))


def residual_share(state: Bidiagonal, lams: Float[Array, " c"], more: bool = False) -> Float[Array, " c"]:
    """zᵀ(I − H)z/‖z‖² = λ zᵀ(AAᵀ + λ)⁻¹z/‖z‖² for the z that was bidiagonalised, by a quadrature rule.

    It is 1/g₁ with  gᵢ = 1 + αᵢ² gᵢ₊₁/(λ gᵢ₊₁ + βᵢ₊₁²)  from g_{k+1} = 1, all terms positive: the Gauss–Radau rule
    with a node at 0, which is never too small. With α_{k+1} too (``more``) it is Gauss's, which is never too large.
    """
    lams = lams / jnp.square(state.unit)
    last = 1.0 + jnp.square(state.alpha[state.steps]) / lams if more else jnp.ones_like(lams)

    def up(g: Array, row: Any) -> tuple[Array, None]:
        alpha, beta, used = row
        below = lams * g + jnp.square(beta)
        # λ = 0 and β = 0: nothing of z is left over.
        step = jnp.where(below == 0, jnp.inf, jnp.square(alpha) * g / jnp.where(below == 0, 1.0, below))
        return jnp.where(used, 1.0 + step, g), None

    used = jnp.arange(state.budget, dtype=jnp.int32) < state.steps
    g, _ = jax.lax.scan(up, last, (state.alpha[:-1], state.beta[1:], used), reverse=True)
    return 1.0 / g


def quadrature(
    apply: Map, adjoint: Map, z: Float[Array, " m"], n: int, budget: int, lams: Float[Array, " c"], tol: float
) -> Bidiagonal:
    """Steps from z with no basis kept, until `residual_share` is known to tol at every λ.

    Lost orthogonality repeats eigenvalues that are found already and divides their weights, which sums do not see, but
    may take more steps than there are dimensions.
    Golub and Meurant (2010), Matrices, Moments and Quadrature, chapter 6.
    """

    def unfinished(state: Bidiagonal) -> Array:
        high, low = residual_share(state, lams), residual_share(state, lams, more=True)
        return (state.steps < state.budget) & ~state.exhausted & jnp.any(high - low > tol * high)

    def some(state: Bidiagonal) -> Bidiagonal:
        last = jnp.minimum(state.steps + _STEPS, state.budget)
        more = lambda state: (state.steps < last) & ~state.exhausted  # noqa: E731
        return jax.lax.while_loop(more, lambda state: step(state, apply, adjoint, False), state)

    return jax.lax.while_loop(unfinished, some, start(adjoint, z, n, budget, keep=False))


def largest_singular_value(apply: Map, adjoint: Map, z: Float[Array, " m"], n: int, steps: int = 10) -> Scalar:
    """To a few digits, by that many steps from z."""
    state = quadrature(apply, adjoint, z, n, steps, jnp.zeros(1, z.dtype), 0.0)
    return jnp.max(jnp.linalg.svd(state.matrix(), compute_uv=False), initial=0.0) * state.unit


class Projected(eqx.Module):
    """min ‖By − β₁e₁‖² + λ‖y‖² by the SVD of B, in units of A and of β₁; it carries no derivative but in λ."""

    s: Float[Array, " p"]
    z: Float[Array, " p+1"]  # first components of the left singular vectors, that beyond the range of B last
    V: Float[Array, "p p"]
    unit: Scalar
    size: Scalar  # β₁

    @classmethod
    def of(cls, state: Bidiagonal) -> "Projected":
        """LAPACK's SVD never returns when an entry is infinite."""
        B = jax.lax.stop_gradient(state.matrix())
        U, s, Vt = jnp.linalg.svd(jnp.where(jnp.all(jnp.isfinite(B)), B, jnp.nan), full_matrices=True)
        return cls(s, U[0], Vt.T, state.unit, state.beta[0])

    def _damping(self, lam: Scalar) -> Scalar:
        return poison(lam, lam >= 0) / self.unit / self.unit

    def coordinates(self, lam: Scalar) -> Float[Array, " p"]:
        """Vᵀy = s z/(s² + λ)."""
        y = safe_divide(self.s * self.z[:-1], jnp.square(self.s) + self._damping(lam))
        return y * (self.size / self.unit)

    def y(self, lam: Scalar) -> Float[Array, " p"]:
        """What x is made of: x = V y with the basis of the Krylov space."""
        return matmul(self.V, self.coordinates(lam))

    def squared_norm(self, lam: Scalar) -> Scalar:
        """‖y‖²."""
        return jnp.sum(jnp.square(self.coordinates(lam)))

    def _kept(self, lam: Scalar) -> Float[Array, " p"]:
        """1 − f."""
        damping = self._damping(lam)
        ratio = jnp.square(self.s) / jnp.where(damping == 0, 1.0, damping)
        return jnp.where(damping == 0, jnp.where(self.s > 0, 0.0, 1.0), 1.0 / (1.0 + ratio))

    def rss(self, lam: Scalar) -> Scalar:
        """‖By − β₁e₁‖², from (1 − f)z and what lies beyond the range of B: no subtraction."""
        inside = jnp.sum(jnp.square(self._kept(lam) * self.z[:-1]))
        return (inside + jnp.square(self.z[-1])) * self.size * self.size

    def misfit(self, lam: Scalar) -> Scalar:
        """‖By − β₁e₁‖² + λ‖y‖²."""
        inside = jnp.sum(self._kept(lam) * jnp.square(self.z[:-1]))
        return (inside + jnp.square(self.z[-1])) * self.size * self.size
