"""Derivatives along a line through all arguments, in every mode, against differences of fourth order."""

import jax
import jax.numpy as jnp
import numpy as np


def check_derivatives(f, args, *, rtol, atol=0.0, order=2, step=2e-3, reverse_twice=True, keep_zeros=False):
    """Of ``f``, or of a generic number made of all that it returns; one program, compiled once.

    Differences are wrong by step⁴/30 times a fifth derivative, and by rounding over step. ``keep_zeros`` moves no entry
    that is 0.
    """
    rng = np.random.default_rng(8)
    directions = jax.tree.map(lambda x: jnp.asarray(0.2 * rng.standard_normal(jnp.shape(x))), args)
    if keep_zeros:
        directions = jax.tree.map(lambda x, d: jnp.where(x == 0, 0.0, d), args, directions)

    def line(h):
        leaves = jax.tree.leaves(f(*jax.tree.map(lambda x, d: x + h * d, args, directions)))
        return sum(
            x if x.ndim == 0 else jnp.sum(jnp.cos(jnp.arange(x.size, dtype=x.dtype).reshape(x.shape) + x))
            for x in leaves
        )

    def orders(h):
        """The value, first derivatives forward and reverse, second ones forward over each and reverse twice."""
        along = (h,), (jnp.ones_like(h),)
        forward, reverse = lambda h: jax.jvp(line, (h,), (jnp.ones_like(h),)), jax.value_and_grad(line)
        if order == 1:
            value, first = forward(h)
            return value, [first, reverse(h)[1]], []
        (value, first), (_, twice) = jax.jvp(forward, *along)
        (_, slope), (_, mixed) = jax.jvp(reverse, *along)
        return value, [first, slope], [twice, mixed] + [jax.grad(jax.grad(line))(h)] * reverse_twice

    program = jax.jit(orders)
    around = [program(step * k) for k in (-2.0, -1.0, 1.0, 2.0)]
    _, first, second = program(0.0)

    def difference(of):
        a, b, c, d = (of(at) for at in around)
        return (a - 8 * b + 8 * c - d) / (12 * step)

    np.testing.assert_allclose(first, np.full(len(first), difference(lambda at: at[0])), rtol=rtol, atol=atol)
    np.testing.assert_allclose(second, np.full(len(second), difference(lambda at: at[1][0])), rtol=rtol, atol=atol)
