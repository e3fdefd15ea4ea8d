"""How long does the first call of a verb take, in a fresh process without a cache, and where does the time go?

    python bench/first_call.py [--before FOLDER] [--runs 5] [NAME ...]

CPU seconds of one call, the median over processes, with tracing, lowering and compiling apart; the rest is running.
Fusions are counted in the optimised programs. ``--before`` measures another checkout of the package beside this one.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

EVENTS = {
    "tracing": "/jax/core/compile/jaxpr_trace_duration",
    "lowering": "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "compiling": "/jax/core/compile/backend_compile_duration",
}


def table(n=200, d=20, t=None):
    import numpy as np

    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    shape = (n,) if t is None else (n, t)
    return X, (X @ rng.standard_normal((d, *shape[1:]))) + rng.standard_normal(shape)


def decay():
    import numpy as np

    t = np.linspace(0.0, 4.0, 25)
    return t, 2.5 * np.exp(-0.9 * t) + 0.6 + 0.1 * np.random.default_rng(6).standard_normal(25)


def arrays(*xs):
    """On the device, so that it is awake; programs of one operation are no part of the call."""
    import jax
    import jax.numpy as jnp

    return jax.block_until_ready([jnp.asarray(x) for x in xs])


def ridge(n=200):
    import jaxridge as jxr

    X, y, lam = arrays(*table(n), 1.0)
    return lambda: jxr.ridge(X, y, lam)


def ridge_cv(**options):
    import jaxridge as jxr

    X, y = arrays(*table())
    return lambda: jxr.ridge_cv(X, y, **options)


def gradient():
    import jax
    import jax.numpy as jnp

    import jaxridge as jxr

    X, y, lam = arrays(*table(), 1.0)
    return lambda: jax.jit(jax.grad(lambda X, lam: jnp.sum(jnp.square(jxr.ridge(X, y, lam).coef)), (0, 1)))(X, lam)


def head():
    """A training step of a ridge head: features of a small layer, vmapped over tasks, λ learned."""
    import jax
    import jax.numpy as jnp

    import jaxridge as jxr

    X, y, W, lam = arrays(*(x.reshape(8, 25, -1) for x in table(200, 20, 3)), table(20, 10)[0], 0.3)

    def loss(W, log_lam):
        def task(X, y):
            phi = jnp.tanh(X @ W)
            return jnp.mean(jnp.square(jxr.ridge(phi[:15], y[:15], jnp.exp(log_lam)).predict(phi[15:]) - y[15:]))

        return jnp.mean(jax.vmap(task)(X, y))

    return lambda: jax.jit(jax.value_and_grad(loss, (0, 1)))(W, lam)


def kernel_ridge_cv():
    import jaxridge as jxr

    X, y = arrays(*table())
    kernel = jxr.kernels.RBF(3.0)
    return lambda: jxr.kernel_ridge_cv(X, y, kernel=kernel)


def tikhonov_cv():
    import jaxridge as jxr

    A, b = arrays(*table())
    return lambda: jxr.tikhonov_cv(A, b)


def compare():
    import numpy as np

    import jaxridge as jxr
    from jaxridge import inverse, operators, select

    image = np.zeros((32, 32))
    image[10:20, 8:24] = 1.0
    (image,) = arrays(image + 0.01 * np.random.default_rng(0).standard_normal((32, 32)))
    A = operators.gaussian_blur((32, 32), 1.5, boundary="reflective")
    rules = {"gcv": select.gcv, "discrepancy": select.discrepancy(1e-4), "l_curve": select.l_curve}
    del jxr
    return lambda: inverse.compare(A, image, rules)


def least_squares():
    import jax.numpy as jnp

    import jaxridge as jxr

    t, y, x0 = arrays(*decay(), [1.0, 1.0, 0.0])

    def residual(x, data):
        t, y = data
        return x[0] * jnp.exp(-x[1] * t) + x[2] - y

    return lambda: jxr.least_squares(residual, x0, (t, y))


def optimistix():
    import jax.numpy as jnp
    import optimistix as optx

    t, y, x0 = arrays(*decay(), [1.0, 1.0, 0.0])

    def residual(x, data):
        t, y = data
        return x[0] * jnp.exp(-x[1] * t) + x[2] - y

    return lambda: optx.least_squares(residual, optx.LevenbergMarquardt(1e-8, 1e-8), x0, (t, y)).value


def jaxopt():
    import jax.numpy as jnp
    import jaxopt

    t, y, x0 = arrays(*decay(), [1.0, 1.0, 0.0])

    def residual(x, t, y):
        return x[0] * jnp.exp(-x[1] * t) + x[2] - y

    return lambda: jaxopt.LevenbergMarquardt(residual).run(x0, t, y).params


def sklearn(name):
    from sklearn import linear_model

    X, y = table()
    return lambda: getattr(linear_model, name)().fit(X, y).coef_


def floor():
    """Ridge regression by a bare QR and SVD."""
    import jax
    import jax.numpy as jnp

    X, y, lam = arrays(*table(), 1.0)

    def fit(X, y, lam):
        Q, R = jnp.linalg.qr(X)
        U, s, Vt = jnp.linalg.svd(R, full_matrices=False)
        return Vt.T @ (s / (s**2 + lam) * (U.T @ (Q.T @ y)))

    return lambda: jax.jit(fit)(X, y, lam)


def loo(refine=False, rule="loo"):
    from jaxridge import select

    return ridge_cv(rule=getattr(select, rule), refine=refine)


CALLS = {
    "QR and SVD, bare": floor,
    "ridge": ridge,
    "ridge, a million rows": lambda: ridge(1_000_000),
    "ridge_cv": ridge_cv,
    "ridge_cv refined": lambda: ridge_cv(refine=True),
    "jitted gradient of ridge": gradient,
    "step of a vmapped ridge head": head,
    "kernel_ridge_cv": kernel_ridge_cv,
    "tikhonov_cv": tikhonov_cv,
    "compare, 32 x 32 blur": compare,
    "least_squares": least_squares,
    "optimistix LevenbergMarquardt": optimistix,
    "jaxopt LevenbergMarquardt": jaxopt,
    "scikit-learn Ridge": lambda: sklearn("Ridge"),
    "scikit-learn RidgeCV": lambda: sklearn("RidgeCV"),
}
PEERS = {name for name in CALLS if name.startswith(("optimistix", "jaxopt", "scikit", "QR"))}


def one(name):
    """In a process of its own: what the call took, as JSON."""
    import jax

    jax.config.update("jax_enable_x64", True)
    call, spent = CALLS[name](), dict.fromkeys(EVENTS, 0.0) | {"programs": 0}

    def listen(event, seconds, **_):
        for part, key in EVENTS.items():
            spent[part] += seconds * (event == key)
        spent["programs"] += event == EVENTS["compiling"]

    jax.monitoring.register_event_duration_secs_listener(listen)
    start = time.process_time()
    jax.block_until_ready(call())
    print(json.dumps(spent | {"cpu": time.process_time() - start}))


def run(name, path, dump=None):
    """The same from outside."""
    env = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
    env |= {"PYTHONPATH": str(path), "OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    if dump:
        env["XLA_FLAGS"] = f"--xla_dump_to={dump} --xla_dump_hlo_as_text"
    found = subprocess.run(
        [sys.executable, __file__, "--one", name], env=env, capture_output=True, text=True, check=True
    )
    return json.loads(found.stdout.splitlines()[-1])


def fusions(name, path):
    """Fusions in the optimised programs of the call, those of the warm-up among them."""
    with tempfile.TemporaryDirectory() as folder:
        run(name, path, folder)
        texts = [file.read_text() for file in Path(folder).glob("*cpu_after_optimizations.txt")]
    return sum(len(re.findall(r" fusion\(", text)) for text in texts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--before", help="a folder with another state of the package")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("names", nargs="*", help="calls, or how they begin")
    options = parser.parse_args()
    if options.one:
        return one(options.one)
    here = Path(__file__).parents[1]
    places = {"now": here} | ({"before": Path(options.before).resolve()} if options.before else {})
    import jax

    print(f"jax {jax.__version__}, {os.cpu_count()} cores; CPU seconds of a first call, median of {options.runs}")
    print(
        f"{'':32s}{'cpu':>7s}{'tracing':>9s}{'lowering':>9s}{'compiling':>10s}{'programs':>9s}{'fusions':>8s}{'ratio':>7s}"
    )
    for name in CALLS:
        if not name.startswith(tuple(options.names or [""])):
            continue
        of = {place: path for place, path in places.items() if place == "now" or name not in PEERS}
        found = {place: [] for place in of}
        for _ in range(options.runs):
            for place, path in of.items():
                found[place].append(run(name, path))
        middle = {place: {key: median(each[key] for each in runs) for key in runs[0]} for place, runs in found.items()}
        for place, path in of.items():
            row = middle[place]
            ratio = f"{middle['now']['cpu'] / row['cpu']:7.2f}" if place == "before" else ""
            label = name if place == "now" else "  before"
            print(
                f"{label:32s}{row['cpu']:7.2f}{row['tracing']:9.2f}{row['lowering']:9.2f}{row['compiling']:10.2f}"
                f"{row['programs']:9.0f}{fusions(name, path):8d}{ratio}",
                flush=True,
            )
    return None


if __name__ == "__main__":
    main()
