"""Integrals along straight lines: the Radon transform and travel times."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxridge.core.types import Array, Float, Int
from jaxridge.operators.base import Operator, Shape, constant, image_shape, structure, take, tied


class _Sweep(eqx.Module):
    """Rays that cross an image row by row: of angle a, ray k crosses row i at column start − slope·i + step·k."""

    start: Float[Array, " a"]
    slope: Float[Array, " a"]
    step: Float[Array, " a"]

    def lines(self, dtype: Any) -> tuple[Array, Array, Array]:
        return self.start.astype(dtype), self.slope.astype(dtype), self.step.astype(dtype)

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
            return jnp.sum((1 - f) * take(wide, at) + f * take(wide, at + 1), axis=1)

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
                total = total + weight * take(wide, jnp.clip(k, -1, bins).astype(jnp.int32) + 1)
            return total, None

        return jax.lax.scan(add_angle, jnp.zeros(shape, y.dtype), (self.lines(y.dtype), y))[0]


class Radon(Operator):
    """Line integrals through an image; see `radon`."""

    rows: _Sweep
    columns: _Sweep
    scale: Float[Array, " a"]
    place: Int[Array, " a"]
    reach: int = eqx.field(static=True)

    def apply(self, x: Array) -> Array:
        still = jax.lax.stop_gradient(self)
        return tied(still._forward, still._adjoint, self.codomain.shape)(x)

    def _forward(self, x: Array) -> Array:
        bins = self.codomain.shape[1]
        both = jnp.concatenate([self.rows.project(x, bins), self.columns.project(x.T, bins)])
        return jnp.zeros_like(both).at[self.place].set(both * self.scale.astype(x.dtype)[:, None], unique_indices=True)

    def _adjoint(self, y: Array) -> Array:
        (n, m), split = self.domain.shape, self.rows.start.shape[0]
        both = take(y, self.place) * self.scale.astype(y.dtype)[:, None]
        down = self.rows.back(both[:split], (n, m), self.reach)
        return down + self.columns.back(both[split:], (m, n), self.reach).T


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
    shape = image_shape(shape, (2,))
    theta = constant("angles", angles)
    spacing = float(constant("spacing", spacing))
    if theta.ndim != 1:
        raise ValueError(f"angles has shape {theta.shape}; give a vector in radians, such as jnp.linspace(0, 3.1, 60).")
    if not spacing > 0:
        raise ValueError(f"spacing is {spacing}; give a positive distance in pixels, such as spacing=1.0.")
    bins = math.ceil(math.hypot(*shape) / spacing) if bins is None else bins
    if bins < 1:
        raise ValueError(f"bins is {bins}; give at least one detector, or None.")
    space = structure(shape, dtype)
    cos, sin = np.cos(theta), np.sin(theta)
    steep = np.abs(cos) >= np.sqrt(0.5)
    rows = _sweep(cos[steep], sin[steep], shape, bins, spacing, space.dtype)
    columns = _sweep(sin[~steep], cos[~steep], shape[::-1], bins, spacing, space.dtype)
    place = np.concatenate([np.flatnonzero(steep), np.flatnonzero(~steep)])
    scale = 1 / np.concatenate([np.abs(cos[steep]), np.abs(sin[~steep])])
    reach = math.ceil(2 / spacing)
    out = structure((len(theta), bins), dtype)
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
        return sums.add(length * take(x.ravel(), self.cell), indices_are_sorted=True).reshape(self.codomain.shape)


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
    shape, ends = image_shape(shape, (2, 3)), constant("rays", rays)
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
    shape = image_shape(shape, (2, 3))
    points = {"sources": constant("sources", sources), "receivers": constant("receivers", receivers)}
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
    space = structure(shape, dtype)
    ray, cell, length = _lengths(shape, ends)
    pieces = jnp.asarray(ray, jnp.int32), jnp.asarray(cell, jnp.int32), jnp.asarray(length, space.dtype)
    return Rays(space, structure(out, dtype), *pieces)


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
