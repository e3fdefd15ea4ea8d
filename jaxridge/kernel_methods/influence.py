"""The influence matrix A = √ωG√ω, the one thing that derivatives of diagonals and traces need, by its own rule.

    dA = −A dK A + Rᵀ (dΩ R − dλ A)/λ,        R = (I − 1ωᵀ/Σω)(I − KA),   r = Ry,   λA = ΩR,

which follows from M(α, b) = (Ωy, 0) of the carrier: M dα = dΩ r for ω, −Ω dK α for K, −dλ α for λ, and
M⁻¹(Ω·) = A, M⁻¹ = AΩ⁻¹ = Rᵀ/λ. All of it is finite at ω = 0, and A inside the rule is the same function again.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxridge.core.implicit import map_with_rules, moves, with_rule
from jaxridge.core.numbers import matmul
from jaxridge.core.types import Array, Float, Lam, Scalar
from jaxridge.kernel_methods.factor import Factor
from jaxridge.kernel_methods.form import KernelDesign, KernelForm

Frozen = tuple[KernelForm, Factor]


def _residual_map(design: KernelDesign, A: Array) -> Array:
    """R, with r = Ry."""
    return design.centre(jnp.eye(A.shape[0], dtype=A.dtype) - matmul(design.K, A))


def _influence_value(frozen: Frozen, design: KernelDesign, lam: Scalar) -> Float[Array, "n n"]:
    """A at one λ."""
    form, factor = frozen
    return form.root[:, None] * factor.matrix(form, form.mu(lam)) * form.root[None, :] / form.scale


def _influence_diagonal_value(frozen: Frozen, design: KernelDesign, lam: Scalar) -> Float[Array, " n"]:
    """Aᵢᵢ at one λ, without weights."""
    form, factor = frozen
    return jnp.square(form.root) * factor.diagonal(form, form.mu(lam))[:, 0] / form.scale


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
    tangent = jnp.zeros_like(A[0]) if dK is None else -jnp.sum(A * matmul(dK, A), axis=0)
    if dlam is not None:
        tangent -= dlam * jnp.sum(jnp.square(A), axis=1)
    return _influence_diagonal(*primals), tangent


_influence = with_rule(_influence_value, _influence_rule)
_influence_diagonal = with_rule(_influence_diagonal_value, _influence_diagonal_rule)


def for_each(fn: Any, frozen: Frozen, design: KernelDesign, lam: Lam) -> Array:
    """``fn(frozen, design, λ)`` for each λ, in the shape of λ with what fn gives behind; one by one, each is n × n."""
    frozen = jax.lax.stop_gradient(frozen)
    return map_with_rules(lambda lam: fn(frozen, design, lam), jnp.atleast_1d(lam))


def one_minus_leverage(frozen: Frozen, design: KernelDesign, lam: Lam) -> Float[Array, "n c"]:
    """λAᵢᵢ, or with weights, which may be 0, the diagonal of the residual map."""
    if design.weights is None:
        finite = jnp.where(jnp.isinf(lam), 0.0, lam)  # A vanishes with its derivatives as λ grows
        return jnp.atleast_1d(finite)[None, :] * for_each(_influence_diagonal, frozen, design, lam).T
    return for_each(lambda *args: jnp.diagonal(_residual_map(args[1], _influence(*args))), frozen, design, lam).T


def dof(frozen: Frozen, design: KernelDesign, lam: Lam) -> Lam:
    """tr KA, and one for the intercept."""
    trace = for_each(lambda *args: jnp.sum(args[1].K * _influence(*args)), frozen, design, lam)
    return (trace + design.free).reshape(jnp.shape(lam))


def logdet_value(frozen: Frozen, design: KernelDesign, lam: Lam) -> Lam:
    """log det(I + K̃/λ); with weights of 0 their part taken off again, log(1 + 1/μ) each."""
    form, factor = frozen
    mu = form.mu(lam)
    value = factor.logdet(form, mu)
    if design.weights is not None:
        value -= form.unused(jnp.log1p(1.0 / mu))
    return value.reshape(jnp.shape(lam))


def _log_determinant_value(frozen: Frozen, design: KernelDesign, lam: Scalar) -> Scalar:
    """log det(I + K̃/λ) at one λ."""
    return logdet_value(frozen, design, lam)


def _determinant(design: KernelDesign, lam: Scalar) -> Scalar:
    """The same by the bordered matrix of the carrier, whose determinant is that of K̃ + λ times −Σω."""
    n = design.K.shape[0]
    weights = jnp.ones(n, lam.dtype) if design.weights is None else design.weights
    M = jnp.eye(n, dtype=lam.dtype) + design.weigh(design.K) / lam
    if not design.intercept:
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

        def of_weights(weights: Array) -> Array:
            part = KernelDesign(K=design.K, y=design.y, weights=weights, terms=design.terms)
            return _determinant(part, lam)

        tangent += jax.jvp(of_weights, (design.weights,), (dweights,))[1]
    return _log_determinant(*primals), tangent


_log_determinant = with_rule(_log_determinant_value, _log_determinant_rule)


def logdet(frozen: Frozen, design: KernelDesign, lam: Lam) -> Lam:
    """log det(I + K̃/λ), live."""
    return for_each(_log_determinant, frozen, design, lam).reshape(jnp.shape(lam))
