"""The exact subproblem against its optimality conditions, SciPy's values and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lines import check_derivatives
from scipy.optimize._trustregion_exact import IterativeSubproblem

import jaxridge as jxr

KINDS = ("definite", "indefinite", "singular", "hard", "nearly hard", "hard, twice", "no gradient")
RADII = (1e-8, 1.0, 1e8, 0.03, 40.0)
solve = jax.jit(jax.vmap(jxr.trust_region_subproblem))


def case(rng, n, kind, radius):
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    e = np.sort(rng.standard_normal(n) * 10 ** rng.uniform(-2, 2))
    if kind == "definite":
        e = np.sort(np.abs(e)) + 1e-3
    elif kind == "singular":
        e = np.abs(e)
        e[: max(1, n // 3)] = 0.0
    elif kind != "no gradient":
        e[0] = -np.max(np.abs(e)) - 0.1
    if kind == "hard, twice" and n > 1:
        e[1] = e[0]
    c = rng.standard_normal(n) * 10 ** rng.uniform(-3, 3)
    if kind.startswith("hard"):
        c[e == e[0]] = 0.0
    elif kind == "nearly hard":
        c[0] *= 10 ** rng.uniform(-14, -8)
    elif kind == "no gradient":
        c[:] = 0.0
    H = (Q * e) @ Q.T
    return (H + H.T) / 2, Q @ c, radius


def cases(n, count, seed=0):
    rng = np.random.default_rng([seed, n])
    rows = [case(rng, n, KINDS[i % len(KINDS)], RADII[i % len(RADII)]) for i in range(count)]
    return tuple(map(np.array, zip(*rows, strict=True)))


# 10 000 in all.
@pytest.mark.parametrize(("n", "count"), [(1, 2500), (2, 2500), (5, 2500), (20, 2000), (100, 500)])
def test_conditions_of_the_global_minimum(n, count):
    H, g, radius = cases(n, count)
    found = solve(H, g, radius)
    p, lam = np.asarray(found.step), np.asarray(found.multiplier)
    size, length, slope = np.linalg.norm(H, 2, axis=(1, 2)), np.linalg.norm(p, axis=1), np.linalg.norm(g, axis=1)
    residual = np.linalg.norm(np.einsum("kij,kj->ki", H, p) + lam[:, None] * p + g, axis=1)
    assert np.all(residual <= 1e-10 * (slope + (size + lam) * length))
    least = np.linalg.eigvalsh(H)[:, 0]
    eps = np.finfo(float).eps
    assert np.all(lam >= 0)
    assert np.all(least + lam >= -10 * n * eps * size)
    assert np.all(length <= radius * (1 + 100 * eps))
    # Complementarity: either no multiplier, to rounding of H, or the boundary.
    assert np.all((lam <= 10 * n * eps * size) | (length >= radius * (1 - 100 * eps)))


@pytest.mark.parametrize("n", [2, 5, 20])
def test_value_is_no_worse_than_that_of_scipy(n):
    problems = cases(n, 70, seed=1)
    ours = np.asarray(solve(*problems).step)
    for H, g, radius, p in zip(*problems, ours, strict=True):
        if not g.any():
            continue  # SciPy takes a gradient of zero for the end
        derivatives = {"jac": lambda x, g=g: g, "hess": lambda x, H=H: H}
        theirs = IterativeSubproblem(np.zeros(n), lambda x: 0.0, **derivatives, k_easy=1e-10, k_hard=1e-10)
        q, _ = theirs.solve(radius)
        q = q * min(1.0, radius / np.linalg.norm(q))  # it may overstep by its tolerance
        value = lambda p: g @ p + 0.5 * p @ H @ p  # noqa: B023, E731
        scale = np.linalg.norm(g) * radius + np.linalg.norm(H, 2) * radius**2
        assert value(p) <= value(q) + 1e-12 * scale


def test_hard_cases_are_said():
    assert np.asarray(solve(*(np.array([x]) for x in (np.diag([1.0, -1.0]), [2.0, 0.0], 2.0))).hard).all()
    easy = jxr.trust_region_subproblem(np.diag([1.0, -1.0]), np.array([2.0, 1e-3]), 2.0)
    assert not easy.hard
    # No part along the eigenvector, but the rest leaves the ball before the pole.
    outside = jxr.trust_region_subproblem(np.diag([1.0, -1.0]), np.array([20.0, 0.0]), 2.0)
    assert not outside.hard
    np.testing.assert_allclose(outside.step, [-2.0, 0.0], atol=1e-14)
    np.testing.assert_allclose(outside.multiplier, 9.0, rtol=1e-14)


@pytest.mark.parametrize("radius", [0.3, 50.0])
def test_derivatives(radius):
    rng = np.random.default_rng(3)
    H = rng.standard_normal((4, 4))
    H, g = jnp.asarray(H @ H.T + np.eye(4) if radius == 50.0 else H + H.T), jnp.asarray(rng.standard_normal(4))

    def answer(H, g, radius):
        found = jxr.trust_region_subproblem(H, g, radius)
        return jnp.append(found.step, found.multiplier)

    check_derivatives(answer, (H, g, jnp.asarray(radius)), rtol=1e-7)


def test_a_hard_case_has_no_derivative_and_spoils_no_other():
    H = jnp.stack([jnp.diag(jnp.array([1.0, -1.0])), jnp.eye(2)])
    g, radius = jnp.array([[2.0, 0.0], [2.0, 1.0]]), jnp.array([2.0, 1.0])
    gradient = jax.vmap(jax.grad(lambda g, H, r: jxr.trust_region_subproblem(H, g, r).step.sum()))(g, H, radius)
    assert np.isnan(gradient[0]).all()
    assert np.isfinite(gradient[1]).all()


def test_bad_input():
    found = jxr.trust_region_subproblem(jnp.eye(2), jnp.ones(2), -1.0)
    assert found.result == jxr.RESULTS.invalid_radius
    assert np.isnan(found.step).all()
    assert jxr.trust_region_subproblem(jnp.eye(2) * jnp.inf, jnp.ones(2), 1.0).result == jxr.RESULTS.nonfinite_input
    zero = jxr.trust_region_subproblem(jnp.eye(2), jnp.ones(2), 0.0)
    assert not zero.step.any()
    with pytest.raises(ValueError, match=r"H has shape \(2, 3\)"):
        jxr.trust_region_subproblem(jnp.ones((2, 3)), jnp.ones(2), 1.0)


def test_float32():
    H, g, radius = (x.astype(np.float32) for x in cases(5, 350))
    found = solve(H, g, radius)
    assert found.step.dtype == jnp.float32
    p, lam = np.asarray(found.step, float), np.asarray(found.multiplier, float)
    residual = np.linalg.norm(np.einsum("kij,kj->ki", H, p) + lam[:, None] * p + g, axis=1)
    size = np.linalg.norm(H, 2, axis=(1, 2))
    assert np.all(
        residual
        <= 100 * np.finfo(np.float32).eps * (np.linalg.norm(g, axis=1) + (size + lam) * np.linalg.norm(p, axis=1))
    )
