"""Which rule for λ comes closest to the best one, on classical ill-posed problems?

Each rule chooses from one grid of λ for 100 draws of 1 % noise. The figure is error(λ_rule) / min over λ of error(λ),
error being ‖x_λ − x‖, as its median and its 95th percentile: 1.00 is what nobody can beat.
"""

import jax
import jax.numpy as jnp
import numpy as np
from _peers import header

import jaxridge as jxr
from jaxridge import select, testproblems

jax.config.update("jax_enable_x64", True)

N, SEEDS, LEVEL = 64, 100, 0.01
PROBLEMS = [testproblems.shaw, testproblems.heat, testproblems.phillips, testproblems.foxgood]
RULES = {"gcv": select.gcv, "evidence": select.evidence}


def rows(problem):
    """(name of rule, median, 95th percentile, share of draws that end at an edge of the grid) for each rule."""
    keys = jax.random.split(jax.random.key(0), SEEDS)
    noisy = jax.vmap(lambda key: problem.noisy(key, LEVEL))(keys)
    # From where rounding takes over to where nothing is left of the solution.
    lams = jnp.linalg.norm(problem.A, 2) ** 2 * jnp.logspace(-20, 1, 400)

    def error(fit):
        return jnp.linalg.norm(fit - problem.x, axis=-1)

    best = jax.vmap(lambda b: jnp.min(error(jxr.ridge_path(problem.A, b, lams, intercept=False).coef)))(noisy)
    for name, rule in RULES.items():

        def ratio(b, least, rule=rule):
            choice = jxr.ridge_cv(problem.A, b, lams, rule=rule, intercept=False)
            return error(choice.fit.coef) / least, choice.at_edge

        ratios, at_edge = jax.jit(jax.vmap(ratio))(noisy, best)
        yield name, *np.percentile(ratios, [50, 95]), float(jnp.mean(at_edge))


def main():
    print(header())
    print(f"n = {N}, {SEEDS} draws of {100 * LEVEL:g} % noise: error over the least error, median and 95 %, at an edge")
    for call in PROBLEMS:
        problem = call(N)
        for name, median, high, edge in rows(problem):
            print(f"{problem.name:10} {name:12} {median:8.2f} {high:10.2f} {100 * edge:6.0f} %")


if __name__ == "__main__":
    main()
