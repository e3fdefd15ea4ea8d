"""What does a gradient cost, in units of the one factorisation that it reuses?

Three questions, in float64: the mean validation loss over 100 λ with its gradient in X, y and λ together, and the
leave-one-out score at one λ with its gradient in X, each against QR + SVD(R) + Q·U; and the whole leave-one-out
curve with its gradient in λ and y against its own value. `--quick` takes a tenth of each size.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from _peers import header, interleaved

import jaxridge as jxr
from jaxridge import select
from jaxridge.linear import design, spectrum

jax.config.update("jax_enable_x64", True)


@jax.jit
def floor(X):
    tall = X.shape[0] > X.shape[1]
    Q, R = jnp.linalg.qr(X if tall else X.T)
    W, s, Vt = jnp.linalg.svd(R, full_matrices=False)
    return Q @ W, s, Vt


@jax.jit
def validation_gradient(X, y, lams, X_val, y_val):
    def loss(X, y, lams):
        predicted = jxr.ridge_path(X, y, lams).predict(X_val)
        return jnp.mean(jnp.square(predicted - y_val[None, :]))

    return jax.value_and_grad(loss, (0, 1, 2))(X, y, lams)


@jax.jit
def loo_gradient(X, y, lam):
    def loss(X):
        problem = design.make_design(X, y)
        return jnp.sum(select.loo(problem, spectrum.from_design(problem), lam))

    return jax.value_and_grad(loss)(X)


@jax.jit
def curve(X, y, lams):
    return jxr.ridge_cv(X, y, lams).scores


@jax.jit
def curve_gradient(X, y, lams):
    return jax.value_and_grad(lambda lams, y: jnp.mean(curve(X, y, lams)), (0, 1))(lams, y)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    print(header())
    rng, lams = np.random.default_rng(0), jnp.logspace(-3, 3, 100)
    for n, d in [(5000, 1000), (20000, 500), (1000, 3000)]:
        n, d = (n // 10, d // 10) if args.quick else (n, d)
        X, X_val = (jnp.asarray(rng.standard_normal((rows, d))) for rows in (n, 1000))
        y, y_val = (x @ jnp.ones(d) + jnp.asarray(rng.standard_normal(x.shape[0])) for x in (X, X_val))
        t = interleaved(
            {
                "floor": lambda: floor(X),
                "validation": lambda: validation_gradient(X, y, lams, X_val, y_val),
                "loo": lambda: loo_gradient(X, y, lams[50]),
                "curve": lambda: curve(X, y, lams),
                "curve gradient": lambda: curve_gradient(X, y, lams),
            }
        )
        print(f"\n{n} × {d}: QR + SVD(R) + Q·U {t['floor']:.3f} s")
        print(f"  validation loss over 100 λ, gradient in X, y, λ: {t['validation'] / t['floor']:.2f}× that")
        print(f"  leave-one-out at one λ, gradient in X: {t['loo'] / t['floor']:.2f}× that")
        print(f"  leave-one-out curve, gradient in λ and y: {t['curve gradient'] / t['curve']:.2f}× its value")


if __name__ == "__main__":
    main()
