"""A kernel ridge problem and its standard form: weights and the intercept leave a plain positive semidefinite K̃.

With γ = α/√ω and u = √ω/‖√ω‖ the problem of `jaxridge.kernel_methods.spectrum` is (K̃ + λI)γ = √ωy on the complement
of u, where K̃ = √ωK√ω. A Householder reflection sends u to the first coordinate, whose row and column then drop out.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge.core.factored import Problem, Terms
from jaxridge.core.numbers import exponent, matmul, poison, power_of_two
from jaxridge.core.results import RESULTS, override
from jaxridge.core.types import Array, Bool, Float, Lam, Scalar
from jaxridge.kernels.base import Kernel
from jaxridge.linalg.householder import householder, reflect


class _WithIntercept(Problem):
    """An intercept is all that has no penalty."""

    @property
    def free(self) -> int:
        """The number of unpenalised directions: 1 for an intercept."""
        return int(self.intercept)


class KernelProblem(_WithIntercept):
    """The live problem: a kernel and its points, of which whoever needs it makes the matrix."""

    kernel: Kernel
    points: Any
    y: Float[Array, "n t"]
    weights: Float[Array, " n"] | None
    terms: Terms = eqx.field(static=True)

    def matrix(self) -> Float[Array, "n n"]:
        """All of K."""
        return self.kernel.matrix(self.points).astype(self.y.dtype)


class KernelDesign(_WithIntercept):
    """The live problem with its kernel matrix: derivatives of dense solvers flow through these arrays and no others."""

    K: Float[Array, "n n"]
    y: Float[Array, "n t"]
    weights: Float[Array, " n"] | None
    terms: Terms = eqx.field(static=True)


class KernelForm(eqx.Module):
    """ỹ in powers of two of K and ω, and the way back from K̃. Nothing here carries a derivative."""

    y: Float[Array, "p t"]
    root: Float[Array, " n"]  # √ω / 2^e
    reflector: Float[Array, " n"] | None
    across: Float[Array, " n"]  # K̃u before the reflection
    level: Float[Array, " t"]  # what y is measured from
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


def rounding(K: Float[Array, "p p"], size: Array) -> Array:
    """An eigenvalue below this is rounding: (10 + √n)·eps of the largest one, or of K's entries, of size 1.

    Heuristic, between the n·eps of the bound, which in float32 would give up digits that are there, and eps.
    """
    return (10.0 + math.sqrt(K.shape[0])) * jnp.finfo(K.dtype).eps * jnp.maximum(size, 1.0)


def tolerance(K: Float[Array, "n n"]) -> float:
    """What a matrix may lack in symmetry and definiteness for want of precision in the kernel itself."""
    return 10.0 * K.shape[0] * float(jnp.finfo(K.dtype).eps)


def from_level(
    y: Float[Array, "n t"], weights: Float[Array, " n"] | None, intercept: bool
) -> tuple[Float[Array, "n t"], Float[Array, " t"]]:
    """y less a level that an intercept takes up, near its weighted mean, and that level, which has no derivatives.

    A mean that is large beside what y varies costs digits of the solution otherwise. A row of weight zero takes no
    part, whatever its target.
    """
    if weights is not None:
        y = jnp.where((weights == 0)[:, None] & ~jnp.isfinite(y), 0.0, y)
    if not intercept:
        return y, jnp.zeros(y.shape[1], y.dtype)
    share = jnp.ones(y.shape[0], y.dtype) if weights is None else weights / jnp.max(weights)
    level = jax.lax.stop_gradient(matmul(share / jnp.sum(share), y))
    level = jnp.where(jnp.isfinite(level), level, 0.0)
    return y - level[None, :], level


def kernel_form(design: KernelDesign) -> tuple[KernelForm, Float[Array, "p p"]]:
    """The form and K̃ itself."""
    K, y, weights = jax.lax.stop_gradient((design.K, design.y, design.weights))
    n, dtype = K.shape[0], K.dtype
    root = jnp.ones(n, dtype) if weights is None else jnp.sqrt(weights)
    root_scale = jnp.ones((), dtype) if weights is None else power_of_two(exponent(jnp.max(root)), dtype)
    root = root / root_scale
    size = jnp.max(jnp.abs(K))
    scale = power_of_two(exponent(size), dtype)
    y, level = from_level(y, weights, design.intercept)
    # Not by the largest entry, which loses NaN on CPUs where the reduction is vectorised.
    finite, finite_y = jnp.all(jnp.isfinite(K)), jnp.all(jnp.isfinite(y), axis=0)
    if weights is not None:
        finite_y &= jnp.all(jnp.isfinite(weights))
    valid = jnp.all(jnp.isfinite(root)) & jnp.any(root > 0)
    K = K / scale
    symmetric = jnp.max(jnp.abs(K - K.T)) <= tolerance(K)
    K = poison(0.5 * (K + K.T), finite & valid & symmetric)
    u = root / jnp.linalg.norm(root)
    across, reflector, y_reduced = root * matmul(K, root * u), None, root[:, None] * y
    if design.intercept:
        # Terms of one point alone lie along u. Taken off first they change nothing but the rounding, which would be
        # that of n times their size.
        mean = matmul(K, jnp.square(u))
        mean = mean - 0.5 * jnp.sum(jnp.square(u) * mean)
        K = K - mean[:, None] - mean[None, :]
    if weights is not None:
        # A row of weight zero becomes a direction of its own with eigenvalue 1, away from all that is counted.
        K = root[:, None] * K * root[None, :] + jnp.diag((root == 0).astype(dtype))
    if design.intercept:
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
        level=level,
        scale=scale,
        damping_scale=scale * root_scale * root_scale,
        finite=finite,
        finite_y=finite_y,
        symmetric=symmetric,
        weights=valid,
    )
    return form, K


class Levelled(NamedTuple):
    """The targets of a large problem as its solver takes them, the level taken off, and what is wrong with the rest."""

    y: Float[Array, "n t"]  # NaN where kernel or weights are not usable
    level: Float[Array, " t"]
    checks: tuple[tuple[Any, Bool[Array, ""]], ...]

    def coded(self, result: Any) -> Any:
        """``result`` (k, t) with the codes of what is wrong."""
        for failure, good in self.checks:
            result = override(failure, jnp.broadcast_to(~good, result._value.shape), result)
        return result


def levelled(problem: KernelProblem) -> Levelled:
    """y from `from_level`, with NaN for a kernel that is not finite and for weights that cannot be."""
    weights, diagonal = problem.weights, problem.kernel.diagonal(problem.points)
    y, level = from_level(problem.y, weights, problem.intercept)
    checks = [(RESULTS.nonfinite_kernel, jnp.all(jnp.isfinite(diagonal)))]
    if weights is not None:
        checks.append((RESULTS.nonfinite_input, jnp.all(jnp.isfinite(weights))))
        checks.append((RESULTS.invalid_weights, ~jnp.any(weights < 0) & jnp.any(weights > 0)))
    for _, good in checks:
        y = poison(y, good)
    return Levelled(y, level, tuple(checks))
