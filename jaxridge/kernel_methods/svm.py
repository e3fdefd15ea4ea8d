"""Support vector machines: ridge with another loss, whose solution rests on the rows at a margin.

Every verb minimises, over coefficients w and an intercept b without a penalty,

    Σᵢ ωᵢ L(yᵢ, xᵢ·w + b) + λ‖w‖²                                             no 1/n, no ½

or the same in the space of a kernel, λ aᵀKa with f = Ka + b. The same number elsewhere: C = 1/2λ in scikit-learn's
``SVC``, ``SVR``, ``LinearSVC`` (which penalises its intercept) and in LIBSVM, which minimise ½‖w‖² + C Σ L.
Least squares on labels of ±1 is `jaxridge.ridge` at the same λ. For many points fit the linear machine to
``features.nystroem(kernel, points, rank, key=key)(points)``.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge import select
from jaxridge.core.checks import as_flag, as_floats, as_lam, as_lams, names_of
from jaxridge.core.implicit import first_order_only
from jaxridge.core.numbers import matmul, safe_sqrt
from jaxridge.core.results import RESULTS, first_failure
from jaxridge.core.types import Array, Bool, Float, Int, Scalar
from jaxridge.core.verbs import verb
from jaxridge.kernel_methods import machine
from jaxridge.kernel_methods.form import tolerance as symmetric_to
from jaxridge.kernel_methods.kernel_ridge import problem_of
from jaxridge.kernel_methods.machine import Machine
from jaxridge.kernels.base import Kernel
from jaxridge.linear import machine as linear_machine
from jaxridge.linear import margins
from jaxridge.linear.design import Data, Terms, checked, design_of
from jaxridge.linear.margins import Hinge, Rows, Scaled, Solved, Units, solve_grid
from jaxridge.select.choice import Choice, Path
from jaxridge.select.partition import Partition, blocks, mean_losses, take_rows

__all__ = ["svm", "svm_cv", "svm_path"]

LOSSES = "margins.Hinge(), margins.SquaredHinge() or margins.EpsilonInsensitive(0.1)"
MOST_POINTS = 5000  # an n × n matrix of them and its eigenvectors take half a gigabyte


class Inputs(eqx.Module):
    """The arrays of a machine as the user has them, with a kernel or without."""

    X: Any
    y: Float[Array, "n t"]
    weights: Float[Array, " n"]
    penalty: Float[Array, " d"] | None
    kernel: Any
    loss: Any
    intercept: bool = eqx.field(static=True)
    standardize: bool = eqx.field(static=True)
    single: bool = eqx.field(static=True)


@verb()
def svm(
    X: Any,
    y: Any,
    lam: Any,
    *,
    loss: Any = None,
    kernel: Kernel | None = None,
    intercept: bool = True,
    standardize: bool = False,
    weights: Any = None,
    penalty: Any = None,
    tol: float | None = None,
    max_steps: int = 100,
) -> Machine:
    """A support vector machine at one λ, for classes or for real targets, to the last digits, with its duality gap.

    min over w, b of Σ ωᵢ L(yᵢ, f(xᵢ)) + λ‖w‖². The squared hinge by Newton's method, each step of which is a ridge
    regression; others by an interior-point method, then the equations of the rows on the margin.

    Args:
        X: (n, d) features, or points of the kernel. y: (n,) or (n, t) labels of ±1 (`margins.one_vs_rest` for more
            classes), or real targets for a loss of those.
        lam: λ > 0, a scalar or one for each target (t,); C = 1/2λ.
        loss: ``margins.Hinge()``, which None is, ``margins.SquaredHinge()`` or ``margins.EpsilonInsensitive(0.1)``.
        kernel: a `jaxridge.kernels.Kernel` for up to 5000 points; None is the linear machine.
        intercept, weights, standardize, penalty: as for `jaxridge.ridge`, the last two not with a kernel.
        tol: the relative gap that counts as solved; None is 1e-10, or 1e-4 in float32. max_steps: of a method.

    Returns a `Machine`. Derivatives of every order in λ, weights, real targets, features and kernel, while no row
    changes its place at the margin: code ``at_kink`` where one is about to. Where no row lies on the margin b is one of
    an interval, code ``undetermined_intercept``. Bad values give NaN and a code.
    Raises ValueError for shapes, dtypes and losses that cannot be meant.
    Equals ``sklearn.svm.SVC(C=1 / (2 * lam), kernel="linear")``. Cortes and Vapnik (1995), Mach. Learn. 20, 273.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> X, y = jnp.array([[-2.0], [-1.0], [1.0], [3.0]]), jnp.array([-1.0, -1.0, 1.0, 1.0])
    >>> fit = jxr.svm(X, y, 0.1)
    >>> print(fit.margin.round(5), fit.support, fit.predict(jnp.array([[0.5]])))
    2.0 [False  True  True False] [1.]
    """
    inputs = _inputs(X, y, loss, kernel, intercept, standardize, weights, penalty)
    lam = as_lam(lam, inputs.y, inputs.single)
    path = _svm_path(inputs, lam[None], _tol(tol, inputs), _steps(max_steps))
    return path[0].with_names(names_of(X))


@verb()
def svm_path(
    X: Any,
    y: Any,
    lams: Any = None,
    *,
    loss: Any = None,
    kernel: Kernel | None = None,
    intercept: bool = True,
    standardize: bool = False,
    weights: Any = None,
    penalty: Any = None,
    tol: float | None = None,
    max_steps: int = 100,
) -> Path:
    """A support vector machine at every λ of a grid, each from the solution of the one before.

    Args are those of `svm`, with ``lams`` (k,), or (k, t) for a grid per target, in any order; None takes 50 of them,
    log-spaced over five decades, below what the rows themselves weigh: Σ ωᵢ‖xᵢ‖² about the mean.

    Returns a `Path` of `Machine`. Problems are for `vmap`, λ are for this verb: in turn, each takes the steps it needs.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> X, y = jnp.array([[-2.0], [-1.0], [1.0], [3.0]]), jnp.array([-1.0, -1.0, 1.0, 1.0])
    >>> print(jxr.svm_path(X, y, [10.0, 0.1], loss=jxr.margins.SquaredHinge()).coef.round(3))
    [[0.283]
     [0.952]]
    """
    inputs = _inputs(X, y, loss, kernel, intercept, standardize, weights, penalty)
    path = _svm_path(inputs, as_lams(lams, inputs.y), _tol(tol, inputs), _steps(max_steps))
    return path.with_names(names_of(X))


@verb()
def svm_cv(
    X: Any,
    y: Any,
    lams: Any = None,
    *,
    folds: int = 5,
    key: Array | None = None,
    pick: Callable[..., Array] = select.lowest,
    loss: Any = None,
    kernel: Kernel | None = None,
    intercept: bool = True,
    standardize: bool = False,
    weights: Any = None,
    penalty: Any = None,
    tol: float | None = None,
    max_steps: int = 100,
) -> Choice:
    """A support vector machine at the λ with the fewest errors on rows that were held out.

    Args beyond those of `svm_path`:
        folds: parts of the rows, in each of which labels are as in the whole; a key of ``jax.random`` shuffles them.
        pick: ``select.lowest`` or ``select.one_standard_error``, as for `jaxridge.ridge_cv`.

    Returns a `Choice`, whose scores are parts of wrong labels, or mean absolute errors of real targets, with their
    standard errors over the folds; of several columns of y the mean.

    >>> import jax.numpy as jnp, jaxridge as jxr
    >>> x = jnp.linspace(-1, 1, 21)
    >>> choice = jxr.svm_cv(x[:, None], jnp.sign(x - 0.12), [0.01, 1.0, 100.0], folds=3)
    >>> print(choice.lam, choice.scores.round(3))
    0.01 [0.048 0.048 0.429]
    """
    inputs = _inputs(X, y, loss, kernel, intercept, standardize, weights, penalty)
    lams = as_lams(lams, inputs.y)
    if lams is not None and lams.ndim == 2:
        raise ValueError(f"lams has shape {lams.shape}; a common grid (k,) is needed to choose one lambda.")
    n = inputs.y.shape[0]
    if not isinstance(folds, int) or not 2 <= folds <= n:
        raise ValueError(f"folds is {folds!r}; pass a whole number from 2 to the {n} rows.")
    choice = _svm_cv(inputs, lams, folds, key, pick, _tol(tol, inputs), _steps(max_steps))
    return choice.with_names(names_of(X))


def _inputs(
    X: Any, y: Any, loss: Any, kernel: Any, intercept: bool, standardize: bool, weights: Any, penalty: Any
) -> Inputs:
    """Arrays and static terms, or a ``ValueError``."""
    loss = Hinge() if loss is None else loss
    if not isinstance(loss, margins.Hinge | margins.SquaredHinge | margins.EpsilonInsensitive):
        raise ValueError(f"loss is {loss!r}; pass {LOSSES}.")
    kind = np.asarray(y).dtype.kind if not isinstance(y, jax.Array) else y.dtype.kind
    if loss.labels and kind in "OSUb":
        raise ValueError(
            f"y holds labels of dtype kind {kind!r}; pass ±1, as np.where(y == positive, 1.0, -1.0), or the columns of "
            "margins.one_vs_rest(y)."
        )
    if kernel is None:
        data, terms = checked(X, y, intercept=intercept, standardize=standardize, weights=weights, penalty=penalty)
        parts = (data.X, data.y, data.weights, data.penalty, None)
    else:
        if standardize or penalty is not None:
            name = "standardize" if standardize else "penalty"
            raise ValueError(f"{name} is for the linear machine; with a kernel change its scale, or leave it out.")
        terms = problem = problem_of(X, y, weights, intercept, kernel)
        n = problem.y.shape[0]
        if n > MOST_POINTS:
            raise ValueError(
                f"X has {n} points and a kernel takes up to {MOST_POINTS} here; pass svm the features "
                "features.nystroem(kernel, X, rank, key=key)(X) without a kernel."
            )
        parts = (problem.points, problem.y, problem.weights, None, kernel)
    X, y, weights, penalty, kernel = parts
    weights = jnp.ones(y.shape[0], y.dtype) if weights is None else weights
    return Inputs(
        X,
        y,
        weights,
        penalty,
        kernel,
        loss,
        as_flag("intercept", intercept),
        as_flag("standardize", standardize),
        terms.single,
    )


def _tol(tol: float | None, inputs: Inputs) -> Array:
    if tol is None:
        tol = 1e-10 if jnp.finfo(inputs.y.dtype).bits == 64 else 1e-4
    return as_floats("tol", tol, (0,)).astype(inputs.y.dtype)


def _steps(max_steps: int) -> int:
    if not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"max_steps is {max_steps!r}; pass a whole number, 1 or more.")
    return max_steps


class _Prepared(eqx.Module):
    """What all targets and λ share: live arrays, rows in units of 1, and what is wrong."""

    X: Float[Array, "n d"] | None
    penalty: Float[Array, " d"]
    K: Float[Array, "n n"] | None
    rows: Rows
    size: int = eqx.field(static=True)
    checks: tuple[tuple[Bool[Array, ""], Any], ...]


def _prepared(inputs: Inputs) -> _Prepared:
    n, weights, sides = inputs.y.shape[0], inputs.weights, 1 if inputs.loss.labels else 2
    fine = (
        (~jnp.all(jnp.isfinite(weights)), RESULTS.nonfinite_input),
        (~(jnp.all(weights >= 0) & jnp.any(weights > 0)), RESULTS.invalid_weights),
    )
    if inputs.kernel is not None:
        K = inputs.kernel.matrix(inputs.X).astype(inputs.y.dtype)
        rows, checks = _of_kernel(jax.lax.stop_gradient(K))
        return _Prepared(None, jnp.ones(n, K.dtype), K, rows, n, fine + checks)
    data = Data(inputs.X, inputs.y, inputs.weights, inputs.penalty)
    design = design_of(data, Terms(inputs.intercept, inputs.standardize, (), inputs.single))
    X, penalty = design.X, design.penalty
    checks = (
        (~(jnp.all(jnp.isfinite(X)) & jnp.all(jnp.isfinite(penalty))), RESULTS.nonfinite_input),
        (~jnp.all(penalty > 0), RESULTS.invalid_penalty),
    )
    rows = Rows.of(X, weights, penalty, inputs.intercept)
    return _Prepared(X, penalty, None, rows, min(sides * n, X.shape[1] + 8), fine + checks)


def _of_kernel(K: Float[Array, "n n"]) -> tuple[Rows, tuple[tuple[Bool[Array, ""], Any], ...]]:
    """Features Φ with K = ΦΦᵀ, by eigenvectors."""
    n, finite = K.shape[0], jnp.all(jnp.isfinite(K))
    size = jnp.max(jnp.abs(K))
    values, V = jnp.linalg.eigh(jnp.where(finite, 0.5 * (K + K.T), jnp.nan))
    low = symmetric_to(K) * jnp.maximum(size, jnp.max(jnp.abs(values)))
    bad = (jnp.min(values) < -low) | (jnp.max(jnp.abs(K - K.T)) > low)
    rows = Rows.of(V * jnp.sqrt(jnp.maximum(values, 0.0))[None, :], jnp.ones(n, K.dtype), jnp.ones(n, K.dtype), False)
    return rows, ((~finite, RESULTS.nonfinite_kernel), (finite & bad, RESULTS.indefinite_kernel))


def _scaled(
    inputs: Inputs, shared: _Prepared, y: Float[Array, " n"], lams: Float[Array, " k"]
) -> tuple[Scaled, Units, Array, Array, tuple[tuple[Bool[Array, "..."], Any], ...]]:
    """One target in units of 1, its sides, and what is wrong with it."""
    loss, u = inputs.loss, inputs.weights
    y = jax.lax.stop_gradient(y) if loss.labels else y
    z, m = loss.sides(y)
    checks = (*shared.checks, (~jnp.all(jnp.isfinite(m)), RESULTS.nonfinite_input))
    if loss.labels:
        counts = u > 0
        checks += (
            (~jnp.all(jnp.isfinite(y)), RESULTS.nonfinite_input),
            (jnp.any(counts & (jnp.abs(y) != 1)), RESULTS.invalid_labels),
            (~(jnp.any(counts & (y > 0)) & jnp.any(counts & (y < 0))), RESULTS.one_class),
        )
    else:
        checks += ((jnp.any(jnp.sum(m, axis=0) > 0), RESULTS.negative_epsilon),)
    wrong = jnp.any(jnp.stack([bad for bad, _ in checks]))
    units = Units.of(shared.rows, m, u, jnp.where(wrong, jnp.nan, lams), loss.squared)
    still_m, still_u = jax.lax.stop_gradient((m, u))
    data = Scaled(shared.rows.A, z, still_m / units.y, still_u / units.u, units.lam, inputs.intercept, loss.squared)
    return data, units, z, m, checks


def _of_target(
    inputs: Inputs, shared: _Prepared, y: Float[Array, " n"], lams: Float[Array, " k"], tol: Scalar, max_steps: int
) -> Machine:
    """The machines of one target at every λ."""
    data, units, z, m, checks = _scaled(inputs, shared, y, lams)
    eps = float(jnp.finfo(y.dtype).eps)
    found = jax.lax.stop_gradient(solve_grid(data, 400 * eps, max_steps, shared.size))
    kinks = jax.vmap(lambda s, v: _near_kink(data, s, v, eps))(found, jax.vmap(lambda s: _shortfall(data, s))(found))

    def one(lam: Array, scaled_lam: Array, solved: Solved, kink: Array) -> Machine:
        here = eqx.tree_at(lambda x: x.lam, units, scaled_lam)
        coef, dual, b, square, v = _live(inputs, shared, z, m, lam, here, solved)
        loss = jnp.square(jnp.maximum(v, 0.0)) if inputs.loss.squared else jnp.maximum(v, 0.0)
        objective = lam * square + jnp.sum(inputs.weights[None, :] * loss)
        corner = jnp.any(solved.free) | inputs.loss.squared | (not inputs.intercept)
        result = first_failure(
            *checks,
            (~((lam > 0) & jnp.isfinite(lam)), RESULTS.lam_not_positive),
            (~jnp.isfinite(objective), RESULTS.overflow),
            (~(solved.gap <= tol), RESULTS.open_gap),
            (~corner, RESULTS.undetermined_intercept),
            (kink | ~solved.exact, RESULTS.at_kink),
            shape=(),
        )
        points = None if inputs.kernel is None else inputs.X
        norm = safe_sqrt(square)
        return Machine(
            inputs.loss, inputs.kernel, points, coef, dual, b, lam, norm, objective, solved.gap, solved.steps, result
        )

    return jax.vmap(one, out_axes=Machine.axes())(lams, units.lam, found, kinks)


def _shortfall(data: Scaled, solved: Solved) -> Float[Array, "s n"]:
    return data.m - data.z * (matmul(data.A, solved.w) + solved.b)[None, :]


def _near_kink(data: Scaled, solved: Solved, v: Float[Array, "s n"], eps: float) -> Bool[Array, ""]:
    """Whether a row is about to change its place: v nearly 0 off the margin, or a multiplier nearly at a wall on it.

    At a squared margin a row bends what it is a part of, the weight within: less than √eps of it is nothing.
    """
    u, near = data.u[None, :], 256 * eps
    still = (u > 0) & ~solved.free & (jnp.abs(v) <= near * jnp.max(jnp.abs(data.m)))
    if data.squared:
        within = jnp.sum(jnp.where(solved.upper, u, 0.0))
        return jnp.sum(jnp.where(still, u, 0.0)) > eps**0.5 * within
    moving = solved.free & ((solved.alpha <= near * jnp.max(solved.alpha)) | (u - solved.alpha <= near * u))
    return jnp.any(still | moving)


def _live(
    inputs: Inputs, shared: _Prepared, z: Array, m: Array, lam: Scalar, units: Units, solved: Solved
) -> tuple[Any, Array, Scalar, Scalar, Array]:
    """Coefficients, dual coefficients, intercept, squared norm and v, with their derivatives."""
    squared = inputs.loss.squared
    if shared.K is None:
        assert shared.X is not None
        problem = linear_machine.MarginProblem(
            shared.X, z, m, inputs.weights, shared.penalty, lam, inputs.intercept, squared
        )
        w, b, beta = linear_machine.live(problem, shared.rows, units, solved, shared.size)
        return w, beta / (2.0 * lam), b, jnp.sum(shared.penalty * jnp.square(w)), problem.shortfall(w, b)
    scale = units.u * (units.y if squared else 1.0)
    a = scale * jnp.sum(z * solved.alpha, axis=0) / (2.0 * lam)
    b, weights = units.y * solved.b, inputs.weights
    a, b = jax.lax.stop_gradient((a, b))
    a, b = machine.live(shared.K, z, m, weights, lam, inputs.intercept, squared, solved, a, b)
    fitted = matmul(shared.K, a)
    return None, a, b, jnp.sum(a * fitted), m - z * (fitted + b)[None, :]


def _grid(inputs: Inputs, shared: _Prepared) -> Float[Array, " k"]:
    """50 λ over five decades, from Σ ω‖x‖² of the rows about their mean, where w is about as small as it can be."""
    A, scale = shared.rows.A, shared.rows.scale
    total = jnp.sum(jax.lax.stop_gradient(inputs.weights)[:, None] * jnp.square(A)) * scale * scale
    return total * jnp.logspace(-6.0, -1.0, 50, dtype=A.dtype)


@eqx.filter_jit
def _svm_path(inputs: Inputs, lams: Array | None, tol: Array, max_steps: int) -> Path:
    shared = _prepared(inputs)
    grid: Array = _grid(inputs, shared) if lams is None else lams
    t = inputs.y.shape[1]
    columns = jnp.broadcast_to(grid if grid.ndim == 2 else grid[:, None], (grid.shape[0], t))
    axes = Machine.axes(-1)
    fits = jax.vmap(lambda y, lams: _of_target(inputs, shared, y, lams, tol, max_steps), 1, axes)(inputs.y, columns)
    if inputs.single:
        fits = fits.taken((..., 0))
    fits = eqx.tree_at(lambda f: f.lam, fits, grid)
    return Path(grid, fits, None)


def _stratified(y: Float[Array, "n t"], folds: int, key: Array | None) -> Partition:
    """Folds in which labels are as in the whole: rows in the order of their labels, dealt out in turn."""
    n = y.shape[0]
    even = blocks(n, folds)
    order = jnp.arange(n) if key is None else jax.random.permutation(key, n)
    rank = matmul(y, jnp.arange(1.0, y.shape[1] + 1.0, dtype=y.dtype))[order]
    order = order[jnp.argsort(rank, stable=True)]
    dealt = np.concatenate([np.arange(n)[i::folds] for i in range(folds)])
    order = jnp.append(order[dealt], n)
    return Partition(order[even.train], order[even.test], True, even.ragged, n)


@eqx.filter_jit
def _svm_cv(
    inputs: Inputs, lams: Array | None, folds: int, key: Array | None, pick: Any, tol: Array, max_steps: int
) -> Choice:
    shared = _prepared(inputs)
    grid: Array = _grid(inputs, shared) if lams is None else lams
    parts = _stratified(jax.lax.stop_gradient(inputs.y), folds, key)
    labels, eps = inputs.loss.labels, float(jnp.finfo(inputs.y.dtype).eps)

    def of_fold(y: Float[Array, " n"], train: Int[Array, " p"], test: Int[Array, " v"]) -> Float[Array, " k"]:
        data, units, _, _, _ = _scaled(inputs, shared, y, grid)
        A, z, m, u = take_rows(data.A, train), data.z, data.m, take_rows(data.u, train)
        z, m = (take_rows(x.T, train).T for x in (z, m))
        fold = eqx.tree_at(lambda d: (d.A, d.z, d.m, d.u), data, (A, z, m, u))
        found = solve_grid(fold, 400 * eps, max_steps, min(z.size, shared.size))
        f = units.y * (matmul(take_rows(data.A, test), found.w.T) + found.b[None, :])
        target = take_rows(y, test)[:, None]
        wrong = jnp.where(f * target > 0, 0.0, 1.0) if labels else jnp.abs(target - f)
        known = jnp.isfinite(found.gap) & (found.gap <= jnp.maximum(tol, 1e-4))
        return mean_losses(jnp.where(known[None, :], wrong, jnp.nan), take_rows(inputs.weights, test), lambda e: e)

    losses = jax.vmap(lambda y: jax.vmap(lambda rows: of_fold(y, *rows))((parts.train, parts.test)), 1, 2)(inputs.y)
    # Errors are whole numbers, of which only the weights have derivatives; those of real targets are not followed.
    losses = losses if labels else first_order_only(losses, (inputs.X, inputs.y, inputs.weights, grid), None)
    scores = jnp.mean(losses, axis=(0, 2))[:, None]
    spread = jnp.std(jax.lax.stop_gradient(jnp.mean(losses, axis=2)), axis=0, ddof=1)[:, None] / folds**0.5
    index, lam, at_edge = select.choose(pick, grid, scores, spread, jnp.ones(1, scores.dtype))
    known = ~jnp.all(jnp.isnan(scores))
    lam = jnp.where(known, lam, jnp.nan)
    fit = _svm_path(inputs, lam[None], tol, max_steps)[0]
    no = jnp.zeros((), bool)
    return Choice(lam, grid, scores[:, 0], spread[:, 0], index, at_edge, no, fit)
