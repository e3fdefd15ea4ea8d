"""How many small fits a second? The workload of Gpufit, and a batch in which one lane of a hundred is very hard.

100 000 two-dimensional Gaussians on 5 × 5 pixels, 5 parameters, float32, tolerance 1e-4, at most 20 iterations,
starts within 10 % of the truth (Przybylski et al. 2017, Scientific Reports 7, 15722). χ² and iterations stand beside
each time, so that nobody wins by stopping early. `--quick` takes a hundredth of the fits.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import jaxopt
import lineax
import nlls_gram
import numpy as np
import optimistix as optx
import scipy.optimize
from _peers import header, interleaved

import jaxridge as jxr

SIDE, TOLERANCE, STEPS = 5, 1e-4, 20
COLUMN, ROW = (jnp.asarray(axis.ravel(), jnp.float32) for axis in np.meshgrid(np.arange(SIDE), np.arange(SIDE)))


def gaussian(b):
    spot = jnp.square(COLUMN - b[1]) + jnp.square(ROW - b[2])
    return b[0] * jnp.exp(-spot / (2 * b[3] * b[3])) + b[4]


def residual(b, pixels):
    return gaussian(b) - pixels


def workload(count):
    rng = np.random.default_rng(0)
    truth = rng.uniform([8, 1.5, 1.5, 0.8, 0.5], [12, 2.5, 2.5, 1.2, 1.5], (count, 5))
    start = truth * rng.uniform(0.9, 1.1, truth.shape)
    clean = jax.vmap(gaussian)(jnp.asarray(truth, jnp.float32))
    noise = jnp.asarray(0.3 * rng.standard_normal(clean.shape), jnp.float32)
    return jnp.asarray(start, jnp.float32), clean + noise


@jax.jit
def ours(start, pixels):
    options = {"ftol": TOLERANCE, "xtol": TOLERANCE, "max_steps": STEPS}
    found = jxr.least_squares_batch(residual, start, pixels, **options)
    return found.value, found.steps


@jax.jit
def by_vmap(start, pixels):
    options = {"ftol": TOLERANCE, "xtol": TOLERANCE, "max_steps": STEPS}
    found = jax.vmap(partial(jxr.least_squares, residual, **options))(start, pixels)
    return found.value, found.steps


def by_optimistix(solver):
    def fit(b, pixels):
        found = optx.least_squares(residual, solver, b, pixels, max_steps=STEPS, throw=False)
        return found.value, found.stats["num_steps"]

    return jax.jit(jax.vmap(fit))


@jax.jit
def by_jaxopt(start, pixels):
    solver = jaxopt.LevenbergMarquardt(residual, tol=TOLERANCE, maxiter=STEPS, solver="cholesky", implicit_diff=False)
    found = jax.vmap(solver.run)(start, pixels)
    return found.params, found.state.iter_num


def by_nlls_gram(**options):
    # Its tolerances are absolute: a step of 1e-4 of the parameters' norm, about 10.
    solver = nlls_gram.LevenbergMarquardt(lambda b, _, pixels: residual(b, pixels), **options)

    def fit(b, pixels):
        found = solver.solve(b, p=pixels, max_steps=STEPS, xtol=10 * TOLERANCE)
        return found.x, found.steps

    return jax.jit(jax.vmap(fit))


def by_scipy(start, pixels):
    """MINPACK in a loop, with an exact Jacobian."""
    x, y = np.asarray(COLUMN), np.asarray(ROW)
    values = []

    def parts(b):
        dx, dy = x - b[1], y - b[2]
        return dx, dy, np.exp(-(dx * dx + dy * dy) / (2 * b[3] * b[3]))

    def jacobian(b, pixels):
        dx, dy, e = parts(b)
        f = b[0] * e / b[3] ** 2
        return np.stack([e, f * dx, f * dy, f * (dx * dx + dy * dy) / b[3], np.ones_like(e)])

    for b, row in zip(np.asarray(start, float), np.asarray(pixels, float), strict=True):
        values.append(
            scipy.optimize.leastsq(
                lambda b, row: b[0] * parts(b)[2] + b[4] - row,
                b,
                (row,),
                jacobian,
                col_deriv=True,
                ftol=TOLERANCE,
                xtol=TOLERANCE,
            )[0]
        )
    return jnp.asarray(np.array(values), jnp.float32)


def quality(values, pixels):
    return float(jnp.mean(jnp.sum(jnp.square(jax.vmap(residual)(values, pixels)), axis=1)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    count = 1000 if parser.parse_args().quick else 100_000
    print(header("optimistix", "jaxopt", "nlls-gram", "scipy"))
    start, pixels = workload(count)
    peers = {
        "jaxridge least_squares_batch": ours,
        "jaxridge under vmap": by_vmap,
        "optimistix LM, Cholesky": by_optimistix(
            optx.LevenbergMarquardt(TOLERANCE, TOLERANCE, linear_solver=lineax.Normal(lineax.Cholesky()))
        ),
        "optimistix LM, QR": by_optimistix(optx.LevenbergMarquardt(TOLERANCE, TOLERANCE)),
        "jaxopt LM, Cholesky": by_jaxopt,
        "nlls-gram LM": by_nlls_gram(),
        "nlls-gram LM, not accelerated": by_nlls_gram(geodesic_acceleration=False),
    }
    times = interleaved({name: partial(fit, start, pixels) for name, fit in peers.items()}, repeats=3)
    best = min(seconds for name, seconds in times.items() if not name.startswith("jaxridge"))
    for name, fit in peers.items():
        values, steps = fit(start, pixels)
        speed = f"{count / times[name]:9.0f} fits/s, {best / times[name]:5.1f}× the best peer"
        print(f"{name:30s} {speed}, χ² {quality(values, pixels):.5f}, {float(jnp.mean(steps)):.1f} iterations")
    some = min(count, 2000)
    begun = time.perf_counter()
    values = by_scipy(start[:some], pixels[:some])
    speed = some / (time.perf_counter() - begun)
    print(f"{'SciPy MINPACK, a loop':30s} {speed:9.0f} fits/s, χ² {quality(values, pixels[:some]):.5f}")
    hard_lanes(count // 10)


def hard_lanes(count):
    """One start of a hundred so far away that its valley takes a hundred steps."""
    start = jnp.tile(jnp.array([1.0, 1.0]), (count, 1)).at[::100].set(jnp.array([-1.2, 40.0]))

    def valley(x, _):
        return jnp.stack([100.0 * (x[1] - x[0] * x[0]), 1.0 - x[0], 0.01 * jnp.sin(30.0 * x[0])])

    solver = jxr.LevenbergMarquardt(linear=jxr.optimize.cholesky, acceleration=False)
    options = {"ftol": TOLERANCE, "xtol": TOLERANCE, "max_steps": 500, "solver": solver}
    batch = jax.jit(lambda x: jxr.least_squares_batch(valley, x, **options))
    vmapped = jax.jit(jax.vmap(lambda x: jxr.least_squares(valley, x, **options)))
    times = interleaved({"batch": lambda: batch(start), "vmap": lambda: vmapped(start)}, repeats=3)
    steps = np.asarray(batch(start).steps)
    print(
        f"{count} fits, 1 % of them hard ({np.median(steps[::100]):.0f} steps, the others {np.median(steps):.0f}): "
        f"compaction is {times['vmap'] / times['batch']:.1f}× faster than vmap of the same loop"
    )


if __name__ == "__main__":
    main()
