"""The 27 nonlinear regressions of NIST's Statistical Reference Datasets, as residuals r(b, (x, y))."""

import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

DATA = json.loads((Path(__file__).parent / "data" / "nist_strd.json").read_text())


def gaussians(b, x):
    peaks = (b[2 + 3 * k] * jnp.exp(-jnp.square(x - b[3 + 3 * k]) / jnp.square(b[4 + 3 * k])) for k in range(2))
    return b[0] * jnp.exp(-b[1] * x) + sum(peaks)


def exponentials(b, x):
    return sum(b[2 * k] * jnp.exp(-b[2 * k + 1] * x) for k in range(3))


def cubic_ratio(b, x):
    return (b[0] + x * (b[1] + x * (b[2] + x * b[3]))) / (1 + x * (b[4] + x * (b[5] + x * b[6])))


def waves(b, x):
    fixed, turn = 2 * np.pi * x / 12, 2 * np.pi * x
    parts = (b[k + 1] * jnp.cos(turn / b[k]) + b[k + 2] * jnp.sin(turn / b[k]) for k in (3, 6))
    return b[0] + b[1] * jnp.cos(fixed) + b[2] * jnp.sin(fixed) + sum(parts)


def damped_ratio(b, x):
    return jnp.exp(-b[0] * x) / (b[1] + b[2] * x)


MODELS = {
    "Bennett5": lambda b, x: b[0] * (b[1] + x) ** (-1 / b[2]),
    "BoxBOD": lambda b, x: b[0] * (1 - jnp.exp(-b[1] * x)),
    "Chwirut1": damped_ratio,
    "Chwirut2": damped_ratio,
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "ENSO": waves,
    "Eckerle4": lambda b, x: b[0] / b[1] * jnp.exp(-0.5 * jnp.square((x - b[2]) / b[1])),
    "Gauss1": gaussians,
    "Gauss2": gaussians,
    "Gauss3": gaussians,
    "Hahn1": cubic_ratio,
    "Kirby2": lambda b, x: (b[0] + x * (b[1] + x * b[2])) / (1 + x * (b[3] + x * b[4])),
    "Lanczos1": exponentials,
    "Lanczos2": exponentials,
    "Lanczos3": exponentials,
    "MGH09": lambda b, x: b[0] * (x * x + x * b[1]) / (x * x + x * b[2] + b[3]),
    "MGH10": lambda b, x: b[0] * jnp.exp(b[1] / (x + b[2])),
    "MGH17": lambda b, x: b[0] + b[1] * jnp.exp(-x * b[3]) + b[2] * jnp.exp(-x * b[4]),
    "Misra1a": lambda b, x: b[0] * (1 - jnp.exp(-b[1] * x)),
    "Misra1b": lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Misra1c": lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda b, x: b[0] * b[1] * x / (1 + b[1] * x),
    "Nelson": lambda b, x: b[0] - b[1] * x[:, 0] * jnp.exp(-b[2] * x[:, 1]),
    "Rat42": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)),
    "Rat43": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Roszman1": lambda b, x: b[0] - b[1] * x - jnp.arctan(b[2] / (x - b[3])) / np.pi,
    "Thurber": cubic_ratio,
}


def residual(name):
    """r(b, (x, y)) = model(b, x) − y."""
    return lambda b, args: MODELS[name](b, args[0]) - args[1]


def problem(name, dtype):
    """Its data (x, y) and its two starts."""
    entry = DATA[name]
    x, y = np.asarray(entry["x"]), np.asarray(entry["y"])
    y = np.log(y) if name == "Nelson" else y
    data = jnp.asarray(x.astype(dtype)), jnp.asarray(y.astype(dtype))
    return data, [jnp.asarray(np.asarray(start).astype(dtype)) for start in entry["starts"]]


def digits(name, b):
    """The log relative error of the worst parameter: correct decimal digits, 11 at most."""
    certified = np.asarray(DATA[name]["certified"])
    error = np.max(np.abs(np.asarray(b, np.float64) - certified) / np.abs(certified))
    return 0.0 if not np.isfinite(error) else float(np.clip(-np.log10(max(error, 1e-11)), 0.0, 11.0))


def alike(name):
    """The regressions with as many parameters, whose residuals can be one program."""
    kind = lambda entry: (len(entry["certified"]), np.ndim(entry["x"]))  # noqa: E731
    return tuple(other for other in DATA if kind(DATA[other]) == kind(DATA[name]))


@cache
def residual_of_any(names):
    """r(b, (which, x, y, counts)) for any of these regressions, 0 in rows that do not count."""
    models = list(dict.fromkeys(MODELS[name] for name in names))
    return lambda b, args: jnp.where(args[3], jax.lax.switch(args[0], models, b, args[1]) - args[2], 0.0)


def padded(name, data):
    """The arguments of `residual_of_any`: the first row again, and not counted, up to the length of the longest."""
    names = alike(name)
    x, y = map(np.asarray, data)
    rows = np.arange(max(len(DATA[other]["y"]) for other in names))
    counts, rows = rows < len(y), np.where(rows < len(y), rows, 0)
    which = list(dict.fromkeys(MODELS[other] for other in names)).index(MODELS[name])
    return jnp.asarray(which), jnp.asarray(x[rows]), jnp.asarray(y[rows]), jnp.asarray(counts)
