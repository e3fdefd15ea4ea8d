"""Kernels against scikit-learn, their algebra, and their derivatives, also where points coincide."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.gaussian_process.kernels as gp
from lines import check_derivatives
from sklearn.metrics import pairwise

from jaxridge import kernels

RNG = np.random.default_rng(3)
SCALES = np.array([0.7, 1.2, 2.0])
X, Z = RNG.standard_normal((6, 3)), RNG.standard_normal((4, 3))
X[3] = X[0]
Z[1] = X[0]


def arc_cosine(order):
    """By the integral's closed form, from plain cosines."""

    def of(a, b):
        theta = np.arccos(np.clip(pairwise.cosine_similarity(a, b), -1, 1))
        lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None, :]
        return 1 - theta / np.pi if order == 0 else lengths * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / np.pi

    return of


def periodic(a, b):
    return np.exp(-2 * np.sum((np.sin(np.pi * (a[:, None] - b[None]) / 1.3) / 0.8) ** 2, axis=-1))


# Each with the same kernel by somebody else, and whether it is smooth where points coincide.
KERNELS = {
    "linear": (kernels.Linear(SCALES), lambda a, b: pairwise.linear_kernel(a / SCALES, b / SCALES), True),
    "polynomial": (kernels.Polynomial(3, 0.5, 2.0), lambda a, b: pairwise.polynomial_kernel(a, b, 3, 0.25, 0.5), True),
    "rbf": (kernels.RBF(SCALES), gp.RBF(SCALES), True),
    "rational quadratic": (kernels.RationalQuadratic(0.6, 1.3), gp.RationalQuadratic(1.3, 0.6), True),
    "matern 3/2": (kernels.Matern32(SCALES), gp.Matern(SCALES, nu=1.5), True),
    "matern 5/2": (kernels.Matern52(SCALES), gp.Matern(SCALES, nu=2.5), True),
    "periodic": (kernels.Periodic(1.3, 0.8), periodic, True),
    "cosine": (kernels.Cosine(), pairwise.cosine_similarity, True),
    "arc-cosine 1": (kernels.ArcCosine(1), arc_cosine(1), False),
    "arc-cosine 0": (kernels.ArcCosine(0), arc_cosine(0), False),
    "matern 1/2": (kernels.Matern12(SCALES), gp.Matern(SCALES, nu=0.5), False),
    "laplace": (kernels.Laplace(2.0), lambda a, b: pairwise.laplacian_kernel(a, b, 0.5), False),
}


@pytest.mark.parametrize("name", KERNELS)
def test_values(name):
    """Matrices, pairs and diagonals; the arccosine of the reference is itself good to √eps only."""
    kernel, reference, _ = KERNELS[name]
    tolerance = 3e-8 if name == "arc-cosine 0" else 1e-14

    @jax.jit
    def all_ways(X, Z):
        pairs = jax.vmap(lambda x: jax.vmap(lambda z: kernel(x, z))(X))(X)
        return kernel.matrix(X, Z), kernel.matrix(X), pairs, kernel.diagonal(X)

    across, within, pairs, diagonal = all_ways(X, Z)
    np.testing.assert_allclose(across, reference(X, Z), rtol=0, atol=tolerance)
    np.testing.assert_allclose(within, reference(X, X), rtol=0, atol=tolerance)
    np.testing.assert_allclose(within, pairs, atol=1e-14)
    np.testing.assert_allclose(diagonal, np.diagonal(within), rtol=1e-14)


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_hides_a_bad_point(name):
    """NaN in a coordinate reaches every pair of its point, and like infinity the pair of it with itself."""
    of = jax.jit(lambda X: (KERNELS[name][0].matrix(X), KERNELS[name][0].diagonal(X)))
    for bad in (np.nan, np.inf):
        K, diagonal = of(np.where(np.arange(18).reshape(6, 3) == 4, bad, X))
        assert not np.isfinite(K[1, 1])
        assert not np.isfinite(diagonal[1])
        if np.isnan(bad):
            assert np.all(np.isnan(K[1]))
            assert np.all(np.isnan(K[:, 1]))


@pytest.mark.parametrize("name", KERNELS)
def test_derivatives(name):
    """Order two in every number of the kernel and in the points, at repeated points where the kernel is smooth."""
    kernel, _, smooth = KERNELS[name]
    points = jnp.asarray(X[:4] if smooth else X[1:4] + np.array([[0.3], [0.0], [0.7]]))
    mix = jnp.asarray(RNG.standard_normal((points.shape[0],) * 2))
    leaves, static = eqx.partition(kernel, eqx.is_array)

    def combined(leaves, points):
        return jnp.sum(mix * eqx.combine(leaves, static).matrix(points))

    # The third derivative of this one jumps at 0, so that differences are wrong by the step.
    accuracy = {"step": 1e-5, "rtol": 3e-5} if name == "matern 3/2" else {"rtol": 1e-6}
    check_derivatives(combined, (leaves, points), **accuracy)


@pytest.mark.parametrize(
    ("kernel", "curvature"),
    [
        (kernels.Matern32(), -3.0),
        (kernels.Matern52(), -5.0 / 3.0),
        (kernels.Periodic(), -4.0 * np.pi**2),
        (kernels.Matern12(), 0.0),
        (kernels.Laplace(), 0.0),
    ],
)
def test_at_distance_zero(kernel, curvature):
    """The Hessian of k(x, z) at x = z in closed form, by pairs and by matrices; a kink has the derivative 0."""
    z = jnp.array([0.4, -0.2])
    ways = (lambda x: kernel(x, z), lambda x: kernel.matrix(x[None], z[None])[0, 0])
    for slope, hessian in jax.jit(lambda z: [(jax.grad(of)(z), jax.hessian(of)(z)) for of in ways])(z):
        np.testing.assert_allclose(slope, np.zeros(2), atol=1e-12)
        np.testing.assert_allclose(hessian, curvature * np.eye(2), rtol=1e-6, atol=1e-9)


def test_arc_cosine_curves_at_coinciding_points():
    """Order 1 near x = z is ‖x‖‖z‖ (1 − θ²/2 + ...), so its Hessian in x across the direction of z is 0 there."""
    z = jnp.array([2.0, 0.0])
    of = jax.jit(lambda x: kernels.ArcCosine(1)(x, z))
    slope, hessian = jax.jit(lambda x: (jax.grad(of)(x), jax.hessian(of)(x)))(z)
    np.testing.assert_allclose(slope, z, rtol=1e-12)
    expected = [(of(z + h) - 2 * of(z) + of(z - h)) / 1e-6 for h in 1e-3 * np.eye(2)]
    np.testing.assert_allclose(np.diagonal(hessian), expected, atol=1e-3)


def test_algebra_and_pytrees():
    """Sums, products, weights, maps and a user's own pair, with points that are a pytree."""
    points = {"place": jnp.asarray(X), "time": jnp.asarray(X[:, :1])}
    own = kernels.Pairwise(lambda p, q: 1.0 + p["time"][0] * q["time"][0])
    kernel = 2.0 * kernels.RBF().on(lambda p: p["place"]) * own + kernels.Linear().on(lambda p: p["time"]) * 0.5
    t = X[:, 0]
    expected = 2 * gp.RBF()(X, X) * (1 + np.outer(t, t)) + 0.5 * np.outer(t, t)
    np.testing.assert_allclose(kernel.matrix(points), expected, rtol=1e-13)
    np.testing.assert_allclose(kernel.diagonal(points), np.diagonal(expected), rtol=1e-13)
    assert not kernel.definite
    assert (kernels.RBF() + kernels.Linear()).definite
    assert [leaf.shape for leaf in jax.tree.leaves(eqx.filter(kernel, eqx.is_array))] == [(), (), (), ()]


def test_float32_keeps_a_unit_diagonal_far_from_the_origin():
    """Distances are about the mean: a million away from zero, near neighbours keep their kernel."""
    near = jnp.asarray(np.float32([[1e6], [1e6 + 0.5], [1e6 + 1]]))
    expected = gp.RBF()(np.array([[0.0], [0.5], [1.0]]))
    np.testing.assert_allclose(kernels.RBF().matrix(near), expected, rtol=1e-6)
    assert kernels.RBF().matrix(near).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.RBF(0.0), "scale is 0.0"),
        (lambda: kernels.RBF([1.0, -1.0]), "scale is"),
        (lambda: kernels.Periodic(period=0.0), "period is 0.0"),
        (lambda: -1.0 * kernels.RBF(), "weight is -1.0"),
        (lambda: kernels.Polynomial(0), "degree is 0"),
        (lambda: kernels.ArcCosine(2), "order is 2"),
        (lambda: kernels.RBF([1.0, 2.0]).matrix(jnp.ones((3, 4))), "scale has shape"),
        (lambda: kernels.RBF().matrix({"a": jnp.ones((3, 4))}), r"a point is a dict and RBF needs vectors.*\.on\("),
        (lambda: kernels.Matern32().diagonal({"a": jnp.ones((3, 4))}), "a point is a dict and Matern32"),
        # These would broadcast.
        (
            lambda: kernels.RBF().matrix(jnp.ones((3, 1)), jnp.ones((2, 4))),
            r"Z has points of shape \(4,\)",
        ),
        (lambda: kernels.Laplace().matrix(jnp.ones((3, 1)), jnp.ones((2, 4))), "Z has points of shape"),
        (lambda: kernels.Linear().matrix(jnp.ones((3, 1)), jnp.ones((2, 4))), "Z has points of shape"),
        (lambda: kernels.Precomputed().matrix(jnp.ones((2, 3)), jnp.ones((2, 2))), "column per point"),
        (lambda: kernels.Precomputed().diagonal(jnp.ones((2, 3))), "does not know"),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
