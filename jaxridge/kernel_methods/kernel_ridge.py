"""Kernel ridge regression: the verbs of `jaxridge.ridge` in the space of a kernel, and its Bayesian reading.

Every verb minimises, over dual coefficients α and an intercept b without a penalty,

    Σᵢ ωᵢ (yᵢ − f(xᵢ) − b)² + λ αᵀKα,        f(x) = Σⱼ k(x, xⱼ) αⱼ

The same number elsewhere: scikit-learn ``alpha`` = λ (and no intercept); Gaussian processes of signal variance s² and
noise variance σ²: λ = σ²/s²; Falkon ``penalty`` = λ/n; least-squares support vector machines, which are this on
targets of ±1, γ = 1/λ.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxridge import select
from jaxridge.core import plan
from jaxridge.core.numbers import matmul, poison
from jaxridge.core.rows import count, map_rows, same_kind
from jaxridge.core.types import Array, Float
from jaxridge.kernel_methods.form import from_level
from jaxridge.kernel_methods.large import Iterative, LargePath, LargeSolver, Nystroem
from jaxridge.kernels.base import Kernel, Precomputed
from jaxridge.linear import stream
from jaxridge.linear.design import Terms, as_floats, as_function, as_points
from jaxridge.linear.ridge import Choice, as_lam, as_lams, squeeze
from jaxridge.linear.spectrum import KernelSpectrum, from_kernel, from_kernel_cholesky, from_kernel_tridiagonal

Solver = Callable[..., KernelSpectrum] | LargeSolver


class KernelFit(eqx.Module):
    """A fitted kernel model: ``predict(X) = kernel(X, points) @ dual_coef + intercept``.

    ``points`` are those that carry coefficients: all that were fitted, or the centres of `Nystroem`.
    ``dual_coef`` (n,) or (n, t), ``intercept`` () or (t,), ``lam`` as it was used, ``rss`` (weighted residual sum of
    squares), ``result`` (`RESULTS`, one for each target).
    """

    kernel: Kernel
    points: Any
    dual_coef: Float[Array, "n *t"]
    intercept: Float[Array, "*t"]
    lam: Array
    rss: Float[Array, "*t"]
    result: Any

    def predict(self, X: Any, *, memory: int = plan.MEMORY) -> Float[Array, "m *t"]:
        """Predictions (m,) or (m, t) for new points, in blocks of rows whose kernel takes ``memory`` bytes."""
        return _predict(self.kernel, X, self.points, self.dual_coef, self.intercept, memory)


class KernelPath(eqx.Module):
    """A model for every λ of a grid, from one factorisation; the leading axis k is the grid.

    ``lams`` (k,), ``dual_coef`` (k, n[, t]), ``intercept`` (k[, t]), ``dof`` (k,), ``rss`` (k[, t]), ``result``
    (k[, t]). ``path[i]`` is the `KernelFit` at the i-th λ, ``path.at(lam)`` the one at any other λ of a dense path.
    Of an iterative solver also ``iterations`` and ``residual_norm`` (k[, t]), and no ``dof``.
    """

    kernel: Kernel
    points: Any
    lams: Array
    dual_coef: Float[Array, "k n *t"]
    intercept: Float[Array, "k *t"]
    dof: Array | None
    rss: Float[Array, "k *t"]
    result: Any
    spectrum: KernelSpectrum | None
    terms: Terms = eqx.field(static=True)
    iterations: Array | None = None
    residual_norm: Array | None = None

    def __len__(self) -> int:
        return self.lams.shape[0]

    def __getitem__(self, i: int) -> KernelFit:
        pick = partial(jax.tree.map, lambda x: x[i])
        each = (self.dual_coef, self.intercept, self.lams, self.rss, self.result)
        return KernelFit(self.kernel, self.points, *(pick(x) for x in each))

    def at(self, lam: Any) -> KernelFit:
        """The model at any λ, without another factorisation of the kernel matrix."""
        if self.spectrum is None:
            raise ValueError("at needs the factor of a dense solver; make lam a part of lams instead.")
        lam = as_lam(lam, self.spectrum.design.y, self.terms)
        return _fit(self.spectrum, lam, self.kernel, self.points, self.terms)

    def predict(self, X: Any, *, memory: int = plan.MEMORY) -> Float[Array, "k m *t"]:
        """Predictions at every λ: (k, m) or (k, m, t)."""
        columns = jnp.moveaxis(self.dual_coef, 0, 1)
        flat = columns.reshape(columns.shape[0], -1)
        all_at_once = _predict(self.kernel, X, self.points, flat, self.intercept.reshape(-1), memory)
        return jnp.moveaxis(all_at_once.reshape(-1, *columns.shape[1:]), 1, 0)


class Posterior(eqx.Module):
    """The Gaussian process behind a fit: f(x) + b given y, for noise variance σ² and prior covariance σ²/λ · k.

    ``noise`` () or (t,) is σ²; ``fit`` the mean.
    """

    fit: KernelFit
    noise: Float[Array, "*t"]
    spectrum: KernelSpectrum
    terms: Terms = eqx.field(static=True)

    def mean(self, X: Any) -> Float[Array, "m *t"]:
        """The fit itself."""
        return self.fit.predict(X)

    @eqx.filter_jit
    def variance(self, X: Any) -> Float[Array, "m *t"]:
        """Variance of f(x) + b at each new point; that of a new measurement is larger by σ²."""
        reduced = self._reduced(X, lambda across, solved: jnp.sum(across * solved, axis=0))
        return self._scaled(jnp.maximum(self.fit.kernel.diagonal(X) - reduced, 0.0))

    @eqx.filter_jit
    def covariance(self, X: Any) -> Float[Array, "m m *t"]:
        """Covariance of f(x) + b between new points."""
        return self._scaled(
            self.fit.kernel.matrix(X) - self._reduced(X, lambda across, solved: matmul(across.T, solved))
        )

    def _reduced(self, X: Any, product: Callable[[Array, Array], Array]) -> Array:
        """[k 1] M⁻¹ [k 1]ᵀ: what the measurements take off the prior."""
        spectrum, lam = self.spectrum, self.fit.lam
        across = self.fit.kernel.matrix(self.fit.points, X)
        ones = jnp.ones(across.shape[1], across.dtype)
        alpha, b = spectrum.solve(lam, spectrum.design.weigh(across), ones)
        return product(across, alpha) + b if spectrum.design.terms.intercept else product(across, alpha)

    def _scaled(self, covariance: Array) -> Array:
        scale = self.noise / self.fit.lam
        if self.terms.single:
            return covariance * scale
        scale = jnp.broadcast_to(scale, self.fit.intercept.shape)
        return covariance[..., None] * scale.reshape(*(1 for _ in covariance.shape), -1)


def kernel_ridge(
    points: Any,
    y: Any,
    lam: Any,
    *,
    kernel: Kernel,
    intercept: bool = True,
    weights: Any = None,
    solver: Solver | None = None,
    memory: int = plan.KERNEL_MEMORY,
) -> KernelFit:
    """Kernel ridge regression at one λ.

    min over α, b of Σᵢ ωᵢ (yᵢ − (Kα)ᵢ − b)² + λ αᵀKα, by one Cholesky factorisation.

    Args:
        points: (n, d), or any pytree with n points along its leading axis if the kernel takes such.
        y: (n,) or (n, t) targets. lam: λ >= 0, a scalar or one for each target (t,).
        kernel: a `jaxridge.kernels.Kernel`, such as ``kernels.RBF(scale=0.5)``.
        intercept: add an unpenalised constant. weights: (n,) precisions >= 0, as for `jaxridge.ridge`.
        solver: ``spectrum.from_kernel_cholesky``, ``from_kernel_tridiagonal`` or ``from_kernel`` (eigenvectors, right
            down to λ = 0); for many points ``Iterative(key)`` (conjugate gradients, no n × n array beyond its memory)
            or ``Nystroem(key)`` (an approximate model); None takes what `plan.kernel` says for ``memory`` bytes.

    Returns a `KernelFit`. A λ below what the dtype resolves gives the solution at the least one that it does, with a
    code; NaN in points, a length scale that is not positive, a matrix that is no kernel give NaN and a code.
    Raises ValueError for shapes and dtypes that cannot be meant. Derivatives of every order, in points and in the
    numbers of the kernel too.
    Equals ``sklearn.kernel_ridge.KernelRidge(alpha=lam)`` with ``intercept=False``.
    Saunders, Gammerman and Vovk (1998), ICML 15, 515.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([0.0, 1.0, 0.0])
    >>> fit = jxr.kernel_ridge(x, y, 0.1, kernel=jxr.kernels.RBF())
    >>> print(fit.predict(jnp.array([[1.0]])).round(3))
    [0.802]
    """
    problem, terms = _checked(points, y, weights, intercept, kernel)
    return _kernel_ridge(
        problem, as_lam(lam, problem.y, terms), kernel, terms, _solver(solver, kernel, problem, 1, memory)
    )


def kernel_ridge_path(
    points: Any,
    y: Any,
    lams: Any = None,
    *,
    kernel: Kernel,
    intercept: bool = True,
    weights: Any = None,
    solver: Solver | None = None,
    memory: int = plan.KERNEL_MEMORY,
) -> KernelPath:
    """Kernel ridge regression at every λ of a grid, from one tridiagonalisation of the kernel matrix.

    Args are those of `kernel_ridge`, with ``lams`` (k,), or (k, t) for a grid per target; None takes
    `select.kernel_grid`, log-spaced over what the dtype can resolve.

    Returns a `KernelPath`; each λ has its own code. Cost: (4/3)n³ flops once, then O(n² t) for each λ; no array of
    (k, n, n).
    Equals ``sklearn.kernel_ridge.KernelRidge`` fitted k times.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> path = jxr.kernel_ridge_path(jnp.eye(3), jnp.ones(3), [1.0, 3.0], kernel=jxr.kernels.Linear(), intercept=False)
    >>> print(path.dof, path.predict(jnp.eye(3))[:, 0])
    [1.5  0.75] [0.5  0.25]
    """
    problem, terms = _checked(points, y, weights, intercept, kernel)
    lams = as_lams(lams, problem.y)
    count = 100 if lams is None else lams.shape[0]
    return _kernel_ridge_path(problem, lams, kernel, terms, _solver(solver, kernel, problem, count, memory))


def kernel_ridge_cv(
    points: Any,
    y: Any,
    lams: Any = None,
    *,
    kernel: Kernel,
    rule: Callable[..., Array] = select.loo,
    pick: Callable[..., Array] = select.lowest,
    per_target: bool = False,
    refine: bool = False,
    intercept: bool = True,
    weights: Any = None,
    solver: Solver | None = None,
    memory: int = plan.KERNEL_MEMORY,
) -> Choice:
    """Kernel ridge regression at the λ that a rule takes: leave-one-out by default, without refitting anything.

    Args are those of `kernel_ridge_path` and of `jaxridge.ridge_cv`. Rules without leverages (``select.gcv``,
    ``select.evidence``, ``select.kfold(5)``, ``select.holdout(points, y)``) take the cheaper tridiagonal form.

    Returns a `Choice`, whose ``fit`` is a `KernelFit`.
    Equals ``sklearn.model_selection.GridSearchCV(KernelRidge(), cv=LeaveOneOut())`` without an intercept.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.linspace(-1, 1, 9)[:, None]
    >>> y = jnp.sin(3 * x[:, 0]) + 0.3 * jnp.array([1, -1, 1, 1, -1, -1, 1, -1, 1.0])
    >>> choice = jxr.kernel_ridge_cv(x, y, [1e-3, 1e-1, 1e1], kernel=jxr.kernels.RBF(0.5))
    >>> print(choice.lam, choice.at_edge)
    0.1 False
    """
    problem, terms = _checked(points, y, weights, intercept, kernel)
    lams = as_lams(lams, problem.y)
    if lams is not None and lams.ndim == 2 and not per_target:
        raise ValueError("lams has a grid for each target; pass per_target=True, or a grid of shape (k,).")
    solver = _solver(solver, kernel, problem, 100, memory, select.needs_leverages(rule))
    if isinstance(solver, LargeSolver) and refine:
        raise ValueError("refine needs the factor of a dense solver; pass a finer grid of lams instead.")
    memory = min(plan.as_bytes(memory), plan.MEMORY)
    return _kernel_ridge_cv(problem, lams, kernel, rule, terms, pick, per_target, refine, solver, memory)


def kernel_ridge_score(
    points: Any,
    y: Any,
    lam: Any,
    *,
    kernel: Kernel,
    rule: Callable[..., Array] = select.loo,
    intercept: bool = True,
    weights: Any = None,
    solver: Solver | None = None,
    memory: int = plan.KERNEL_MEMORY,
) -> Float[Array, "*t"]:
    """The score of a kernel and a λ under a rule: what to minimise over length scales, weights and λ.

    Args as for `kernel_ridge_cv`, with one λ. Returns () or (t,), lower is better, with derivatives in all that is
    passed; give its gradient to optax, or the function itself to `jaxridge.minimize`.

    >>> import jax, jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.linspace(-1, 1, 20)[:, None]
    >>> def loss(log_scale):
    ...     kernel = jxr.kernels.RBF(jnp.exp(log_scale))
    ...     return jxr.kernel_ridge_score(x, jnp.sin(5 * x[:, 0]), 0.01, kernel=kernel, rule=jxr.select.evidence)
    >>> print(f"{jax.grad(loss)(0.0):.1f}")
    14.2
    """
    problem, terms = _checked(points, y, weights, intercept, kernel)
    solver = _solver(solver, kernel, problem, 1, memory, select.needs_leverages(rule))
    return _kernel_ridge_score(problem, as_lam(lam, problem.y, terms), kernel, rule, terms, solver)


def kernel_posterior(
    points: Any,
    y: Any,
    lam: Any,
    *,
    kernel: Kernel,
    noise: Any = None,
    intercept: bool = True,
    weights: Any = None,
    solver: Solver | None = None,
) -> Posterior:
    """The posterior of the Gaussian process of which `kernel_ridge` is the mean: its variances at new points.

    f has the prior covariance σ²/λ · k, the intercept a flat prior, measurement i the variance σ²/ωᵢ.

    Args as for `kernel_ridge`, with one λ for all targets; noise: σ², a scalar or (t,); None takes its restricted
    maximum likelihood estimate, λ yᵀα/(n − q).

    Returns a `Posterior` with ``mean``, ``variance`` and ``covariance``, which are differentiable too. ValueError for
    λ or σ² ≤ 0, NaN where they are traced.
    Equals ``sklearn.gaussian_process.GaussianProcessRegressor`` with the kernel σ²/λ · k, alpha = σ², no intercept.
    Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, equations 2.25, 2.26 and 2.41.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0])
    >>> posterior = jxr.kernel_posterior(x, y, 0.1, kernel=jxr.kernels.RBF(), noise=0.1, intercept=False)
    >>> print(posterior.variance(jnp.array([[0.0], [50.0]])).round(3))
    [0.087 1.   ]
    """
    problem, terms = _checked(points, y, weights, intercept, kernel)
    lam = as_lam(lam, problem.y, terms)
    if lam.ndim:
        raise ValueError(f"lam has shape {lam.shape}; a posterior has one lam for all targets, a scalar.")
    noise = None if noise is None else as_lam(noise, problem.y, terms, "noise")
    for name, value in (("lam", lam), ("noise", noise)):
        if value is not None and not isinstance(value, Tracer) and not jnp.all(value > 0):
            raise ValueError(f"{name} is {value}; a posterior needs a positive one.")
    solver = _solver(solver, kernel, problem, 1, plan.KERNEL_MEMORY)
    if isinstance(solver, LargeSolver):
        raise ValueError("A posterior needs a dense solver, such as spectrum.from_kernel_cholesky, and its memory.")
    return _kernel_posterior(problem, lam, noise, kernel, terms, solver)


class KernelProblem(NamedTuple):
    """The arrays of a problem as the user has them."""

    points: Any
    y: Float[Array, "n t"]
    weights: Float[Array, " n"] | None


def _checked(points: Any, y: Any, weights: Any, intercept: bool, kernel: Any) -> tuple[KernelProblem, Terms]:
    """Arrays and static terms of a problem. Shapes and dtypes are checked here, values never."""
    if not isinstance(kernel, Kernel):
        raise ValueError(f"kernel is {kernel!r}; pass one of jaxridge.kernels, or kernels.Pairwise(function).")
    y, points = as_floats("y", y, (1, 2)), as_points("points", points)
    leaves = jax.tree.leaves(points)
    lengths = {leaf.shape[0] for leaf in leaves}
    if lengths != {y.shape[0]}:
        raise ValueError(f"points has {sorted(lengths)} rows and y {y.shape[0]}; they must be the same observations.")
    if y.shape[0] == 0:
        raise ValueError("points is empty; at least one observation is needed.")
    dtype = np.result_type(y.dtype, *(leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)))
    points = jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, points)
    if weights is not None:
        weights = as_floats("weights", weights, (1,)).astype(dtype)
        if weights.shape != y.shape[:1]:
            raise ValueError(f"weights has shape {weights.shape}; one weight per point is needed: {y.shape[:1]}.")
    terms = Terms(bool(intercept), False, (), y.ndim == 1)
    return KernelProblem(points, y.astype(dtype).reshape(y.shape[0], -1), weights), terms


def _solver(
    solver: Solver | None, kernel: Kernel, problem: KernelProblem, lams: int, memory: int, leverages: bool = False
) -> Solver:
    memory = plan.as_bytes(memory)
    parts = jax.tree.leaves(kernel, is_leaf=lambda part: isinstance(part, Precomputed))
    precomputed = any(isinstance(part, Precomputed) for part in parts)
    if precomputed and isinstance(solver, LargeSolver):
        raise ValueError(
            f"solver is {type(solver).__name__}, which needs k(x, z) of pairs of points, and a precomputed kernel has "
            "none; leave solver out, or pass the kernel as a function with kernels.Pairwise."
        )
    if isinstance(solver, LargeSolver):
        return solver
    if solver is not None:
        return as_function("solver", solver, "spectrum.from_kernel_cholesky, Iterative(key) or Nystroem(key)")
    route = plan.kernel(
        problem.y.shape[0],
        lams,
        problem.y.dtype,
        leverages=leverages,
        definite=kernel.definite,
        backend=jax.default_backend(),
        # A matrix that is there already needs no solver that does without one.
        memory=sys.maxsize if precomputed else memory,
    ).route
    dense = {"cholesky": from_kernel_cholesky, "tridiagonal": from_kernel_tridiagonal, "eigen": from_kernel}
    if route in dense:
        return dense[route]
    # The key moves pivots and centres, and with them the number of steps, or an approximation that is named as one.
    return (Iterative if route == "iterative" else Nystroem)(jax.random.key(0), memory=memory)


def _factored(problem: KernelProblem, kernel: Kernel, terms: Terms, solver: Any) -> KernelSpectrum:
    K = kernel.matrix(problem.points).astype(problem.y.dtype)
    return solver(K, problem.y, weights=problem.weights, intercept=terms.intercept)


def _large_path(
    problem: KernelProblem, lams: Array, kernel: Kernel, terms: Terms, solver: LargeSolver
) -> tuple[KernelPath, LargePath]:
    """The path of a solver without a factor, for the user and with an axis of targets."""
    large = solver.path(kernel, problem.points, problem.y, lams, problem.weights, terms.intercept)
    parts = (large.dual_coef, large.intercept, large.rss, large.result, large.iterations, large.residual_norm)
    alpha, b, rss, result, iterations, norms = squeeze(terms, parts)
    dof = large.dof
    return KernelPath(kernel, large.points, lams, alpha, b, dof, rss, result, None, terms, iterations, norms), large


def _fit(spectrum: KernelSpectrum, lam: Array, kernel: Kernel, points: Any, terms: Terms) -> KernelFit:
    parts = (spectrum.dual_coef(lam), spectrum.intercept(lam), spectrum.rss(lam), spectrum.result(lam))
    alpha, b, rss, result = squeeze(terms, parts)
    return KernelFit(kernel, points, alpha, b, lam, rss, result)


@eqx.filter_jit
def _kernel_ridge(problem: KernelProblem, lam: Array, kernel: Kernel, terms: Terms, solver: Any) -> KernelFit:
    if isinstance(solver, LargeSolver):
        return _large_path(problem, lam[None], kernel, terms, solver)[0][0]
    return _fit(_factored(problem, kernel, terms, solver), lam, kernel, problem.points, terms)


@eqx.filter_jit
def _kernel_ridge_path(
    problem: KernelProblem, lams: Array | None, kernel: Kernel, terms: Terms, solver: Any
) -> KernelPath:
    lams = _grid(problem, kernel) if lams is None else lams
    if isinstance(solver, LargeSolver):
        return _large_path(problem, lams, kernel, terms, solver)[0]
    spectrum = _factored(problem, kernel, terms, solver)

    def at(lam: Array) -> tuple[Array, Array, Array, Array, Any]:
        alpha, b = spectrum.dual_coef(lam), spectrum.intercept(lam)
        return alpha, b, spectrum.rss(lam), spectrum.result(lam), spectrum.dof(lam)

    alpha, b, rss, result, dof = jax.vmap(at)(lams)
    alpha, b, rss, result = squeeze(terms, (alpha, b, rss, result))
    return KernelPath(kernel, problem.points, lams, alpha, b, dof, rss, result, spectrum, terms)


@eqx.filter_jit
def _kernel_ridge_cv(
    problem: KernelProblem,
    lams: Array | None,
    kernel: Kernel,
    rule: Any,
    terms: Terms,
    pick: Any,
    per_target: bool,
    refine: bool,
    solver: Any,
    memory: int,
) -> Choice:
    lams = _grid(problem, kernel) if lams is None else lams
    if isinstance(solver, LargeSolver):
        return _large_choice(problem, lams, kernel, rule, terms, pick, per_target, solver)
    spectrum = _factored(problem, kernel, terms, solver)
    rule = _with_kernel(rule, kernel, problem.points)
    found = select.search(rule, spectrum, lams, pick, per_target, refine, memory, terms.single)
    return Choice(*found, _fit(spectrum, found.lam, kernel, problem.points, terms))


@eqx.filter_jit
def _kernel_ridge_score(
    problem: KernelProblem, lam: Array, kernel: Kernel, rule: Any, terms: Terms, solver: Any
) -> Array:
    if isinstance(solver, LargeSolver):
        path, large = _large_path(problem, lam[None], kernel, terms, solver)
        return squeeze(terms, _large_scores(problem, path, large, rule, terms, solver)[0][0])
    spectrum = _factored(problem, kernel, terms, solver)
    bound = select.bind(_with_kernel(rule, kernel, problem.points), spectrum)
    return squeeze(terms, bound(spectrum.design, spectrum, lam))


@eqx.filter_jit
def _kernel_posterior(
    problem: KernelProblem, lam: Array, noise: Array | None, kernel: Kernel, terms: Terms, solver: Any
) -> Posterior:
    spectrum = _factored(problem, kernel, terms, solver)
    fit = _fit(spectrum, lam, kernel, problem.points, terms)
    misfit = spectrum.rss(lam) + lam * spectrum.squared_norm(lam)
    likely = squeeze(terms, misfit / (spectrum.design.rows() - spectrum.design.free))
    variance = likely if noise is None else poison(noise, noise > 0)
    return Posterior(fit, poison(variance, lam > 0), spectrum, terms)


def _grid(problem: KernelProblem, kernel: Kernel) -> Array:
    return select.kernel_grid(kernel.diagonal(problem.points).astype(problem.y.dtype))


def _large_scores(
    problem: KernelProblem, path: KernelPath, large: LargePath, rule: Any, terms: Terms, solver: LargeSolver
) -> tuple[Array, Array | None]:
    """Scores (k, t) and spreads of a path without a factor: on rows kept apart, or those of an approximate model."""
    if isinstance(rule, select.Holdout):
        same_kind("holdout: X", rule.X, "the model", path.points)
        predicted = path.predict(rule.X).reshape(path.lams.shape[0], rule.y.shape[0], -1)
        return jax.vmap(rule.summary)(rule.misfit(predicted))
    if isinstance(solver, Nystroem):
        y = from_level(problem.y, problem.weights, terms.intercept)[0]
        features, spectrum, block = solver.model(path.kernel, problem.points, y, problem.weights, terms.intercept)
        if isinstance(rule, select.LeaveOneOut):
            rows = (problem.points, y, path.lams)
            options = {"weights": problem.weights, "loss": rule.loss, "block": block}
            return stream.leave_one_out(spectrum, features, *rows, **options), None
        if not select.needs_leverages(rule) and not isinstance(rule, select.KFold):
            return jax.vmap(lambda lam: rule(spectrum.design, spectrum, lam))(path.lams), None
    name, instead = getattr(rule, "__name__", type(rule).__name__), "select.holdout(points, y)"
    if isinstance(solver, Nystroem):
        raise ValueError(f"rule is {name}, which Nystroem has not; pass select.loo, select.gcv or {instead}.")
    raise ValueError(
        f"rule is {name}, which {type(solver).__name__} cannot give: an iterative solution has no leverages and an "
        f"approximation of them would be another score. Use {instead}, or solver=Nystroem(key), whose model has them."
    )


def _large_choice(
    problem: KernelProblem,
    lams: Array,
    kernel: Kernel,
    rule: Any,
    terms: Terms,
    pick: Any,
    per_target: bool,
    solver: LargeSolver,
) -> Choice:
    path, large = _large_path(problem, lams, kernel, terms, solver)
    scores, spread = _large_scores(problem, path, large, rule, terms, solver)
    found = select.settle(lams, scores, spread, pick, per_target, terms.single)
    index = jnp.broadcast_to(found.index, path.intercept.shape[1:])

    def taken(x: Array, axis: int) -> Array:
        """The grid point of each target; targets are the last axis, if there is one."""
        where = index.reshape(1, *(1 for _ in x.shape[1 : x.ndim - index.ndim]), *index.shape)
        return jnp.take_along_axis(x, where, axis=axis)[0]

    parts = (path.dual_coef, path.intercept, path.rss, path.result)
    alpha, b, rss, result = jax.tree.map(lambda x: taken(x, 0), parts)
    return Choice(*found, KernelFit(kernel, path.points, alpha, b, found.lam, rss, result))


def _with_kernel(rule: Any, kernel: Kernel, points: Any) -> Any:
    """A hold-out rule with the kernel between its points and those of the fit in the place of its features."""
    if isinstance(rule, select.Holdout):
        same_kind("holdout: X", rule.X, "the model", points)
        return select.Holdout(kernel.matrix(rule.X, points), rule.y, rule.loss)
    return rule


@eqx.filter_jit
def _predict(kernel: Kernel, X: Any, points: Any, dual_coef: Array, intercept: Array, memory: int) -> Array:
    X = as_points("X", X)
    same_kind("X", X, "the model", points)
    n = count(points)
    flat, b = dual_coef.reshape(n, -1), intercept.reshape(1, -1)
    block = max(1, plan.as_bytes(memory) // max(2 * n * flat.dtype.itemsize, 1))
    out = map_rows(lambda rows: matmul(kernel.matrix(rows, points).astype(flat.dtype), flat) + b, X, block)
    return out.reshape(count(X), *dual_coef.shape[1:])
