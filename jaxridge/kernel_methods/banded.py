"""Multiple-kernel ridge: min Σω(y − Σ_g f_g − b)² + Σ_g λ_g‖f_g‖², a λ for each kernel and each target.

With v = 1/λ the parts are f_g = v_g K_g α for one α = Ω(y − Σ f_g − b), so that bands of columns are the case of linear
kernels, and what finds their λs in rows finds these (`jaxridge.linear.bands`).
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from jaxridge.core.checks import as_floats, as_points
from jaxridge.core.factored import Model
from jaxridge.core.implicit import map_with_rules, without_derivatives
from jaxridge.core.numbers import exponent, matmul, poison, power_of_two
from jaxridge.core.results import RESULTS, first_failure, override
from jaxridge.core.rows import as_kind
from jaxridge.core.types import Array, Float
from jaxridge.core.verbs import verb
from jaxridge.kernel_methods.form import KernelProblem
from jaxridge.kernel_methods.kernel_ridge import problem_of
from jaxridge.kernels.base import Kernel
from jaxridge.linear.bands import Rows
from jaxridge.linear.searches import Search, evidence

__all__ = ["BandedKernelFit", "kernel_ridge_banded", "kernel_ridge_banded_cv"]


NO_DERIVATIVES = (
    "kernel_ridge_banded_cv has no derivatives: pass the lams that it found to jaxridge.kernel_ridge_banded."
)


class BandedKernelFit(Model):
    """A model of several kernels: ``predict(X) = Σ_g kernel_g(X, points) @ dual_coef / lams[g] + intercept``.

    ``dual_coef`` (n,) or (n, t), ``intercept`` () or (t,), ``lams`` (G,) or (G, t) and ``result``; ``score_found`` is
    what a search made least.
    """

    kernels: tuple[Kernel, ...]
    points: Any
    dual_coef: Float[Array, "n *t"]
    intercept: Float[Array, "*t"]
    lams: Float[Array, "G *t"]
    result: Any
    score_found: Float[Array, "*t"] | None = None

    def predict_bands(self, X: Any) -> Float[Array, "G m *t"]:
        """What each kernel adds to the predictions."""
        X = as_kind("X", as_points("X", X), "the model", self.points)
        n = self.dual_coef.shape[0]
        alpha, v = self.dual_coef.reshape(n, -1), 1.0 / self.lams.reshape(len(self.kernels), -1)
        parts = [matmul(k.matrix(X, self.points).astype(alpha.dtype), alpha) for k in self.kernels]
        out = jnp.stack([v[g][None, :] * part for g, part in enumerate(parts)])
        return out.reshape(*out.shape[:2], *self.dual_coef.shape[1:])

    @verb()
    def predict(self, X: Any) -> Float[Array, "m *t"]:
        """Predictions (m,) or (m, t) for new points."""
        total = jnp.sum(self.predict_bands(X), axis=0)
        return total + jnp.broadcast_to(self.intercept, total.shape)


@verb()
def kernel_ridge_banded(
    points: Any, y: Any, lams: Any, *, kernels: Sequence[Kernel], intercept: bool = True, weights: Any = None
) -> BandedKernelFit:
    """Ridge regression in the sum of several kernels, each with a λ of its own.

    Args:
        points, y, intercept, weights: those of `jaxridge.kernel_ridge`.
        lams: (G,), or (G, t) for a set for each target, > 0; ∞ leaves a kernel out. kernels: G of `jaxridge.kernels`.

    Returns a `BandedKernelFit`. NaN and a code for bad values. Derivatives of every order in points, y, λs,
    weights and the numbers of the kernels. Equals `jaxridge.kernel_ridge` at λ = 1 with the kernel Σ k_g/λ_g, and
    ``himalaya.kernel_ridge.WeightedKernelRidge`` at ``deltas`` = −log λ.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([0.0, 1.0, 3.0])
    >>> both = (jxr.kernels.Linear(), jxr.kernels.RBF())
    >>> print(jxr.kernel_ridge_banded(x, y, [0.1, jnp.inf], kernels=both).predict(x).round(3))
    [-0.095  1.333  2.762]
    """
    problem, kernels = _checked(points, y, weights, intercept, kernels)
    lams = as_floats("lams", lams, (1, 2)).astype(problem.y.dtype)
    one_each = (len(kernels),) if problem.single else (len(kernels), problem.y.shape[1])
    if lams.shape not in ((len(kernels),), one_each):
        raise ValueError(f"lams has shape {lams.shape}; a number for each of {len(kernels)} kernels is needed.")
    return _banded(problem, kernels, lams)


@verb()
def kernel_ridge_banded_cv(
    points: Any,
    y: Any,
    *,
    kernels: Sequence[Kernel],
    search: Search = evidence(),
    intercept: bool = True,
    weights: Any = None,
) -> BandedKernelFit:
    """`kernel_ridge_banded` with the λ of every kernel and target that a search finds, as `jaxridge.ridge_banded_cv`.

    Args: those of `kernel_ridge_banded`; search: ``searches.evidence()``, ``descent()`` or ``random_search(...)``.

    Returns a `BandedKernelFit`, with ``bands_off`` where kernels explain nothing. Derivatives raise ValueError.
    Equals what ``himalaya.kernel_ridge.MultipleKernelRidgeCV`` approximates.

    >>> import jax, jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.linspace(-2, 2, 30)[:, None]
    >>> both = (jxr.kernels.Linear(), jxr.kernels.RBF(0.3))
    >>> noise = 0.1 * jax.random.normal(jax.random.key(0), (30,))
    >>> fit = jxr.kernel_ridge_banded_cv(x, 2 * x[:, 0] + noise, kernels=both)
    >>> print(bool(fit.lams[0] < 1e-2 * fit.lams[1]))
    True
    """
    problem, kernels = _checked(points, y, weights, intercept, kernels)
    return _banded_cv(problem, kernels, search)


def _checked(
    points: Any, y: Any, weights: Any, intercept: bool, kernels: Any
) -> tuple[KernelProblem, tuple[Kernel, ...]]:
    kernels = tuple(kernels) if isinstance(kernels, list | tuple) else kernels
    if not isinstance(kernels, tuple) or not kernels or not all(isinstance(k, Kernel) for k in kernels):
        raise ValueError(f"kernels is {kernels!r}; pass a list of jaxridge.kernels, such as [Linear(), RBF(0.5)].")
    return problem_of(points, y, weights, intercept, kernels[0]), kernels


class Prepared(eqx.Module):
    """JK̃_gJ, Jỹ with √ω in them, in powers of two."""

    K: Float[Array, "G n n"]
    y: Float[Array, "n t"]
    root: Float[Array, " n"]
    scale: Array
    y_scale: Float[Array, " t"]
    ones: Float[Array, " n"] | None


def _prepared(problem: KernelProblem, kernels: tuple[Kernel, ...]) -> Prepared:
    dtype = problem.y.dtype
    used = jnp.ones(problem.y.shape[0], bool) if problem.weights is None else problem.weights > 0
    root = jnp.ones(problem.y.shape[0], dtype)
    if problem.weights is not None:
        root = jnp.where(used, jnp.sqrt(jnp.where(used, problem.weights, 1.0)), 0.0)
    K = jnp.stack([k.matrix(problem.points).astype(dtype) for k in kernels])
    y = problem.centre(problem.y) * root[:, None]
    if problem.intercept:
        mean = matmul(K, root * root) / jnp.sum(root * root)
        level = matmul(mean, root * root) / jnp.sum(root * root)
        K = K - mean[:, :, None] - mean[:, None, :] + level[:, None, None]
    K = root[None, :, None] * K * root[None, None, :]
    still = jax.lax.stop_gradient
    scale = power_of_two(exponent(jnp.max(jnp.abs(still(K)))), dtype)
    y_scale = power_of_two(exponent(jnp.max(jnp.abs(still(y)), axis=0)), dtype)
    return Prepared(K / scale, y / y_scale[None, :], root, scale, y_scale, root if problem.intercept else None)


def _solve(K: Float[Array, "G n n"], y: Float[Array, "n c"], lam: Float[Array, " G"]) -> Float[Array, "n c"]:
    """α of (Σ K_g/λ_g + I)α = y, live."""
    v, still = 1.0 / lam, jax.lax.stop_gradient
    A = Rows(still(K)).total(still(v))
    L = jnp.linalg.cholesky(A + jnp.eye(A.shape[0], dtype=A.dtype), symmetrize_input=False)

    def product(a: Array) -> Array:
        return jnp.tensordot(v, matmul(K, a), 1, precision=jax.lax.Precision.HIGHEST) + a

    return jax.lax.custom_linear_solve(product, y, lambda _, b: cho_solve((L, True), b), symmetric=True)


@eqx.filter_jit
def _banded(problem: KernelProblem, kernels: tuple[Kernel, ...], lams: Array) -> BandedKernelFit:
    return _fit(problem, kernels, _prepared(problem, kernels), lams)


def _fit(problem: KernelProblem, kernels: tuple[Kernel, ...], form: Prepared, lams: Array) -> BandedKernelFit:
    t = form.y.shape[1]
    damping = poison(lams, lams > 0) / form.scale
    if lams.ndim == 1 or t == 1:
        alpha = _solve(form.K, form.y, damping.reshape(lams.shape[0]))
    else:
        one = lambda each: _solve(form.K, each[1][:, None], each[0])[:, 0]  # noqa: E731
        alpha = map_with_rules(one, (damping.T, form.y.T)).T
    alpha = form.root[:, None] * alpha * form.y_scale[None, :]
    columns = jnp.broadcast_to(lams.reshape(lams.shape[0], -1), (lams.shape[0], t))
    # What the sum of the parts leaves of y on average; K by the kernels once more, since K̃ is about its mean.
    parts = jnp.stack([matmul(k.matrix(problem.points).astype(alpha.dtype), alpha) for k in kernels])
    left = problem.y - jnp.sum(parts / columns[:, None, :], axis=0)
    b = problem.mean(left) if problem.intercept else jnp.zeros(t, alpha.dtype)
    weights = problem.weights
    good = jnp.array(True) if weights is None else jnp.all(weights >= 0) & jnp.any(weights > 0)
    result = first_failure(
        (~jnp.all(jnp.isfinite(problem.y), axis=0), RESULTS.nonfinite_input),
        (~jnp.all(jnp.isfinite(form.K)), RESULTS.nonfinite_kernel),
        (~good, RESULTS.invalid_weights),
        (~jnp.all(columns >= 0, axis=0), RESULTS.invalid_lam),
        (~jnp.all(columns > 0, axis=0), RESULTS.lam_not_positive),
        (~jnp.all(jnp.isfinite(alpha), axis=0), RESULTS.indefinite_kernel),
        shape=(t,),
    )
    alpha, b, columns, result = problem.squeeze((alpha, b, columns, result))
    return BandedKernelFit(kernels, problem.points, alpha, b, columns, result)


@eqx.filter_jit
def _banded_cv(problem: KernelProblem, kernels: tuple[Kernel, ...], search: Search) -> BandedKernelFit:
    problem, kernels = without_derivatives((problem, kernels), NO_DERIVATIVES)
    form = _prepared(problem, kernels)
    count = jnp.asarray(problem.rows() - problem.free, form.y.dtype)
    usable = jnp.isfinite(form.K).all() & jnp.all(jnp.isfinite(form.y), axis=0)
    found = search.find(Rows(form.K), jnp.where(usable[None, :], form.y, 0.0), count, form.ones)
    lams = jnp.where(usable[None, :], found.lams * form.scale, jnp.nan)
    fit = _fit(problem, kernels, form, lams[:, 0] if problem.single else lams)
    score, off = problem.squeeze((found.score, jnp.any(jnp.isinf(lams), axis=0)))
    result = override(RESULTS.bands_off, off & (fit.result == RESULTS.successful), fit.result)
    return eqx.tree_at(lambda f: (f.result, f.score_found), fit, (result, score), is_leaf=lambda x: x is None)
