"""What does one accepted step of a large nonlinear least-squares problem cost?

100 000 residuals, 300 parameters, float64, m·n² = 9·10⁹ products for a Gram matrix: a sigmoid of a linear model, fitted
by least squares from 0. The time per accepted step over four of them; the floor is the Jacobian and its Gram matrix,
or its QR. `--quick` takes a tenth of each size.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import scipy.optimize
from _peers import header, median

import jaxridge as jxr
from jaxridge import optimize

jax.config.update("jax_enable_x64", True)
STEPS = 4


def residual(w, args):
    X, y = args
    return jax.nn.sigmoid(X @ w) - y


def problem(m, n):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((m, n)) / np.sqrt(n)
    truth = 3.0 * rng.standard_normal(n)
    y = 1 / (1 + np.exp(-X @ truth)) + 0.1 * rng.standard_normal(m)
    return jnp.zeros(n), (jnp.asarray(X), jnp.asarray(y))


def ours(linear, steps, acceleration):
    solver = jxr.LevenbergMarquardt(linear=linear, acceleration=acceleration)
    return jax.jit(lambda x, args: jxr.least_squares(residual, x, args, solver=solver, max_steps=steps))


def per_step(fit, x, args):
    """Seconds per accepted step, and the cost after them, from STEPS proposals less one of none."""
    whole, nothing = fit(STEPS), fit(0)
    found = whole(x, args)
    accepted = int(found.jacobian_evaluations) - 1
    return (median(lambda: whole(x, args).cost, 3) - median(lambda: nothing(x, args).cost, 3)) / accepted, found.cost


def by_optimistix(x, args):
    solver = optx.LevenbergMarquardt(rtol=1e-14, atol=1e-14)

    def fit(steps):
        return jax.jit(lambda x: optx.least_squares(residual, solver, x, args, max_steps=steps, throw=False).value)

    def cost(x):
        return 0.5 * jnp.sum(jnp.square(residual(x, args)))

    long, short = fit(STEPS), fit(1)
    seconds = (median(lambda: long(x), 1) - median(lambda: short(x), 1)) / (STEPS - 1)
    return seconds, cost(long(x))


def by_scipy(x, args):
    fn, jac = jax.jit(lambda x: residual(x, args)), jax.jit(jax.jacfwd(lambda x: residual(x, args)))
    jax.block_until_ready(jac(x))
    begun = time.perf_counter()
    found = scipy.optimize.least_squares(
        lambda x: np.asarray(fn(x)), np.asarray(x), lambda x: np.asarray(jac(x)), method="trf", max_nfev=STEPS
    )
    return (time.perf_counter() - begun) / found.njev, found.cost


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    m, n = (10_000, 30) if parser.parse_args().quick else (100_000, 300)
    print(header("optimistix", "scipy"))
    x, args = problem(m, n)
    jacobian = jax.jit(jax.jacfwd(lambda x: residual(x, args)))
    J = jacobian(x)
    gram, triangle = jax.jit(lambda J: J.T @ J), jax.jit(lambda J: jnp.linalg.qr(J, mode="r"))
    parts = {
        "J": median(lambda: jacobian(x), 3),
        "JᵀJ": median(lambda: gram(J), 3),
        "QR": median(lambda: triangle(J), 3),
    }
    print(f"{m} × {n}: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items()))
    rows = {
        "jaxridge, Cholesky": per_step(lambda k: ours(optimize.cholesky, k, False), x, args),
        "jaxridge, Cholesky, accelerated": per_step(lambda k: ours(optimize.cholesky, k, True), x, args),
        "jaxridge, QR": per_step(lambda k: ours(optimize.qr, k, False), x, args),
        "optimistix": by_optimistix(x, args),
        "SciPy": by_scipy(x, args),
    }
    best = min(rows["optimistix"][0], rows["SciPy"][0])
    for name, (seconds, cost) in rows.items():
        speed = f"{seconds:6.2f} s a step, {best / seconds:4.1f}× the best peer"
        print(f"{name:32s} {speed}, cost after them {float(cost):.4f}")


if __name__ == "__main__":
    main()
