"""Ridge on meshes that its arguments name, each by its kind and how many devices it has.

Run by test_mesh.py in a process with eight devices.
"""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxridge as jxr
from jaxridge import select
from jaxridge.linear import OnMesh

rng = np.random.default_rng(0)
N, D = 1600, 5
X = rng.standard_normal((N, D)) + 100.0
Y = X @ rng.standard_normal((D, 2)) + rng.standard_normal((N, 2))
W = rng.uniform(0.5, 2.0, N)
LAMS, LAM = np.array([0.1, 10.0]), np.array(1.0)
TERMS = {"unpenalized": 2, "standardize": True, "penalty": np.array([1.0, 2.0, 1.0, 1.0, 0.5])}
COLLECTIVE = re.compile(r"= (.*?) (?:all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(")


def largest(program, *args):
    """Numbers in the largest collective of a compiled program."""
    text = jax.jit(program).lower(*args).compile().as_text()
    shapes = [shape for line in COLLECTIVE.findall(text) for shape in re.findall(r"\[([\d,]*)\]", line)]
    return max((int(np.prod([int(k) for k in shape.split(",") if k])) for shape in shapes), default=0)


def path(X, y, weights, **more):
    found = jxr.ridge_path(X, y, LAMS, weights=weights, **TERMS, **more)
    return found.coef, found.intercept, found.dof, found.rss


def chosen(X, y, weights, **more):
    found = jxr.ridge_cv(X, y, LAMS, rule=select.gcv, weights=weights, **more)
    return found.scores, found.fit.coef


def scalar(lam, X, y, weights, **more):
    fit = jxr.ridge(X, y, lam, weights=weights, **TERMS, **more)
    return jnp.sum(jnp.cos(fit.coef)) + jnp.sum(jnp.cos(fit.rss / N))


def agree(found, wanted, rtol):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=rtol, atol=rtol * float(np.max(np.abs(b))))


def check(kind, devices):
    mesh = jax.make_mesh((devices,), ("rows",), axis_types=(kind,), devices=jax.devices()[:devices])
    on = lambda *arrays: [jax.device_put(x, NamedSharding(mesh, P("rows"))) for x in arrays]  # noqa: E731
    args = on(X, Y, W)
    here = (X, Y, W)
    # Arrays at hand say how they lie.
    agree(path(*args), path(*here), 1e-10)
    agree(chosen(*args), chosen(*here), 1e-10)
    if devices < 8:
        return
    agree(jxr.ridge(args[0], args[1][:, 0], LAM).coef, jxr.ridge(X, Y[:, 0], LAM).coef, 1e-10)
    # Traced ones of an Auto mesh do not, and the solver does.
    more = {"solver": OnMesh(mesh, "rows")} if kind == AxisType.Auto else {}
    with jax.set_mesh(mesh):
        slope = lambda lam, *args: jax.grad(scalar)(lam, *args, **more)  # noqa: E731
        programs = (
            lambda *args: path(*args, **more),
            lambda *args: chosen(*args, **more),
            lambda *args: slope(jnp.asarray(LAM), *args),
        )
        agree(jax.jit(programs[0])(*args), path(*here), 1e-10)
        agree(jax.jit(slope)(jnp.asarray(LAM), *args), jax.grad(scalar)(jnp.asarray(LAM), *here), 1e-9)
        p = 1 + D + 2
        for program in programs:
            moved = largest(program, *args)
            assert 0 < moved <= devices * p * p, moved
        every = lambda lam, *args: jax.grad(scalar, argnums=range(4))(lam, *args, **more)  # noqa: E731
        agree(
            jax.jit(every)(jnp.asarray(LAM), *args),
            jax.grad(scalar, argnums=range(4))(*map(jnp.asarray, (LAM, *here))),
            1e-8,
        )
    if kind == AxisType.Explicit:
        for rule in (select.loo, select.kfold(5)):
            with pytest.raises(ValueError, match=r"pass select\.gcv"):
                jxr.ridge_cv(*args[:2], LAMS, rule=rule)
    else:
        agree(jxr.ridge_cv(*args[:2], LAMS).scores, jxr.ridge_cv(X, Y, LAMS).scores, 1e-9)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for kind, devices in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        check(AxisType[kind], int(devices))
    print("all agree")
