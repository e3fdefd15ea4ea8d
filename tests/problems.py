"""The zoo: small designs with every difficulty that a design can have, each with two generic targets."""

from dataclasses import dataclass, field, replace

import numpy as np

TALL, WIDE, SQUARE, ROW, COLUMN = (9, 4), (4, 9), (6, 6), (1, 4), (9, 1)
LAMS = (0.0, *10.0 ** np.arange(-12.0, 13.0, 4.0), np.inf)


@dataclass(frozen=True)
class Problem:
    """X (n, d) and y (n, 2) with the options of a verb; ``single`` if float32 can hold it."""

    name: str
    X: np.ndarray
    y: np.ndarray
    options: dict = field(default_factory=dict)
    lams: tuple = LAMS
    single: bool = True
    loo: bool = True  # False where a row without which the rank falls leaves it undefined at λ = 0

    def cast(self, dtype):
        """The same problem in another dtype; what the cast changed is then part of the problem."""
        dtype = np.dtype(dtype)
        options = {k: v.astype(dtype) if isinstance(v, np.ndarray) else v for k, v in self.options.items()}
        return replace(self, X=self.X.astype(dtype), y=self.y.astype(dtype), options=options)


def _rng():
    return np.random.default_rng(7)


def conditioned(n, d, condition, rng):
    """A matrix with singular values from 1 to 1/condition."""
    k = min(n, d)
    U, V = np.linalg.qr(rng.standard_normal((n, k)))[0], np.linalg.qr(rng.standard_normal((d, k)))[0]
    return (U * np.logspace(0, -np.log10(condition), k)) @ V.T


def _zoo():
    rng = _rng()
    plain = {shape: rng.standard_normal(shape) for shape in (TALL, WIDE, SQUARE, ROW, COLUMN)}
    targets = {shape: rng.standard_normal((shape[0], 2)) for shape in plain}
    tall, wide = plain[TALL], plain[WIDE]

    def add(name, X, **more):
        return Problem(name, X, targets[X.shape], more.pop("options", {}), **more)

    def column(j, values):
        X = tall.copy()
        X[:, j] = values
        return X

    yield add("tall", tall)
    yield add("wide", wide)
    yield add("square", plain[SQUARE], options={"intercept": False})
    yield add("one row", plain[ROW], loo=False)
    yield add("one column", plain[COLUMN])
    yield add("rank two", (rng.integers(-9, 10, (9, 2)) @ np.array([[1, 0, 2, -1], [0, 1, 1, 3]])) / 8)
    yield add("rank two, wide", rng.integers(-3, 4, (4, 1)) * np.ones((1, 9)) + np.eye(4, 9), loo=False)
    yield add("repeated singular values", np.linalg.qr(tall - tall.mean(0))[0])
    yield add("identity", np.eye(6), options={"intercept": False}, loo=False)
    yield add("duplicate column", column(3, tall[:, 0]))
    yield add("zero column", column(1, 0.0))
    yield add("constant column", column(1, 0.1))
    yield add("condition 1e6, wide", conditioned(4, 9, 1e6, rng))
    yield add("condition 1e12", conditioned(9, 4, 1e12, rng))
    yield add("condition 1e12, square", conditioned(6, 6, 1e12, rng), options={"intercept": False})
    yield add("means 1e6", tall + 1e6)
    for exponent in (100, -100):
        lams = tuple(lam * 10.0 ** (2 * exponent) for lam in LAMS)
        yield add(f"scale 1e{exponent}", tall * 10.0**exponent, lams=lams, single=False)
        yield add(f"scale 1e{exponent}, wide", wide * 10.0**exponent, lams=lams, single=False)
    for exponent in (150, -150):
        yield add(f"scale 1e{exponent}", tall * 10.0**exponent, single=False)
    for exponent in (12, -12):
        yield add(f"scale 1e{exponent}", tall * 10.0**exponent)

    for X in (tall, wide):
        n, d = X.shape
        given = {"weights": np.exp(rng.standard_normal(n)), "penalty": np.exp(rng.standard_normal(d))}
        zeroed = {**given, "weights": given["weights"] * (np.arange(n) != 1)}
        name = "" if n > d else ", wide"
        yield add(f"weights and penalty{name}", X, options={**given, "unpenalized": (2,)})
        yield add(f"weight zero{name}", X, options={**zeroed, "unpenalized": (2,)})
        far = {"weights": given["weights"] * 1e100, "penalty": given["penalty"] * 1e-80}
        yield add(f"weights 1e100{name}", X, options={**far, "unpenalized": (2,)}, single=False)


ZOO = {problem.name: problem for problem in _zoo()}
