"""Test problems against adaptive quadrature of their integral equations, and against figures by somebody else."""

import json
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize_scalar

from jaxridge import operators
from jaxridge.inverse import testproblems

KEY = jax.random.key(5)


class Equation(NamedTuple):
    """∫ K(s, t) f(t) dt over ``t``, with s in ``s``; ``kinks(s)`` is where quadrature in t has to stop."""

    K: object
    f: object
    s: tuple[float, float]
    t: tuple[float, float]
    kinks: object = lambda s: ()
    galerkin: bool = False
    # By how much of a step the nodes in t lie beyond midpoints; the points in s lie twice as far beyond.
    shift: float = 0.0
    # Fine enough for the order to be seen, and with the jumps of f at the same places relative to the nodes.
    sizes: tuple[int, int] = (48, 96)


def shaw_kernel(s, t):
    u = np.pi * (np.sin(s) + np.sin(t))
    return (np.cos(s) + np.cos(t)) ** 2 * (np.sin(u) / u if u else 1.0) ** 2


def hump(u):
    return 1 + np.cos(np.pi * u / 3) if abs(u) < 3 else 0.0


def heat_kernel(s, t, kappa=1.0):
    return (s - t) ** -1.5 / (2 * kappa * np.sqrt(np.pi)) * np.exp(-0.25 / (kappa**2 * (s - t))) if t < s else 0.0


def heat_source(t):
    if t > 0.5:
        return 0.0
    t = 20 * t
    return 0.75 * t**2 / 4 if t < 2 else 0.75 + (t - 2) * (3 - t) if t < 3 else 0.75 * np.exp(-2 * (t - 3))


def green(s, t):
    return s * (t - 1) if s < t else t * (s - 1)


def pull(s, t, depth=0.25):
    return depth / (depth**2 + (s - t) ** 2) ** 1.5


def constant(t):
    return 2.0 if t < 1 / 3 else 1.0


HALF, UNIT = (-np.pi / 2, np.pi / 2), (0.0, 1.0)
green_equation = partial(Equation, green, s=UNIT, t=UNIT, kinks=lambda s: (0.5, s), galerkin=True)
SOURCE = (0.0, 0.1, 0.15, 0.5)
EQUATIONS = {
    "shaw": Equation(shaw_kernel, lambda t: 2 * np.exp(-6 * (t - 0.8) ** 2) + np.exp(-2 * (t + 0.5) ** 2), HALF, HALF),
    "phillips": Equation(
        lambda s, t: hump(s - t), hump, (-6, 6), (-6, 6), lambda s: (-3, 3, s - 3, s + 3), galerkin=True
    ),
    "heat": Equation(heat_kernel, heat_source, UNIT, UNIT, lambda s: (*SOURCE, s), shift=0.5, sizes=(80, 160)),
    "heat, 2": Equation(
        partial(heat_kernel, kappa=2.0), heat_source, UNIT, UNIT, lambda s: (*SOURCE, s), shift=0.5, sizes=(80, 160)
    ),
    "deriv2": green_equation(f=lambda t: t),
    "deriv2, 2": green_equation(f=np.exp),
    "deriv2, 3": green_equation(f=lambda t: min(t, 1 - t)),
    "gravity": Equation(pull, lambda t: np.sin(np.pi * t) + 0.5 * np.sin(2 * np.pi * t), UNIT, UNIT),
    "gravity, 3": Equation(partial(pull, depth=0.5), constant, UNIT, UNIT, lambda s: (1 / 3,)),
    "foxgood": Equation(np.hypot, lambda t: t, UNIT, UNIT),
    "baart": Equation(lambda s, t: np.exp(s * np.cos(t)), np.sin, (0, np.pi / 2), (0, np.pi), galerkin=True),
}
CALLS = {
    **testproblems.ALL,
    "heat, 2": partial(testproblems.heat, kappa=2.0),
    "deriv2, 2": partial(testproblems.deriv2, example=2),
    "deriv2, 3": partial(testproblems.deriv2, example=3),
    "gravity, 3": partial(testproblems.gravity, example=3, depth=0.5),
}


def integral(f, low, high, kinks=()):
    edges = [low, *sorted(k for k in kinks if low < k < high), high]
    return sum(quad(f, a, b, epsabs=1e-14, epsrel=1e-13, limit=200)[0] for a, b in pairwise(edges))


def box(interval, n, i):
    h = (interval[1] - interval[0]) / n
    return interval[0] + i * h, interval[0] + (i + 1) * h


def on_box(f, interval, n, i, kinks=()):
    """∫ φ_i f"""
    low, high = box(interval, n, i)
    return integral(f, low, high, kinks) / np.sqrt(high - low)


def point(interval, n, i, shift):
    low, high = box(interval, n, i)
    return low + (0.5 + shift) * (high - low)


def right_hand_side(e, n, i):
    """∫ K(s, t) f(t) dt at the point s_i, or against the box φ_i."""

    def g(s):
        return integral(lambda t: e.K(s, t) * e.f(t), *e.t, e.kinks(s))

    return on_box(g, e.s, n, i) if e.galerkin else g(point(e.s, n, i, 2 * e.shift))


@pytest.mark.parametrize("name", EQUATIONS)
def test_entries(name):
    """A and x entry by entry, and b where it is the integral of the equation."""
    n, e, problem = 12, EQUATIONS[name], CALLS[name](12)
    close = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-13)
    assert problem.name == name.split(",")[0]
    for i, j in [(0, 0), (5, 4), (4, 5), (11, 11), (8, 5), (9, 5), (2, 11), (11, 1)]:
        if e.galerkin:
            close(problem.A[i, j], on_box(lambda s, j=j: on_box(partial(e.K, s), e.t, n, j, e.kinks(s)), e.s, n, i))
            close(problem.x[j], on_box(e.f, e.t, n, j))
            close(problem.b[i], right_hand_side(e, n, i))
        else:
            t, h = point(e.t, n, j, e.shift), (e.t[1] - e.t[0]) / n
            close(problem.A[i, j], h * e.K(point(e.s, n, i, 2 * e.shift), t))
            close(problem.x[j], e.f(t))
            close(problem.b[i], right_hand_side(e, n, i) if name == "foxgood" else problem.A[i] @ problem.x)


@pytest.mark.parametrize("name", EQUATIONS)
def test_order(name):
    """A x tends to the integral as h². b of the second derivative of t is A x already: only rounding is left."""
    e, errors = EQUATIONS[name], []
    for n in e.sizes:
        problem = CALLS[name](n)
        b = problem.b if e.galerkin else np.array([right_hand_side(e, n, i) for i in range(n)])
        errors.append(np.linalg.norm(problem.A @ problem.x - b) / np.linalg.norm(b))
    assert errors[1] < 2e-15 if name == "deriv2" else 3.5 < errors[0] / errors[1] < 4.5, errors
    assert errors[1] < 3e-3


def singular_values(problem):
    return np.linalg.svd(np.asarray(problem.A), compute_uv=False)


def test_singular_values():
    """Decay as theory has it, and sizes as published."""
    k = np.arange(1, 257)
    s = singular_values(testproblems.deriv2(256))
    # Of the function sin(πkt), the boxes lose the part (πkh)²/12.
    np.testing.assert_allclose(s[:20] * (np.pi * k[:20]) ** 2, 1 - (np.pi * k[:20] / 256) ** 2 / 12, rtol=2e-5)
    s = singular_values(testproblems.phillips(256))
    assert -3.4 < np.polyfit(np.log(k[8:48]), np.log(s[8:48]), 1)[0] < -2.9
    s = singular_values(testproblems.shaw(20))
    assert s[0] / s[-1] > 1e14
    ranks = {name: np.sum((s := singular_values(call(64))) > 1e-14 * s[0]) for name, call in testproblems.ALL.items()}
    assert {name: ranks[name] for name in ("shaw", "baart", "foxgood")} == {"shaw": 20, "baart": 11, "foxgood": 21}
    mild, severe = (singular_values(testproblems.heat(64, kappa)) for kappa in (5.0, 1.0))
    assert mild[0] / mild[-1] < 10
    assert severe[0] / severe[-1] > 1e20
    deep, shallow = (singular_values(testproblems.gravity(32, depth=depth)) for depth in (0.5, 0.1))
    assert deep[8] / deep[0] < 1e-3 * shallow[8] / shallow[0]


def test_shaw_of_the_gnu_scientific_library():
    """Its b is that of a spike in the tenth place and noise of 1e-6; its λ by cross-validation is that of our A."""
    data = json.loads((Path(__file__).parents[1] / "data" / "shaw20.json").read_text())
    A, b = np.asarray(testproblems.shaw(20).A), np.array(data["b"])
    assert 5e-7 < np.std(b - A[:, 9]) < 2e-6
    U, s, _ = np.linalg.svd(A)

    def gcv(log_lam):
        q = 1 / (1 + s**2 / np.exp(log_lam))
        return np.log(np.sum((q * (U.T @ b)) ** 2) / np.sum(q) ** 2)

    best = minimize_scalar(gcv, bounds=np.log([1e-12, 1e-8]), method="bounded", options={"xatol": 1e-10})
    # A minimum is determined to the root of the rounding in the score.
    np.testing.assert_allclose(np.exp(best.x), data["gcv_lambda_squared"], rtol=1e-6)


def test_gravity_that_is_piecewise_linear():
    """Through the nodes of the grid nearest to 0, ⅓, ⅞ and 1."""
    x = testproblems.gravity(24, example=2).x
    np.testing.assert_allclose(x[jnp.array([0, 7, 20, 23])], [0.25, 2.0, 1.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(jnp.diff(x, 2)[jnp.array([0, 5, 7, 18, 20])], 0, atol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_noise(dtype):
    problem = testproblems.deriv2(40, dtype=dtype)
    noisy = jax.jit(lambda key, level: problem.noisy(key, level))
    e = noisy(KEY, 0.01) - problem.b
    eps = jnp.finfo(dtype).eps
    # Subtracting b again leaves its rounding, which noise of one part in a hundred magnifies.
    np.testing.assert_allclose(jnp.linalg.norm(e) / jnp.linalg.norm(problem.b), 0.01, rtol=200 * eps)
    np.testing.assert_allclose(problem.noise_sd(0.01), jnp.sqrt(jnp.mean(e**2)), rtol=200 * eps)
    np.testing.assert_allclose(noisy(KEY, 0.02) - problem.b, 2 * e, atol=4 * eps * float(jnp.max(problem.b**2) ** 0.5))
    assert noisy(KEY, 0.01).dtype == dtype
    assert jnp.array_equal(noisy(KEY, 0.01), noisy(KEY, 0.01))
    assert not jnp.array_equal(noisy(KEY, 0.01), noisy(jax.random.key(6), 0.01))
    assert jnp.array_equal(problem.noisy(KEY, 0.0), problem.b)
    many = jax.vmap(lambda key: problem.noisy(key, 0.1) - problem.b)(jax.random.split(KEY, 400))
    np.testing.assert_allclose(jnp.corrcoef(many.T), np.eye(40), atol=0.25)


@pytest.mark.parametrize("name", testproblems.ALL)
def test_dtype(name):
    """float32 is the float64 problem rounded; float64 is the default here, where x64 is on."""
    single, double = testproblems.ALL[name](8, dtype=jnp.float32), testproblems.ALL[name](8)
    for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(double), strict=True):
        assert a.dtype == jnp.float32
        assert b.dtype == jnp.float64
        assert jnp.array_equal(a, b.astype(jnp.float32))


def test_blur():
    for problem in (testproblems.blur(40, 1.5), testproblems.blur(np.arange(12.0).reshape(3, 4), 1.5)):
        np.testing.assert_allclose(problem.b, gaussian_filter(problem.x, 1.5, mode="constant"), atol=1e-13)
    assert problem.x.tolist() == np.arange(12.0).reshape(3, 4).tolist()
    assert operators.separated(problem.A)[1].shape == (4, 4)


def test_shepp_logan():
    """The values of its parts, at points (right, up) within them, and of its mass."""
    x = testproblems.shepp_logan(400)
    points = {(0, 0.9): 1.0, (0, -0.3): 0.2, (0.22, 0): 0.0, (-0.22, 0): 0.0, (0, 0.4): 0.3, (0.95, 0.95): 0.0}
    for (u, v), value in points.items():
        assert x[int(200 * (1 - v)), int(200 * (1 + u))] == value
    assert np.unique(x).min() == 0
    assert np.unique(x).max() == 1
    mass = sum(np.pi * value * a * b for value, a, b, *_ in testproblems._HEAD)
    np.testing.assert_allclose(4 * np.mean(x), mass, rtol=2e-3)


def projection(angle, t):
    """∫ of the head along u cos θ − v sin θ = t, v up, by the lengths of chords of its ellipses."""
    total, direction = np.zeros_like(t), np.array([np.cos(angle), -np.sin(angle)])
    for value, a, b, u, v, degrees in testproblems._HEAD:
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        reach2 = (a * (direction @ [cos, sin])) ** 2 + (b * (direction @ [-sin, cos])) ** 2
        chord = np.maximum(reach2 - (t - direction @ [u, v]) ** 2, 0.0)
        total += value * 2 * a * b / reach2 * np.sqrt(chord)
    return total


def test_tomography():
    """The sinogram against that of the ellipses, from which pixels of width h differ by O(h) at edges."""
    angles, errors = np.array([0.0, 0.5, 2.0]), []
    for n in (32, 128):
        b = testproblems.tomography(n, angles).b
        t = 2 / n * (np.arange(b.shape[1]) - (b.shape[1] - 1) / 2)
        exact = np.stack([projection(angle, t) for angle in angles]) * n / 2
        errors.append(np.linalg.norm(b - exact) / np.linalg.norm(exact))
    assert errors[1] < min(0.04, errors[0] / 3), errors


def test_travel_time():
    """Along rays through the smooth ground, from which cells differ by O(h²), and distances in uniform ground."""
    n = 40
    problem = testproblems.travel_time(n)
    middle = np.arange(n) + 0.5
    ends = [(r, n) for r in middle] + [(0.0, c) for c in middle]

    def slowness(row, column):
        fast = np.exp(-((row / n - 0.35) ** 2 + (column / n - 0.6) ** 2) / (2 * 0.12**2))
        slow = np.exp(-((row / n - 0.7) ** 2 + (column / n - 0.35) ** 2) / (2 * 0.15**2))
        return 1 / (1 + 0.3 * fast - 0.2 * slow)

    lengths = [[np.hypot(end[0] - r, end[1]) for end in ends] for r in middle]
    np.testing.assert_allclose(problem.A.mv(jnp.ones((n, n))), lengths, rtol=1e-12)
    for i, j in [(3, 25), (20, 20), (39, 0), (10, 70), (30, 41)]:
        (row, column), length = ends[j], lengths[i][j]
        time = length * integral(lambda a, i=i, r=row, c=column: slowness(middle[i] + a * (r - middle[i]), a * c), 0, 1)
        np.testing.assert_allclose(problem.b[i, j], time, rtol=1e-3)


@pytest.mark.parametrize("name", ["blur", "tomography", "travel_time"])
def test_dtype_of_images(name):
    problem = getattr(testproblems, name)(8, dtype=jnp.float32)
    noisy = problem.noisy(KEY, 0.1)
    assert problem.b.shape == {"blur": (8, 8), "tomography": (8, 12), "travel_time": (8, 16)}[name]
    assert {problem.x.dtype, problem.b.dtype, noisy.dtype, problem.A.in_structure().dtype} == {jnp.dtype("float32")}
    np.testing.assert_allclose(jnp.linalg.norm(noisy - problem.b), 0.1 * jnp.linalg.norm(problem.b), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: testproblems.phillips(6), "n is 6.*multiple of 4"),
        (lambda: testproblems.shaw(7), "n is 7.*even"),
        (lambda: testproblems.baart(3), "n is 3.*even"),
        (lambda: testproblems.heat(9), "n is 9.*even"),
        (lambda: testproblems.deriv2(9, example=3), "n is 9.*even"),
        (lambda: testproblems.foxgood(0), "n is 0.*whole number"),
        (lambda: testproblems.gravity(4.0), "n is 4.0.*whole number"),
        (lambda: testproblems.deriv2(8, example=4), "example is 4; there are 1, 2, 3"),
        (lambda: testproblems.gravity(8, example=0), "example is 0"),
        (lambda: testproblems.gravity(8, depth=0.0), "depth is 0.0"),
        (lambda: testproblems.heat(8, kappa=-1.0), "kappa is -1.0"),
        (lambda: testproblems.shaw(8, dtype=int), "dtype is"),
        (lambda: testproblems.blur(np.ones(4)), r"image has shape \(4,\)"),
        (lambda: testproblems.blur(-3), "n is -3"),
        (lambda: testproblems.blur(8, width=0.0), "width is 0.0"),
        (lambda: testproblems.tomography(2.5), "n is 2.5"),
        (lambda: testproblems.travel_time(0), "n is 0"),
    ],
)
def test_misuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()
