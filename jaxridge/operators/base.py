"""What every linear operator of an inverse problem is: a lineax operator on real arrays, its adjoint, and a check."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from jaxridge.core.numbers import safe_divide
from jaxridge.core.types import Array, Float, Int, Scalar

Shape = tuple[int, ...]


class Operator(lx.AbstractLinearOperator):
    """A linear map x ↦ A x from arrays of shape ``domain.shape`` to arrays of shape ``codomain.shape``, both real.

    ``A.mv(x)`` applies it, ``A.T`` is the adjoint, an operator like any other, and ``A.as_matrix()`` the dense matrix
    of the raveled arrays. One of your own states the two structures and `apply`, a linear function of x:

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge import operators
    >>> class Reverse(operators.Operator):
    ...     def apply(self, x):
    ...         return x[::-1]
    >>> three = jax.ShapeDtypeStruct((3,), jnp.float32)
    >>> Reverse(three, three).T.mv(jnp.array([1.0, 2.0, 3.0])).tolist()
    [3.0, 2.0, 1.0]
    """

    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)

    def apply(self, x: Array) -> Array:
        """A x for an x that is known to fit."""
        raise NotImplementedError

    @property
    def symmetric(self) -> bool:
        """Whether Aᵀ = A by construction."""
        return False

    def diagonalised(self) -> "Diagonalised | None":
        """The orthonormal transform in which A is diagonal, if there is a fast one."""
        return None

    def mv(self, vector: Any) -> Array:
        """A x. ValueError for an x of another shape, or one that is not real and floating."""
        x = jnp.asarray(vector)
        if x.shape != self.domain.shape:
            raise ValueError(f"vector has shape {x.shape}; {type(self).__name__} takes {self.domain.shape}.")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"vector is {x.dtype}; give a real floating one (of a complex x, x.real and x.imag).")
        return _product(self, x)

    def __matmul__(self, other: Any) -> Any:
        """A x for an array, the composition with another operator."""
        return super().__matmul__(other) if isinstance(other, lx.AbstractLinearOperator) else self.mv(other)

    def transpose(self) -> "Operator":
        return self if self.symmetric else Transpose(self.codomain, self.domain, self)

    def as_matrix(self) -> Float[Array, "m n"]:
        return _entries(self)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return self.domain

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.codomain


@eqx.filter_jit
def _product(operator: Operator, x: Array) -> Array:
    """Compiled as a whole also where it is called on its own."""
    return operator.apply(x)


@eqx.filter_jit
def _entries(operator: Operator) -> Float[Array, "m n"]:
    def column(e: Array) -> Array:
        return operator.apply(e.reshape(operator.domain.shape)).ravel()

    return jax.vmap(column, out_axes=1)(jnp.eye(operator.in_size(), dtype=operator.domain.dtype))


class Transpose(Operator):
    """Aᵀ, by transposing the program that computes A x: ⟨A x, y⟩ = ⟨x, Aᵀ y⟩ to rounding. It is what ``A.T`` gives.

    >>> import jax.numpy as jnp
    >>> from jaxridge import operators
    >>> operators.difference((3,)).T.mv(jnp.array([1.0, 0.0])).tolist()
    [-1.0, 1.0, 0.0]
    """

    operator: Operator

    def apply(self, x: Array) -> Array:
        (out,) = jax.linear_transpose(self.operator.apply, structure(self.codomain.shape, x.dtype))(x)
        return out

    def transpose(self) -> Operator:
        return self.operator

    def as_matrix(self) -> Float[Array, "n m"]:
        return self.operator.as_matrix().T


def _never(A: Operator) -> bool:
    return False


# What lineax asks of an operator: structure that it could exploit, and its entries.
for _check in (
    lx.is_diagonal,
    lx.is_tridiagonal,
    lx.has_unit_diagonal,
    lx.is_lower_triangular,
    lx.is_upper_triangular,
    lx.is_positive_semidefinite,
    lx.is_negative_semidefinite,
):
    _check.register(Operator)(_never)


@lx.is_symmetric.register
def _(operator: Operator) -> bool:
    return operator.symmetric


@lx.linearise.register
@lx.conj.register
def _(operator: Operator) -> Operator:
    return operator


@lx.materialise.register
def _(operator: Operator) -> lx.PyTreeLinearOperator:
    entries = operator.as_matrix().reshape(operator.codomain.shape + operator.domain.shape)
    return lx.PyTreeLinearOperator(entries, operator.codomain)


@lx.diagonal.register
def _(operator: Operator) -> Array:
    return jnp.diagonal(operator.as_matrix())


@lx.tridiagonal.register
def _(operator: Operator) -> tuple[Array, Array, Array]:
    M = operator.as_matrix()
    return jnp.diagonal(M), jnp.diagonal(M, -1), jnp.diagonal(M, 1)


def structure(shape: Sequence[int], dtype: Any = None) -> jax.ShapeDtypeStruct:
    """The array of that shape in a floating dtype, JAX's default for None, or a ``ValueError``."""
    dtype = jnp.result_type(float) if dtype is None else dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype is {dtype}; operators are real: give a floating one, such as jnp.float32.")
    return jax.ShapeDtypeStruct(tuple(shape), dtype)


def image_shape(shape: Any, dims: Sequence[int]) -> Shape:
    """A shape of one of those numbers of axes, a whole number for one axis, or a ``ValueError``."""
    if np.ndim(shape) > 1:
        raise ValueError(f"shape is an array of shape {np.shape(shape)}; write that shape itself.")
    found = (int(shape),) if np.ndim(shape) == 0 else tuple(int(n) for n in shape)
    if len(found) not in dims or min(found, default=0) < 1:
        raise ValueError(f"shape is {shape}; give {' or '.join(map(str, dims))} positive lengths, such as (64, 64).")
    return found


def known(name: str, value: str, allowed: Sequence[str]) -> None:
    """``ValueError`` unless the value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, allowed))}.")


def real_array(name: str, value: Any) -> Array:
    """A floating array; complex entries are refused."""
    array = jnp.asarray(value, None if isinstance(value, jax.Array | np.ndarray) else jnp.result_type(float))
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"{name} is complex; operators are real: give its real and imaginary parts one operator each.")
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.result_type(float))


def constant(name: str, value: Any) -> np.ndarray:
    """Geometry, which has to be known while tracing because it decides how the computation runs."""
    if isinstance(value, Tracer):
        raise ValueError(f"{name} is traced; it is not differentiated: build the operator outside jit, grad and vmap.")
    return np.asarray(value, float)


def tied(forward: Callable[[Array], Array], adjoint: Callable[[Array], Array], shape: Shape) -> Callable:
    """x ↦ forward(x) of the given shape, whose transpose is ``adjoint`` for JAX too, in every mode and nesting.

    Of a linear system JAX lets one state both solvers. That of (x, y − A x) = (b, 0) is x = b, y = A b; transposed,
    (u − Aᵀv, v) = (c, d), it is u = c + Aᵀd, v = d. What ``forward`` closes over has to be constant.
    """

    def apply(x: Array) -> Array:
        def halves(b: Array) -> tuple[Array, Array]:
            return b[: x.size].reshape(x.shape), b[x.size :].reshape(shape)

        def solve(_: Any, b: Array) -> Array:
            x, y = halves(b)
            return jnp.concatenate([x.ravel(), (y + forward(x)).ravel()])

        def solve_transposed(_: Any, c: Array) -> Array:
            x, y = halves(c)
            return jnp.concatenate([(x + adjoint(y)).ravel(), y.ravel()])

        # Without tangents of its own the system is never applied, only its shape looked at: any of that shape will do.
        b = jnp.pad(x.ravel(), (0, math.prod(shape)))
        return halves(jax.lax.custom_linear_solve(lambda b: b, b, solve, solve_transposed))[1]

    return apply


def take(x: Array, at: Int[Array, "..."]) -> Array:
    """x[at] for indices that are known to lie inside."""
    return x.at[at].get(mode="promise_in_bounds")


def along(F: Float[Array, "m n"], x: Array, axis: int) -> Array:
    """F applied to every line of x along one axis."""
    product = jnp.tensordot(F.astype(x.dtype), x, axes=(1, axis), precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(product, 0, axis)


def kronecker(factors: Sequence[Any], x: Array) -> Array:
    """F₁ x F₂ᵀ …"""
    for axis, F in enumerate(factors):
        x = along(jnp.asarray(F), x, axis)
    return x


def check_adjoint(
    A: lx.AbstractLinearOperator | Callable[[Any], Any],
    key: Any,
    *,
    adjoint: Callable[[Any], Any] | None = None,
    shape: Any = None,
    trials: int = 3,
) -> Scalar:
    """How far A is from being linear, or its adjoint from being one; rounding if all is well.

    Args:
        A: any operator of lineax, or a function x ↦ A x. key: of ``jax.random``. trials: pairs of normal x and y.
        adjoint: the function y ↦ Aᵀy that goes with a function. shape: of x, or a ``jax.ShapeDtypeStruct``, for one.

    Returns the largest of |⟨A x, y⟩ − ⟨x, Aᵀy⟩| / (‖A x‖ ‖y‖) and ‖A(2x − z) − 2A x + A z‖ / (2‖A x‖ + ‖A z‖).
    Expect eps √n for n entries of x, eps 2·10⁻¹⁶ or 10⁻⁷. Some 10⁻² to 1: a boundary, a shift by one pixel, a factor,
    a flip or a conjugate differ, or A adds a constant; some √eps: a weight is rounded differently in A and Aᵀ.
    ValueError for a function without adjoint or shape, or an operator with either.

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge import operators
    >>> shift = lambda x: jnp.roll(x, 1)
    >>> bool(operators.check_adjoint(shift, jax.random.key(0), adjoint=shift, shape=9) > 0.01)
    True
    """
    if isinstance(A, lx.AbstractLinearOperator):
        if adjoint is not None or shape is not None:
            raise ValueError("A is an operator and brings its adjoint and shape; leave both out.")
        forward, back, space = A.mv, A.transpose().mv, A.in_structure()
    else:
        if adjoint is None or shape is None:
            raise ValueError("A is a function; give adjoint= and shape= too.")
        forward, back = A, adjoint
        space = shape if isinstance(shape, jax.ShapeDtypeStruct) else structure(image_shape(shape, range(1, 9)))
    return jax.jit(lambda key: _discrepancy(forward, back, space, key, trials))(key)


def _discrepancy(forward: Callable, back: Callable, space: Any, key: Any, trials: int) -> Scalar:
    """Of many pairs, along the first axis; all that a function is applied to at once, so that it is compiled once."""
    for_x, for_z, for_y = jax.random.split(key, 3)
    x, z = _normal(space, for_x, trials), _normal(space, for_z, trials)
    mixed = jax.tree.map(lambda x, z: jnp.concatenate([x, z, 2 * x - z]), x, z)
    out = jax.lax.map(forward, mixed)
    Ax, Az, bent = jnp.split(jax.vmap(_flat)(out), 3)
    y = _normal(jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), out), for_y, trials)
    x, y, Aty = (jax.vmap(_flat)(v) for v in (x, y, jax.lax.map(back, y)))
    if x.shape != Aty.shape:
        raise ValueError(f"adjoint gives {Aty.shape[1]} numbers for the {x.shape[1]} of x; it takes A x back to x.")
    norm = functools.partial(jnp.linalg.norm, axis=1)
    apart = jnp.abs(jnp.sum(Ax * y, axis=1) - jnp.sum(x * Aty, axis=1))
    worst = safe_divide(apart, norm(Ax) * norm(y)), safe_divide(norm(bent - 2 * Ax + Az), 2 * norm(Ax) + norm(Az))
    return jnp.max(jnp.stack(worst))


def _flat(tree: Any) -> Array:
    return ravel_pytree(tree)[0]


def _normal(space: Any, key: Any, count: int) -> Any:
    """Normal entries for every structure of a pytree, ``count`` times along a new first axis."""
    leaves, tree = jax.tree.flatten(space)
    keys = jax.random.split(key, len(leaves))
    pairs = zip(keys, leaves, strict=True)
    return tree.unflatten([jax.random.normal(k, (count, *s.shape), s.dtype) for k, s in pairs])
