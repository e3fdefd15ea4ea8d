"""Ridge regression: one λ, a whole path, the λ to take, and the two forms with a bound on the norm.

Every verb minimises, over coefficients w and intercept b,

    ‖y − Xw − b‖² + λ‖w‖²                                    no 1/n, no ½, b without a penalty

with weights Σᵢ ωᵢ(·)ᵢ² and per-column penalties λ Σⱼ pⱼ wⱼ² where they are given. The same number elsewhere:
scikit-learn ``alpha`` = λ; glmnet ``lambda`` = λ/n (and glmnet scales y to unit variance); Falkon ``penalty`` =
λ/n; texts on inverse problems write λ² for our λ; a prior precision of the coefficients is λ/σ².
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxridge import select
from jaxridge.core import plan
from jaxridge.core.checks import as_lam, as_lams, names_of
from jaxridge.core.factored import Solver, as_solver
from jaxridge.core.numbers import poison
from jaxridge.core.results import RESULTS, override
from jaxridge.core.types import Array, Float
from jaxridge.core.verbs import verb
from jaxridge.linear import blocks
from jaxridge.linear.ball import lam_of_norm
from jaxridge.linear.design import Data, Design, Options, Terms, checked, design_of
from jaxridge.linear.fit import Fit
from jaxridge.linear.route import other
from jaxridge.linear.spectrum import from_design
from jaxridge.select.choice import Choice, Path

__all__ = ["ridge", "ridge_ball", "ridge_compare", "ridge_cv", "ridge_fraction", "ridge_path", "ridge_score"]

SOLVERS = "spectrum.from_design, spectrum.from_gram or spectrum.from_cholesky"


@verb(checked)
def ridge(X: Any, y: Any, lam: Any, *, solver: Solver = from_design, **problem: Unpack[Options]) -> Fit:
    """Ridge regression at one λ.

    min over w, b of ‖y − Xw − b‖² + λ‖w‖², by QR and SVD. At λ = 0 it is the least-squares solution of minimum
    norm. ``vmap`` over ``lam`` factorises once; gradients of every order reuse that factorisation.

    Args:
        X: (n, d) features; or a sparse matrix of SciPy, a ``BCOO`` of JAX or ``operators.sparse(X)``, which
            `ridge_path` and `ridge_cv` take too and never make dense: by products alone, with ``solver=GolubKahan()``.
        y: (n,) or (n, t) targets.
        lam: λ >= 0, a scalar or one for each target (t,), in units of y² / w².
        solver: ``spectrum.from_design`` (exact), ``spectrum.from_gram`` (faster, condition number squared) or
            ``spectrum.from_cholesky`` (fastest for one λ).
        problem: ``intercept``, ``standardize``, ``weights``, ``penalty``, ``unpenalized``; see `design.Options`.

    Returns a `Fit`. Bad values (NaN, negative λ) give NaN and a code in ``fit.result``.
    Raises ValueError for shapes, dtypes and column numbers that cannot be meant.
    Equals ``sklearn.linear_model.Ridge(alpha=lam)``. Hoerl and Kennard (1970), Technometrics 12, 55.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> X, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([1.0, 3.0, 5.0])
    >>> print(jxr.ridge(X, y, 2.0).coef, jxr.ridge(X, y, 0.0).intercept.round(5))
    [1.] 1.0
    """
    elsewhere = other("ridge", X, solver)
    if elsewhere is not None:
        return elsewhere(X, y, lam, solver=None if solver is from_design else solver, **problem)
    data, terms = checked(X, y, **problem)
    fit = _ridge(data, as_lam(lam, data.y, terms.single), terms, as_solver(solver, Design, SOLVERS))
    return fit.with_names(names_of(X))


@verb(checked)
def ridge_path(X: Any, y: Any, lams: Any = None, *, solver: Solver = from_design, **problem: Unpack[Options]) -> Path:
    """Ridge regression at every λ of a grid from one factorisation of X.

    Args are those of `ridge`, with ``lams`` (k,), or (k, t) for a grid per target, in any order, repetitions
    allowed; None takes 100 of them: 0 (where the rank is full), ∞ (the model without the penalised columns), and
    between them log-spaced ones from s_r²/100 (filter factors above 0.99, s_r the smallest singular value above
    rounding) to 100 s₁² (below 0.01).

    Returns a `Path`; each λ has its own code, and a bad one leaves the others alone.
    Equals ``sklearn.linear_model.Ridge`` fitted k times. Cost: QR and SVD once, then O(d² t) for each λ.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> path = jxr.ridge_path(jnp.eye(4), jnp.ones(4), [0.0, 1.0], intercept=False)
    >>> print(path.dof, path.at(3.0).coef)
    [4. 2.] [0.25 0.25 0.25 0.25]
    """
    elsewhere = other("ridge_path", X, solver)
    if elsewhere is not None:
        return elsewhere(X, y, lams, solver=None if solver is from_design else solver, **problem)
    data, terms = checked(X, y, **problem)
    path = _ridge_path(data, as_lams(lams, data.y), terms, as_solver(solver, Design, SOLVERS))
    return path.with_names(names_of(X))


@verb(checked)
def ridge_cv(
    X: Any,
    y: Any,
    lams: Any = None,
    *,
    rule: Callable[..., Array] = select.loo,
    pick: Callable[..., Array] = select.lowest,
    per_target: bool = False,
    refine: bool = False,
    assess: bool = False,
    solver: Solver = from_design,
    memory: int = plan.MEMORY,
    **problem: Unpack[Options],
) -> Choice:
    """Ridge regression at the λ that a rule takes: leave-one-out by default, without refitting anything.

    Args beyond those of `ridge_path`:
        rule: ``select.loo``, ``select.gcv``, ``select.kfold(5)``, ``select.holdout(X, y)``, or any function
            ``(problem, factored, lam) -> (t,)`` of which less is better. For a sparse X ``select.gcv`` by random probes
            (another key: ``solver=GolubKahan(key)``), ``select.kfold(5)`` and ``select.holdout(X, y)``.
        pick: ``select.lowest``, or ``select.one_standard_error`` for the largest λ that is as good up to noise.
        per_target: a λ for each column of y instead of one for all (by their mean score).
        refine: move on from the best grid point to the optimum between its neighbours. ``choice.lam`` then has
            the derivatives of that optimum, by the implicit function theorem. A λ of the grid, 0 and ∞ too, is a
            constant and has the derivative 0.
        assess: add ``choice.assessment``, a `select.Assessment`: with ``rule=select.kfold(5)`` the score of choosing
            like this, by nested cross-validation; the standard error of log λ; dλ/dy, how each row moves it.
        memory: bytes that the scores may use at a time; with a λ for each of many targets these go a block at a time.

    Returns a `Choice`. Coefficients are formed for the chosen λ only.
    Equals ``sklearn.linear_model.RidgeCV(alphas=lams)``. Golub, Heath and Wahba (1979), Technometrics 21, 215.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.linspace(-1, 1, 9)
    >>> X = jnp.stack([x, x**2, x**3], axis=1)
    >>> choice = jxr.ridge_cv(X, x + 0.1 * jnp.cos(9 * x), [1e-3, 1e-1, 1e1])
    >>> print(choice.lam, choice.at_edge)
    0.1 False
    """
    elsewhere = other("ridge_cv", X, solver)
    if elsewhere is not None:
        more = {"rule": rule, "pick": pick, "per_target": per_target, "refine": refine, "memory": memory}
        if assess:
            raise ValueError("assess is for rows in one array; pass X as one, or leave assess out.")
        found = elsewhere(X, y, lams, solver=None if solver is from_design else solver, **more, **problem)
        if found is not None:
            return found
    data, terms = checked(X, y, **problem)
    lams = as_lams(lams, data.y)
    if lams is not None and lams.ndim == 2 and not per_target:
        raise ValueError("lams has a grid for each target; pass per_target=True, or a grid of shape (k,).")
    solver = as_solver(solver, Design, SOLVERS)
    choice = _ridge_cv(data, lams, rule, terms, pick, per_target, refine, assess, solver, memory)
    return choice.with_names(names_of(X))


@verb(checked)
def ridge_compare(
    X: Any,
    y: Any,
    rules: dict[str, Any],
    lams: Any = None,
    *,
    solver: Solver = from_design,
    memory: int = plan.MEMORY,
    **problem: Unpack[Options],
) -> select.Comparison:
    """Several rules on one factorisation: where they agree on λ, and where they do not.

    Args: as for `ridge_cv`, with ``rules`` a dict from names to rules; each λ is refined, one for all targets.

    Returns a `select.Comparison`; ``print`` it for a table with a warning where rules disagree by more than a decade.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.linspace(-1, 1, 9)
    >>> X = jnp.stack([x, x**2, x**3], axis=1)
    >>> rules = {"leave-one-out": jxr.select.loo, "GCV": jxr.select.gcv}
    >>> found = jxr.ridge_compare(X, x + 0.1 * jnp.cos(9 * x), rules)
    >>> print(found.lam.round(2), f"{found.spread:.1f} decades")
    [0.24 0.03] 0.9 decades
    """
    data, terms = checked(X, y, **problem)
    rules, solver = select.as_rules(rules), as_solver(solver, Design, SOLVERS)
    choices = _ridge_compare(data, as_lams(lams, data.y), rules, terms, solver, memory)
    names = names_of(X)
    return select.Comparison(tuple(rules), {name: choices[name].with_names(names) for name in rules})


@verb(checked)
def ridge_score(
    X: Any,
    y: Any,
    lam: Any,
    *,
    rule: Callable[..., Array] = select.loo,
    solver: Solver = from_design,
    **problem: Unpack[Options],
) -> Float[Array, "*t"]:
    """The score of one λ under a rule: what to minimise over λ, and over the model that made X.

    Args as for `ridge_cv`, with one λ. Returns () or (t,), lower is better, with derivatives in all that is passed,
    of the first order in X, weights and penalty unless the rule is `select.exact` of one.

    >>> import jax, jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.linspace(-1, 1, 9)
    >>> X = jnp.stack([x, x**2, x**3], axis=1)
    >>> score = lambda log_lam: jxr.ridge_score(X, jnp.cos(9 * x), jnp.exp(log_lam))
    >>> print(f"{score(0.0):.3f} {jax.grad(score)(0.0):.3f}")
    1.221 -0.265
    """
    data, terms = checked(X, y, **problem)
    lam = as_lam(lam, data.y, terms.single)
    return _ridge_score(data, lam, rule, terms, as_solver(solver, Design, SOLVERS))


@verb(checked)
def ridge_ball(X: Any, y: Any, radius: Any, **problem: Unpack[Options]) -> Fit:
    """Least squares inside a ball: min ‖y − Xw − b‖² subject to ‖w‖ <= radius.

    The multiplier λ comes back as ``fit.lam``, one for each target; it is 0 where the least-squares solution
    of minimum norm lies inside. The norm is that of the penalised coordinates, (Σⱼ pⱼ wⱼ²)^½ with p the
    penalties, which ``standardize`` multiplies by the variances; unpenalised columns do not count.

    Args: as for `ridge`, with radius >= 0 a scalar or (t,). Derivatives flow through radius and data; where the
    radius is the norm of the least-squares solution itself they are those towards smaller radii.
    Equals the solution of the secular equation ‖w(λ)‖ = radius; Gander (1981), Numer. Math. 36, 291.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> fit = jxr.ridge_ball(jnp.eye(2), jnp.array([3.0, 4.0]), 1.0, intercept=False)
    >>> print(fit.coef.round(5), fit.lam.round(4))
    [0.6 0.8] 4.0
    """
    data, terms = checked(X, y, **problem)
    return _ridge_norm(data, as_lam(radius, data.y, terms.single, "radius"), terms, False).with_names(names_of(X))


@verb(checked)
def ridge_fraction(X: Any, y: Any, fraction: Any, **problem: Unpack[Options]) -> Fit:
    """Ridge at a given fraction of the least-squares norm: ‖w(λ)‖ = fraction · ‖w(0)‖, λ as ``fit.lam``.

    Args: as for `ridge_ball`, with fraction in [0, 1]: 1 is least squares (λ = 0), 0 is w = 0 (λ = ∞). Derivatives at
    fraction 1 are those from below.
    Equals ``fracridge.fracridge``; Rokem and Kay (2020), GigaScience 9, giaa133.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> fit = jxr.ridge_fraction(jnp.eye(2), jnp.array([3.0, 4.0]), 0.5, intercept=False)
    >>> print(fit.coef.round(5), fit.lam.round(4))
    [1.5 2. ] 1.0
    """
    data, terms = checked(X, y, **problem)
    return _ridge_norm(data, as_lam(fraction, data.y, terms.single, "fraction"), terms, True).with_names(names_of(X))


@partial(jax.jit, static_argnames="terms")
def _ridge(data: Data, lam: Array, terms: Terms, solver: Solver) -> Fit:
    return solver.factor(design_of(data, terms)).fit(lam)


@partial(jax.jit, static_argnames="terms")
def _ridge_path(data: Data, lams: Array | None, terms: Terms, solver: Solver) -> Path:
    factored = solver.factor(design_of(data, terms), lams)
    grid: Array = factored.default_grid() if lams is None else lams
    return Path(grid, factored.fits(grid), factored.without_rows())


@eqx.filter_jit
def _ridge_cv(
    data: Data,
    lams: Array | None,
    rule: Any,
    terms: Terms,
    pick: Any,
    per_target: bool,
    refine: bool,
    assess: bool,
    solver: Solver,
    memory: int,
) -> Choice:
    factored = solver.factor(design_of(data, terms))
    grid: Array = factored.default_grid() if lams is None else lams
    search = blocks.Search(rule, pick, refine, memory)
    targets = blocks.size(factored, grid, search)
    if per_target and targets < data.y.shape[1]:
        found, fit = blocks.choose(factored, grid, search, targets)
    else:
        found, fit = search.whole(factored, grid, per_target)
    if lams is None:
        beyond = jnp.broadcast_to(factored.beyond_range(), fit.rss.shape) & (fit.result == RESULTS.successful)
        fit = eqx.tree_at(lambda f: f.result, fit, override(RESULTS.overflow, beyond, fit.result))
    said = select.assess(rule, factored, found, pick, per_target, memory) if assess else None
    return Choice(*found, fit, assessment=said)


@eqx.filter_jit
def _ridge_compare(
    data: Data, lams: Array | None, rules: dict[str, Any], terms: Terms, solver: Solver, memory: int
) -> dict[str, Choice]:
    factored = solver.factor(design_of(data, terms))
    return select.comparison(factored, factored.default_grid() if lams is None else lams, rules, memory)


@eqx.filter_jit
def _ridge_score(data: Data, lam: Array, rule: Any, terms: Terms, solver: Solver) -> Float[Array, "*t"]:
    factored = solver.factor(design_of(data, terms))
    return factored.problem.squeeze(select.bind(rule, factored)(factored.problem, factored, lam))


@partial(jax.jit, static_argnames=("terms", "relative"))
def _ridge_norm(data: Data, size: Array, terms: Terms, relative: bool) -> Fit:
    """The fit whose penalised norm is ``size``, or ``size`` times the norm at λ = 0, for each target."""
    spectrum = from_design.factor(design_of(data, terms))
    valid = (size >= 0) & (size <= 1) if relative else size >= 0
    size = jnp.broadcast_to(poison(size, valid), data.y.shape[1:])
    lam = lam_of_norm(spectrum, size * spectrum.norm(jnp.zeros_like(size)) if relative else size)
    fit = spectrum.fit(lam)
    result = override(RESULTS.invalid_radius, ~jnp.broadcast_to(valid, size.shape), spectrum.result(lam))
    lam, dof, result = spectrum.problem.squeeze((lam, fit.dof, result))
    return eqx.tree_at(lambda f: (f.lam, f.dof, f.result), fit, (lam, dof, result))
