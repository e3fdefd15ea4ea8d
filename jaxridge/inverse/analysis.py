"""What decides whether b can be inverted, and how sharp and how sure a solution is: singular values put to use."""

from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core import plan
from jaxridge.core.checks import as_floats, as_lam
from jaxridge.core.factored import Solver
from jaxridge.core.implicit import first_order_only, frozen, linear_root
from jaxridge.core.numbers import matmul, safe_divide
from jaxridge.core.report import Record
from jaxridge.core.types import Array, Float, Int
from jaxridge.core.verbs import verb
from jaxridge.inverse.fit import TikhonovProblem
from jaxridge.inverse.maps import Map, columns
from jaxridge.inverse.problem import Options, problem_of
from jaxridge.inverse.solvers import Direct
from jaxridge.linear.spectrum import Spectrum

__all__ = ["Picard", "TruncatedPath", "covariance", "filter_factors", "picard", "resolution", "tsvd"]


class TruncatedPath(Record):
    """``ranks`` (k,), ``x`` (k, …), ``rss`` and ``norm`` (k[, t]) as in `Path`."""

    ranks: Int[Array, " k"]
    x: Any
    rss: Float[Array, "k *t"]
    norm: Float[Array, "k *t"]


class Picard(Record):
    """What decides whether b can be inverted; see `picard`."""

    singular_values: Float[Array, " r"]
    coefficients: Float[Array, "r *t"]
    ratios: Float[Array, "r *t"]


@verb(problem_of)
def tsvd(A: Any, b: Any, ranks: Any, **terms: Unpack[Options]) -> "TruncatedPath":
    """Truncated SVD: x from the ``ranks`` largest (generalised) singular values alone, whatever the others say.

    Args: as for `tikhonov`, with ranks (k,) whole numbers and A as a matrix; the null space of L is always kept.

    Derivatives are those in b; in A and L they raise ValueError, since singular values may cross.
    Equals ``scipy.linalg.svd`` with all but r singular values dropped. Hansen (1987), BIT 27, 534.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> path = inverse.tsvd(jnp.diag(jnp.array([2.0, 1.0])), jnp.array([4.0, 3.0]), [1, 2])
    >>> print(path.x, path.rss)
    [[2. 0.]
     [2. 3.]] [9. 0.]
    """
    problem = _dense("tsvd", A, b, terms)
    ranks = np.asarray(ranks)
    if ranks.ndim != 1 or not np.issubdtype(ranks.dtype, np.integer) or np.any(ranks < 0):
        raise ValueError("ranks are whole numbers >= 0 in a list, one for each solution.")
    return _tsvd(problem, jnp.asarray(ranks))


@verb(problem_of)
def picard(A: Any, b: Any, **terms: Unpack[Options]) -> Picard:
    """The Picard condition: |uᵢᵀb| must fall faster than the (generalised) singular values sᵢ.

    Where the coefficients |uᵢᵀb| level off, at the noise, the ratios |uᵢᵀb|/sᵢ begin to grow: from there on a solution
    without a filter is noise. ``plot.picard`` draws it. Args as for `tikhonov`, A as a matrix. Derivatives are those in
    b; in A, L and weights they raise ValueError, since singular vectors turn where singular values meet.
    Hansen (1990), BIT 30, 658.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> print(inverse.picard(jnp.diag(jnp.array([2.0, 1.0])), jnp.array([4.0, -3.0])).ratios)
    [2. 3.]
    """
    problem = _dense("picard", A, b, terms)
    return _picard(problem)


@verb(problem_of)
def filter_factors(A: Any, lam: Any, **terms: Unpack[Options]) -> Float[Array, "r *k"]:
    """f = s²/(s² + λ) of every (generalised) singular value, the share of it that x keeps; λ () or (k,).

    Derivatives are those in λ to every order, and in A, L and weights once, where singular values differ.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> print(inverse.filter_factors(jnp.diag(jnp.array([2.0, 1.0])), 1.0))
    [0.8 0.5]
    """
    m = Map.of("A", A)
    b = m.outputs.shaped(jnp.zeros(m.shape[0], m.outputs.dtype))
    problem = _dense("filter_factors", A, b, terms)
    lam = as_floats("lam", lam, (0, 1)).astype(m.outputs.dtype)
    return _filter_factors(problem, lam)


@verb(problem_of)
def resolution(A: Any, lam: Any, **terms: Unpack[Options]) -> Float[Array, "n n"]:
    """(AᵀωA + λLᵀL)⁻¹AᵀωA, what the solution makes of the truth without noise: column j is the image of a point j.

    Args: as for `tikhonov`, A as a matrix. Backus and Gilbert (1968), Geophys. J. R. Astr. Soc. 16, 169.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> print(inverse.resolution(jnp.diag(jnp.array([2.0, 1.0])), 1.0))
    [[0.8 0. ]
     [0.  0.5]]
    """
    matrix = Map.of("A", A).matrix()
    if terms.pop("x_ref", None) is not None:
        raise ValueError("x_ref is where the solution is drawn to, and has no part in its resolution; leave it out.")
    problem, solver = problem_of(matrix, matrix, **terms)
    return _solution(problem, as_lam(lam, problem.y, problem.single), solver)


@verb(problem_of)
def covariance(A: Any, lam: Any, noise: Any, **terms: Unpack[Options]) -> Float[Array, "n n"]:
    """Posterior covariance σ²(AᵀωA + λLᵀL)⁻¹ of x, for noise of variance σ² and a prior of precision λLᵀL/σ².

    Args: as for `tikhonov`, A as a matrix, ``noise`` σ². Tarantola (2005), Inverse Problem Theory, section 3.2.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse
    >>> print(inverse.covariance(jnp.diag(jnp.array([2.0, 1.0])), 1.0, noise=0.5))
    [[0.1  0.  ]
     [0.   0.25]]
    """
    whole = Map.of("A", A)
    problem, _ = problem_of(A, whole.outputs.shaped(jnp.zeros(whole.shape[0], whole.outputs.dtype)), **terms)
    lam, noise = as_floats("lam", lam, (0,)), as_floats("noise", noise, (0,))
    return _covariance(problem, lam.astype(whole.outputs.dtype), noise.astype(whole.outputs.dtype))


def _dense(verb: str, A: Any, b: Any, terms: Any) -> TikhonovProblem:
    """The problem, whose A is factored as a matrix; an operator for which that takes too much is refused."""
    whole = Map.of("A", A)
    (m, n), dtype = whole.shape, jnp.dtype(whole.outputs.dtype)
    needed = plan.COPIES * m * n * dtype.itemsize
    if not whole.is_matrix and needed > plan.KERNEL_MEMORY:
        raise ValueError(
            f"{verb} factors A as a matrix of {m} by {n}, which takes {needed / 2**30:.0f} GiB; pass a smaller one, or "
            "use tikhonov_path, which needs products with A only."
        )
    return problem_of(A, b, **{**terms, "solver": Direct()})[0]


@eqx.filter_jit
def _filter_factors(problem: TikhonovProblem, lam: Array) -> Float[Array, "r *k"]:
    factors = Direct().factor(problem).inner.filter_factors(lam)
    return factors.reshape(-1, *lam.shape)


def _in_b_only(problem: TikhonovProblem, name: str) -> tuple[Spectrum, Float[Array, "m t"], Float[Array, "m t"]]:
    """The frozen spectrum, √ωb and Uᵀ√ωb, with derivatives in b and an error for others."""
    moving = eqx.filter((problem.A, problem.norm, problem.weights), eqx.is_inexact_array)
    message = f"{name} has derivatives in b only: in A, L and weights singular values may cross."
    spectrum = first_order_only(frozen(Direct().factor(problem).inner), moving, message)
    root, b = spectrum.factor.root_weights, problem.data()
    b = b if root is None else root[:, None] * b
    return spectrum, b, matmul(spectrum.factor.U.T, b)


@eqx.filter_jit
def _picard(problem: TikhonovProblem) -> Picard:
    spectrum, _, z = _in_b_only(problem, "picard")
    s = spectrum.singular_values
    coefficients = jnp.abs(z[: s.shape[0]])
    ratios = safe_divide(coefficients, jnp.broadcast_to(s[:, None], coefficients.shape))
    pick = lambda x: x[:, 0] if problem.single else x  # noqa: E731
    return Picard(s, pick(coefficients), pick(ratios))


@eqx.filter_jit
def _tsvd(problem: TikhonovProblem, ranks: Int[Array, " k"]) -> TruncatedPath:
    """A rank as a filter of zeros and ones on the directions of the penalised part."""
    spectrum, b, z = _in_b_only(problem, "tsvd")
    factor, d = spectrum.factor, problem.norm.size
    outside = jnp.sum(jnp.square(b - matmul(factor.U, z)), axis=0)

    def one(rank: Array) -> tuple[Array, Array, Array]:
        r = factor.V.shape[1]
        taken = jnp.concatenate([jnp.arange(r) < rank, jnp.ones(factor.s.shape[0] - r, bool)])[:, None]
        coordinates = safe_divide(jnp.where(taken, z, 0.0), jnp.broadcast_to(factor.s[:, None], z.shape))
        w = factor.times(coordinates)
        left = outside + jnp.sum(jnp.where(taken & (factor.s > 0)[:, None], 0.0, jnp.square(z)), axis=0)
        x = columns(problem.norm.times, w[:d]) + matmul(problem.norm.null, w[d:])
        x = x if problem.x_ref is None else x + problem.x_ref[:, None]
        return x, left, jnp.linalg.norm(w[:d], axis=0)

    x, rss, norm = jax.vmap(one)(ranks)
    x = jax.vmap(jax.vmap(problem.A.inputs.shaped, in_axes=1, out_axes=-1))(x)
    return TruncatedPath(ranks, *problem.squeeze((x, rss, norm)))


@eqx.filter_jit
def _covariance(problem: TikhonovProblem, lam: Array, noise: Array) -> Float[Array, "n n"]:
    """σ²R⁻¹R⁻ᵀ from QR = [√ωA; √λL], which does not square A; derivatives are those of (AᵀωA + λLᵀL)C = σ²I."""
    eye = jnp.eye(problem.A.shape[1], dtype=lam.dtype)
    still, still_lam = jax.lax.stop_gradient((frozen(problem), lam))
    A, L = still.A.matrix(), columns(still.norm.apply, eye)
    A = A if still.weights is None else jnp.sqrt(still.weights)[:, None] * A
    R = jnp.linalg.qr(jnp.concatenate([A, jnp.sqrt(still_lam) * L]), mode="r")
    inverse = jax.scipy.linalg.solve_triangular(R, eye)

    def equation(C: Array) -> Array:
        seen = columns(problem.A.adjoint, problem.weigh(columns(problem.A, C)))
        return seen + lam * columns(problem.norm.normal, C) - noise * eye

    value = jax.lax.stop_gradient(noise) * matmul(inverse, inverse.T)
    return linear_root(equation, value, lambda b: matmul(inverse, matmul(inverse.T, b)))


@eqx.filter_jit
def _solution(problem: TikhonovProblem, lam: Array, solver: Solver) -> Float[Array, "n n"]:
    return solver.factor(problem, jnp.atleast_1d(lam)).fit(lam).x
