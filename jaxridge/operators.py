"""Linear operators of inverse problems: blur, differences, Radon transform, travel times, sampling, on lineax.

An operator maps one real array to another, images stay images, and knows its exact adjoint:

    >>> import jax.numpy as jnp
    >>> from jaxridge import operators
    >>> A = operators.subsample((4, 4), (slice(0, 4, 2), 0)) @ operators.gaussian_blur((4, 4), 1.0)
    >>> A.mv(jnp.ones((4, 4))).shape, A.T.mv(jnp.ones(2)).shape
    ((2,), (4, 4))

Each is a `lineax.AbstractLinearOperator`, so that sums, products, multiples and ``lineax.linear_solve`` work. Numbers
that a model is fitted with (the width of a blur, the entries of its kernel) are leaves: products are differentiable
in them and in the vector, to every order. An operator computes in the dtype of the vector that it is given.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from jaxridge._numerics import safe_divide
from jaxridge._types import Array, Float, Int, Scalar

__all__ = [
    "Blur",
    "Diagonalised",
    "Difference",
    "GaussianBlur",
    "Operator",
    "Radon",
    "Rays",
    "Separable",
    "Subsample",
    "Transpose",
    "blur",
    "check_adjoint",
    "diagonalised",
    "difference",
    "function",
    "gaussian_blur",
    "line_integrals",
    "radon",
    "separated",
    "subsample",
    "travel_time",
]

Boundary = Literal["zero", "periodic", "reflective"]
Shape = tuple[int, ...]


# --- What every operator is ---


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
        return self.apply(x)

    def transpose(self) -> "Operator":
        return self if self.symmetric else Transpose(self.codomain, self.domain, self)

    def as_matrix(self) -> Float[Array, "m n"]:
        def column(e: Array) -> Array:
            return self.apply(e.reshape(self.domain.shape)).ravel()

        return jax.vmap(column, out_axes=1)(jnp.eye(self.in_size(), dtype=self.domain.dtype))

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return self.domain

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return self.codomain


class Transpose(Operator):
    """Aᵀ, by transposing the program that computes A x: ⟨A x, y⟩ = ⟨x, Aᵀ y⟩ to rounding. It is what ``A.T`` gives.

    >>> import jax.numpy as jnp
    >>> from jaxridge import operators
    >>> operators.difference((3,)).T.mv(jnp.array([1.0, 0.0])).tolist()
    [-1.0, 1.0, 0.0]
    """

    operator: Operator

    def apply(self, x: Array) -> Array:
        (out,) = jax.linear_transpose(self.operator.apply, _struct(self.codomain.shape, x.dtype))(x)
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


def _struct(shape: Sequence[int], dtype: Any = None) -> jax.ShapeDtypeStruct:
    dtype = jnp.result_type(float) if dtype is None else dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype is {dtype}; operators are real: give a floating one, such as jnp.float32.")
    return jax.ShapeDtypeStruct(tuple(shape), dtype)


def _image_shape(shape: Any, dims: Sequence[int]) -> Shape:
    found = (int(shape),) if np.ndim(shape) == 0 else tuple(int(n) for n in shape)
    if len(found) not in dims or min(found, default=0) < 1:
        raise ValueError(f"shape is {shape}; give {' or '.join(map(str, dims))} positive lengths, such as (64, 64).")
    return found


def _known(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, allowed))}.")


def _real(name: str, value: Any) -> Array:
    """A floating array; complex entries are refused."""
    array = jnp.asarray(value, None if isinstance(value, jax.Array | np.ndarray) else jnp.result_type(float))
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"{name} is complex; operators are real: give its real and imaginary parts one operator each.")
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.result_type(float))


def _constant(name: str, value: Any) -> np.ndarray:
    """Geometry, which has to be known while tracing because it decides how the computation runs."""
    if isinstance(value, Tracer):
        raise ValueError(f"{name} is traced; it is not differentiated: build the operator outside jit, grad and vmap.")
    return np.asarray(value, float)


def _tied(forward: Callable[[Array], Array], adjoint: Callable[[Array], Array], shape: Shape) -> Callable:
    """x ↦ forward(x) of the given shape, whose transpose is ``adjoint`` for JAX too, in every mode and nesting.

    It is the solution of (x, y − A x) = (b, 0), a system whose two solvers JAX lets one state: that of the transposed
    one, (u − Aᵀv, v) = (c, d), is u = c + Aᵀd, v = d.
    """

    def apply(x: Array) -> Array:
        def halves(b: Array) -> tuple[Array, Array]:
            return b[: x.size].reshape(x.shape), b[x.size :].reshape(shape)

        def join(a: Array, b: Array) -> Array:
            return jnp.concatenate([a.ravel(), b.ravel()])

        def system(b: Array) -> Array:
            return join(halves(b)[0], halves(b)[1] - forward(halves(b)[0]))

        def solve(_: Any, b: Array) -> Array:
            return join(halves(b)[0], halves(b)[1] + forward(halves(b)[0]))

        def solve_transposed(_: Any, c: Array) -> Array:
            return join(halves(c)[0] + adjoint(halves(c)[1]), halves(c)[1])

        b = jnp.pad(x.ravel(), (0, math.prod(shape)))
        return halves(jax.lax.custom_linear_solve(system, b, solve, solve_transposed))[1]

    return apply


# --- Operators that a fast transform, or one small matrix per axis, takes apart ---


class Diagonalised(eqx.Module):
    """A x = synthesise(symbol · analyse(x)) with an orthonormal transform: what `diagonalised` returns.

    ``basis`` names it: ``"cosine"`` is the DCT-II along every axis, ``"fourier"`` the discrete Fourier transform, for
    which ``symbol`` is complex. The moduli of ``symbol`` are the singular values of A.
    """

    symbol: Array
    basis: Literal["cosine", "fourier"] = eqx.field(static=True)

    def analyse(self, x: Array) -> Array:
        """Coefficients of x, of the same shape, and norm; complex for Fourier's."""
        return jax.scipy.fft.dctn(x, norm="ortho") if self.basis == "cosine" else jnp.fft.fftn(x, norm="ortho")

    def synthesise(self, c: Array) -> Array:
        """The inverse of `analyse`, real."""
        return jax.scipy.fft.idctn(c, norm="ortho") if self.basis == "cosine" else jnp.fft.ifftn(c, norm="ortho").real


def _in_basis(symbol: Array, periodic: bool) -> Diagonalised:
    """With the symbol in the dtype of the coefficients."""
    if not periodic:
        return Diagonalised(symbol, "cosine")
    return Diagonalised(symbol if jnp.iscomplexobj(symbol) else _complex(symbol), "fourier")


def _complex(x: Array) -> Array:
    return jax.lax.complex(x, jnp.zeros_like(x))


def diagonalised(A: lx.AbstractLinearOperator) -> Diagonalised | None:
    """The fast orthonormal transform in which A is diagonal, or None.

    Periodic blurs have the Fourier transform, reflective ones with a symmetric kernel the DCT-II (Ng, Chan and Tang
    1999, SIAM J. Sci. Comput. 21, 851): ``A.mv(x)`` is ``D.synthesise(D.symbol * D.analyse(x))``.

    >>> from jaxridge import operators
    >>> operators.diagonalised(operators.gaussian_blur((8, 8), 1.0)).basis
    'cosine'
    """
    return A.diagonalised() if isinstance(A, Operator) else None


def separated(A: lx.AbstractLinearOperator) -> tuple[Array, ...] | None:
    """The factors of a Kronecker product A = F₁ ⊗ F₂ …, one per axis, or None.

    Singular values and vectors of A are the products of those of the factors.

    >>> from jaxridge import operators
    >>> [F.shape for F in operators.separated(operators.gaussian_blur((8, 6), 1.0))]
    [(8, 8), (6, 6)]
    """
    return A.factors if isinstance(A, Separable | GaussianBlur) else None


def _along(F: Float[Array, "m n"], x: Array, axis: int) -> Array:
    """F applied to every line of x along one axis."""
    product = jnp.tensordot(F.astype(x.dtype), x, axes=(1, axis), precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(product, 0, axis)


def _kronecker(factors: Sequence[Any], x: Array) -> Array:
    """F₁ x F₂ᵀ …"""
    for axis, F in enumerate(factors):
        x = _along(jnp.asarray(F), x, axis)
    return x


class Separable(Operator):
    """The Kronecker product F₁ ⊗ F₂ …, which is A x = F₁ x F₂ᵀ for an image: one matrix for each axis of x.

    ``factors``: a sequence of (mₐ, nₐ) arrays, differentiable. Domain (n₁, n₂, …), codomain (m₁, m₂, …). ValueError
    for a factor that is not a matrix. Equals ``numpy.kron`` of the factors on raveled arrays.

    >>> import jax.numpy as jnp
    >>> from jaxridge import operators
    >>> A = operators.Separable([jnp.ones((1, 3)), jnp.eye(2)])
    >>> A.mv(jnp.ones((3, 2))).tolist()
    [[3.0, 3.0]]
    """

    factors: tuple[Float[Array, "m n"], ...]

    def __init__(self, factors: Sequence[Any]):
        self.factors = tuple(_real("factors", F) for F in factors)
        if not self.factors or any(F.ndim != 2 for F in self.factors):
            raise ValueError(f"factors have shapes {[F.shape for F in self.factors]}; give one matrix for each axis.")
        dtype = jnp.result_type(*self.factors)
        self.domain = _struct([F.shape[1] for F in self.factors], dtype)
        self.codomain = _struct([F.shape[0] for F in self.factors], dtype)

    def apply(self, x: Array) -> Array:
        return _kronecker(self.factors, x)


# --- Blur ---


def _waves(n: int, radius: int, boundary: str, symmetric: bool) -> np.ndarray:
    """Entries exp(−i t) or cos t, t = 2πkj/n or πkj/n, of the sum over j = −radius..radius that gives a symbol."""
    half_turns = (2 if boundary == "periodic" else 1) * np.outer(np.arange(n), np.arange(-radius, radius + 1))
    turn = np.pi / n * (half_turns % (2 * n))
    return np.cos(turn) if symmetric or boundary == "reflective" else np.exp(-1j * turn)


def _fast_length(n: int) -> int:
    """The least number from n on with no prime factor above 5, for which the FFT is quick."""
    left = n
    for p in (2, 3, 5):
        while left % p == 0:
            left //= p
    return n if left == 1 else _fast_length(n + 1)


class Blur(Operator):
    """Convolution with a point spread function; see `blur`. ``psf`` is differentiable."""

    psf: Array
    boundary: Boundary = eqx.field(static=True)
    even: bool = eqx.field(static=True)

    @property
    def symmetric(self) -> bool:
        return self.even

    def apply(self, x: Array) -> Array:
        radii = [p // 2 for p in self.psf.shape]
        if self.boundary == "periodic":
            return self._convolve(x, x.shape)
        if self.boundary == "zero":
            crop = tuple(slice(0, n) for n in x.shape)
            return self._convolve(x, [_fast_length(n + r) for n, r in zip(x.shape, radii, strict=True)])[crop]
        crop = tuple(slice(r, r + n) for n, r in zip(x.shape, radii, strict=True))
        wide = jnp.pad(x, [(r, r) for r in radii], mode="symmetric")
        return self._convolve(wide, [_fast_length(n) for n in wide.shape])[crop]

    def _convolve(self, x: Array, sizes: Sequence[int]) -> Array:
        """Circular convolution after padding with zeros to ``sizes``."""
        psf = jnp.pad(self.psf.astype(x.dtype), [(0, n - p) for n, p in zip(sizes, self.psf.shape, strict=True)])
        # The centre of the kernel belongs at index 0.
        psf = jnp.roll(psf, [-(p // 2) for p in self.psf.shape], range(psf.ndim))
        return jnp.fft.irfftn(jnp.fft.rfftn(x, sizes) * jnp.fft.rfftn(psf), sizes)

    def diagonalised(self) -> Diagonalised | None:
        if self.boundary == "zero" or (self.boundary == "reflective" and not self.even):
            return None
        symbol = self.psf if self.even else _complex(self.psf)
        for axis, (n, p) in enumerate(zip(self.domain.shape, self.psf.shape, strict=True)):
            waves = jnp.asarray(_waves(n, p // 2, self.boundary, self.even))
            symbol = _along(waves, symbol, axis)
        return _in_basis(symbol, self.boundary == "periodic")


def blur(shape: Any, psf: Any, *, boundary: Boundary = "reflective", symmetric: bool | None = None) -> Blur:
    """Blur by a point spread function p: (A x)[i] = Σ_k p[k] x[i − k], k counted from the centre of p.

    Args:
        shape: of the image, one or two axes. psf: p, as many axes, odd lengths (2r+1) not above those of the image;
            differentiable; its dtype is that of the operator.
        boundary: what lies outside. ``"zero"``; ``"periodic"``, the image again; ``"reflective"``, its mirror image
            about the edges of the outermost pixels.
        symmetric: whether p[k] = p[−k] along each axis by itself, so that A is symmetric. Found by looking when None;
            state it for a traced p, which is otherwise taken for one that is not. A wrong True is not noticed.

    By FFT, with zeros or mirrored pixels added as needed. Equals ``scipy.ndimage.convolve(x, psf)`` with mode
    ``"constant"``, ``"wrap"`` or ``"reflect"``. ValueError for even lengths, p wider than the image, another boundary.

    >>> import jax.numpy as jnp
    >>> from jaxridge import operators
    >>> A = operators.blur(4, jnp.array([0.25, 0.5, 0.25]), boundary="zero")
    >>> print(A.mv(jnp.array([0.0, 4.0, 0.0, 4.0])).round(4))
    [1. 2. 2. 2.]
    """
    shape, kernel = _image_shape(shape, (1, 2)), _real("psf", psf)
    _known("boundary", boundary, ("zero", "periodic", "reflective"))
    if kernel.ndim != len(shape) or any(p % 2 == 0 for p in kernel.shape):
        raise ValueError(f"psf has shape {kernel.shape}; give {len(shape)} odd lengths: pad an even one with zeros.")
    if any(p > n for p, n in zip(kernel.shape, shape, strict=True)):
        raise ValueError(f"psf has shape {kernel.shape}, the image {shape}; crop the psf to at most the image.")
    symmetric = _looks_symmetric(kernel) if symmetric is None else symmetric
    space = _struct(shape, kernel.dtype)
    return Blur(space, space, kernel, boundary, symmetric)


def _looks_symmetric(kernel: Array) -> bool:
    """Along each axis by itself, to rounding; False for one that cannot be looked at."""
    if isinstance(kernel, Tracer):
        return False
    entries = np.asarray(kernel)
    rounding = 4 * np.finfo(entries.dtype).eps * np.max(np.abs(entries))
    return all(np.allclose(np.flip(entries, axis), entries, 0, rounding) for axis in range(entries.ndim))


class GaussianBlur(Operator):
    """Blur by a Gaussian; see `gaussian_blur`. ``width`` is differentiable; `factors` has a matrix for each axis."""

    width: Array
    boundary: Boundary = eqx.field(static=True)
    radii: Shape = eqx.field(static=True)

    @property
    def symmetric(self) -> bool:
        return True

    @property
    def factors(self) -> tuple[Float[Array, "n n"], ...]:
        """F with A x = F₁ x F₂ᵀ, each symmetric."""
        return tuple(_banded(taps, n, self.boundary) for taps, n in zip(self._taps(), self.domain.shape, strict=True))

    def _taps(self) -> list[Array]:
        """exp(−k²/2w²), k = −r..r, divided by its sum, for each axis."""
        widths = jnp.broadcast_to(self.width, (len(self.radii),))
        squares = [jnp.asarray(np.arange(-r, r + 1.0) ** 2, self.width.dtype) for r in self.radii]
        return [jax.nn.softmax(-0.5 * square / (w * w)) for square, w in zip(squares, widths, strict=True)]

    def apply(self, x: Array) -> Array:
        return _kronecker(self.factors, x)

    def diagonalised(self) -> Diagonalised | None:
        if self.boundary == "zero":
            return None
        symbol = jnp.ones((), self.domain.dtype)
        for taps, n, r in zip(self._taps(), self.domain.shape, self.radii, strict=True):
            waves = jnp.asarray(_waves(n, r, self.boundary, True))
            symbol = jnp.multiply.outer(symbol, _along(waves, taps, 0))
        return _in_basis(symbol, self.boundary == "periodic")


def _banded(taps: Float[Array, " p"], n: int, boundary: str) -> Float[Array, "n n"]:
    """The matrix F (n, n) with (F x)[i] = Σ_k taps[k] x[i + k], x continued as the boundary says."""
    radius = taps.shape[0] // 2
    rows = np.arange(n)[:, None]
    columns = rows + np.arange(-radius, radius + 1)
    if boundary == "periodic":
        columns = columns % n
    elif boundary == "reflective":
        columns = np.minimum(columns % (2 * n), 2 * n - 1 - columns % (2 * n))
    else:
        columns = np.where((columns < 0) | (columns >= n), n, columns)
    entries = jnp.broadcast_to(taps[None, :], columns.shape)
    return jnp.zeros((n, n), taps.dtype).at[rows, columns].add(entries, mode="drop")


def gaussian_blur(
    shape: Any, width: Any, *, boundary: Boundary = "reflective", radius: int | Sequence[int] | None = None
) -> GaussianBlur:
    """Blur by a Gaussian of standard deviation w pixels: (A x)[i] = Σ_k g(k) x[i − k], g(k) ∝ exp(−k²/2w²), Σ g = 1.

    Args:
        shape: of the image, one or two axes. width: w > 0, or one for each axis; differentiable to every order.
        boundary: ``"zero"``, ``"periodic"`` or ``"reflective"``, as for `blur`.
        radius: |k| ≤ radius, or one for each axis. 4w rounded when None, which needs a w that is not traced. It stays
            as it is when w changes: to fit w, give four times the largest one in question.

    One small matrix for each axis. Equals ``scipy.ndimage.gaussian_filter(x, w)`` with mode ``"constant"``, ``"wrap"``
    or ``"reflect"``. ValueError for w ≤ 0, a traced w without radius, another boundary.

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge import operators
    >>> x = jnp.zeros(9).at[4].set(1.0)
    >>> print(jax.grad(lambda w: operators.gaussian_blur(9, w, radius=4).mv(x)[4])(1.0).round(3))
    -0.399
    """
    shape, leaf = _image_shape(shape, (1, 2)), _real("width", width)
    _known("boundary", boundary, ("zero", "periodic", "reflective"))
    if leaf.shape not in ((), (len(shape),)):
        raise ValueError(f"width has shape {leaf.shape}; give one number, or one for each of {len(shape)} axes.")
    if not isinstance(leaf, Tracer) and not np.all(np.asarray(leaf) > 0):
        raise ValueError(f"width is {width}; give a positive standard deviation in pixels, such as width=1.5.")
    if radius is None and isinstance(leaf, Tracer):
        raise ValueError("width is traced and radius None; give a static one, such as radius=8 for widths up to 2.")
    radii = np.floor(4.0 * np.asarray(leaf) + 0.5) if radius is None else np.asarray(radius)
    if np.any(radii < 0) or np.any(radii != np.floor(radii)):
        raise ValueError(f"radius is {radius}; give a whole number of pixels, such as four times the width.")
    space = _struct(shape, leaf.dtype)
    return GaussianBlur(space, space, leaf, boundary, tuple(int(r) for r in np.broadcast_to(radii, len(shape))))


def function(fn: Callable[[Any], Any], shape: Any, dtype: Any = None) -> lx.FunctionLinearOperator:
    """A linear function as an operator: ``fn`` of an array x of that shape, its adjoint by ``jax.linear_transpose``.

    ``shape`` may be a pytree of ``jax.ShapeDtypeStruct`` where x is one of arrays; `check_adjoint` tells whether fn is
    linear. A new operator is compiled anew: make it once, or write an `Operator`. Arrays that fn closes over are leaves of the operator, so that derivatives flow through them.

    >>> import jax.numpy as jnp
    >>> from jaxridge import inverse, operators
    >>> A = operators.function(lambda x: jnp.cumsum(x), 3)
    >>> print(inverse.tikhonov(A, jnp.array([1.0, 2.0, 3.0]), 0.0).x.round(4))
    [1. 1. 1.]
    """
    if isinstance(shape, int):
        shape = (shape,)
    plain = isinstance(shape, tuple) and all(isinstance(n, int) for n in shape)
    return lx.FunctionLinearOperator(fn, _struct(shape, dtype) if plain else shape)


# --- Differences ---


class Difference(Operator):
    """Differences of neighbours; see `difference`. It brings its null space and its pseudo-inverse."""

    order: int = eqx.field(static=True)
    periodic: bool = eqx.field(static=True)

    def apply(self, x: Array) -> Array:
        return jnp.concatenate([self._of_axis(x, axis).ravel() for axis in range(x.ndim)])

    def _of_axis(self, x: Array, axis: int) -> Array:
        if not self.periodic:
            return jnp.diff(x, self.order, axis)
        ahead = jnp.roll(x, -1, axis) - x
        return ahead if self.order == 1 else ahead - jnp.roll(ahead, 1, axis)

    @property
    def null(self) -> Float[Array, "q ..."]:
        """An orthonormal basis of the x with L x = 0, (q, *shape): constants, or products of straight lines."""
        lines = [_null_lines(n, self.order, self.periodic) for n in self.domain.shape]
        basis = lines[0] if len(lines) == 1 else np.einsum("ai,bj->abij", *lines).reshape(-1, *self.domain.shape)
        return jnp.asarray(basis, self.domain.dtype)

    def gram(self) -> Diagonalised | None:
        """LᵀL in the basis of periodic blurs, or of reflective ones for free first differences; else None.

        Its symbol is Σₐ (2 sin(πkₐ/n))²ᵒ along the axes a with o the order, and half that angle in the cosine basis.
        """
        if not self.periodic and self.order == 2:
            return None
        whole = 1.0 if self.periodic else 0.5
        waves = [(2 * np.sin(whole * np.pi * np.arange(n) / n)) ** (2 * self.order) for n in self.domain.shape]
        symbol = functools.reduce(np.add.outer, waves)
        return _in_basis(jnp.asarray(symbol, self.domain.dtype), self.periodic)

    def pinv(self, u: Float[Array, " m"]) -> Array:
        """L⁺u, the x of least norm among those with the least ‖L x − u‖ (Moore and Penrose), linear in u (m,).

        A signal: running sums, O(n). An image: the singular value decompositions D = U S Vᵀ of the differences along
        either axis diagonalise LᵀL, the sum of both; products with n × n matrices, O(n³). Equals
        ``numpy.linalg.pinv(L.as_matrix()) @ u``. Lynch, Rice and Thomas (1964), Numer. Math. 6, 185.
        """
        if u.shape != self.codomain.shape:
            raise ValueError(f"u has shape {u.shape}; give differences, {self.codomain.shape}.")
        return self._pinv_signal(u) if len(self.domain.shape) == 1 else self._pinv_image(u)

    def _pinv_signal(self, u: Array) -> Array:
        if self.periodic and self.order == 2:
            # The second difference at i is the first of first ones at i − 1.
            u = jnp.roll(u, -1)
        for _ in range(self.order):
            sums = jnp.cumsum(u - jnp.mean(u))[:-1] if self.periodic else jnp.cumsum(u)
            u = jnp.concatenate([jnp.zeros(1, u.dtype), sums])
        null = self.null.astype(u.dtype)
        return u - jnp.tensordot(jnp.tensordot(null, u, 1), null, 1)

    def _pinv_image(self, u: Array) -> Array:
        """V c with c = Σₐ Sₐ (Uₐᵀ ⊗ Vᵀ) uₐ / Σ S²: the square of a small s is never divided by."""
        (U0, s0, V0), (U1, s1, V1) = (_singular(n, self.order, self.periodic) for n in self.domain.shape)
        squares = np.add.outer(s0**2, s1**2)
        inverse = np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0)
        down, across = jnp.split(u, [U0.shape[0] * V1.shape[0]])
        c0 = _kronecker((U0.T, V1.T), down.reshape(U0.shape[0], V1.shape[0]))
        c1 = _kronecker((V0.T, U1.T), across.reshape(V0.shape[0], U1.shape[0]))
        gain0, gain1 = (jnp.asarray(s * inverse, u.dtype) for s in (s0[:, None], s1[None, :]))
        return _kronecker((V0, V1), gain0 * c0 + gain1 * c1)


def _null_lines(n: int, order: int, periodic: bool) -> np.ndarray:
    """Orthonormal rows: the constant, and the straight line where second differences do not see it."""
    constant = np.full((1, n), n**-0.5)
    if order == 1 or periodic:
        return constant
    line = np.arange(n) - (n - 1) / 2
    return np.vstack([constant, line / np.linalg.norm(line)])


@functools.lru_cache(maxsize=16)
def _singular(n: int, order: int, periodic: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U (m, n), s (n,), V (n, n) of the differences along one axis, with s = 0 and no U in the null space."""
    D = np.diff(np.eye(n), order, axis=0)
    if periodic:
        ahead = np.roll(np.eye(n), -1, axis=0) - np.eye(n)
        D = ahead if order == 1 else ahead - np.roll(ahead, 1, axis=0)
    rank = n - len(_null_lines(n, order, periodic))
    U, s, Vt = np.linalg.svd(D)
    embed = np.eye(len(s), n) * (np.arange(n) < rank)
    return U @ embed, s @ embed, Vt.T


def difference(
    shape: Any, order: int = 1, *, boundary: Literal["free", "periodic"] = "free", dtype: Any = None
) -> Difference:
    """First or second differences L of neighbours, to penalise ‖L x‖² = Σ (x[i+1] − x[i])² and the like.

    Args:
        shape: of x. One axis, n: L x is (n − order,) with free ends and (n,) periodic. Two axes: L x is one vector, the
            differences down the columns and then those along the rows, either raveled.
        order: 1, x[i+1] − x[i]; 2, x[i+1] − 2x[i] + x[i−1]. An image has no mixed second differences in it, so that
            free ones leave 1, i, j and i·j unpenalised.
        boundary: ``"free"``, only neighbours that exist; ``"periodic"``, the last is a neighbour of the first.
        dtype: of ``L.null`` and ``L.as_matrix()``; JAX's default float when None.

    Besides, ``L.null`` is its null space, ``L.pinv(u)`` L⁺u and ``L.gram()`` LᵀL in a fast basis. Equals
    ``numpy.diff``. ValueError for another order or boundary, or an axis not longer than the order.

    >>> import jax.numpy as jnp
    >>> from jaxridge import operators
    >>> L = operators.difference(4, 2)
    >>> L.mv(jnp.arange(4.0) ** 2).tolist(), L.null.shape
    ([2.0, 2.0], (2, 4))
    """
    shape = _image_shape(shape, (1, 2))
    _known("boundary", boundary, ("free", "periodic"))
    if order not in (1, 2):
        raise ValueError(f"order is {order}; choose 1 or 2, and compose two operators for more.")
    if min(shape) <= order:
        raise ValueError(f"shape is {shape}; differences of order {order} need more than {order} points on each axis.")
    lost = 0 if boundary == "periodic" else order
    count = sum(math.prod(n - lost * (a == axis) for a, n in enumerate(shape)) for axis in range(len(shape)))
    return Difference(_struct(shape, dtype), _struct([count], dtype), order, boundary == "periodic")


# --- Rays ---


class _Sweep(eqx.Module):
    """Rays that cross an image row by row: of angle a, ray k crosses row i at column start − slope·i + step·k."""

    start: Float[Array, " a"]
    slope: Float[Array, " a"]
    step: Float[Array, " a"]

    def lines(self, dtype: Any) -> tuple[Array, Array, Array]:
        start, slope, step = jax.lax.stop_gradient((self.start, self.slope, self.step))
        return start.astype(dtype), slope.astype(dtype), step.astype(dtype)

    def project(self, x: Float[Array, "n m"], bins: int) -> Float[Array, "a bins"]:
        """Σᵢ of x between its two pixels next to the crossing of row i."""
        n, m = x.shape
        # Two zeros on either side: a ray that has left the image finds them wherever it is held.
        wide = jnp.pad(x, ((0, 0), (2, 2))).ravel()
        i, k = jnp.arange(n, dtype=x.dtype)[None, :], jnp.arange(bins, dtype=x.dtype)[:, None]
        row = jnp.arange(n)[None, :] * (m + 4) + 2

        def of_angle(angle: tuple[Array, Array, Array]) -> Array:
            start, slope, step = angle
            p = start - slope * i + step * k
            left = jnp.floor(p)
            at = row + jnp.clip(left, -2, m).astype(row.dtype)
            f = p - left
            return jnp.sum((1 - f) * _take(wide, at) + f * _take(wide, at + 1), axis=1)

        return jax.lax.map(of_angle, self.lines(x.dtype))

    def back(self, y: Float[Array, "a bins"], shape: Shape, reach: int) -> Float[Array, "n m"]:
        """The adjoint: the same weights, of the few rays k that cross row i next to pixel j, for every pixel."""
        i, j = (jnp.arange(n, dtype=y.dtype) for n in shape)
        i, j = i[:, None], j[None, :]
        bins = y.shape[1]

        def add_angle(total: Array, angle: Any) -> tuple[Array, None]:
            (start, slope, step), line = angle
            first = jnp.floor((j - start + slope * i) / step - jnp.abs(1 / step)) + 1
            wide = jnp.pad(line, 1)
            for ahead in range(reach):
                k = first + ahead
                weight = jnp.maximum(0, 1 - jnp.abs(start - slope * i + step * k - j))
                total = total + weight * _take(wide, jnp.clip(k, -1, bins).astype(jnp.int32) + 1)
            return total, None

        return jax.lax.scan(add_angle, jnp.zeros(shape, y.dtype), (self.lines(y.dtype), y))[0]


def _take(x: Array, at: Int[Array, "..."]) -> Array:
    return x.at[at].get(mode="promise_in_bounds")


class Radon(Operator):
    """Line integrals through an image; see `radon`."""

    rows: _Sweep
    columns: _Sweep
    scale: Float[Array, " a"]
    place: Int[Array, " a"]
    reach: int = eqx.field(static=True)

    def apply(self, x: Array) -> Array:
        return _tied(self._forward, self._adjoint, self.codomain.shape)(x)

    def _forward(self, x: Array) -> Array:
        bins = self.codomain.shape[1]
        both = jnp.concatenate([self.rows.project(x, bins), self.columns.project(x.T, bins)])
        return jnp.zeros_like(both).at[self.place].set(both * self._scale(x.dtype), unique_indices=True)

    def _adjoint(self, y: Array) -> Array:
        (n, m), split = self.domain.shape, self.rows.start.shape[0]
        both = _take(y, self.place) * self._scale(y.dtype)
        down = self.rows.back(both[:split], (n, m), self.reach)
        return down + self.columns.back(both[split:], (m, n), self.reach).T

    def _scale(self, dtype: Any) -> Array:
        return jax.lax.stop_gradient(self.scale.astype(dtype))[:, None]


def radon(shape: Any, angles: Any, bins: int | None = None, spacing: float = 1.0, *, dtype: Any = None) -> Radon:
    """Parallel-beam Radon transform by Joseph's method: (A x)[a, k] = ∫ x along u cos θₐ + v sin θₐ = tₖ.

    Args:
        shape: (n, m) of the image; pixel (i, j) is a unit square about u = j − (m−1)/2, v = i − (n−1)/2, so that v
            points down the rows. angles: (a,), θ in radians; constants, not differentiated.
        bins: detectors at tₖ = spacing (k − (bins−1)/2); enough to see the whole diagonal when None.
        spacing: between detectors, in pixels. dtype: JAX's default float when None.

    Where |cos θ| ≥ √½ a ray is followed from row to row, elsewhere from column to column. With h(v) = max(0, 1 − |v|),
    it crosses row i at u = (t − v sin θ)/cos θ and weighs pixel j by h(u − uⱼ)/|cos θ|. The adjoint asks each pixel
    for its rays by the same formula: neither direction scatters. Returns (a, bins), pixel lengths. ValueError for a
    shape of other than two axes, angles not (a,) or traced, spacing ≤ 0, bins < 1.
    Joseph (1982), IEEE Trans. Med. Imaging 1, 192.

    >>> import jax.numpy as jnp
    >>> from jaxridge import operators
    >>> print(operators.radon((3, 3), [0.0], bins=3).mv(jnp.eye(3).at[0].set(2.0)))
    [[2. 3. 3.]]
    """
    shape = _image_shape(shape, (2,))
    theta = _constant("angles", angles)
    spacing = float(_constant("spacing", spacing))
    if theta.ndim != 1:
        raise ValueError(f"angles has shape {theta.shape}; give a vector in radians, such as jnp.linspace(0, 3.1, 60).")
    if not spacing > 0:
        raise ValueError(f"spacing is {spacing}; give a positive distance in pixels, such as spacing=1.0.")
    bins = math.ceil(math.hypot(*shape) / spacing) if bins is None else bins
    if bins < 1:
        raise ValueError(f"bins is {bins}; give at least one detector, or None.")
    space = _struct(shape, dtype)
    cos, sin = np.cos(theta), np.sin(theta)
    steep = np.abs(cos) >= np.sqrt(0.5)
    rows = _sweep(cos[steep], sin[steep], shape, bins, spacing, space.dtype)
    columns = _sweep(sin[~steep], cos[~steep], shape[::-1], bins, spacing, space.dtype)
    place = np.concatenate([np.flatnonzero(steep), np.flatnonzero(~steep)])
    scale = 1 / np.concatenate([np.abs(cos[steep]), np.abs(sin[~steep])])
    reach = math.ceil(2 / spacing)
    out = _struct((len(theta), bins), dtype)
    return Radon(space, out, rows, columns, jnp.asarray(scale, space.dtype), jnp.asarray(place), reach)


def _sweep(c: np.ndarray, s: np.ndarray, shape: Shape, bins: int, spacing: float, dtype: Any) -> _Sweep:
    """u + (m−1)/2 of (spacing (k − (bins−1)/2) − s (i − (n−1)/2)) / c, as a function of i and k."""
    n, m = shape
    start = (m - 1) / 2 + ((n - 1) / 2 * s - spacing * (bins - 1) / 2) / c
    return _Sweep(*(jnp.asarray(v, dtype) for v in (start, s / c, spacing / c)))


class Rays(Operator):
    """Integrals along straight rays through a grid of cells; see `travel_time` and `line_integrals`."""

    ray: Int[Array, " p"]
    cell: Int[Array, " p"]
    length: Float[Array, " p"]

    def apply(self, x: Array) -> Array:
        length = jax.lax.stop_gradient(self.length.astype(x.dtype))
        sums = jnp.zeros(self.out_size(), x.dtype).at[self.ray]
        return sums.add(length * _take(x.ravel(), self.cell), indices_are_sorted=True).reshape(self.codomain.shape)


def line_integrals(shape: Any, rays: Any, *, dtype: Any = None) -> Rays:
    """Integrals of x, constant in each cell, along straight rays: (A x)[r] = Σ (length of ray r in a cell) x[cell].

    Args:
        shape: (n, m) of the grid, or (n, m, l); cell (i, j) is the unit square i ≤ u ≤ i+1, j ≤ v ≤ j+1.
        rays: (r, 2, axes), the two ends of each ray in coordinates (u, v), in the order of the axes of x; constants.
        dtype: JAX's default float when None.

    Lengths are exact (Siddon 1985, Med. Phys. 12, 252), computed once. A ray along the border of two cells belongs to
    the one of larger index. Returns (r,). ValueError for ends outside the grid, or an array that is not (r, 2, axes).

    >>> import jax.numpy as jnp
    >>> from jaxridge import operators
    >>> operators.line_integrals((2, 2), [[[0.5, 0.0], [0.5, 1.5]]]).mv(jnp.array([[1.0, 2.0], [5.0, 7.0]])).tolist()
    [2.0]
    """
    shape, ends = _image_shape(shape, (2, 3)), _constant("rays", rays)
    if ends.ndim != 3 or ends.shape[1:] != (2, len(shape)):
        raise ValueError(f"rays has shape {ends.shape}; give two ends for each ray, (r, 2, {len(shape)}).")
    return _rays(shape, "rays", ends, (len(ends),), dtype)


def travel_time(shape: Any, sources: Any, receivers: Any, *, dtype: Any = None) -> Rays:
    """Travel times between every source and receiver: (A x)[s, r] = ∫ x along the straight ray from s to r.

    Args:
        shape: (n, m) of the grid of unit cells, or (n, m, l). x is slowness, time per unit of length, in each cell.
        sources: (s, axes). receivers: (r, axes). Both in the coordinates of `line_integrals`, 0 ≤ u ≤ n, 0 ≤ v ≤ m.
        dtype: JAX's default float when None.

    Bending of rays is not modelled. Returns (s, r). ValueError for a point outside the grid or of other coordinates.
    Siddon (1985), Med. Phys. 12, 252.

    >>> import jax.numpy as jnp
    >>> from jaxridge import operators
    >>> operators.travel_time((3, 4), [[0.0, 0.0]], [[3.0, 4.0], [0.0, 2.0]]).mv(jnp.ones((3, 4))).tolist()
    [[5.0, 2.0]]
    """
    shape = _image_shape(shape, (2, 3))
    points = {"sources": _constant("sources", sources), "receivers": _constant("receivers", receivers)}
    for name, point in points.items():
        if point.ndim != 2 or point.shape[1] != len(shape):
            raise ValueError(f"{name} has shape {point.shape}; give a row of {len(shape)} coordinates for each.")
        _check_inside(shape, name, point)
    first, last = np.broadcast_arrays(points["sources"][:, None], points["receivers"][None])
    ends = np.stack([first, last], axis=2).reshape(-1, 2, len(shape))
    return _rays(shape, "sources", ends, first.shape[:2], dtype)


def _check_inside(shape: Shape, name: str, points: np.ndarray) -> None:
    if not np.all((points >= 0) & (points <= np.asarray(shape, float))):
        raise ValueError(f"{name} lie outside the grid; give coordinates from 0 to {shape}.")


def _rays(shape: Shape, name: str, ends: np.ndarray, out: Shape, dtype: Any) -> Rays:
    _check_inside(shape, name, ends)
    space = _struct(shape, dtype)
    ray, cell, length = _lengths(shape, ends)
    pieces = jnp.asarray(ray, jnp.int32), jnp.asarray(cell, jnp.int32), jnp.asarray(length, space.dtype)
    return Rays(space, _struct(out, dtype), *pieces)


def _lengths(shape: Shape, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ray, cell and length of every piece into which the lines of the grid cut the rays."""
    start, way = ends[:, 0], ends[:, 1] - ends[:, 0]
    moving = np.where(way == 0, 1.0, way)
    crossings = [
        np.where(way[:, [a]] == 0, 0.0, (np.arange(n + 1) - start[:, [a]]) / moving[:, [a]])
        for a, n in enumerate(shape)
    ]
    at = np.sort(np.clip(np.concatenate([np.zeros((len(ends), 1)), *crossings, np.ones((len(ends), 1))], 1), 0, 1))
    length = np.diff(at) * np.linalg.norm(way, axis=1)[:, None]
    middle = start[:, None] + 0.5 * (at[:, 1:] + at[:, :-1])[..., None] * way[:, None]
    place = np.clip(np.floor(middle), 0, np.asarray(shape) - 1).astype(int)
    ray, piece = np.nonzero(length)
    cell = np.asarray(np.ravel_multi_index(tuple(place[ray, piece].T), shape))
    return ray, cell, length[ray, piece]


# --- Sampling ---


class Subsample(Operator):
    """Some entries of an array; see `subsample`."""

    at: Int[Array, "..."]

    def apply(self, x: Array) -> Array:
        return _take(x.ravel(), self.at)


def subsample(shape: Any, where: Any, *, dtype: Any = None) -> Subsample:
    """The entries A x = x[where] of an array: what was observed, or every second pixel.

    Args:
        shape: of x. where: whatever NumPy takes between those brackets: a mask of that shape, slices such as
            ``numpy.s_[::2, ::2]``, arrays of indices, one for each axis. dtype: JAX's default float when None.

    Returns what NumPy would. ValueError for indices that NumPy refuses, or that are traced.

    >>> import jax.numpy as jnp
    >>> from jaxridge import operators
    >>> operators.subsample(5, slice(None, None, 2)).mv(jnp.arange(5.0)).tolist()
    [0.0, 2.0, 4.0]
    """
    shape = _image_shape(shape, range(1, 9))
    if any(isinstance(part, Tracer) for part in jax.tree.leaves(where)):
        raise ValueError("where is traced; give a mask or indices that are known: build the operator outside jit.")
    where = jax.tree.map(lambda part: np.asarray(part) if isinstance(part, jax.Array) else part, where)
    try:
        at = np.arange(math.prod(shape)).reshape(shape)[where]
    except IndexError as error:
        raise ValueError(f"where does not index an array of shape {shape}: {error}.") from None
    return Subsample(_struct(shape, dtype), _struct(at.shape, dtype), jnp.asarray(at, jnp.int32))


# --- Whether it is one ---


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
        space = shape if isinstance(shape, jax.ShapeDtypeStruct) else _struct(_image_shape(shape, range(1, 9)))
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
