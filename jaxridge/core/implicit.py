"""Derivatives from the condition that defines the answer, never through a factorisation or a loop.

Every rule is made by `with_rule`, which keeps it in loops. Where reverse mode splits a `jax.lax.scan` in two it puts
the plain value of a function with a rule in its place, so that second derivatives would be those of frozen numbers,
silently; and it does so wherever some of the arguments, not all, vary with the loop.
"""

from collections.abc import Callable
from functools import cache, lru_cache, wraps
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr
from jax.custom_derivatives import SymbolicZero

from jaxridge.core.numbers import size
from jaxridge.core.types import Array


def moves(tangent: Any) -> bool:
    """Whether a tangent is there at all; JAX marks the others symbolically."""
    return not isinstance(tangent, SymbolicZero)


def with_rule(value: Callable[..., Any], rule: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[..., Any]:
    """``value``, compiled, with a rule ``(primals, tangents) -> (value, tangents)`` of its own, kept in every loop.

    The rule has symbolic zeros, see `moves`, and states the value by calling what comes back here, to every order.

    A rule inside `jax.checkpoint` stays where some arguments vary with a loop, one outside of it where none does: loops
    in loops have both cases, hence both. The innermost checkpoint only gives ``value`` the batch axis of the rule's
    value, which `vmap` takes to be the same.
    """

    def ruled(fn: Callable[..., Any]) -> Callable[..., Any]:
        whole = jax.custom_jvp(fn)
        whole.defjvp(rule, symbolic_zeros=True)
        return whole

    return jax.jit(ruled(_saving(ruled(_saving(value)))))


def _saving(fn: Callable[..., Any]) -> Callable[..., Any]:
    """In a checkpoint that saves everything, so that nothing is computed twice."""
    return jax.checkpoint(fn, prevent_cse=False, policy=jax.checkpoint_policies.everything_saveable)


def derived(value: Callable[..., Any], live: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the value of ``value`` and, to every order, the derivatives of ``live``; or a method, in a class.

    ``value`` may read a factorisation that was made under ``stop_gradient``; ``live`` states the same
    quantity through the equations that define it. Only arguments that really move are differentiated. Compiled
    as a whole also where it is called on its own; what is no array is a constant of that program.
    """

    plain = _derived(value, live)

    @lru_cache(maxsize=64)
    def closed_over(leaves: tuple[Any, ...], tree: Any) -> Callable[..., Any]:
        static = jax.tree.unflatten(tree, leaves)
        return _derived(*(lambda *arrays, fn=fn: fn(*eqx.combine(arrays, static)) for fn in (value, live)))

    @wraps(value)
    def call(*args: Any) -> Any:
        arrays, static = eqx.partition(args, eqx.is_array_like)
        leaves, tree = jax.tree.flatten(static)
        return closed_over(tuple(leaves), tree)(*arrays) if leaves else plain(*args)

    return call


def _derived(value: Callable[..., Any], live: Callable[..., Any]) -> Callable[..., Any]:
    def rule(primals: Any, tangents: Any) -> tuple[Any, Any]:
        leaves, tree = jax.tree.flatten(primals)
        dleaves = tree.flatten_up_to(tangents)
        moving = [i for i, tangent in enumerate(dleaves) if moves(tangent)]

        def along(*moved: Array) -> Any:
            filled = list(leaves)
            for i, leaf in zip(moving, moved, strict=True):
                filled[i] = leaf
            return live(*jax.tree.unflatten(tree, filled))

        _, tangent = jax.jvp(along, [leaves[i] for i in moving], [dleaves[i] for i in moving])
        return whole(*primals), tangent

    # A function of its own each time: JAX keeps what it traced by the function.
    whole = with_rule(lambda *args: value(*args), rule)
    return whole


def derived_columns(value: Callable[..., Any], live: Callable[..., Any]) -> Callable[..., Any]:
    """`derived` for functions of (arrays, λ (c,)) whose results' last axes follow λ, each column its own.

    In λ alone ``value`` is differentiated, to every order, so that only a derivative in ``arrays`` asks ``live``. It is
    so in units of λ, that is by log λ: which exists where the derivative by λ leaves the range of the dtype.
    """

    def slope(fn: Callable[..., Any]) -> Callable[..., Any]:
        return lambda arrays, lam: jax.jvp(lambda lam: fn(arrays, lam), (lam,), (size(lam),))[1]

    @cache
    def slopes() -> Callable[..., Any]:
        return derived_columns(slope(value), slope(live))

    def rule(primals: Any, tangents: Any) -> tuple[Any, Any]:
        (arrays, lam), (d_arrays, d_lam) = primals, tangents
        out = whole(arrays, lam)
        tangent = jax.tree.map(jnp.zeros_like, out)
        leaves, tree = jax.tree.flatten(arrays)
        d_leaves = tree.flatten_up_to(d_arrays)
        moving = [i for i, change in enumerate(d_leaves) if moves(change)]

        def along(*moved: Array) -> Any:
            filled = dict(enumerate(leaves)) | dict(zip(moving, moved, strict=True))
            return live(jax.tree.unflatten(tree, list(filled.values())), lam)

        if moving:
            change = jax.jvp(along, [leaves[i] for i in moving], [d_leaves[i] for i in moving])[1]
            tangent = jax.tree.map(jnp.add, tangent, change)
        if moves(d_lam):
            # The direction stays outside: a rule of its own inside of what is linear in it would be lost.
            change = slopes()(arrays, lam)
            step = d_lam / size(lam)
            tangent = jax.tree.map(lambda t, v: t + v * jnp.broadcast_to(step, v.shape), tangent, change)
        return out, tangent

    whole = with_rule(lambda arrays, lam: value(arrays, lam), rule)
    return whole


def frozen(tree: Any) -> Any:
    """Under ``stop_gradient``; what is no array stays."""
    arrays, static = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), static)


def hoisted(fn: Callable[..., Any], *like: Any) -> tuple[Callable[..., Any], list[Array]]:
    """``program`` and ``constants`` with fn(*x) = program(constants, *x) for x of these shapes.

    A function with a rule must not close over what is differentiated: here all that ``fn`` closes over is an argument.
    """
    closed, out = jax.make_jaxpr(fn, return_shape=True)(*like)

    def program(constants: list[Array], *x: Any) -> Any:
        return jax.tree.unflatten(jax.tree.structure(out), eval_jaxpr(closed.jaxpr, constants, *jax.tree.leaves(x)))

    return program, closed.consts


def map_with_rules(fn: Callable[[Any], Any], xs: Any, batch_size: int | None = None) -> Any:
    """``jax.lax.map`` for functions with rules, those of a user among them, that are not made by `with_rule`.

    Here the rule is that of the whole loop, and its tangents come from bodies that are rematerialised, which are not
    split; nor does any store what it computed. One alone needs no loop, and shares with its surroundings what both
    compute.
    """
    first = jax.tree.map(lambda x: x[0], xs)
    if jax.tree.leaves(xs)[0].shape[0] == 1:
        return jax.tree.map(lambda x: x[None], fn(first))
    program, constants = hoisted(fn, first)

    def plain(xs: Any, constants: Any) -> Any:
        return jax.lax.map(lambda x: program(constants, x), xs, batch_size=batch_size)

    def live(xs: Any, constants: Any) -> Any:
        return jax.lax.map(jax.checkpoint(lambda x: program(constants, x)), xs, batch_size=batch_size)

    return derived(plain, live)(xs, constants)


def first_order_only(frozen: Any, live: Any, message: str | None) -> Any:
    """``frozen``, for use in a first derivative that would be wrong if it were differentiated again.

    Whoever differentiates it with respect to ``live`` gets ``ValueError(message)``, or NaN if there is no
    message: for by-products of a verb, which must not stop a second derivative that never uses them.
    """
    return _guard(message)(frozen, live)


def without_derivatives(tree: Any, message: str) -> Any:
    """The arrays of a tree as they are; whoever differentiates them gets a ``ValueError`` with ``message``."""
    refuse = _refusal(message)
    return jax.tree.map(lambda x: refuse(x) if eqx.is_inexact_array(x) else x, tree)


@lru_cache(maxsize=64)
def _refusal(message: str) -> Callable[[Array], Array]:
    refuse = jax.custom_jvp(lambda x: x)

    @refuse.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        raise ValueError(message)

    return refuse


@lru_cache(maxsize=64)
def _guard(message: str | None) -> Callable[[Any, Any], Any]:
    def rule(primals: Any, tangents: Any) -> tuple[Any, Any]:
        leaves = jax.tree.leaves(tangents[1], is_leaf=lambda x: not moves(x))
        moved = [leaf for leaf in leaves if moves(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)]
        if moved and message is not None:
            raise ValueError(message)
        # Linear in what moves, or reverse mode would take it for a constant and say 0.
        lost = jnp.nan * sum(jnp.sum(tangent) for tangent in moved)

        def tangent(x: Array) -> Any:
            if not jnp.issubdtype(x.dtype, jnp.inexact):
                return np.zeros(x.shape, jax.dtypes.float0)
            return jnp.broadcast_to(lost, x.shape).astype(x.dtype) if moved else jnp.zeros_like(x)

        return primals[0], jax.tree.map(tangent, primals[0])

    return with_rule(lambda frozen, live: frozen, rule)


def solution_of(
    equation: Callable[[Array], Array],
    x: Array,
    tangent_solve: Callable[[Callable[[Array], Array], Array], Array],
) -> Array:
    """``x`` of ``equation(x) = 0``, already found, differentiable in all that both functions close over.

    The derivative is that of the implicit function theorem, to every order: ``tangent_solve(linear, b)`` gives v with
    linear(v) = b for linear = v ↦ equation'(x)v, and dx = −v for b = d equation. `jax.lax.custom_root`, kept in loops.
    """

    def tangent(x: Array, b: Array) -> Array:
        return tangent_solve(lambda v: jax.jvp(equation, (x,), (v,))[1], b)

    x = jax.lax.stop_gradient(x)
    (residual, live), (solve, around) = hoisted(equation, x), hoisted(tangent, x, x)

    def rule(primals: Any, tangents: Any) -> tuple[Array, Array]:
        x = whole(*primals)
        _, live, around = primals
        moving = [i for i, change in enumerate(tangents[1]) if moves(change)]
        if not moving:
            return x, jnp.zeros_like(x)

        def along(*moved: Array) -> Array:
            return residual(list((dict(enumerate(live)) | dict(zip(moving, moved, strict=True))).values()), x)

        _, change = jax.jvp(along, [live[i] for i in moving], [tangents[1][i] for i in moving])
        return x, solve(around, x, -change)

    whole = with_rule(lambda x, live, around: x, rule)
    return whole(x, live, around)


def root(fn: Callable[[Array], Array], x: Array) -> Array:
    """``x`` of the elementwise equation ``fn(x) = 0``, already found, differentiable in all that ``fn`` closes over.

    The derivative is that of the implicit function theorem, ``dx = -(dfn) / fn'(x)``, to every order.
    """
    return solution_of(fn, x, lambda linear, b: b / linear(jnp.ones_like(b)))


def linear_root(
    equation: Callable[[Array], Array],
    x: Array,
    solve: Callable[[Array], Array],
    transpose_solve: Callable[[Array], Array] | None = None,
) -> Array:
    """``x`` of the linear equation ``equation(x) = 0``, already found, differentiable in all that it closes over.

    ``solve(b)`` gives the change of x that adds b to the equation, ``transpose_solve`` the same for its transpose
    (None if it is symmetric): frozen factors or iterations, which are never differentiated.
    """

    def tangent_solve(linear: Callable[[Array], Array], b: Array) -> Array:
        forward, symmetric = lambda _, b: solve(b), transpose_solve is None
        backward = None if transpose_solve is None else lambda _, b, to=transpose_solve: to(b)
        return jax.lax.custom_linear_solve(linear, b, forward, backward, symmetric)

    return solution_of(equation, x, tangent_solve)
