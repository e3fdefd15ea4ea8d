"""The contract of factored problems: every exit and every rule of every kind is a number or says what to use instead.

A number equals brute force: refits by dense algebra that know nothing of factors. `make test` judges a sample, one case
of each kind; run as a script this file judges and prints the whole table.
"""

import re
import sys
from functools import cache

import numpy as np

if __name__ == "__main__":
    import conftest  # noqa: F401

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.sparse import BCOO

import jaxridge as jxr
from jaxridge import kernel_methods, operators, select
from jaxridge.core.factored import Terms
from jaxridge.inverse import products
from jaxridge.inverse.problem import problem_of
from jaxridge.kernel_methods.form import KernelProblem

RNG = np.random.default_rng(12)
N, D = 9, 3
X = RNG.standard_normal((N, D))
Y = np.sign(X[:, :1] + [[0.3, -0.3]]) + 0.4 * RNG.standard_normal((N, 2))
SIGNS = np.sign(Y[:, :1])
LABELS = {1: SIGNS, 2: np.hstack([SIGNS > 0, SIGNS < 0]).astype(float)}  # of misclassification: ±1, or one-hot
WEIGHTS = np.exp(0.5 * RNG.standard_normal(N)) * (np.arange(N) != 4)
NEW, NEW_Y = RNG.standard_normal((4, D)), RNG.standard_normal((4, 2))
KEY, NOISE, FOLDS = jax.random.key(3), 0.2, 3
KERNEL = jxr.kernels.Matern12(0.5)
DIFFERENCE = np.diff(np.eye(D), axis=0)
RING = np.array([0.5, 0.3, 0.1, 0.0, 0.0, 0.0, 0.0, 0.1, 0.3])  # a periodic blur of nine numbers

# name: (weights, targets, λ)
CASES = {
    "plain": (None, 1, 0.3),
    "weight zero": (WEIGHTS, 1, 0.3),
    "two targets": (None, 2, 0.3),
    "λ = 0": (None, 1, 0.0),
}
EXITS = (
    "coef",
    "rss",
    "norm",
    "dof",
    "residual_dof",
    "logdet",
    "loo_residual",
    "one_minus_leverage",
    "predict_at",
    "fold",
)

# Refused by a ValueError that names what to use; undefined where brute force is not finite; flagged by a result code.
RIGHT = ("equal", "refused", "undefined", "flagged")


class Model:
    """Brute force: coefficients by dense algebra from any rows and weights, everything else by refitting."""

    def __init__(self, y, weights, lam):
        self.y, self.w, self.lam = y, np.ones(len(y)) if weights is None else weights, lam

    def coef(self, y=None, w=None, lam=None):
        raise NotImplementedError

    def predicted(self, coef, new=False):
        raise NotImplementedError

    def squared(self, coef):
        """What λ multiplies."""
        raise NotImplementedError

    def at(self, lam):
        """The same problem at another λ."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, lam=lam)
        return other

    def residual(self):
        return self.y - self.predicted(self.coef())

    def rss(self):
        return self.w @ self.residual() ** 2

    def norm(self):
        return np.sqrt(self.squared(self.coef()))

    def hat(self):
        return self.predicted(self.coef(np.eye(len(self.y))))

    def dof(self):
        # A row of weight zero is predicted, and takes no part.
        return np.trace(self.hat())

    def residual_dof(self):
        return np.sum(self.w > 0) - self.dof()

    def one_minus_leverage(self):
        return 1.0 - np.diag(self.hat())[:, None]

    def without(self, rows):
        """Errors of the fit without some rows, at those rows."""
        w = self.w.copy()
        w[rows] = 0.0
        return (self.y - self.predicted(self.coef(w=w)))[rows]

    def loo_residual(self):
        return np.concatenate([self.without([i]) for i in range(len(self.y))])

    def fold(self):
        blocks = np.array_split(np.arange(len(self.y)), FOLDS)
        return np.array([np.average(self.without(rows) ** 2, axis=0, weights=self.w[rows]) for rows in blocks])

    def predict_at(self):
        return self.predicted(self.coef(), new=True)


class Linear(Model):
    """min Σω(y − [A Z]w)² + λ‖Lw‖²: L's null space is free."""

    def __init__(self, A, L, new, y, weights, lam):
        super().__init__(y, weights, lam)
        self.A, self.L, self.new = A, L, new

    def coef(self, y=None, w=None, lam=None):
        y, w, lam = self.y if y is None else y, self.w if w is None else w, self.lam if lam is None else lam
        A = np.sqrt(w)[:, None] * self.A
        below = np.sqrt(lam) * self.L
        b = np.concatenate([np.sqrt(w)[:, None] * y, np.zeros((len(below), y.shape[1]))])
        return np.linalg.lstsq(np.concatenate([A, below]), b, rcond=None)[0]

    def predicted(self, coef, new=False):
        return (self.new if new else self.A) @ coef

    def squared(self, coef):
        return np.sum((self.L @ coef) ** 2, axis=0)

    def gram(self):
        """√ωAL⁺ outside the free directions: what logdet is of."""
        A, null = np.sqrt(self.w)[:, None] * self.A, np.linalg.svd(self.L)[2][np.linalg.matrix_rank(self.L) :].T
        Q = np.linalg.qr(A @ null)[0]
        M = A @ np.linalg.pinv(self.L)
        M = M - Q @ (Q.T @ M)
        return M @ M.T

    def free(self):
        return self.A.shape[1] - np.linalg.matrix_rank(self.L)

    def logdet(self):
        with np.errstate(all="ignore"):
            return np.linalg.slogdet(np.eye(len(self.y)) + self.gram() / self.lam)[1] if self.lam else np.inf


class Kernel(Model):
    """ΩKα + λα + ωb = Ωy, 1ᵀα = 0."""

    def __init__(self, K, new, y, weights, lam):
        super().__init__(y, weights, lam)
        self.K, self.new = K, new

    def coef(self, y=None, w=None, lam=None):
        y, w, lam = self.y if y is None else y, self.w if w is None else w, self.lam if lam is None else lam
        used, n = np.flatnonzero(w), len(self.K)
        M = np.zeros((len(used) + 1, len(used) + 1))
        M[:-1, :-1] = w[used, None] * self.K[np.ix_(used, used)] + lam * np.eye(len(used))
        M[:-1, -1], M[-1, :-1] = w[used], 1.0
        x = np.linalg.solve(M, np.concatenate([w[used, None] * y[used], np.zeros((1, y.shape[1]))]))
        full = np.zeros((n + 1, y.shape[1]))
        full[[*used, n]] = x
        return full

    def predicted(self, coef, new=False):
        return (self.new if new else self.K) @ coef[:-1] + coef[-1]

    def squared(self, coef):
        return np.sum(coef[:-1] * (self.K @ coef[:-1]), axis=0)

    def free(self):
        return 1

    def logdet(self):
        root = np.sqrt(self.w)
        u = root / np.linalg.norm(root)
        P = np.eye(len(u)) - np.outer(u, u)
        K = P @ (root[:, None] * self.K * root) @ P
        return np.linalg.slogdet(np.eye(len(u)) + K / self.lam)[1] if self.lam else np.inf


def rule_by_hand(name, m):
    """The score of a rule, from brute force."""
    rows, w = np.sum(m.w > 0), m.w / np.sum(m.w)
    e = m.loo_residual() if name in ("loo", "abs", "misclassification") else None
    if name in ("loo", "abs"):
        return w @ (e**2 if name == "loo" else np.abs(e))
    if name == "misclassification":
        p = m.y - e
        wrong = (p * m.y <= 0)[:, 0] if m.y.shape[1] == 1 else p.argmax(1) != m.y.argmax(1)
        assert set(np.unique(m.y)) <= {-1.0, 0.0, 1.0}
        return np.full(m.y.shape[1], w @ wrong)
    if name == "gcv":
        # Where every row is fitted it is 0/0, with a limit.
        m = m if m.residual_dof() > 1e-9 else m.at(1e-6)
        return rows * m.rss() / m.residual_dof() ** 2
    if name == "evidence":
        size, misfit = rows - m.free(), m.rss() + m.lam * m.squared(m.coef())
        return 0.5 * (size * np.log(2 * np.pi * misfit / size) + size + m.logdet())
    if name == "kfold":
        return m.fold().mean(0)
    if name == "holdout":
        return np.mean((NEW_Y[:, : m.y.shape[1]] - m.predict_at()) ** 2, axis=0)
    if name == "discrepancy":
        return exact_fit(np.abs(np.log(m.rss()) - np.log(rows * NOISE)))
    if name == "predictive_risk":
        return (m.rss() - 2 * NOISE * m.residual_dof()) / rows + NOISE
    if not m.lam:
        return np.full(m.y.shape[1], np.nan)
    h, lam = 1e-4, m.lam
    slope = lambda of: (of(-2) - 8 * of(-1) + 8 * of(1) - of(2)) / (12 * h * lam)  # noqa: E731
    if name == "quasi_optimality":
        return m.squared(lam * slope(lambda k: m.coef(lam=lam * (1 + k * h))))
    rho, eta = m.rss(), m.squared(m.coef())
    change = slope(lambda k: m.squared(m.coef(lam=lam * (1 + k * h))))
    above = 2 * rho * eta * (rho * eta + lam * change * (rho + lam * eta))
    return -above / (np.abs(change) * (rho**2 + lam**2 * eta**2) ** 1.5)


def exact_fit(logs):
    """The logarithm of a residual that is rounding says only that it is small."""
    return np.minimum(logs, 50.0)


def rules(new, targets=2):
    return {
        "loo": select.loo,
        "abs": select.leave_one_out(jnp.abs),
        "gcv": select.gcv,
        "evidence": select.evidence,
        "kfold": select.kfold(FOLDS),
        "holdout": select.holdout(new, NEW_Y[:, :targets]),
        "misclassification": select.misclassification,
        "discrepancy": select.discrepancy(NOISE),
        "predictive_risk": select.predictive_risk(NOISE),
        "l_curve": select.l_curve,
        "quasi_optimality": select.quasi_optimality,
    }


COLUMNS = (*EXITS, *rules(NEW))


def linear(solver):
    def make(weights, targets, lam):
        problem = jxr.design.make_design(X, Y[:, :targets], weights=weights)
        ones = np.ones((N, 1))
        brute = Linear(np.hstack([X, ones]), np.eye(D, D + 1), np.hstack([NEW, ones[:4]]), Y[:, :targets], weights, lam)
        return lambda: solver.factor(problem), brute, NEW

    return make


def sparse(**options):
    """The same by products with a sparse matrix."""
    A = operators.sparse(BCOO.fromdense(jnp.asarray(X)))
    solver = jxr.GolubKahan(tol=1e-13, **options)

    def make(weights, targets, lam):
        _, brute, _ = linear(None)(weights, targets, lam)
        problem = products.given(A, Y[:, :targets], weights=weights)
        return lambda: products.factored_of(problem, jnp.array([lam]), solver), brute, NEW

    return make


def triangle(weights, targets, lam):
    """By the R of √ω[X 1]: what is known of rows is their number."""
    w = np.ones(N) if weights is None else weights
    A, y = np.hstack([X, np.ones((N, 1))]), Y[:, :targets]
    Q, R = np.linalg.qr(np.sqrt(w)[:, None] * A)
    b = np.sqrt(w)[:, None] * y
    rest = np.sum((b - Q @ (Q.T @ b)) ** 2, axis=0)
    brute = Linear(A, np.eye(D, D + 1), np.hstack([NEW, np.ones((4, 1))]), y, weights, lam)
    known = {"rows": np.sum(w > 0), "rss": rest, "unpenalized": (D,)}
    return lambda: jxr.spectrum.from_triangle(R, Q.T @ b, **known), brute, brute.new


def kernel(solver):
    def make(weights, targets, lam):
        given = None if weights is None else jnp.asarray(weights)
        parts = {"points": jnp.asarray(X), "y": jnp.asarray(Y[:, :targets]), "weights": given}
        problem = KernelProblem(kernel=KERNEL, terms=Terms(intercept=True), **parts)
        K, new = np.asarray(KERNEL.matrix(X)), np.asarray(KERNEL.matrix(NEW, X))
        return lambda: solver.factor(problem, jnp.array([lam])), Kernel(K, new, Y[:, :targets], weights, lam), NEW

    return make


def tikhonov(L=None, **options):
    """A matrix, as such or by products; L a difference."""

    def make(weights, targets, lam):
        given = X if "matrix" in options else operators.function(lambda x: jnp.asarray(X) @ x, D)
        problem, solver = problem_of(given, Y[:, :targets], L=L, weights=weights, solver=options.get("solver"))
        dense = np.eye(D) if L is None else DIFFERENCE
        return (
            lambda: solver.factor(problem, jnp.array([lam])),
            Linear(X, dense, NEW, Y[:, :targets], weights, lam),
            NEW,
        )

    return make


def diagonal(weights, targets, lam):
    """A periodic blur."""
    A = operators.blur(N, jnp.asarray([0.1, 0.3, 0.5, 0.3, 0.1]), boundary="periodic")
    dense = np.asarray(A.as_matrix())
    solver, new = problem_of(A, Y[:, :targets])[1], np.eye(N)[:4]
    problem, _ = problem_of(A, Y[:, :targets], weights=weights, solver=solver)
    return lambda: solver.factor(problem), Linear(dense, np.eye(N), new, Y[:, :targets], weights, lam), new


KINDS = {
    "from_design": linear(jxr.spectrum.from_design),
    "from_gram": linear(jxr.spectrum.from_gram),
    "from_cholesky": linear(jxr.spectrum.from_cholesky),
    "from_triangle": triangle,
    "Eigen": kernel(kernel_methods.Eigen()),
    "Tridiagonal": kernel(kernel_methods.Tridiagonal()),
    "Cholesky": kernel(kernel_methods.Cholesky()),
    "Mixed": kernel(kernel_methods.Mixed()),
    "Iterative": kernel(jxr.Iterative(KEY, tol=1e-13, rank=4)),
    "Nystroem": kernel(jxr.Nystroem(centres=jnp.asarray(X))),
    "Direct": tikhonov(L=DIFFERENCE, matrix=True),
    "Diagonal": diagonal,
    "GolubKahan": tikhonov(L=operators.difference(D), solver=jxr.GolubKahan(tol=1e-13)),
    "GolubKahan, probes": tikhonov(L=operators.difference(D), solver=jxr.GolubKahan(KEY, tol=1e-13, probes=3)),
    "sparse": sparse(),
    "PerLam": tikhonov(L=operators.function(lambda x: x[1:] - x[:-1], D), solver=jxr.PerLam(tol=1e-14)),
}
# Sums over random probes, whose brute force takes the same probes.
PROBED = ("dof", "residual_dof", "logdet", "gcv", "evidence", "predictive_risk")


class Probed(Linear):
    """Traces as means of quadratic forms over the probes that the solver drew."""

    def __init__(self, model, probes):
        self.__dict__.update(model.__dict__, probes=np.asarray(probes))

    def mean(self, M):
        return np.mean(np.einsum("pi,ij,pj->p", self.probes, M, self.probes))

    def residual_dof(self):
        root = np.sqrt(self.w)
        with np.errstate(all="ignore"):
            similar = root[:, None] * self.hat() / np.where(root > 0, root, 1.0)
        return self.mean(np.eye(len(self.y)) - similar)

    def dof(self):
        return np.sum(self.w > 0) - self.residual_dof()

    def logdet(self):
        e, U = np.linalg.eigh(self.gram())
        with np.errstate(all="ignore"):
            return self.mean(U @ np.diag(np.log1p(np.maximum(e, 0.0) / self.lam)) @ U.T)


def with_labels(kind, weights, targets, lam):
    """The same problem with labels for targets, factored and by brute force."""
    global Y
    numbers, Y = Y, LABELS[targets]
    try:
        factor, brute, _ = KINDS[kind](weights, targets, lam)
    finally:
        Y = numbers
    return factor, brute


def judge(kind, case):
    """{column: "equal", "refused", "undefined" or what is wrong} of a kind in a case."""
    weights, targets, lam = CASES[case]
    factor, brute, new = KINDS[kind](weights, targets, lam)
    of_labels, brute_of_labels = with_labels(kind, weights, targets, lam)
    said, at = {}, jnp.array(lam)

    def numbers():
        try:
            factored, found = factor(), {}
        except ValueError as error:
            said.update(dict.fromkeys(COLUMNS, str(error)))
            return {}, None, None

        def of(name):
            if name in EXITS:
                if name == "predict_at":
                    return factored.predict_at("X", new, at[None])[0]
                if name == "fold":
                    rows = select.partition(N, FOLDS, None, None)
                    return factored.fold(rows).losses(factored, at, jnp.square, False)
                return getattr(factored, name)(at)
            factored_for = of_labels() if name == "misclassification" else factored
            return select.bind(rules(new, targets)[name], factored_for)(factored_for.problem, factored_for, at)

        for name in COLUMNS:
            try:
                found[name] = of(name)
            except ValueError as error:
                said[name] = str(error)
        if kind == "Nystroem":
            # The centres have an order of their own: what their coefficients come to at the points.
            found["coef"] = KERNEL.matrix(X, factored.points) @ found["coef"]
        solved = factored.result(at) == jxr.RESULTS.successful
        return found, getattr(factored, "probes", None), solved

    found, probes, solved = jax.jit(numbers)()
    probed = brute if probes is None else Probed(brute, probes)
    verdicts = {}
    for name in COLUMNS:
        if name in said:
            names_it = re.search(r"\buse (select|solver|operators|rss|from|a )|\bpass (select|solver)", said[name])
            verdicts[name] = "refused" if names_it else f"says {said[name]!r}"
            continue
        known = brute_of_labels if name == "misclassification" else probed if name in PROBED else brute
        verdict = compared(kind, name, np.asarray(found[name]), known)
        verdicts[name] = verdict if verdict in RIGHT or np.all(solved) else "flagged"
    return verdicts


def compared(kind, name, got, brute):
    with np.errstate(all="ignore"):
        want = getattr(brute, name)() if name in EXITS else rule_by_hand(name, brute)
    if name == "coef" and isinstance(brute, Kernel):
        want = brute.K @ want[:-1] if kind == "Nystroem" else want[:-1]
    got = exact_fit(got) if name == "discrepancy" else got
    want = np.broadcast_to(np.asarray(want, float), got.shape)
    if not np.all(np.isfinite(want)):
        return "undefined" if not np.any(np.isfinite(got)) else f"{got} where nothing is defined"
    # Traces of the mixed factor are those of float32; conjugate gradients end at their tolerance.
    if name == "gcv" and brute.residual_dof() < 1e-9 and np.all(np.isnan(got)):
        return "undefined"
    tol = 1e-4 if kind == "Mixed" else 1e-6 if kind in ("Iterative", "PerLam") or name in ("l_curve", "gcv") else 1e-7
    scale = max(np.max(np.abs(want)), 1e-3)
    off = np.max(np.abs(got - want)) / scale
    return "equal" if off <= tol else f"off by {off:.1e}: {np.ravel(got)[:3]} for {np.ravel(want)[:3]}"


@cache
def sample():
    """One case for each kind, so that all cases come up."""
    return [(kind, list(CASES)[i % len(CASES)]) for i, kind in enumerate(KINDS)]


@pytest.mark.parametrize(("kind", "case"), sample())
def test_every_exit_and_rule_is_right_or_says_what_to_use(kind, case):
    wrong = {name: verdict for name, verdict in judge(kind, case).items() if verdict not in RIGHT}
    assert not wrong


def main():
    print(f"{'kind':20}{'case':14}" + " ".join(f"{name[:9]:9}" for name in COLUMNS))
    count = dict.fromkeys((*RIGHT, "failed"), 0)
    for kind in KINDS:
        for case in CASES:
            verdicts, failed = judge(kind, case), {}
            for name, verdict in verdicts.items():
                count[verdict if verdict in RIGHT else "failed"] += 1
                if verdict not in RIGHT:
                    failed[name] = verdict
            cells = [verdicts[name] if verdicts[name] in RIGHT else "FAILED" for name in COLUMNS]
            print(f"{kind:20}{case:14}" + " ".join(f"{cell:9}" for cell in cells), flush=True)
            for name, verdict in failed.items():
                print(f"    {name}: {verdict}", flush=True)
    print(f"cells {sum(count.values())}, " + ", ".join(f"{name} {number}" for name, number in count.items()))
    return int(count["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
