"""What does a posterior cost: the λ of most evidence for 1000 targets, and deviations of 50 000 coefficients?

Evidence of 1000 × 200 with 1000 targets against scikit-learn's BayesianRidge, on some of the targets and scaled up;
then n = 200 with d = 50 000: mean, deviations, a predictive band and 100 samples, against scikit-learn's mean and
covariance at d = 3000, whose matrix of d × d would be 20 GB here. Seconds of CPU, compiled once before; float64.
"""

import resource
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from _peers import header
from sklearn.linear_model import BayesianRidge

import jaxridge as jxr

jax.config.update("jax_enable_x64", True)
warnings.filterwarnings("ignore")
SOME = 20
FLAT = {"alpha_1": 0.0, "alpha_2": 0.0, "lambda_1": 0.0, "lambda_2": 0.0}


def problem(rng, n, d, t):
    X = rng.standard_normal((n, d)) * np.logspace(0, -2, d)
    F = X @ rng.standard_normal((d, t))
    noise = F.std(axis=0) / np.sqrt(np.logspace(-3, 2, t))
    return X, F + rng.standard_normal((n, t)) * noise


def seconds(f, repeats=3):
    """CPU and wall seconds, the least of some calls after one that compiles."""
    jax.block_until_ready(f())
    found = []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        jax.block_until_ready(f())
        found.append((time.process_time() - cpu, time.perf_counter() - wall))
    return min(found)


def once(f):
    cpu = time.process_time()
    found = f()
    return time.process_time() - cpu, found


def many_targets(rng):
    X, Y = map(jnp.asarray, problem(rng, 1000, 200, 1000))
    cpu, wall = seconds(lambda: jxr.ridge_posterior(X, Y).lam)
    found = jxr.ridge_posterior(X, Y, restricted=False)
    some = np.linspace(0, 999, SOME).astype(int)
    theirs = lambda j, **more: BayesianRidge(**FLAT, **more).fit(np.asarray(X), np.asarray(Y[:, j]))  # noqa: E731
    default, _ = once(lambda: [theirs(j) for j in some])
    converged, peers = once(lambda: [theirs(j, tol=1e-10, max_iter=3000) for j in some])
    lams = np.array([peer.lambda_ / peer.alpha_ for peer in peers])
    inner = np.asarray(found.result == jxr.RESULTS.successful)[some]
    apart = np.abs(np.log(lams / np.asarray(found.lam)[some]))[inner]
    print("evidence of 1000 × 200, 1000 targets")
    print(f"  jaxridge       {cpu:7.2f} CPU s, {wall:.2f} s wall; {int(np.sum(found.prior == 0))} targets at λ = ∞")
    for name, spent in {"scikit-learn, as it comes": default, "scikit-learn, converged": converged}.items():
        print(f"  {name} {spent * 1000 / SOME:7.1f} CPU s from {SOME} targets, {spent * 1000 / SOME / cpu:.0f}×")
    print(f"  λ of those {inner.sum()} that are finite: |Δ log λ| ≤ {apart.max():.1e} from scikit-learn's")


def wide(rng):
    n, d = 200, 50_000
    X, y = (jnp.asarray(part) for part in problem(rng, n, d, 1))
    y, new, key = y[:, 0], X[:50] + 0.1, jax.random.key(0)

    def everything(solver=jxr.spectrum.from_design):
        found = jxr.ridge_posterior(X, y, solver=solver)
        return found.coef, found.sd, found.prediction(new), found.sample(key, 100)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, wall = seconds(everything)
    size = f"{X.nbytes / 2**20:.0f}"
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    print(f"n = {n}, d = {d}: mean, deviations, predictive band of 50 rows, 100 samples")
    print(f"  jaxridge       {cpu:7.2f} CPU s, {wall:.2f} s wall, {peak:.0f} MiB more at the peak; X is {size}")
    cpu, wall = seconds(lambda: everything(jxr.spectrum.from_gram))
    print(f"  by from_gram   {cpu:7.2f} CPU s, {wall:.2f} s wall")
    few = 3000
    spent, _ = once(lambda: BayesianRidge(**FLAT).fit(np.asarray(X[:, :few]), np.asarray(y)))
    print(f"  scikit-learn   {spent:7.2f} CPU s for d = {few}: mean and covariance")


def main():
    print(header("scikit-learn"))
    rng = np.random.default_rng(0)
    many_targets(rng)
    wide(rng)


if __name__ == "__main__":
    main()
