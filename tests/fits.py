"""Problems of nonlinear least squares with known answers, by their number of parameters, so that few programs do.

everyday   seven models of a laboratory, 25 points, 1 % noise, in units that make the data as small or large as asked
classic    Moré, Garbow and Hillstrom (1981), ACM Trans. Math. Softw. 7, 17: their 35 problems, with the least sums of
           squares that they and their successors report
nist       the regressions of `nist`, as they are
"""

from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import nist
import numpy as np

POINTS = 25


@dataclass(frozen=True)
class Problem:
    """residual(b, y), where y is what the data are, if they are no part of the problem."""

    name: str
    residual: object
    x0: tuple
    least: tuple = ()  # sums of squares of its minima, also of those at infinity
    truth: tuple = ()
    t: tuple = ()

    @property
    def n(self):
        return len(self.x0)


def _everyday(name, model, truth, low, high):
    t = np.linspace(low, high, POINTS)
    fn = lambda b, y: model(b, jnp.asarray(t, b.dtype)) - y  # noqa: E731
    return Problem(name, fn, (1.0,) * len(truth), truth=truth, t=tuple(t))


# The first parameter is that which has the units of the data.
EVERYDAY = [
    _everyday("decay", lambda b, t: b[0] * jnp.exp(-b[1] * t), (2.5, 0.7), 0.0, 5.0),
    _everyday("Gauss", lambda b, t: b[0] * jnp.exp(-0.5 * jnp.square((t - b[1]) / b[2])), (3.0, 1.4, 0.6), -1.0, 4.0),
    _everyday("Lorentz", lambda b, t: b[0] / (1 + jnp.square((t - b[1]) / b[2])), (3.0, 1.4, 0.6), -1.0, 4.0),
    _everyday("Michaelis", lambda b, t: b[0] * t / (b[1] + t), (2.0, 1.5), 0.1, 10.0),
    _everyday("power", lambda b, t: b[0] * t ** b[1], (2.0, 1.7), 0.5, 5.0),
    _everyday("logistic", lambda b, t: b[0] / (1 + jnp.exp(-b[1] * (t - b[2]))), (2.0, 3.0, 1.4), 0.0, 4.0),
    _everyday("sine", lambda b, t: b[0] * jnp.sin(b[1] * t + b[2]), (2.0, 1.3, 0.4), 0.0, 6.0),
]


@cache
def measured(problem):
    """The data of an everyday problem in units of one, with 1 % noise."""
    rng = np.random.default_rng(len(problem.name))
    clean = np.asarray(problem.residual(jnp.asarray(problem.truth), jnp.zeros(POINTS)))
    return clean + 0.01 * np.max(np.abs(clean)) * rng.standard_normal(POINTS)


BARD = (0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39)
GAUSSIAN = (0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989)
MEYER = (34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872)
KOWALIK = (
    (0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246),
    (4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625),
)
OSBORNE_1 = (
    *(0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751, 0.718, 0.685, 0.658, 0.628),
    *(0.603, 0.580, 0.558, 0.538, 0.522, 0.506, 0.490, 0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420),
    *(0.414, 0.411, 0.406),
)
OSBORNE_2 = (
    *(1.366, 1.191, 1.112, 1.013, 0.991, 0.885, 0.831, 0.847, 0.786, 0.725, 0.746, 0.679, 0.608, 0.655, 0.616),
    *(0.606, 0.602, 0.626, 0.651, 0.724, 0.649, 0.649, 0.694, 0.644, 0.624, 0.661, 0.612, 0.558, 0.533, 0.495),
    *(0.500, 0.423, 0.395, 0.375, 0.372, 0.391, 0.396, 0.405, 0.428, 0.429, 0.523, 0.562, 0.607, 0.653, 0.672),
    *(0.708, 0.633, 0.668, 0.645, 0.632, 0.591, 0.559, 0.597, 0.625, 0.739, 0.710, 0.729, 0.720, 0.636, 0.581),
    *(0.428, 0.292, 0.162, 0.098, 0.054),
)


def _rosenbrock(x):
    odd, even = x[0::2], x[1::2]
    return jnp.concatenate([10 * (even - odd * odd), 1 - odd])


def _freudenstein_roth(x):
    a, b = x
    return jnp.stack([-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b])


def _helical_valley(x):
    angle = jnp.arctan(x[1] / x[0]) / (2 * np.pi) + jnp.where(x[0] < 0, 0.5, 0.0)
    return jnp.stack([10 * (x[2] - 10 * angle), 10 * (jnp.sqrt(x[0] ** 2 + x[1] ** 2) - 1), x[2]])


def _bard(x):
    u = np.arange(1.0, 16.0)
    v = 16 - u
    return jnp.asarray(BARD) - (x[0] + u / (v * x[1] + np.minimum(u, v) * x[2]))


def _gaussian(x):
    t = (8 - np.arange(1.0, 16.0)) / 2
    return x[0] * jnp.exp(-x[1] * jnp.square(t - x[2]) / 2) - np.array([*GAUSSIAN, *GAUSSIAN[-2::-1]])


def _gulf(x):
    t = np.arange(1.0, 11.0) / 100
    y = 25 + (-50 * np.log(t)) ** (2 / 3)
    return jnp.exp(-(jnp.abs(y - x[1]) ** x[2]) / x[0]) - t


def _box(x):
    t = np.arange(1.0, 11.0) / 10
    return jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) - x[2] * (np.exp(-t) - np.exp(-10 * t))


def _powell_singular(x):
    a, b, c, d = x[0::4], x[1::4], x[2::4], x[3::4]
    return jnp.concatenate([a + 10 * b, 5**0.5 * (c - d), jnp.square(b - 2 * c), 10**0.5 * jnp.square(a - d)])


def _wood(x):
    a, b, c, d = x
    mixed = [10**0.5 * (b + d - 2), 10**-0.5 * (b - d)]
    return jnp.stack([10 * (b - a * a), 1 - a, 90**0.5 * (d - c * c), 1 - c, *mixed])


def _kowalik_osborne(x):
    y, u = np.array(KOWALIK)
    return y - x[0] * (u * u + u * x[1]) / (u * u + u * x[2] + x[3])


def _brown_dennis(x):
    t = np.arange(1.0, 21.0) / 5
    return jnp.square(x[0] + t * x[1] - np.exp(t)) + jnp.square(x[2] + x[3] * np.sin(t) - np.cos(t))


def _osborne_1(x):
    t = 10 * np.arange(33.0)
    return np.array(OSBORNE_1) - (x[0] + x[1] * jnp.exp(-t * x[3]) + x[2] * jnp.exp(-t * x[4]))


def _osborne_2(x):
    t = np.arange(65.0) / 10
    peaks = sum(x[k] * jnp.exp(-jnp.square(t - x[k + 7]) * x[k + 4]) for k in (1, 2, 3))
    return np.array(OSBORNE_2) - (x[0] * jnp.exp(-t * x[4]) + peaks)


def _biggs(x):
    t = np.arange(1.0, 14.0) / 10
    y = np.exp(-t) - 5 * np.exp(-10 * t) + 3 * np.exp(-4 * t)
    return x[2] * jnp.exp(-t * x[0]) - x[3] * jnp.exp(-t * x[1]) + x[5] * jnp.exp(-t * x[4]) - y


def _watson(x):
    t, j = (np.arange(1.0, 30.0) / 29)[:, None], np.arange(len(x))
    slope = jnp.sum(j[1:] * x[1:] * t ** (j[1:] - 1), axis=1)
    return jnp.concatenate([slope - jnp.square(jnp.sum(x * t**j, axis=1)) - 1, x[:1], x[1:2] - x[:1] ** 2 - 1])


def _penalty_1(x):
    return jnp.append(1e-5**0.5 * (x - 1), jnp.sum(x * x) - 0.25)


def _penalty_2(x):
    n, a = len(x), 1e-5**0.5
    i = np.arange(2, n + 1)
    y = np.exp(i / 10) + np.exp((i - 1) / 10)
    up = a * (jnp.exp(x[1:] / 10) + jnp.exp(x[:-1] / 10) - y)
    down = a * (jnp.exp(x[1:] / 10) - np.exp(-0.1))
    weighted = jnp.sum((n - np.arange(n)) * x * x) - 1
    return jnp.concatenate([x[:1] - 0.2, up, down, weighted[None]])


def _variably_dimensioned(x):
    s = jnp.sum(np.arange(1, len(x) + 1) * (x - 1))
    return jnp.concatenate([x - 1, jnp.stack([s, s * s])])


def _trigonometric(x):
    n = len(x)
    return n - jnp.sum(jnp.cos(x)) + np.arange(1, n + 1) * (1 - jnp.cos(x)) - jnp.sin(x)


def _brown_almost_linear(x):
    n = len(x)
    return jnp.append(x[:-1] + jnp.sum(x) - (n + 1), jnp.prod(x) - 1)


def _grid(x):
    n = len(x)
    return (
        np.arange(1, n + 1) / (n + 1),
        1 / (n + 1),
        jnp.concatenate([jnp.zeros(1, x.dtype), x, jnp.zeros(1, x.dtype)]),
    )


def _boundary_value(x):
    t, h, wide = _grid(x)
    return 2 * x - wide[:-2] - wide[2:] + h * h * (x + t + 1) ** 3 / 2


def _integral(x):
    t, h, _ = _grid(x)
    cubes = (x + t + 1) ** 3
    inner = jnp.cumsum(t * cubes)
    outer = jnp.sum((1 - t) * cubes) - jnp.cumsum((1 - t) * cubes)
    return x + h * ((1 - t) * inner + t * outer) / 2


def _tridiagonal(x):
    _, _, wide = _grid(x)
    return (3 - 2 * x) * x - wide[:-2] - 2 * wide[2:] + 1


def _banded(x):
    n = len(x)
    near = np.array([[i != j and -5 <= j - i <= 1 for j in range(n)] for i in range(n)], float)
    return x * (2 + 5 * x * x) + 1 - jnp.sum(near * (x * (1 + x)), axis=1)


def _full_rank(x, m=20):
    pulled = 2 * jnp.sum(x) / m
    return jnp.concatenate([x, jnp.zeros(m - len(x), x.dtype)]) - pulled - 1


def _rank_one(x, m=20):
    return np.arange(1, m + 1) * jnp.sum(np.arange(1, len(x) + 1) * x) - 1


def _rank_one_zeros(x, m=20):
    inner = jnp.sum(np.arange(2, len(x)) * x[1:-1])
    return np.array([0, *range(1, m - 1), 0]) * inner - 1


def _chebyquad(x):
    n, t = len(x), [jnp.ones_like(x), 2 * x - 1]
    for _ in range(n - 1):
        t.append(2 * (2 * x - 1) * t[-1] - t[-2])
    exact = [0.0 if i % 2 else -1 / (i * i - 1) for i in range(1, n + 1)]
    return jnp.stack([jnp.mean(t[i]) - exact[i - 1] for i in range(1, n + 1)])


def _box_of(n):
    return tuple(t * (t - 1) for t in np.arange(1, n + 1) / (n + 1))


def _classic():
    """Name, residual, standard start, least sums of squares."""
    yield "Rosenbrock", _rosenbrock, (-1.2, 1), (0,)
    yield "Freudenstein-Roth", _freudenstein_roth, (0.5, -2), (0, 48.98425)
    yield (
        "Powell badly scaled",
        lambda x: jnp.stack([1e4 * x[0] * x[1] - 1, jnp.sum(jnp.exp(-x)) - 1.0001]),
        (0, 1),
        (0,),
    )
    yield "Brown badly scaled", lambda x: jnp.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2]), (1, 1), (0,)
    beale = lambda x: np.array([1.5, 2.25, 2.625]) - x[0] * (1 - x[1] ** np.arange(1, 4))  # noqa: E731
    yield "Beale", beale, (1, 1), (0, 14.203125)
    i = np.arange(1.0, 11.0)
    yield "Jennrich-Sampson", lambda x: 2 + 2 * i - jnp.exp(i * x[0]) - jnp.exp(i * x[1]), (0.3, 0.4), (124.36218,)
    yield "helical valley", _helical_valley, (-1, 0, 0), (0,)
    yield "Bard", _bard, (1, 1, 1), (8.2148773e-3, 17.428689)
    yield "Gaussian", _gaussian, (0.4, 1, 0), (1.1279328e-8,)
    t = 45 + 5 * np.arange(1.0, 17.0)
    yield "Meyer", lambda x: x[0] * jnp.exp(x[1] / (t + x[2])) - np.array(MEYER), (0.02, 4000, 250), (87.945855,)
    yield "Gulf", _gulf, (5, 2.5, 0.15), (0,)
    yield "Box", _box, (0, 10, 20), (0,)
    yield "Powell singular", _powell_singular, (3, -1, 0, 1), (0,)
    yield "Wood", _wood, (-3, -1, -3, -1), (0,)
    yield "Kowalik-Osborne", _kowalik_osborne, (0.25, 0.39, 0.415, 0.39), (3.0750561e-4, 1.0273443e-3)
    yield "Brown-Dennis", _brown_dennis, (25, 5, -5, -1), (85822.202,)
    yield "Osborne 1", _osborne_1, (0.5, 1.5, -1, 0.01, 0.02), (5.4648947e-5,)
    yield "Biggs", _biggs, (1, 2, 1, 1, 1, 1), (0, 5.6556499e-3)
    yield (
        "Osborne 2",
        _osborne_2,
        (1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5),
        (4.0137736e-2,),
    )
    yield "Watson 6", _watson, (0,) * 6, (2.2876701e-3,)
    yield "Watson 9", _watson, (0,) * 9, (1.3997601e-6,)
    yield "Rosenbrock 10", _rosenbrock, (-1.2, 1) * 5, (0,)
    yield "Powell singular 8", _powell_singular, (3, -1, 0, 1) * 2, (0,)
    yield "penalty 1", _penalty_1, (1, 2, 3, 4), (2.2499775e-5,)
    yield "penalty 2", _penalty_2, (0.5,) * 4, (9.3762931e-6,)
    yield "variably dimensioned", _variably_dimensioned, tuple(1 - np.arange(1, 11) / 10), (0,)
    yield "trigonometric", _trigonometric, (0.1,) * 10, (0, 2.7950611e-5)
    yield "Brown almost linear", _brown_almost_linear, (0.5,) * 10, (0, 1)
    yield "boundary value", _boundary_value, _box_of(10), (0,)
    yield "integral equation", _integral, _box_of(10), (0,)
    yield "Broyden tridiagonal", _tridiagonal, (-1,) * 10, (0,)
    yield "Broyden banded", _banded, (-1,) * 10, (0,)
    yield "full rank", _full_rank, (1,) * 10, (10,)
    yield "rank one", _rank_one, (1,) * 10, (20 * 19 / 82,)
    yield "rank one with zeros", _rank_one_zeros, (1,) * 10, (454 / 74,)
    yield "Chebyquad 8", _chebyquad, tuple(np.arange(1, 9) / 9), (3.5168737e-3,)
    yield "Chebyquad 9", _chebyquad, tuple(np.arange(1, 10) / 10), (0,)


CLASSIC = [
    Problem(name, lambda b, y, fn=fn: fn(b), tuple(map(float, x0)), tuple(map(float, least)))
    for name, fn, x0, least in _classic()
]


def _nist(name):
    fn = nist.residual(name)
    entry = nist.DATA[name]

    def residual(b, y):
        data, _ = nist.problem(name, b.dtype)
        return fn(b, data)

    return Problem(name, residual, tuple(entry["starts"][0]), truth=tuple(entry["certified"]))


NIST = [_nist(name) for name in nist.MODELS]
PROBLEMS = {problem.name: problem for problem in (*EVERYDAY, *CLASSIC, *NIST)}


@cache
def alike(n):
    """All with so many parameters."""
    return [problem for problem in PROBLEMS.values() if problem.n == n]


@cache
def residual_of_any(n):
    """r(b, (which, y)) of any of `alike`, with zeros behind it."""
    problems = alike(n)
    shapes = [jax.eval_shape(p.residual, jnp.ones(n), jnp.ones(POINTS)).shape[0] for p in problems]

    def branch(problem, rows):
        def fn(b, y):
            r = problem.residual(b, y)
            return jnp.concatenate([r.astype(b.dtype), jnp.zeros(max(shapes) - rows, b.dtype)])

        return fn

    branches = [branch(problem, rows) for problem, rows in zip(problems, shapes, strict=True)]
    return lambda b, args: jax.lax.switch(args[0], branches, b, args[1])


def arguments(problem, y, dtype):
    """The second argument of `residual_of_any`."""
    which = alike(problem.n).index(problem)
    return jnp.asarray(which, jnp.int32), jnp.asarray(np.asarray(y), dtype)
