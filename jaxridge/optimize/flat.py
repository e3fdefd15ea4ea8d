"""A user's pytrees as one flat vector, and functions of them as functions of it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxridge.core.types import Array
from jaxridge.optimize.loop import Box


def flatten(name: str, x: Any) -> tuple[Array, Callable[[Array], Any]]:
    """A pytree of real numbers as one floating vector, and the way back."""
    flat, restore = ravel_pytree(x)
    if flat.shape[0] == 0:
        raise ValueError(f"{name} holds no number; pass at least one parameter to fit.")
    return flat, restore


def as_real(name: str) -> Callable[[Any], Array]:
    """What makes a leaf a floating array, or refuses a complex one by that name."""

    def convert(leaf: Any) -> Array:
        if isinstance(leaf, str):
            raise ValueError(f"{name} is {leaf!r}; pass numbers.")
        leaf = jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(f"{name} is complex; pass real and imaginary parts as two leaves instead.")
        return leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.astype(jnp.result_type(float))

    return convert


def flat_like(name: str, tree: Any, x0: Any, dtype: Any) -> Array:
    """A pytree with the structure of x0, or a prefix of it, as a vector."""

    def beside(leaf: Any, part: Any) -> Array:
        if jnp.shape(part) not in ((), jnp.shape(leaf)):
            raise ValueError(f"it has shape {jnp.shape(part)} where x0 has {jnp.shape(leaf)}; one number does for all.")
        return jnp.broadcast_to(jnp.asarray(part, dtype), jnp.shape(leaf)).ravel()

    try:
        tree = jax.tree.broadcast(tree, x0)
    except ValueError:
        found, wanted = (str(jax.tree.structure(t)).removeprefix("PyTreeDef(").removesuffix(")") for t in (tree, x0))
        raise ValueError(f"{name} is {found} where x0 is {wanted}; write one number, or a tree like x0.") from None
    try:
        full = jax.tree.map(beside, x0, tree)
    except ValueError as error:
        raise ValueError(f"{name} does not have the shapes of x0: {error}") from None
    return jnp.concatenate([leaf for leaf in jax.tree.leaves(full)])


def flat_box(bounds: tuple[Any, Any] | None, x0: Any, flat: Array) -> Box | None:
    """Bounds (lower, upper), each like x0, a number or None, as vectors beside the flat x0."""
    if bounds is None:
        return None
    lower, upper = bounds
    lower = -jnp.inf if lower is None else lower
    upper = jnp.inf if upper is None else upper
    return Box(flat_like("bounds[0]", lower, x0, flat.dtype), flat_like("bounds[1]", upper, x0, flat.dtype))


def flat_residual(
    residual: Callable[[Any, Any], Any], restore: Callable[[Array], Any], args: Any, dtype: Any
) -> Callable[[Array], Array]:
    """A residual of pytrees as a function from vector to vector."""

    def fn(x: Array) -> Array:
        leaves = [jnp.ravel(jnp.asarray(leaf)) for leaf in jax.tree.leaves(residual(restore(x), args))]
        if any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in leaves):
            raise ValueError("residual returns complex numbers; return their real and imaginary parts instead.")
        return jnp.concatenate([leaf.astype(dtype) for leaf in leaves]) if leaves else jnp.zeros(0, dtype)

    return fn


def has_forward_mode(fn: Callable[[Array], Array], x: Array) -> bool:
    """Whether a function can be pushed forward; one with a ``custom_vjp`` cannot."""
    try:
        jax.eval_shape(jax.jacfwd(fn), x)
    except TypeError:
        return False
    return True


def closed(fn: Callable[[Array], Array], x: Array) -> Any:
    """``fn`` with all that it closes over as leaves, so that derivatives can be stopped there."""
    return eqx.filter_closure_convert(fn, x)
