"""Blur, and the transforms and small matrices that take it apart."""

from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer

from jaxridge.core.types import Array, Float
from jaxridge.core.verbs import verb
from jaxridge.operators.base import Operator, Shape, along, image_shape, known, kronecker, real_array, structure

Boundary = Literal["zero", "periodic", "reflective"]


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


def in_basis(symbol: Array, periodic: bool) -> Diagonalised:
    """With the symbol in the dtype of the coefficients."""
    if not periodic:
        return Diagonalised(symbol, "cosine")
    return Diagonalised(symbol if jnp.iscomplexobj(symbol) else as_complex(symbol), "fourier")


def as_complex(x: Array) -> Array:
    """x with an imaginary part of 0."""
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
        self.factors = tuple(real_array("factors", F) for F in factors)
        if not self.factors or any(F.ndim != 2 for F in self.factors):
            raise ValueError(f"factors have shapes {[F.shape for F in self.factors]}; give one matrix for each axis.")
        dtype = jnp.result_type(*self.factors)
        self.domain = structure([F.shape[1] for F in self.factors], dtype)
        self.codomain = structure([F.shape[0] for F in self.factors], dtype)

    def apply(self, x: Array) -> Array:
        return kronecker(self.factors, x)


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
        symbol = self.psf if self.even else as_complex(self.psf)
        for axis, (n, p) in enumerate(zip(self.domain.shape, self.psf.shape, strict=True)):
            waves = jnp.asarray(_waves(n, p // 2, self.boundary, self.even))
            symbol = along(waves, symbol, axis)
        return in_basis(symbol, self.boundary == "periodic")


@verb()
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
    shape, kernel = image_shape(shape, (1, 2)), real_array("psf", psf)
    known("boundary", boundary, ("zero", "periodic", "reflective"))
    if kernel.ndim != len(shape) or any(p % 2 == 0 for p in kernel.shape):
        raise ValueError(f"psf has shape {kernel.shape}; give {len(shape)} odd lengths: pad an even one with zeros.")
    if any(p > n for p, n in zip(kernel.shape, shape, strict=True)):
        raise ValueError(f"psf has shape {kernel.shape}, the image {shape}; crop the psf to at most the image.")
    symmetric = _looks_symmetric(kernel) if symmetric is None else symmetric
    space = structure(shape, kernel.dtype)
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
        for axis, (taps, n) in enumerate(zip(self._taps(), x.shape, strict=True)):
            if len(taps) <= _MOST_TAPS and 2 * len(taps) <= n:
                x = _filtered(taps, x, axis, self.boundary)
            else:
                x = along(_banded(taps, n, self.boundary), x, axis)
        return x

    def diagonalised(self) -> Diagonalised | None:
        if self.boundary == "zero":
            return None
        symbol = jnp.ones((), self.domain.dtype)
        for taps, n, r in zip(self._taps(), self.domain.shape, self.radii, strict=True):
            waves = jnp.asarray(_waves(n, r, self.boundary, True))
            symbol = jnp.multiply.outer(symbol, along(waves, taps, 0))
        return in_basis(symbol, self.boundary == "periodic")


# Up to here shifts cost a tenth to all of the product with the matrix, at 128 to 1024 pixels on a CPU.
_MOST_TAPS = 33


def _filtered(taps: Float[Array, " p"], x: Array, axis: int, boundary: str) -> Array:
    """Σ_k taps[k] x[i + k] along one axis for symmetric taps, x continued as the boundary says."""
    radius, n = taps.shape[0] // 2, x.shape[axis]
    taps, mode = taps.astype(x.dtype), {"zero": "constant", "periodic": "wrap", "reflective": "symmetric"}[boundary]
    wide = jnp.pad(x, [(radius, radius) if a == axis else (0, 0) for a in range(x.ndim)], mode=mode)
    shifted = [jax.lax.slice_in_dim(wide, k, k + n, axis=axis) for k in range(taps.shape[0])]
    return sum((taps[k] * (shifted[k] + shifted[-1 - k]) for k in range(radius)), taps[radius] * shifted[radius])


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


@verb()
def gaussian_blur(
    shape: Any, width: Any, *, boundary: Boundary = "reflective", radius: int | Sequence[int] | None = None
) -> GaussianBlur:
    """Blur by a Gaussian of standard deviation w pixels: (A x)[i] = Σ_k g(k) x[i − k], g(k) ∝ exp(−k²/2w²), Σ g = 1.

    Args:
        shape: of the image, one or two axes. width: w > 0, or one for each axis; differentiable to every order.
        boundary: ``"zero"``, ``"periodic"`` or ``"reflective"``, as for `blur`.
        radius: |k| ≤ radius, or one for each axis. 4w rounded when None, which needs a w that is not traced. It stays
            as it is when w changes: to fit w, give four times the largest one in question.

    By shifts where they are few, else by one small matrix for each axis. Equals ``scipy.ndimage.gaussian_filter(x, w)``
    with mode ``"constant"``, ``"wrap"`` or ``"reflect"``. ValueError for w ≤ 0, a traced w without radius, another
    boundary.

    >>> import jax, jax.numpy as jnp
    >>> from jaxridge import operators
    >>> x = jnp.zeros(9).at[4].set(1.0)
    >>> print(jax.grad(lambda w: operators.gaussian_blur(9, w, radius=4).mv(x)[4])(1.0).round(3))
    -0.399
    """
    shape, leaf = image_shape(shape, (1, 2)), real_array("width", width)
    known("boundary", boundary, ("zero", "periodic", "reflective"))
    if leaf.shape not in ((), (len(shape),)):
        raise ValueError(f"width has shape {leaf.shape}; give one number, or one for each of {len(shape)} axes.")
    if not isinstance(leaf, Tracer) and not np.all(np.asarray(leaf) > 0):
        raise ValueError(f"width is {width}; give a positive standard deviation in pixels, such as width=1.5.")
    if radius is None and isinstance(leaf, Tracer):
        raise ValueError("width is traced and radius None; give a static one, such as radius=8 for widths up to 2.")
    radii = np.floor(4.0 * np.asarray(leaf) + 0.5) if radius is None else np.asarray(radius)
    if np.any(radii < 0) or np.any(radii != np.floor(radii)):
        raise ValueError(f"radius is {radius}; give a whole number of pixels, such as four times the width.")
    space = structure(shape, leaf.dtype)
    return GaussianBlur(space, space, leaf, boundary, tuple(int(r) for r in np.broadcast_to(radii, len(shape))))
