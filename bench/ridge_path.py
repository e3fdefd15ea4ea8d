"""How long does a path of 100 λ with leave-one-out take, against the peers and against its own floor?

The floor is what any accurate method must do once: QR of X, SVD of R, Q·U, and the two products of rows × 100 λ
that leave-one-out reads. All in float64 unless the line says otherwise. `--quick` takes a tenth of each size.
"""

import argparse
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from _peers import compile_seconds, header, interleaved, once
from himalaya.ridge import RidgeCV as HimalayaRidgeCV
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import KFold

import jaxridge as jxr
from jaxridge import select
from jaxridge.linear import spectrum

jax.config.update("jax_enable_x64", True)
warnings.filterwarnings("ignore")

SHAPES = [(5000, 1000, 1), (20000, 500, 1), (5000, 500, 100), (1000, 3000, 1)]
LAMS = np.logspace(-3, 3, 100)


@jax.jit
def floor(X, y, lams):
    """One accurate factorisation and the products of leave-one-out, without any of the bookkeeping."""
    tall = X.shape[0] > X.shape[1]
    Q, R = jnp.linalg.qr(X if tall else X.T)
    W, s, Vt = jnp.linalg.svd(R, full_matrices=False)
    U, V = (Q @ W, Vt) if tall else (Vt.T, Q @ W)
    f = s**2 / (s**2 + lams[:, None])
    residual = jnp.einsum("nr,krt->nkt", U, f[:, :, None] * (U.T @ y)[None])
    return V, jnp.sum((residual / ((U**2) @ f.T)[:, :, None]) ** 2, axis=0)


def data(n, d, t, dtype=np.float64):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    y = X @ rng.standard_normal((d, t)) + 10 * rng.standard_normal((n, t))
    return X.astype(dtype), y.astype(dtype)[:, 0] if t == 1 else y.astype(dtype)


def row(n, d, t, himalaya):
    X, y = data(n, d, t)
    Xj, yj, lams = jnp.asarray(X), jnp.asarray(y), jnp.asarray(LAMS)
    X32, y32, lams32 = (a.astype(jnp.float32) for a in (Xj, yj, lams))
    y2 = yj.reshape(n, -1)
    times = interleaved(
        {
            "floor": lambda: floor(Xj, y2, lams),
            "loo": lambda: jxr.ridge_cv(Xj, yj, lams),
            "gram": lambda: jxr.ridge_cv(Xj, yj, lams, solver=spectrum.from_gram),
            "path": lambda: jxr.ridge_path(Xj, yj, lams),
            "float32": lambda: jxr.ridge_cv(X32, y32, lams32),
            "one": lambda: jxr.ridge(Xj, yj, 1.0),
            "cholesky": lambda: jxr.ridge(Xj, yj, 1.0, solver=spectrum.from_cholesky),
            "sk one": lambda: Ridge(1.0).fit(X, y) and 0,
        }
    )
    auto = once(lambda: RidgeCV(LAMS).fit(X, y))
    svd_model = RidgeCV(LAMS, gcv_mode="svd")
    svd = min(once(lambda: svd_model.fit(X, y)) for _ in range(2))
    choice = jxr.ridge_cv(Xj, yj, lams)
    assert float(choice.lam) == float(svd_model.alpha_), (choice.lam, svd_model.alpha_)
    compiled = compile_seconds(lambda X, y: jxr.ridge_cv(X, y, lams).scores, Xj, yj)
    loo = times["loo"]
    print(f"\n{n} × {d} × {t}: leave-one-out for 100 λ in {loo:.3f} s, λ* = {float(choice.lam):.4g}")
    print(f"  ratio to floor {times['floor']:.3f} s: {loo / times['floor']:.2f}")
    print(f"  scikit-learn RidgeCV auto {auto:.2f} s: {auto / loo:.1f}×; svd {svd:.2f} s: {svd / loo:.1f}×")
    gram = times["gram"]
    print(f"  by gram {gram:.3f} s: {auto / gram:.1f}× auto, {svd / gram:.1f}× svd; float32 {times['float32']:.3f} s")
    print(f"  coefficients only {times['path']:.3f} s; first call compiles in {compiled:.1f} s")
    print(
        f"  one λ: ridge {times['one']:.3f} s, by cholesky {times['cholesky']:.3f} s, "
        f"scikit-learn Ridge {times['sk one']:.3f} s"
    )
    if himalaya:
        rule = select.kfold(5)
        ours = interleaved({"kfold": lambda: jxr.ridge_cv(Xj, yj, lams, rule=rule)}, repeats=2)["kfold"]
        theirs = HimalayaRidgeCV(alphas=LAMS, cv=KFold(5), fit_intercept=True, solver_params={"n_alphas_batch": 10})
        theirs_time = once(lambda: theirs.fit(X, y if y.ndim == 2 else y[:, None]))
        lam = float(np.unique(np.asarray(theirs.best_alphas_))[0]) if t == 1 else float("nan")
        print(
            f"  5 folds: {ours:.2f} s, λ* = {float(jxr.ridge_cv(Xj, yj, lams, rule=rule).lam):.4g}; himalaya "
            f"RidgeCV {theirs_time:.1f} s, λ* = {lam:.4g}: {theirs_time / ours:.0f}×"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-himalaya", action="store_true")
    args = parser.parse_args()
    print(header("scikit-learn", "himalaya"))
    for n, d, t in SHAPES:
        part = 10 if args.quick else 1
        row(n // part, d // part, t, himalaya=not args.no_himalaya)


if __name__ == "__main__":
    main()
