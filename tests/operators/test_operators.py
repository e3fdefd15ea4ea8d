"""Operators against brute force, SciPy and closed forms; adjoints, transforms, dtypes and derivatives of each."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage

from jaxridge import operators

RNG = np.random.default_rng(5)
BOUNDARIES = {"zero": "constant", "periodic": "wrap", "reflective": "reflect"}
PSF = RNG.uniform(size=(3, 5))
EVEN = PSF + PSF[::-1] + PSF[:, ::-1] + PSF[::-1, ::-1]  # symmetric to rounding
ANGLES = np.array([0.0, 0.3, np.pi / 4, 1.2, np.pi / 2, 2.0, 3 * np.pi / 4, 2.9])
SOURCES, RECEIVERS = np.array([[0.0, 0.5], [0.0, 3.2]]), np.array([[4.0, 5.0], [4.0, 0.5], [1.7, 2.2]])
MASK = RNG.uniform(size=(4, 5)) < 0.4
FACTORS = [RNG.standard_normal((3, 4)), RNG.standard_normal((6, 5))]


def columns(function, shape):
    """The dense matrix of a function of NumPy arrays."""
    return np.stack([np.ravel(function(e.reshape(shape))) for e in np.eye(np.prod(shape))], axis=1)


def convolution(psf, boundary):
    return lambda x: scipy.ndimage.convolve(x, psf, mode=BOUNDARIES[boundary])


def gaussian(width, boundary):
    return lambda x: scipy.ndimage.gaussian_filter(x, width, mode=BOUNDARIES[boundary])


def stacked(order, periodic):
    def of(x):
        parts = []
        for axis in range(x.ndim):
            if periodic and order == 1:
                parts.append(np.roll(x, -1, axis) - x)
            elif periodic:
                parts.append(np.roll(x, -1, axis) - 2 * x + np.roll(x, 1, axis))
            else:
                parts.append(np.diff(x, order, axis))
        return np.concatenate([part.ravel() for part in parts])

    return of


def joseph(shape, angles, bins, spacing):
    """Entry by entry from the formula."""
    n, m = shape
    A = np.zeros((len(angles), bins, n, m))
    for a, k, i, j in itertools.product(range(len(angles)), range(bins), range(n), range(m)):
        c, s, t = np.cos(angles[a]), np.sin(angles[a]), spacing * (k - (bins - 1) / 2)
        u, v = j - (m - 1) / 2, i - (n - 1) / 2
        distance, along = ((t - v * s) / c - u, c) if abs(c) >= np.sqrt(0.5) else ((t - u * c) / s - v, s)
        A[a, k, i, j] = max(0, 1 - abs(distance)) / abs(along)
    return A.reshape(len(angles) * bins, n * m)


def clipped(shape, ends):
    """Lengths of rays inside every cell, each clipped by itself (Liang and Barsky)."""
    A = np.zeros((len(ends), *shape))
    for r, (p, q) in enumerate(ends):
        for cell in np.ndindex(*shape):
            low, high = 0.0, 1.0
            for p_a, d_a, c_a in zip(p, q - p, cell, strict=True):
                if d_a == 0:
                    high = high if c_a <= p_a < c_a + 1 else 0.0
                else:
                    near, far = sorted([(c_a - p_a) / d_a, (c_a + 1 - p_a) / d_a])
                    low, high = max(low, near), min(high, far)
            A[r, *cell] = max(0, high - low) * np.linalg.norm(q - p)
    return A.reshape(len(ends), -1)


PAIRS = np.array([[s, r] for s in SOURCES for r in RECEIVERS])
RAYS3 = RNG.uniform(size=(5, 2, 3)) * np.array([2, 3, 2])

# Each with its dense matrix by somebody else.
OPERATORS = {
    "blur of a signal": (lambda: operators.blur(7, PSF[0]), lambda: columns(convolution(PSF[0], "reflective"), (7,))),
    "even blur": (lambda: operators.blur((4, 6), EVEN), lambda: columns(convolution(EVEN, "reflective"), (4, 6))),
    "separable": (lambda: operators.Separable(FACTORS), lambda: np.kron(*FACTORS)),
    "radon": (lambda: operators.radon((5, 4), ANGLES, 7), lambda: joseph((5, 4), ANGLES, 7, 1.0)),
    "radon, fine": (lambda: operators.radon((4, 5), ANGLES, 9, 0.6), lambda: joseph((4, 5), ANGLES, 9, 0.6)),
    "radon, coarse": (lambda: operators.radon((4, 4), ANGLES, 3, 2.3), lambda: joseph((4, 4), ANGLES, 3, 2.3)),
    "travel time": (lambda: operators.travel_time((4, 5), SOURCES, RECEIVERS), lambda: clipped((4, 5), PAIRS)),
    "rays": (lambda: operators.line_integrals((2, 3, 2), RAYS3), lambda: clipped((2, 3, 2), RAYS3)),
    "mask": (lambda: operators.subsample((4, 5), MASK), lambda: np.eye(20)[MASK.ravel()]),
    "stride": (
        lambda: operators.subsample((4, 5), np.s_[::2, 1::2]),
        lambda: columns(lambda x: x[::2, 1::2], (4, 5)),
    ),
    "repeated": (lambda: operators.subsample(5, jnp.array([1, 1, 4])), lambda: np.eye(5)[[1, 1, 4]]),
}
for _name in BOUNDARIES:
    OPERATORS |= {
        f"blur, {_name}": (
            lambda name=_name: operators.blur((4, 6), PSF, boundary=name),
            lambda name=_name: columns(convolution(PSF, name), (4, 6)),
        ),
        # Along the first axis wider than the image, so that the continuation goes on behind its first copy; along the
        # second few taps for its length.
        f"gaussian, {_name}": (
            lambda name=_name: operators.gaussian_blur((3, 15), [1.2, 0.7], boundary=name),
            lambda name=_name: columns(gaussian([1.2, 0.7], name), (3, 15)),
        ),
    }
for _shape, _order, _periodic in itertools.product([(7,), (4, 5)], (1, 2), (False, True)):
    OPERATORS[f"difference {_order} of {_shape}{', periodic' * _periodic}"] = (
        lambda shape=_shape, order=_order, periodic=_periodic: operators.difference(
            shape, order, boundary="periodic" if periodic else "free"
        ),
        lambda shape=_shape, order=_order, periodic=_periodic: columns(stacked(order, periodic), shape),
    )
DIFFERENCES = [name for name in OPERATORS if name.startswith("difference")]


def normal(space, seed=0, dtype=None):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(space.shape), dtype or space.dtype)


def close(a, b, atol=1e-13):
    np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("name", OPERATORS)
def test_contract(name):
    """Matrix, adjoint, vmap, reverse mode and its transpose, forward over reverse, float32, all by the dense matrix."""
    A, dense = OPERATORS[name][0](), OPERATORS[name][1]()
    X, Y = normal(jax.ShapeDtypeStruct((2, *A.domain.shape), float)), normal(A.codomain, 1)
    low = X[0].astype(jnp.float32)

    @jax.jit
    def all_of(A, X, Y, low):
        value, pull = jax.vjp(lambda x: A.mv(x), X[1])
        many = jax.vmap(lambda x: A.T.mv(A.mv(x)))(X)
        back = jax.linear_transpose(lambda y: A.T.mv(y), Y)(X[1])[0]
        curvature = jax.jvp(jax.grad(lambda x: jnp.sum(A.mv(x) ** 3)), (X[1],), (X[0],))[1]
        return A.as_matrix(), value, pull(Y)[0], many, back, curvature, A.mv(low)

    matrix, value, pulled, many, back, curvature, single = all_of(A, X, Y, low)
    x, z, y = np.asarray(X[1]).ravel(), np.asarray(X[0]).ravel(), np.asarray(Y).ravel()
    close(matrix, dense)
    close(np.ravel(value), dense @ x)
    close(pulled.ravel(), dense.T @ y)
    close(many.reshape(2, -1), np.asarray(X).reshape(2, -1) @ dense.T @ dense, 1e-11)
    close(back.ravel(), dense @ x)
    close(curvature.ravel(), dense.T @ (6 * (dense @ x) * (dense @ z)), 1e-10)
    assert single.dtype == jnp.float32
    close(np.ravel(single), dense @ z, 2e-5)
    assert A.T.T is A
    assert not lx.is_symmetric(A) or np.allclose(dense, dense.T, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["blur, zero", "radon", "rays"])
def test_adjoint(name):
    """To rounding in both dtypes; the dtype is that of the vector."""
    A = OPERATORS[name][0]()
    assert operators.check_adjoint(A, jax.random.key(0)) < 1e-15
    low = jax.ShapeDtypeStruct(A.domain.shape, jnp.float32)
    assert operators.check_adjoint(A.mv, jax.random.key(1), adjoint=A.T.mv, shape=low) < 1e-6


def test_eager_and_matrix_of_the_adjoint():
    A = operators.line_integrals((2, 3, 2), RAYS3)
    x = normal(A.domain)
    close(A.mv(x), jax.jit(lambda x: A.mv(x))(x))
    close(A.T.as_matrix(), A.as_matrix().T)


def fourth_order(f, x, h=2e-3):
    """Central differences, error h⁴/30 f⁽⁵⁾."""
    return (8 * (f(x + h) - f(x - h)) - (f(x + 2 * h) - f(x - 2 * h))) / (12 * h)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_derivatives_in_width(boundary):
    x, y = normal(jax.ShapeDtypeStruct((5, 23), float)), normal(jax.ShapeDtypeStruct((5, 23), float), 1)

    @jax.jit
    def f(w):
        A = operators.gaussian_blur((5, 23), w, boundary=boundary, radius=5)
        return jnp.vdot(y, A.T.mv(A.mv(x)))

    first, second = jax.jit(jax.grad(f)), jax.jit(jax.jacfwd(jax.grad(f)))
    assert abs(first(1.1) - fourth_order(f, 1.1)) < 1e-7
    assert abs(second(1.1) - fourth_order(first, 1.1)) < 1e-7
    close(jax.vmap(f)(jnp.array([0.8, 1.1])), [f(0.8), f(1.1)])


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_derivatives_in_kernel(boundary):
    x, y = normal(jax.ShapeDtypeStruct((5, 6), float)), normal(jax.ShapeDtypeStruct((5, 6), float), 1)
    way = jnp.asarray(0.1 * RNG.standard_normal(PSF.shape))

    @jax.jit
    def f(t):
        A = operators.blur((5, 6), jnp.asarray(PSF) + t * way, boundary=boundary)
        return jnp.vdot(y, jnp.sin(A.T.mv(A.mv(x))))

    first, second = jax.jit(jax.grad(f)), jax.jit(jax.jacfwd(jax.grad(f)))
    assert abs(first(0.2) - fourth_order(f, 0.2)) < 1e-7
    assert abs(second(0.2) - fourth_order(first, 0.2)) < 1e-7


def test_width_is_a_leaf():
    A = operators.gaussian_blur((4, 4), 1.0)
    slope = eqx.filter_grad(lambda A: jnp.sum(A.mv(normal(A.domain)) ** 2))(A)
    assert slope.width.shape == ()
    assert slope.width != 0


DIAGONALISED = {
    "gaussian, periodic": "fourier",
    "gaussian, reflective": "cosine",
    "blur, periodic": "fourier",
    "even blur": "cosine",
}


@pytest.mark.parametrize("name", [name for name in OPERATORS if "blur" in name or "gaussian" in name])
def test_diagonalised(name):
    """Where a transform diagonalises, it reproduces the operator, is orthonormal, and has the singular values."""
    A, D = OPERATORS[name][0](), operators.diagonalised(OPERATORS[name][0]())
    assert (D.basis if D else None) == DIAGONALISED.get(name)
    if D is not None:
        x = normal(A.domain)
        analyse, synthesise = jax.jit(lambda x: D.analyse(x)), jax.jit(lambda c: D.synthesise(c))
        c = analyse(x)
        assert D.symbol.dtype == c.dtype
        close(synthesise(D.symbol * c).ravel(), OPERATORS[name][1]() @ x.ravel())
        close(synthesise(c), x)
        close(np.linalg.norm(c), np.linalg.norm(x))
        close(np.sort(np.abs(D.symbol).ravel())[::-1], np.linalg.svd(OPERATORS[name][1]())[1])


def test_cosine_basis_is_scipys():
    x = normal(jax.ShapeDtypeStruct((5, 8), float))
    D = operators.diagonalised(operators.gaussian_blur((5, 8), 1.0))
    close(jax.jit(lambda x: D.analyse(x))(x), scipy.fft.dctn(x, norm="ortho"))


def test_traced_kernel_is_symmetric_if_said_to_be():
    def basis(psf, symmetric):
        return operators.diagonalised(operators.blur(5, psf, symmetric=symmetric))

    close(jax.jit(lambda p: basis(p, True).symbol)(EVEN[1]), operators.diagonalised(operators.blur(5, EVEN[1])).symbol)
    assert jax.jit(lambda p: basis(p, None))(EVEN[1]) is None


def test_separated():
    A = operators.gaussian_blur((4, 5), [1.0, 0.6], boundary="zero")
    F, G = operators.separated(A)
    close(np.kron(F, G), columns(gaussian([1.0, 0.6], "zero"), (4, 5)))
    assert operators.separated(operators.subsample(3, [0])) is None


@pytest.mark.parametrize("name", DIFFERENCES)
def test_pseudo_inverse(name):
    """L⁺ by NumPy, its transpose, an orthonormal null space, and LᵀL by its transform."""
    L, dense = OPERATORS[name][0](), OPERATORS[name][1]()
    u, x = normal(L.codomain), normal(L.domain, 1)
    inverse = np.linalg.pinv(dense)
    there, back = jax.jit(lambda u, x: (L.pinv(u), jax.linear_transpose(L.pinv, u)(x)[0]))(u, x)
    close(there.ravel(), inverse @ u)
    close(back, inverse.T @ x.ravel())
    assert jax.eval_shape(L.pinv, jax.ShapeDtypeStruct(u.shape, jnp.float32)).dtype == jnp.float32
    null = L.null.reshape(L.null.shape[0], -1)
    assert len(null) == dense.shape[1] - np.linalg.matrix_rank(dense)
    null = np.asarray(null)
    close(null @ null.T, np.eye(len(null)))
    close(dense @ null.T, 0)
    D = L.gram()
    assert (D is None) == (L.order == 2 and not L.periodic)
    if D is not None:
        product = jax.jit(lambda x: D.synthesise(D.symbol * D.analyse(x)))(x)
        close(product.ravel(), dense.T @ dense @ x.ravel())


@pytest.mark.parametrize("shape", [(300,), (60, 50)])
def test_pseudo_inverse_of_many_points(shape):
    """LL⁺ = I on a signal: the error is eps times the condition number, n²; its square would be 1e-6 here."""
    L = operators.difference(shape, 2)
    x = np.cos(np.pi * (np.arange(shape[0]) + 0.5) / shape[0]).reshape(-1, *[1] * (len(shape) - 1)) + np.zeros(shape)
    flat = np.asarray(L.null).reshape(L.null.shape[0], -1)
    outside = x.ravel() - flat.T @ (flat @ x.ravel())
    close(jax.jit(lambda x: L.pinv(L.mv(x)))(x).ravel(), outside, 1e-15 * max(shape) ** 2)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (3.0, -5.0)])
def test_radon_of_a_disc(centre):
    """Chords of a disc of radius 14, 2√(14² − s²); pixels along its border are worth about their own size."""
    n, radius, angles = 48, 14.0, np.linspace(0, np.pi, 7)
    at = (np.arange(8 * n) + 0.5) / 8 - n / 2
    fine = (at[None, :] - centre[0]) ** 2 + (at[:, None] - centre[1]) ** 2 <= radius**2
    x = fine.reshape(n, 8, n, 8).mean(axis=(1, 3))
    A = operators.radon((n, n), angles)
    t = np.arange(A.codomain.shape[1]) - (A.codomain.shape[1] - 1) / 2
    s = t[None, :] - (centre[0] * np.cos(angles) + centre[1] * np.sin(angles))[:, None]
    chords = 2 * np.sqrt(np.maximum(radius**2 - s**2, 0))
    inside = np.abs(np.abs(s) - radius) > 1.5
    found = np.asarray(jax.jit(lambda x: A.mv(x))(x))
    error = np.where(inside, found - chords, 0)
    assert np.abs(error).max() < 0.7
    assert np.sqrt((error**2).mean()) < 0.1
    assert abs(found.sum() / len(angles) / x.sum() - 1) < 2e-3


def test_geometry_is_constant():
    """Derivatives in angles and lengths are exactly zero, not wrong."""
    for A in (operators.radon((3, 3), [0.3]), operators.travel_time((4, 5), SOURCES, RECEIVERS)):
        slope = eqx.filter_jit(eqx.filter_grad(lambda A: jnp.sum(A.mv(jnp.ones(A.domain.shape)) ** 2)))(A)
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(slope))


def test_lengths_add_up_to_the_distance():
    A = operators.travel_time((4, 5), SOURCES, RECEIVERS)
    distance = np.linalg.norm(SOURCES[:, None] - RECEIVERS[None], axis=-1)
    close(A.mv(jnp.ones((4, 5))), distance)
    close(A.mv(jnp.ones((4, 5), jnp.float32)), distance, 1e-6)


def test_lineax_composes_and_solves():
    """Sums, products, multiples, dense and iterative solvers, and a derivative through one."""
    A, L = operators.gaussian_blur((4, 5), 0.6), operators.difference((4, 5))
    a, el = np.asarray(A.as_matrix()), np.asarray(L.as_matrix())
    x = normal(A.domain)
    normal_equations = A.T @ A + 0.1 * (L.T @ L)
    close(normal_equations.as_matrix(), a.T @ a + 0.1 * el.T @ el)
    close((operators.subsample((4, 5), MASK) @ A).mv(x), (a @ x.ravel())[MASK.ravel()])
    close(lx.linear_solve(A, x).value.ravel(), np.linalg.solve(a, x.ravel()), 1e-10)
    tall = operators.Separable([FACTORS[1], np.eye(3)])
    b = normal(tall.codomain)
    solution = lx.linear_solve(tall, b, lx.QR()).value
    close(solution.ravel(), np.linalg.lstsq(np.asarray(tall.as_matrix()), b.ravel())[0], 1e-11)
    positive = lx.TaggedLinearOperator(normal_equations, lx.positive_semidefinite_tag)
    solution = lx.linear_solve(positive, x, lx.CG(1e-12, 1e-12)).value
    close(solution.ravel(), np.linalg.solve(positive.as_matrix(), x.ravel()), 1e-9)
    close(lx.materialise(A).mv(x), A.mv(x))
    close(lx.diagonal(A), np.diagonal(a))
    close(lx.tridiagonal(A)[1], np.diagonal(a, -1))

    def solved(w):
        return jnp.sum(lx.linear_solve(operators.gaussian_blur((4, 5), w, radius=3), x).value ** 2)

    assert abs(jax.grad(solved)(0.4) - fourth_order(solved, 0.4, 1e-3)) < 1e-5


WRONG = {
    "shifted adjoint": (lambda x: jnp.roll(x, 1), lambda y: jnp.roll(y, 1)),
    "factor": (lambda x: 2 * x, lambda y: y),
    "constant": (lambda x: x + 1, lambda y: y),
    "not linear": (lambda x: jnp.abs(x), lambda y: jnp.abs(y)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_adjoints_are_found(name):
    forward, adjoint = WRONG[name]
    assert operators.check_adjoint(forward, jax.random.key(1), adjoint=adjoint, shape=(4, 5)) > 0.03


def test_right_adjoints_pass():
    M = jnp.asarray(FACTORS[0])
    good = operators.check_adjoint(lambda x: M @ x, jax.random.key(1), adjoint=lambda y: M.T @ y, shape=4)
    assert good < 1e-15
    space = {"a": jax.ShapeDtypeStruct((4,), float), "b": jax.ShapeDtypeStruct((2, 2), float)}
    trees = lx.FunctionLinearOperator(lambda v: (M @ v["a"], 3.0 * v["b"]), space)
    assert operators.check_adjoint(trees, jax.random.key(1)) < 1e-15
    low = jax.ShapeDtypeStruct((4,), jnp.float32)
    low_M = M.astype(jnp.float32)
    found = operators.check_adjoint(lambda x: low_M @ x, jax.random.key(1), adjoint=lambda y: low_M.T @ y, shape=low)
    assert found.dtype == jnp.float32
    assert found < 1e-6


MISUSE = {
    "odd lengths": lambda: operators.blur((4, 4), np.ones((2, 3))),
    "psf has shape (3,)": lambda: operators.blur((4, 4), np.ones(3)),
    "crop the psf": lambda: operators.blur((4, 4), np.ones((5, 3))),
    "psf is complex": lambda: operators.blur(4, np.ones(3) * 1j),
    "boundary is 'mirror'": lambda: operators.blur(4, np.ones(3), boundary="mirror"),
    "shape is (2, 2, 2)": lambda: operators.blur((2, 2, 2), np.ones((1, 1, 1))),
    "boundary is 'free'": lambda: operators.gaussian_blur(4, 1.0, boundary="free"),
    "width is 0.0": lambda: operators.gaussian_blur(4, 0.0),
    "width has shape (3,)": lambda: operators.gaussian_blur((4, 4), [1.0, 1.0, 1.0]),
    "width is traced": lambda: jax.jit(lambda w: operators.gaussian_blur(4, w).mv(jnp.ones(4)))(1.0),
    "radius is 1.5": lambda: operators.gaussian_blur(4, 1.0, radius=1.5),
    "one matrix for each axis": lambda: operators.Separable([np.ones(3)]),
    "order is 3": lambda: operators.difference(5, 3),
    "more than 2 points": lambda: operators.difference((5, 2), 2),
    "u has shape (3,)": lambda: operators.difference(5).pinv(jnp.ones(3)),
    "angles has shape ()": lambda: operators.radon((4, 4), 1.0),
    "angles is traced": lambda: jax.jit(lambda a: operators.radon((4, 4), a).mv(jnp.ones((4, 4))))(jnp.ones(2)),
    "spacing is 0.0": lambda: operators.radon((4, 4), [0.0], spacing=0),
    "bins is 0": lambda: operators.radon((4, 4), [0.0], 0),
    "shape is 4": lambda: operators.radon(4, [0.0]),
    "sources lie outside": lambda: operators.travel_time((2, 2), [[0.0, 2.5]], [[0.0, 0.0]]),
    "receivers has shape": lambda: operators.travel_time((2, 2), [[0.0, 2.0]], [0.0, 0.0]),
    "rays has shape": lambda: operators.line_integrals((2, 2), [[0.0, 2.0]]),
    "rays lie outside": lambda: operators.line_integrals((2, 2), [[[0.0, 2.0], [-1.0, 0.0]]]),
    "where does not index": lambda: operators.subsample(3, [5]),
    "where is traced": lambda: jax.jit(lambda i: operators.subsample(3, i).mv(jnp.ones(3)))(jnp.array([1])),
    "vector has shape (3,)": lambda: operators.subsample(4, [1]).mv(jnp.ones(3)),
    "vector is complex128": lambda: operators.subsample(3, [1]).mv(np.ones(3) * 1j),
    "vector is int": lambda: operators.subsample(3, [1]).mv(jnp.arange(3)),
    "dtype is": lambda: operators.subsample(3, [1], dtype=jnp.complex128),
    "A is an operator": lambda: operators.check_adjoint(operators.subsample(3, [1]), jax.random.key(0), shape=3),
    "A is a function": lambda: operators.check_adjoint(jnp.sin, jax.random.key(0), shape=3),
    "adjoint gives 3 numbers": lambda: operators.check_adjoint(
        lambda x: x[1:], jax.random.key(0), adjoint=lambda y: jnp.pad(y, 1)[:3], shape=4
    ),
}


@pytest.mark.parametrize("message", MISUSE)
def test_misuse(message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        MISUSE[message]()
