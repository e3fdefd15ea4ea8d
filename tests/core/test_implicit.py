"""Rules of `jaxridge.core.implicit` inside loops and conditionals of a user, to the third order.

Reverse mode of `jax.lax.scan` takes the loop apart and puts the plain value of a function with a rule in its place, so
that what was frozen stays frozen in the next derivative, silently; `vmap` takes the batch axes of a value and of its
rule to be the same. Here f = x⁴y and a root are stated by frozen numbers at every level, and the same programs on plain
powers say what is right.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxridge.core.implicit import derived, first_order_only, linear_root, map_with_rules, root

still = jax.lax.stop_gradient

# The derivative of each is stated through the next one.
square = derived(lambda a: still(a) ** 2, lambda a: a * a)
cube = derived(lambda a: still(a) ** 3, lambda a: a * square(a))
quartic = derived(lambda d: {"f": still(d["a"]) ** 4 * still(d["y"])}, lambda d: {"f": d["a"] * cube(d["a"]) * d["y"]})


def by_root(a, y):
    """x of x³ = a¹²y³."""
    return root(lambda x: x**3 - a**12 * y**3, still(a**4 * y))


def by_linear_root(a, y):
    """x of x/y = a⁴, and of its own transpose."""
    x = linear_root(lambda x: x / y - a**4, still(a**4 * y)[None], lambda b: b * still(y), lambda b: b * still(y))
    return x[0]


WAYS = {
    "derived": lambda a, y: quartic({"a": a, "y": y})["f"],
    "root": by_root,
    "linear_root": by_linear_root,
    "map_with_rules": lambda a, y: jnp.mean(map_with_rules(lambda s: quartic({"a": a, "y": s * y})["f"], STEPS)) / MEAN,
}
STEPS = jnp.array([1.0, 2.0, 0.5])
MEAN = 3.5 / 3


def by_powers(a, y):
    return a**4 * y


def scan(body, start):
    return jax.lax.scan(lambda c, s: (body(c, s), None), start, STEPS)[0]


# Programs of f = a⁴y in one x.
SHAPES = {
    "scan over inputs": lambda f, x: scan(lambda c, s: c + f(s * x, jnp.cos(x)), 0.0 * x),
    "scan over a carry": lambda f, x: scan(lambda c, s: jnp.sin(f(s * c, x)), x),
    "map": lambda f, x: jnp.sum(jax.lax.map(lambda s: f(s * x, x), STEPS)),
    "map of vmap": lambda f, x: jnp.sum(
        jax.lax.map(lambda s: jnp.sum(jax.vmap(f, (0, None))(s * x * STEPS, x)), STEPS)
    ),
    "vmap of scan": lambda f, x: jnp.sum(jax.vmap(lambda z: scan(lambda c, s: jnp.sin(f(s * c, x)), z))(x * STEPS)),
    "jit in scan": lambda f, x: scan(lambda c, s: c + jax.jit(f)(s * x, c), x),
    "checkpoint in scan": lambda f, x: scan(jax.checkpoint(lambda c, s: c + f(s * x, c)), x),
    "cond in scan": lambda f, x: scan(lambda c, s: jax.lax.cond(s > 0.7, lambda c: f(s * x, c), lambda c: 2 * c, c), x),
    "scan in scan": lambda f, x: scan(lambda c, s: scan(lambda d, t: jnp.sin(f(t * d, x)), c) * s, x),
    "map in scan, invariant": lambda f, x: scan(
        lambda c, s: jnp.sin(jnp.sum(jax.lax.map(lambda t: t * f(s * c, c), STEPS))), x
    ),
    "map in scan in scan": lambda f, x: scan(
        lambda e, u: scan(lambda c, s: jnp.sin(e + u + jnp.sum(jax.lax.map(lambda t: t * f(s * c, e), STEPS))), u * e),
        x,
    ),
    "vmap of map, invariant": lambda f, x: jnp.sum(
        jax.vmap(lambda z: jnp.sin(jnp.sum(jax.lax.map(lambda t: f(z, t * x), STEPS))))(x * jnp.arange(1.0, 5.0))
    ),
    "fori_loop": lambda f, x: jax.lax.fori_loop(0, 3, lambda i, c: jnp.sin(f(c, x)), x),
    "cond": lambda f, x: jax.lax.cond(x > 0, lambda x: f(x, x), lambda x: x, x),
    "checkpoint": lambda f, x: jax.checkpoint(lambda x: f(x, x))(x),
    "plain": lambda f, x: f(x, x),
}
MODES = {"r": jax.grad, "f": lambda h: lambda x: jax.jvp(h, (x,), (1.0,))[1]}
ORDERS = ("r", "f", "fr", "rr", "rf", "ff", "frr", "rrr", "rfr")


def differentiated(h, order):
    for mode in reversed(order):
        h = MODES[mode](h)
    return h


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_in_programs_of_a_user(shape, request):
    """All orders and ways with ``--whole``; those that show most otherwise."""
    whole = request.config.getoption("--whole")
    orders = ORDERS if whole else ("r", "rr")
    ways = WAYS if whole or shape in ("scan over a carry", "vmap of map, invariant") else {"derived": WAYS["derived"]}

    def every(f):
        return jax.jit(lambda x: [differentiated(lambda x: SHAPES[shape](f, x), order)(x) for order in orders])

    want = every(by_powers)(0.83)
    for name, way in ways.items():
        np.testing.assert_allclose(every(way)(0.83), want, rtol=1e-9, err_msg=f"{name}, {orders}")


def _with_by_product(x):
    return jnp.sum(x**2), first_order_only(jnp.sum(jax.lax.stop_gradient(x)), x, None)


THROUGH = {
    "jit": lambda x: jax.jit(_with_by_product)(x),
    "scan": lambda x: jax.lax.scan(lambda c, t: (c, _with_by_product(t * x)), 0.0, jnp.ones(1))[1],
    "cond": lambda x: jax.lax.cond(x[1] > 0, _with_by_product, _with_by_product, x),
    "checkpoint": lambda x: jax.checkpoint(_with_by_product)(x),
    "vmap": lambda x: jax.vmap(_with_by_product)(x[None]),
}


@pytest.mark.parametrize("through", THROUGH)
def test_a_by_product_is_nan_where_it_is_used_and_nothing_where_it_is_not(through):
    x = jnp.arange(3.0)
    gradient = lambda i: jax.grad(lambda x: jnp.sum(THROUGH[through](x)[i]))(x)  # noqa: E731
    np.testing.assert_allclose(gradient(0), 2 * x)
    assert np.all(np.isnan(gradient(1)))
