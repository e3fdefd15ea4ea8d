"""Kernel ridge regression: the verbs of `jaxridge.ridge` in the space of a kernel, and its Bayesian reading.

Every verb minimises, over dual coefficients α and an intercept b without a penalty,

    Σᵢ ωᵢ (yᵢ − f(xᵢ) − b)² + λ αᵀKα,        f(x) = Σⱼ k(x, xⱼ) αⱼ

The same number elsewhere: scikit-learn ``alpha`` = λ (and no intercept); Gaussian processes of signal variance s² and
noise variance σ²: λ = σ²/s²; Falkon ``penalty`` = λ/n; least-squares support vector machines, which are this on
targets of ±1, γ = 1/λ.
"""

import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge import select
from jaxridge.core import plan
from jaxridge.core.checks import as_flag, as_floats, as_lam, as_lams, as_points, names_of, of_known_shape
from jaxridge.core.factored import Solver, Terms, as_solver
from jaxridge.core.types import Array, Float
from jaxridge.core.verbs import verb
from jaxridge.kernel_methods.fit import KernelFit, default_grid
from jaxridge.kernel_methods.form import KernelProblem
from jaxridge.kernel_methods.iterative import Iterative
from jaxridge.kernel_methods.nystroem import Nystroem
from jaxridge.kernel_methods.spectrum import Cholesky, Eigen, Tridiagonal
from jaxridge.kernels.base import Kernel, Precomputed
from jaxridge.select.choice import Choice, Path
from jaxridge.select.constraint import fit_of_size

__all__ = [
    "kernel_ridge",
    "kernel_ridge_ball",
    "kernel_ridge_compare",
    "kernel_ridge_cv",
    "kernel_ridge_path",
    "kernel_ridge_score",
]


@verb()
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
        solver: ``kernel_methods.Cholesky()``, ``Tridiagonal()`` or ``Eigen()`` (eigenvectors, right down to λ = 0);
            for many points ``Iterative(key)`` (conjugate gradients, no n × n array beyond its memory) or
            ``Nystroem(key)`` (an approximate model); None takes what `plan.kernel` says for ``memory`` bytes.

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
    problem = problem_of(points, y, weights, intercept, kernel)
    lam = as_lam(lam, problem.y, problem.single)
    fit = _kernel_ridge(problem, lam, chosen_solver(solver, problem, 1, memory))
    return fit.with_names(names_of(points))


@verb()
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
) -> Path:
    """Kernel ridge regression at every λ of a grid, from one tridiagonalisation of the kernel matrix.

    Args are those of `kernel_ridge`, with ``lams`` (k,), or (k, t) for a grid per target; None takes
    100 of them, log-spaced from what the dtype can resolve to ten times the trace of the kernel matrix.

    Returns a `Path` of `KernelFit`; each λ has its own code. Cost: (4/3)n³ flops once, then O(n² t) for each λ; no
    array of (k, n, n).
    Equals ``sklearn.kernel_ridge.KernelRidge`` fitted k times.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> path = jxr.kernel_ridge_path(jnp.eye(3), jnp.ones(3), [1.0, 3.0], kernel=jxr.kernels.Linear(), intercept=False)
    >>> print(path.dof, path.predict(jnp.eye(3))[:, 0])
    [1.5  0.75] [0.5  0.25]
    """
    problem = problem_of(points, y, weights, intercept, kernel)
    lams = as_lams(lams, problem.y)
    count = 100 if lams is None else lams.shape[0]
    path = _kernel_ridge_path(problem, lams, chosen_solver(solver, problem, count, memory))
    return path.with_names(names_of(points))


@verb()
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
    assess: bool = False,
    intercept: bool = True,
    weights: Any = None,
    solver: Solver | None = None,
    memory: int = plan.KERNEL_MEMORY,
) -> Choice:
    """Kernel ridge regression at the λ that a rule takes: leave-one-out by default, without refitting anything.

    Args are those of `kernel_ridge_path` and of `jaxridge.ridge_cv`, ``assess`` too. Rules without leverages
    (``select.gcv``, ``select.evidence``, ``select.kfold(5)``, ``select.holdout(points, y)``) take the cheaper
    tridiagonal form.

    Returns a `Choice`, whose ``fit`` is a `KernelFit`.
    Equals ``sklearn.model_selection.GridSearchCV(KernelRidge(), cv=LeaveOneOut())`` without an intercept.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.linspace(-1, 1, 9)[:, None]
    >>> y = jnp.sin(3 * x[:, 0]) + 0.3 * jnp.array([1, -1, 1, 1, -1, -1, 1, -1, 1.0])
    >>> choice = jxr.kernel_ridge_cv(x, y, [1e-3, 1e-1, 1e1], kernel=jxr.kernels.RBF(0.5))
    >>> print(choice.lam, choice.at_edge)
    0.1 False
    """
    problem = problem_of(points, y, weights, intercept, kernel)
    lams = as_lams(lams, problem.y)
    if lams is not None and lams.ndim == 2 and not per_target:
        raise ValueError("lams has a grid for each target; pass per_target=True, or a grid of shape (k,).")
    solver = chosen_solver(solver, problem, 100, memory, select.needs_leverages(rule))
    memory = min(plan.as_bytes(memory), plan.MEMORY)
    choice = _kernel_ridge_cv(problem, lams, rule, pick, per_target, refine, assess, solver, memory)
    return choice.with_names(names_of(points))


@verb()
def kernel_ridge_compare(
    points: Any,
    y: Any,
    rules: dict[str, Any],
    lams: Any = None,
    *,
    kernel: Kernel,
    intercept: bool = True,
    weights: Any = None,
    solver: Solver | None = None,
    memory: int = plan.KERNEL_MEMORY,
) -> select.Comparison:
    """Several rules on one decomposition of the kernel matrix: where they agree on λ, and where they do not.

    Args: as for `kernel_ridge_cv`, with ``rules`` a dict from names to rules; each λ is refined where the solver is
    dense, one for all targets. Returns a `select.Comparison`, as `jaxridge.ridge_compare`.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.linspace(-1, 1, 9)[:, None]
    >>> y = jnp.sin(3 * x[:, 0]) + 0.3 * jnp.array([1, -1, 1, 1, -1, -1, 1, -1, 1.0])
    >>> rules = {"leave-one-out": jxr.select.loo, "evidence": jxr.select.evidence}
    >>> print(jxr.kernel_ridge_compare(x, y, rules, kernel=jxr.kernels.RBF(0.5)).lam.round(2))
    [0.62 0.35]
    """
    problem = problem_of(points, y, weights, intercept, kernel)
    rules, leverages = select.as_rules(rules), any(select.needs_leverages(rule) for rule in rules.values())
    solver = chosen_solver(solver, problem, 100, memory, leverages)
    memory = min(plan.as_bytes(memory), plan.MEMORY)
    choices = _kernel_ridge_compare(problem, as_lams(lams, problem.y), rules, solver, memory)
    names = names_of(points)
    return select.Comparison(tuple(rules), {name: choices[name].with_names(names) for name in rules})


@verb()
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
    problem = problem_of(points, y, weights, intercept, kernel)
    solver = chosen_solver(solver, problem, 1, memory, select.needs_leverages(rule))
    return _kernel_ridge_score(problem, as_lam(lam, problem.y, problem.single), rule, solver)


@verb()
def kernel_ridge_ball(
    points: Any,
    y: Any,
    radius: Any,
    *,
    kernel: Kernel,
    intercept: bool = True,
    weights: Any = None,
    solver: Solver | None = None,
    memory: int = plan.KERNEL_MEMORY,
) -> KernelFit:
    """Least squares over the functions of a ball: min Σ ωᵢ (yᵢ − f(xᵢ) − b)² subject to √(αᵀKα) <= radius.

    The multiplier λ comes back as ``fit.lam``, one for each target; it is 0 where the smoothest f through the points
    (of those of least squares, that of least norm) lies inside.

    Args: as for `kernel_ridge`, with radius >= 0 a scalar or (t,). ``solver`` is ``kernel_methods.Eigen()``, which
    None stands for, or ``Nystroem(key)``: those that are right down to λ = 0. Derivatives flow through radius, points,
    the kernel and the rest.
    Equals `kernel_ridge` at the root of the secular equation √(αᵀKα) = radius, as `jaxridge.ridge_ball` does.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x, linear = jnp.eye(2), jxr.kernels.Linear()
    >>> fit = jxr.kernel_ridge_ball(x, jnp.array([3.0, 4.0]), 1.0, kernel=linear, intercept=False)
    >>> print(fit.lam.round(4), fit.norm.round(5), fit.predict(x).round(5))
    4.0 1.0 [0.6 0.8]
    """
    problem = problem_of(points, y, weights, intercept, kernel)
    radius = as_lam(radius, problem.y, problem.single, "radius")
    solver = chosen_solver(solver, problem, 100, memory, leverages=True)
    if not isinstance(solver, Eigen | Nystroem):
        raise ValueError(
            f"kernel_ridge_ball looks for its lam from 0 on, where {type(solver).__name__} is not right; pass "
            "solver=kernel_methods.Eigen(), with the memory that it takes, or Nystroem(key)."
        )
    return _kernel_ridge_ball(problem, radius, solver).with_names(names_of(points))


def problem_of(points: Any, y: Any, weights: Any, intercept: bool, kernel: Any) -> KernelProblem:
    """The live problem. Shapes and dtypes are checked here, values never."""
    if isinstance(kernel, type) and issubclass(kernel, Kernel):
        raise ValueError(f"kernel is the class {kernel.__name__}; pass an instance of it, such as kernels.RBF(1.0).")
    if isinstance(kernel, np.ndarray | jax.Array):
        raise ValueError(
            f"kernel is a matrix of shape {kernel.shape}; pass one of jaxridge.kernels, or factor the matrix with "
            "kernel_methods.from_kernel(K, y)."
        )
    if not isinstance(kernel, Kernel):
        raise ValueError(f"kernel is {kernel!r}; pass one of jaxridge.kernels, or kernels.Pairwise(function).")
    strange = [leaf for leaf in jax.tree.leaves(kernel) if not eqx.is_array_like(leaf)]
    if strange:
        raise ValueError(
            f"kernel {type(kernel).__name__} holds {strange[0]!r}, which is no array: declare that field with "
            "equinox.field(static=True), or pass kernels.Pairwise(function), or kernel.on(map)."
        )
    y, points = of_known_shape("y", as_floats("y", y, (1, 2))), as_points("points", points)
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
    targets = y.astype(dtype).reshape(y.shape[0], -1)
    terms = Terms(as_flag("intercept", intercept), y.ndim == 1)
    return KernelProblem(kernel=kernel, points=points, y=targets, weights=weights, terms=terms)


def chosen_solver(
    solver: Solver | None, problem: KernelProblem, lams: int, memory: int, leverages: bool = False
) -> Solver:
    """The solver that was passed, if it suits the kernel, or the one that the plan says."""
    memory = plan.as_bytes(memory)
    parts = jax.tree.leaves(problem.kernel, is_leaf=lambda part: isinstance(part, Precomputed))
    precomputed = any(isinstance(part, Precomputed) for part in parts)
    if solver is not None:
        solver = as_solver(solver, KernelProblem, "kernel_methods.Cholesky(), Iterative(key) or Nystroem(key)")
        if precomputed and solver.matrix_free:
            raise ValueError(
                f"solver is {type(solver).__name__}, which needs k(x, z) of pairs of points, and a precomputed kernel "
                "has none; leave solver out, or pass the kernel as a function with kernels.Pairwise."
            )
        return solver
    route = plan.kernel(
        problem.y.shape[0],
        lams,
        problem.y.dtype,
        leverages=leverages,
        definite=problem.kernel.definite,
        # A matrix that is there already needs no solver that does without one.
        memory=sys.maxsize if precomputed else memory,
    ).route
    dense = {"cholesky": Cholesky(), "tridiagonal": Tridiagonal(), "eigen": Eigen()}
    if route in dense:
        return dense[route]
    # The key moves pivots and centres, and with them the number of steps, or an approximation that is named as one.
    return (Iterative if route == "iterative" else Nystroem)(jax.random.key(0), memory=memory)


@eqx.filter_jit
def _kernel_ridge(problem: KernelProblem, lam: Array, solver: Solver) -> KernelFit:
    return solver.factor(problem).fit(lam)


@eqx.filter_jit
def _kernel_ridge_ball(problem: KernelProblem, radius: Array, solver: Solver) -> KernelFit:
    return fit_of_size(solver.factor(problem), radius)


@eqx.filter_jit
def _kernel_ridge_path(problem: KernelProblem, lams: Array | None, solver: Solver) -> Path:
    lams = default_grid(problem) if lams is None else lams
    factored = solver.factor(problem, lams)
    return Path(lams, factored.fits(lams), factored.without_rows())


@eqx.filter_jit
def _kernel_ridge_cv(
    problem: KernelProblem,
    lams: Array | None,
    rule: Any,
    pick: Any,
    per_target: bool,
    refine: bool,
    assess: bool,
    solver: Solver,
    memory: int,
) -> Choice:
    lams = default_grid(problem) if lams is None else lams
    factored = solver.factor(problem, lams)
    found = select.search(rule, factored, lams, pick, per_target, refine, memory)
    said = select.assess(rule, factored, found, pick, per_target, memory) if assess else None
    return Choice(*found, select.with_code(found, factored.fit(found.lam)), assessment=said)


@eqx.filter_jit
def _kernel_ridge_compare(
    problem: KernelProblem, lams: Array | None, rules: dict[str, Any], solver: Solver, memory: int
) -> dict[str, Choice]:
    lams = default_grid(problem) if lams is None else lams
    return select.comparison(solver.factor(problem, lams), lams, rules, memory)


@eqx.filter_jit
def _kernel_ridge_score(problem: KernelProblem, lam: Array, rule: Any, solver: Solver) -> Float[Array, "*t"]:
    factored = solver.factor(problem)
    return problem.squeeze(select.bind(rule, factored)(problem, factored, lam))
