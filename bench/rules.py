"""Which rule finds a good λ, and how often does it fail?

Four classical ill-posed problems, n = 64, L = I, 100 draws of noise with ‖e‖ = ‖b‖/100, float64, from the grid that
`inverse.tikhonov_cv` takes by itself. The figure is error(λ of the rule) / least error of any λ, with error
‖x(λ) − x‖: 1.00 cannot be beaten. Beside its median and 95th percentile stands how many draws it is above 2 and above
10 in, and how often λ was an end of the grid, 0 or infinite. All draws of a problem are right-hand sides of one
factorisation.
"""

import jax
import jax.numpy as jnp
import numpy as np
from _peers import header

from jaxridge import inverse, select
from jaxridge.inverse import testproblems

N, SEEDS, LEVEL = 64, 100, 0.01
PROBLEMS = ("shaw", "heat", "phillips", "foxgood")
FINE = 400  # λ among which the least error is looked for


def rules(noise):
    """By name."""
    return {
        "discrepancy, σ² known": select.discrepancy(noise),
        "predictive risk, σ² known": select.predictive_risk(noise),
        "evidence, σ² known": select.marginal_likelihood(noise),
        "evidence, σ² profiled": select.evidence,
        "GCV": select.gcv,
        "L-curve": select.l_curve,
        "quasi-optimality": select.quasi_optimality,
    }


def errors(x, truth):
    """(…, t) of solutions (…, n, t)."""
    return np.linalg.norm(np.asarray(x) - np.asarray(truth)[:, None], axis=-2)


def least(A, B, truth):
    """(t,) over a grid finer than that of the rules."""
    lams = jnp.linalg.norm(A, 2) ** 2 * jnp.logspace(-16, 2, FINE)
    return np.min(errors(inverse.tikhonov_path(A, B, lams).x, truth), axis=0)


def table(problem):
    """A row for each rule: error over the least, and where λ was not inside the grid."""
    keys = jax.random.split(jax.random.key(0), SEEDS)
    B = jax.vmap(lambda key: problem.noisy(key, LEVEL), out_axes=1)(keys)
    choices = {
        name: inverse.tikhonov_cv(problem.A, B, rule=rule, per_target=True)
        for name, rule in rules(problem.noise_sd(LEVEL) ** 2).items()
    }
    found = {name: errors(choice.fit.x, problem.x) for name, choice in choices.items()}
    best = np.min([least(problem.A, B, problem.x), *found.values()], axis=0)
    for name, choice in choices.items():
        lam = np.asarray(choice.lam)
        outside = [int(np.sum(x)) for x in (choice.at_edge, lam == 0, np.isinf(lam))]
        yield name, found[name] / best, outside


def main():
    print(header())
    print(f"n = {N}, {SEEDS} draws of {100 * LEVEL:g} % noise: error over the least error of any λ")
    for title in PROBLEMS:
        print(f"\n{title:25} {'median':>8} {'95 %':>8} {'> 2':>5} {'> 10':>5} {'edge':>6} {'λ = 0':>6} {'λ = ∞':>6}")
        for name, ratio, (edge, zero, infinite) in table(getattr(testproblems, title)(N)):
            median, high = np.percentile(ratio, [50, 95])
            failed = f"{np.sum(ratio > 2):5d} {np.sum(ratio > 10):5d}"
            print(f"{name:25} {median:8.2f} {high:8.3g} {failed} {edge:6d} {zero:6d} {infinite:6d}", flush=True)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
