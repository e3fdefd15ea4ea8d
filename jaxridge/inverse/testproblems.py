"""Classical discrete ill-posed problems, with their exact solutions and noise of a given level.

Each function returns a `Problem` with ``A``, ``x`` and ``b``. Images have an operator for A and b = A x; the others
discretise a Fredholm or Volterra integral equation of the first kind, ∫ K(s, t) f(t) dt = g(s), as they are defined
where figures are published (Hansen 1994, Numer. Algorithms 6, 1: "Regularization Tools"), in one of two ways:

    collocation   A_ij = h K(s_i, t_j), a quadrature rule in t demanded at points s_i; x_j = f(t_j)
    Galerkin      A_ij = ∫∫ φ_i(s) K(s, t) ψ_j(t), x_j = ∫ ψ_j f, b_i = ∫ φ_i g, where φ_i and ψ_j are 1/√h on a box
                  of width h and 0 elsewhere: orthonormal, so that singular values are those of the equation

Where b is g, it differs from A x by the error of the discretisation, O(h²), as in practice it would.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge import operators
from jaxridge.core.types import Array, Float, Scalar

__all__ = [
    "ALL",
    "Problem",
    "baart",
    "blur",
    "deriv2",
    "foxgood",
    "gravity",
    "heat",
    "phillips",
    "shaw",
    "shepp_logan",
    "tomography",
    "travel_time",
]


class Problem(eqx.Module):
    """A x ≈ b: the system to be solved from ``noisy`` and the ``x`` that the answer is judged by.

    >>> import jax
    >>> from jaxridge import testproblems
    >>> problem = testproblems.shaw(20)
    >>> problem.A.shape, problem.noisy(jax.random.key(0), 0.01).shape
    ((20, 20), (20,))
    """

    A: Any  # an array (m, n) or, for images, an operator
    x: Array  # (n,), or an image
    b: Array  # (m,), or in the shape of what the operator gives
    name: str = eqx.field(static=True)

    @eqx.filter_jit
    def noisy(self, key: Array, level: Any) -> Array:
        """b + e, with white Gaussian noise e scaled to ‖e‖ = level·‖b‖ exactly; the same noise for the same key."""
        e = jax.random.normal(key, self.b.shape, self.b.dtype)
        return self.b + e * (level * _norm(self.b) / _norm(e))

    @eqx.filter_jit
    def noise_sd(self, level: Any) -> Scalar:
        """The standard deviation of one entry of that noise, level·‖b‖/√m."""
        return level * _norm(self.b) / self.b.size**0.5


def _norm(x: Array) -> Scalar:
    return jnp.sqrt(jnp.sum(jnp.square(x)))


def _problem(name: str, dtype: Any, A: np.ndarray, x: np.ndarray, b: np.ndarray | None = None) -> Problem:
    """All was computed in float64; b is A x if there is none."""
    dtype = _float(dtype)
    b = A @ x if b is None else b
    return Problem(jnp.asarray(A, dtype), jnp.asarray(x, dtype), jnp.asarray(b, dtype), name)


def _float(dtype: Any) -> Any:
    dtype = jnp.result_type(float) if dtype is None else dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype is {dtype}; a test problem needs a floating one, such as dtype=jnp.float32.")
    return dtype


def _check_size(n: Any, multiple: int = 1) -> None:
    if not isinstance(n, int | np.integer) or n < 1 or n % multiple:
        kind = {1: "a whole number from 1 on", 2: "a positive even number"}.get(multiple, f"a multiple of {multiple}")
        raise ValueError(f"n is {n!r}; this problem needs {kind}, such as n=64.")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}; it must be positive.")


def _example(example: Any, known: dict[int, Any]) -> Any:
    if example not in known:
        raise ValueError(f"example is {example!r}; there are {', '.join(map(str, known))}.")
    return known[example]


def _midpoints(n: int, low: float, high: float) -> Float[np.ndarray, " n"]:
    return low + (high - low) * (np.arange(n) + 0.5) / n


def _image_problem(name: str, A: operators.Operator, x: np.ndarray) -> Problem:
    image = jnp.asarray(x, A.in_structure().dtype)
    return Problem(A, image, A.mv(image), name)


def _on_boxes(f: Callable[[np.ndarray], np.ndarray], n: int, low: float, high: float) -> Float[np.ndarray, "*rows n"]:
    """∫ φ_i f for the n boxes that [low, high] divides into, by 16 Gauss–Legendre nodes in each.

    Exact to rounding for f that are analytic within each box: the kinks of those here lie on the edges.
    """
    nodes, weights = np.polynomial.legendre.leggauss(16)
    h = (high - low) / n
    return np.sqrt(h) * (f(_midpoints(n, low, high)[:, None] + 0.5 * h * nodes) @ (0.5 * weights))


def shaw(n: int = 64, dtype: Any = None) -> Problem:
    """A one-dimensional image through a slit: K = (cos s + cos t)² (sin u/u)², u = π(sin s + sin t), |s|, |t| ≤ π/2.

    f(t) = 2 exp(−6(t − 0.8)²) + exp(−2(t + 0.5)²), by collocation at the midpoints of n (even) intervals; b = A x.
    Severely ill-posed: 20 singular values span 16 decimal places. Shaw (1972), J. Math. Anal. Appl. 37, 83.

    >>> from jaxridge import testproblems
    >>> testproblems.shaw(20).x.shape
    (20,)
    """
    _check_size(n, 2)
    t = _midpoints(n, -np.pi / 2, np.pi / 2)
    slit = np.sinc(np.sin(t)[:, None] + np.sin(t)[None, :])
    A = np.pi / n * ((np.cos(t)[:, None] + np.cos(t)[None, :]) * slit) ** 2
    return _problem("shaw", dtype, A, 2 * np.exp(-6 * (t - 0.8) ** 2) + np.exp(-2 * (t + 0.5) ** 2))


def phillips(n: int = 64, dtype: Any = None) -> Problem:
    """Convolution with a hump: K(s, t) = φ(s − t), φ(u) = 1 + cos(πu/3) for |u| < 3 and 0 beyond, |s|, |t| ≤ 6.

    f = φ and g(s) = (6 − |s|)(1 + ½ cos(πs/3)) + 9/(2π) sin(π|s|/3), by Galerkin on n boxes, n a multiple of 4 so that
    ±3 are edges. Mildly ill-posed: s_k ~ k⁻³. Phillips (1962), J. ACM 9, 84.

    >>> from jaxridge import testproblems
    >>> testproblems.phillips(64).A.shape
    (64, 64)
    """
    _check_size(n, 4)
    # With c = π/3, a box against a box k further on is h⁻¹ ∫ (h − |u|) φ(kh + u) du over |u| < h, where
    # ∫ (h − |u|) cos(c(kh + u)) du = h² cos(ckh) sinc², sinc = sin(ch/2)/(ch/2). At k = n/4, which is where kh = 3,
    # φ ends amid the interval, and by its symmetry about 3 half of this is left.
    h, k = 12 / n, np.arange(n)
    column = h * (1 + np.cos(4 * np.pi * k / n) * np.sinc(h / 6) ** 2) * np.where(4 * k < n, 1.0, 0.5 * (4 * k == n))

    def g(s: np.ndarray) -> np.ndarray:
        s, angle = np.abs(s), np.pi * np.abs(s) / 3
        return (6 - s) * (1 + 0.5 * np.cos(angle)) + 4.5 / np.pi * np.sin(angle)

    x = _on_boxes(lambda t: np.where(np.abs(t) < 3, 1 + np.cos(np.pi * t / 3), 0.0), n, -6, 6)
    return _problem("phillips", dtype, column[np.abs(k[:, None] - k[None, :])], x, _on_boxes(g, n, -6, 6))


def heat(n: int = 64, kappa: float = 1.0, dtype: Any = None) -> Problem:
    """Temperature at a surface, from its record at the depth 1/κ: K(s, t) = k(s − t) for 0 ≤ t ≤ s ≤ 1 (Volterra),

        k(u) = u^(−3/2)/(2κ√π) exp(−1/(4κ²u)).

    f rises, peaks and decays; its values at t_j = jh, and collocation at s_i = (i + ½)h, h = 1/n, n even; b = A x.
    ``kappa`` from 1 (severely ill-posed) to 5 (mild). Carasso (1982), SIAM J. Appl. Math. 42, 558.

    >>> from jaxridge import testproblems
    >>> float(testproblems.heat(64).A[0, 1])
    0.0
    """
    _check_size(n, 2)
    _check_positive("kappa", kappa)
    i = np.arange(n)
    u = (i + 0.5) / n
    k = u**-1.5 / (2 * kappa * np.sqrt(np.pi) * n) * np.exp(-1 / (4 * kappa**2 * u))
    lag = i[:, None] - i[None, :]
    t = 20 * (i + 1) / n
    hump = np.where(t < 3, 0.75 + (t - 2) * (3 - t), 0.75 * np.exp(-2 * (t - 3)))
    x = np.where(t < 2, 0.1875 * t**2, hump) * (t <= 10)
    return _problem("heat", dtype, np.where(lag >= 0, k[np.abs(lag)], 0.0), x)


def _tent(t: np.ndarray) -> np.ndarray:
    return np.minimum(t, 1 - t)


def deriv2(n: int = 64, example: int = 1, dtype: Any = None) -> Problem:
    """The second derivative f = g″, g(0) = g(1) = 0, by its Green's function K(s, t) = st − min(s, t) on [0, 1].

    Galerkin on n boxes. Examples: 1, g = (s³ − s)/6, f = t; 2, g = eˢ + (1 − e)s − 1, f = eᵗ; 3, f = min(t, 1 − t),
    n even. Mildly ill-posed: s_k ≈ (πk)⁻². Delves and Mohamed (1985), Computational Methods for Integral Equations.

    >>> from jaxridge import testproblems
    >>> round(float(testproblems.deriv2(4).A[0, 3]), 6)
    -0.003906
    """
    f, g = _example(
        example,
        {
            1: (lambda t: t, lambda s: (s**3 - s) / 6),
            2: (np.exp, lambda s: np.expm1(s) - np.expm1(1) * s),
            3: (_tent, lambda s: _tent(s) ** 3 / 6 - _tent(s) / 8),
        },
    )
    _check_size(n, 2 if example == 3 else 1)
    t = _midpoints(n, 0, 1)
    # K is linear in s and in t off the diagonal; over a box on it min(s, t) has the mean m − h/6 at midpoint m.
    A = (np.outer(t, t) - np.minimum(t[:, None], t[None, :]) + np.eye(n) / (6 * n)) / n
    return _problem("deriv2", dtype, A, _on_boxes(f, n, 0, 1), _on_boxes(g, n, 0, 1))


def gravity(n: int = 64, example: int = 1, depth: float = 0.25, dtype: Any = None) -> Problem:
    """A layer of mass at a depth d, from the pull at the surface: K(s, t) = d (d² + (s − t)²)^(−3/2), 0 ≤ s, t ≤ 1.

    Collocation at the midpoints of n intervals; b = A x. Examples: 1, f = sin(πt) + ½ sin(2πt); 2, piecewise linear
    through 0, 2, 1, 0 at 0, ⅓, ⅞, 1; 3, f = 2 up to ⅓ and 1 beyond (nodes rounded to the grid). The deeper, the faster
    the singular values fall. Wing and Zahrt (1991), A Primer on Integral Equations of the First Kind, p. 17.

    >>> from jaxridge import testproblems
    >>> testproblems.gravity(8, example=3).x.tolist()
    [2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    _check_size(n)
    _check_positive("depth", depth)
    t, j = _midpoints(n, 0, 1), np.arange(1, n + 1)
    third, late = int(n / 3 + 0.5), int(7 * n / 8 + 0.5)
    f = _example(
        example,
        {
            1: lambda: np.sin(np.pi * t) + 0.5 * np.sin(2 * np.pi * t),
            2: lambda: np.interp(j, [0, third, late, n], [0.0, 2.0, 1.0, 0.0]),
            3: lambda: np.where(j <= third, 2.0, 1.0),
        },
    )
    A = depth / n * (depth**2 + (t[:, None] - t[None, :]) ** 2) ** -1.5
    return _problem("gravity", dtype, A, f())


def foxgood(n: int = 64, dtype: Any = None) -> Problem:
    """K(s, t) = √(s² + t²), f = t, g(s) = ((1 + s²)^(3/2) − s³)/3 on [0, 1]; severely ill-posed.

    Collocation at the midpoints of n intervals; b = g. Fox and Goodwin (1953), Phil. Trans. R. Soc. A 245, 501.

    >>> from jaxridge import testproblems
    >>> testproblems.foxgood(2).x.tolist()
    [0.25, 0.75]
    """
    _check_size(n)
    t = _midpoints(n, 0, 1)
    return _problem("foxgood", dtype, np.hypot(t[:, None], t[None, :]) / n, t, ((1 + t**2) ** 1.5 - t**3) / 3)


def baart(n: int = 64, dtype: Any = None) -> Problem:
    """K(s, t) = exp(s cos t), f = sin t, g(s) = 2 sinh(s)/s for 0 ≤ s ≤ π/2, 0 ≤ t ≤ π; severely ill-posed.

    Galerkin on n (even) boxes, the integrals to rounding; published programs have Simpson's rule in t, which differs by
    O(h⁴). Baart (1982), IMA J. Numer. Anal. 2, 241.

    >>> from jaxridge import testproblems
    >>> testproblems.baart(64).b.shape
    (64,)
    """
    _check_size(n, 2)
    h = np.pi / (2 * n)
    s = _midpoints(n, 0, np.pi / 2)[:, None, None]

    def rows(t: np.ndarray) -> np.ndarray:
        """∫ φ_i(s) exp(s cos t) ds in closed form, without the cancellation of a difference at small cos t."""
        half = 0.5 * h * np.cos(t)
        return np.sqrt(h) * np.exp(s * np.cos(t)) * (np.sinh(half) / half)

    b = _on_boxes(lambda s: 2 * np.sinh(s) / s, n, 0, np.pi / 2)
    return _problem("baart", dtype, _on_boxes(rows, n, 0, np.pi), _on_boxes(np.sin, n, 0, np.pi), b)


# Those with a matrix, for sweeps: each takes n, a multiple of 4, and a dtype.
ALL = {f.__name__: f for f in (shaw, phillips, heat, deriv2, gravity, foxgood, baart)}


# Value, half-axes, centre and turn (degrees) of ten ellipses in [−1, 1]², as modified for contrast by Toft (1996).
_HEAD = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)
_BOXES = ((0.6, 0.3, 0.2, -0.45, 0.5, 0.0), (1.0, 0.04, 0.5, 0.75, 0.1, 0.0), (0.8, 0.35, 0.05, -0.35, -0.65, 20.0))
_DISCS = ((0.5, 0.3, 0.3, 0.2, 0.3, 0.0), (0.5, 0.12, 0.12, 0.25, 0.35, 0.0), (1.0, 0.06, 0.06, 0.45, -0.6, 0.0))


def _figures(n: int, rows: tuple[tuple[float, ...], ...], order: float = 2) -> Float[np.ndarray, "n n"]:
    """The sum of the values of the figures that each pixel's centre lies in: ellipses, or boxes for the order ∞."""
    _check_size(n)
    u = _midpoints(n, -1, 1)
    image = np.zeros((n, n))
    for value, a, b, x, y, degrees in rows:
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        right, up = u[None, :] - x, -u[:, None] - y
        place = np.stack([(right * cos + up * sin) / a, (up * cos - right * sin) / b])
        image += value * (np.linalg.norm(place, order, axis=0) <= 1)
    return image


def shepp_logan(n: int) -> Float[np.ndarray, "n n"]:
    """The section of a head made of ten ellipses, values from 0 to 1, in NumPy's float64.

    Shepp and Logan (1974), IEEE Trans. Nucl. Sci. 21, 21, with the contrast of Toft (thesis, DTU, 1996).

    >>> from jaxridge import testproblems
    >>> round(testproblems.shepp_logan(63)[31, 31].item(), 6)
    0.2
    """
    # Sums of tenths are 0 only up to rounding.
    return np.round(_figures(n, _HEAD), 10)


def blur(image: Any = 64, width: float = 2.0, dtype: Any = None) -> Problem:
    """An image out of focus: Gaussian blur of standard deviation ``width`` pixels, black beyond the border.

    ``image`` is one (n, m), or the size n of a picture of boxes and discs, sharp edges all. b is an image as well.
    A has Kronecker factors: ``operators.separated(problem.A)``.

    >>> from jaxridge import testproblems
    >>> testproblems.blur(32).b.shape
    (32, 32)
    """
    if np.ndim(image) not in (0, 2):
        raise ValueError(f"image has shape {np.shape(image)}; give one of two axes, or a size, such as image=64.")
    x = np.asarray(image) if np.ndim(image) else _figures(image, _DISCS) + _figures(image, _BOXES, np.inf)
    return _image_problem(
        "blur", operators.gaussian_blur(x.shape, jnp.asarray(width, _float(dtype)), boundary="zero"), x
    )


def tomography(n: int = 64, angles: Any = None, dtype: Any = None) -> Problem:
    """X-rays through `shepp_logan` (n, n) at ``angles`` in radians, or at n of them over a half turn.

    b (angles, bins) is the sinogram of the image, in lengths of pixels: its discrete Radon transform.

    >>> from jaxridge import testproblems
    >>> testproblems.tomography(16, angles=[0.0, 0.8]).b.shape
    (2, 23)
    """
    x = shepp_logan(n)
    angles = np.pi * np.arange(n) / n if angles is None else angles
    return _image_problem("tomography", operators.radon(x.shape, angles, dtype=_float(dtype)), x)


def travel_time(n: int = 32, dtype: Any = None) -> Problem:
    """Seismic waves between a borehole on the left, another on the right, and the surface, row 0 of n × n cells.

    x is slowness, 1/velocity, with a fast body and a slow one, both smooth, in ground of velocity 1. A source in each
    cell of the left side is heard in each of the right side and then of the surface: b (n, 2n), along straight rays.

    >>> from jaxridge import testproblems
    >>> testproblems.travel_time(8).b.shape
    (8, 16)
    """
    _check_size(n)
    t = _midpoints(n, 0, 1)

    def body(row: float, column: float, size: float) -> np.ndarray:
        return np.exp(-((t[:, None] - row) ** 2 + (t[None, :] - column) ** 2) / (2 * size**2))

    middle, zero = np.arange(n) + 0.5, np.zeros(n)
    right, surface = np.stack([middle, zero + n], axis=1), np.stack([zero, middle], axis=1)
    sources, receivers = np.stack([middle, zero], axis=1), np.concatenate([right, surface])
    A = operators.travel_time((n, n), sources, receivers, dtype=_float(dtype))
    return _image_problem("travel_time", A, 1 / (1 + 0.3 * body(0.35, 0.6, 0.12) - 0.2 * body(0.7, 0.35, 0.15)))
