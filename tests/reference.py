"""The right answers: ridge problems solved in exact rational arithmetic, roots taken with 60 digits.

Every float is a rational number, so the whole problem (weights, intercept, penalties, rank) is one over ℚ and
nothing is rounded before the end. After the unpenalised columns are projected out, Xc = C F with C of full
column rank and F of full row rank; with B = CᵀΩC and D = F P⁻¹ Fᵀ (both r × r) the solution is

    w = P⁻¹ Fᵀ v,      (B D + λ I) v = Cᵀ Ω yc,

for every λ ≥ 0, λ = 0 included: there it is the solution of least Σⱼ pⱼ wⱼ². Needs gmpy2 and mpmath (tests only).
"""

from dataclasses import dataclass
from functools import cached_property

import mpmath
import numpy as np
from gmpy2 import mpq
from mpmath import mp, mpf

mp.dps = 60


def rational(values):
    """Nested lists of exact rationals."""
    if values is None:
        return None
    if isinstance(values, (list, tuple, np.ndarray)):
        return [rational(value) for value in values]
    return values if isinstance(values, type(mpq(0))) else mpq(float(values))


def big(x):
    """A rational (or a nested list of them) as mpf with 60 digits; a float exactly."""
    if isinstance(x, (list, tuple, np.ndarray)):
        return [big(value) for value in x]
    if isinstance(x, type(mpq(0))):
        return mpf(int(x.numerator)) / mpf(int(x.denominator))
    return mpf(float(x)) if isinstance(x, np.floating) else mpf(x)


def transpose(A):
    return [list(column) for column in zip(*A, strict=True)]


def product(A, B):
    columns = transpose(B)
    return [[sum((a * b for a, b in zip(row, column, strict=True)), mpq(0)) for column in columns] for row in A]


def solve(A, B):
    """A⁻¹ B by Gauss-Jordan elimination; None if A is singular."""
    n = len(A)
    M = [list(row) + list(rhs) for row, rhs in zip(A, B, strict=True)]
    for j in range(n):
        pivot = next((i for i in range(j, n) if M[i][j] != 0), None)
        if pivot is None:
            return None
        M[j], M[pivot] = M[pivot], M[j]
        M[j] = [x / M[j][j] for x in M[j]]
        for i in range(n):
            if i != j and M[i][j] != 0:
                factor = M[i][j]
                M[i] = [x - factor * y for x, y in zip(M[i], M[j], strict=True)]
    return [row[n:] for row in M]


def rank_factors(A):
    """C of full column rank and F of full row rank with A = C F: pivot columns and reduced row echelon form."""
    M, pivots = [list(row) for row in A], []
    for j in range(len(A[0]) if A else 0):
        top = len(pivots)
        pivot = next((i for i in range(top, len(M)) if M[i][j] != 0), None)
        if pivot is None:
            continue
        M[top], M[pivot] = M[pivot], M[top]
        M[top] = [x / M[top][j] for x in M[top]]
        for i in range(len(M)):
            if i != top and M[i][j] != 0:
                factor = M[i][j]
                M[i] = [x - factor * y for x, y in zip(M[i], M[top], strict=True)]
        pivots.append(j)
    return [[row[j] for j in pivots] for row in A], M[: len(pivots)]


def spectral_norm(A):
    """‖A‖₂ of nested lists of mpf, of any size: scaled, then rounded to float64 for the SVD (good to 15 digits)."""
    largest = max((abs(x) for row in A for x in row), default=mpf(0))
    if largest == 0:
        return mpf(0)
    return largest * mpf(float(np.linalg.norm(np.array([[float(x / largest) for x in row] for row in A]), 2)))


def norm(x):
    return mp.sqrt(mpmath.fsum(value * value for value in x))


@dataclass(frozen=True)
class Solution:
    """Answers for one target at one λ, as mpf."""

    coef: list  # (d,), in the order of the user's columns
    intercept: mpf
    residual: list  # (n,)
    rss: mpf
    dof: mpf
    residual_dof: mpf  # n − dof
    penalised: list  # √pⱼ wⱼ, the norm that λ sees
    gcv: mpf | None


@dataclass(frozen=True)
class Conditioning:
    """Sizes of the standard form X̂ = √Ω Xc P^(−1/2) that first-order perturbation theory asks for."""

    largest: mpf  # s₁
    smallest: mpf  # s_r, r the exact rank
    full: bool  # r = min(n − q, d), so that nothing but rounding can make s_r smaller
    full_rows: bool  # r = n − q
    growth: mpf  # rounding of the standard form, in units of eps s₁

    def kappa(self, lam):
        """κ_λ = √((s₁²+λ)/(s_min²+λ)), with s_min = 0 where the rank is not full and λ > 0."""
        lam = big(lam)
        if self.largest == 0 or mp.isinf(lam):
            return mpf(1)
        floor = self.smallest if self.full or lam == 0 else mpf(0)
        return mp.sqrt((self.largest**2 + lam) / (floor**2 + lam))


class System:
    """One problem (X, y) with one target, solved for any λ."""

    def __init__(self, X, y, *, intercept=True, weights=None, penalty=None, unpenalized=()):
        X = np.asarray(X, np.float64)
        self.n, d = self.shape = X.shape
        self.free = tuple(unpenalized)
        self.kept = [j for j in range(d) if j not in self.free]
        self.intercept = intercept
        self.X_all, self.y = rational(X), [rational(value) for value in np.asarray(y)]
        self.omega = [mpq(1)] * self.n if weights is None else rational(np.asarray(weights))
        penalty = [mpq(1)] * d if penalty is None else rational(np.asarray(penalty))
        self.P = [penalty[j] for j in self.kept]
        self.X = [[row[j] for j in self.kept] for row in self.X_all]
        self.Z = [[mpq(1)] * intercept + [row[j] for j in self.free] for row in self.X_all]
        self.q = len(self.Z[0])

    def _weighted(self, A):
        return [[w * x for x in row] for w, row in zip(self.omega, A, strict=True)]

    @cached_property
    def projection(self):
        """Coefficients on Z of X's columns and of y, or None where Z's columns are dependent."""
        if not self.q:
            return [], []
        Zt = transpose(self._weighted(self.Z))
        both = [[*row, value] for row, value in zip(self.X, self.y, strict=True)]
        coefficients = solve(product(Zt, self.Z), product(Zt, both))
        if coefficients is None:
            return None
        return [row[:-1] for row in coefficients], [row[-1] for row in coefficients]

    @cached_property
    def centred(self):
        """X and y without their parts along Z."""
        of_X, of_y = self.projection
        X = [[x - sum((z * g[j] for z, g in zip(zs, of_X, strict=True)), mpq(0)) for j, x in enumerate(row)]
             for row, zs in zip(self.X, self.Z, strict=True)]  # fmt: skip
        y = [v - sum((z * g for z, g in zip(zs, of_y, strict=True)), mpq(0))
             for v, zs in zip(self.y, self.Z, strict=True)]  # fmt: skip
        return X, y

    @cached_property
    def factors(self):
        """C, F, B and D."""
        X = self.centred[0]
        used = [i for i in range(self.n) if self.omega[i] != 0]
        seen = [X[i] for i in used]
        if self.kept and len(used) <= len(self.kept):
            # Few rows: F is some of the rows, which keeps its entries short.
            G, R = rank_factors(transpose(seen))
            C_seen, F = transpose(R), transpose(G)
        else:
            C_seen, F = rank_factors(seen)
        r = len(F) if F and F[0] else 0
        C = [[mpq(0)] * r for _ in range(self.n)]
        if not r:
            return C, [], [], []
        for i, row in zip(used, C_seen, strict=True):
            C[i] = list(row)
        B = product(transpose(self._weighted(C)), C)
        D = product([[x / p for x, p in zip(row, self.P, strict=True)] for row in F], transpose(F))
        return C, F, B, D

    @cached_property
    def target_size(self):
        """‖ŷ‖."""
        return mp.sqrt(big(sum((o * v * v for o, v in zip(self.omega, self.centred[1], strict=True)), mpq(0))))

    @property
    def rank(self):
        return len(self.factors[1])

    @property
    def measurements(self):
        return sum(w != 0 for w in self.omega)

    def _inverse(self, lam):
        """(BD + λI)⁻¹."""
        C, F, B, D = self.factors
        r = len(F)
        M = product(B, D)
        for i in range(r):
            M[i][i] += lam
        return solve(M, [[mpq(int(i == j)) for j in range(r)] for i in range(r)])

    def at(self, lam):
        """The `Solution` at λ in [0, ∞]."""
        C, F, B, D = self.factors
        r, y = len(F), self.centred[1]
        w, kept = [mpq(0)] * len(self.kept), mpq(r)
        if r and not np.isinf(float(lam)):
            lam = rational(lam)
            inverse = self._inverse(lam)
            v = product(inverse, product(transpose(self._weighted(C)), [[value] for value in y]))
            w = [x[0] / p for x, p in zip(product(transpose(F), v), self.P, strict=True)]
            kept = lam * sum((inverse[i][i] for i in range(r)), mpq(0))
        of_X, of_y = self.projection
        c = [g - sum((x * b for x, b in zip(row, w, strict=True)), mpq(0)) for g, row in zip(of_y, of_X, strict=True)]
        residual = [
            value
            - sum((x * b for x, b in zip(row, w, strict=True)), mpq(0))
            - sum((z * b for z, b in zip(zs, c, strict=True)), mpq(0))
            for value, row, zs in zip(self.y, self.X, self.Z, strict=True)
        ]
        rss = sum((o * e * e for o, e in zip(self.omega, residual, strict=True)), mpq(0))
        coef = [mpq(0)] * (len(self.kept) + len(self.free))
        for j, value in zip(self.kept, w, strict=True):
            coef[j] = value
        for j, value in zip(self.free, c[self.intercept :], strict=True):
            coef[j] = value
        left = self.measurements - self.q - r + kept
        return Solution(
            coef=big(coef),
            intercept=big(c[0]) if self.intercept else mpf(0),
            residual=big(residual),
            rss=big(rss),
            dof=big(self.q + r - kept),
            residual_dof=big(left),
            penalised=[mp.sqrt(big(p)) * big(x) for p, x in zip(self.P, w, strict=True)],
            gcv=big(self.measurements * rss / left**2) if left != 0 else None,
        )

    def hat_complement(self, lam):
        """1 − hᵢ for each row."""
        C, F, B, D = self.factors
        h = [mpq(0)] * self.n
        if F and not np.isinf(float(lam)):
            M = transpose(product(D, self._inverse(rational(lam))))
            h = [o * product(product([row], M), [[x] for x in row])[0][0] for o, row in zip(self.omega, C, strict=True)]
        if self.q:
            Zt = transpose(self._weighted(self.Z))
            along = transpose(solve(product(Zt, self.Z), transpose(self.Z)))
            for i, (z, c) in enumerate(zip(self.Z, along, strict=True)):
                h[i] += self.omega[i] * sum((a * b for a, b in zip(z, c, strict=True)), mpq(0))
        return [big(1 - value) for value in h]

    def logdet(self, lam):
        """log det(I + X̂X̂ᵀ/λ) = log det((BD + λI)/λ)."""
        C, F, B, D = self.factors
        if not F or np.isinf(float(lam)):
            return mpf(0)
        if lam == 0:
            return mp.inf
        lam, M = rational(lam), product(B, D)
        for i in range(len(F)):
            M[i][i] += lam
        return mp.log(big(determinant(M))) - len(F) * mp.log(big(lam))

    @cached_property
    def conditioning(self):
        C, F, B, D = self.factors
        r, limit = len(F), min(self.measurements - self.q, len(self.kept))
        if not r:
            return Conditioning(mpf(0), mpf(0), limit == 0, False, mpf(1))
        X = self.centred[0]
        root = [mp.sqrt(big(p)) for p in self.P]
        G = big(product(transpose(self._weighted(X)), X))
        d = len(root)
        gram = [[G[i][j] / root[i] / root[j] for j in range(d)] for i in range(d)]
        # X̂⁺X̂⁺ᵀ = P^½ W B⁻¹ Wᵀ P^½ with W = P⁻¹ Fᵀ D⁻¹.
        scaled = [[x / p for x, p in zip(row, self.P, strict=True)] for row in F]
        W = transpose(solve(D, scaled))
        eye = [[mpq(int(i == j)) for j in range(r)] for i in range(r)]
        pinv = big(product(product(W, solve(B, eye)), transpose(W)))
        pinv = [[root[i] * pinv[i][j] * root[j] for j in range(d)] for i in range(d)]
        largest, smallest = mp.sqrt(spectral_norm(gram)), 1 / mp.sqrt(spectral_norm(pinv))
        rows = self.measurements - self.q
        return Conditioning(largest, smallest, r == limit, r == rows, self._growth(root, largest))

    def _growth(self, root, largest):
        """How much larger than s₁ the columns were before Z left them, times the condition of Z's own columns.

        The intercept alone costs nothing: means are taken off first, which is exact to the last bit of what
        remains. Further unpenalised columns are reflected out, with an error of eps times the sizes before.
        """
        if self.q - self.intercept == 0:
            return mpf(1)
        omega = [mp.sqrt(big(o)) for o in self.omega]
        total = sum(self.omega, mpq(0))
        columns = transpose(self.X) + transpose([row[self.intercept :] for row in self.Z])
        if self.intercept:
            means = [sum((o * x for o, x in zip(self.omega, c, strict=True)), mpq(0)) / total for c in columns]
            columns = [[x - m for x in c] for c, m in zip(columns, means, strict=True)]
        columns = [[o * x for o, x in zip(omega, big(c), strict=True)] for c in columns]
        before = mp.sqrt(mpmath.fsum((norm(c) / p) ** 2 for c, p in zip(columns, root, strict=False)))
        free = columns[len(root) :]
        sizes = [norm(c) for c in free]
        Z = np.array([[float(x / size) for x in c] for c, size in zip(free, sizes, strict=True)])
        return max(mpf(1), before / largest) * mpf(float(np.linalg.cond(Z)))


def determinant(A):
    M, value = [list(row) for row in A], mpq(1)
    for j in range(len(M)):
        pivot = next((i for i in range(j, len(M)) if M[i][j] != 0), None)
        if pivot is None:
            return mpq(0)
        if pivot != j:
            M[j], M[pivot], value = M[pivot], M[j], -value
        value *= M[j][j]
        for i in range(j + 1, len(M)):
            factor = M[i][j] / M[j][j]
            if factor:
                M[i] = [x - factor * y for x, y in zip(M[i], M[j], strict=True)]
    return value


def loo(X, y, lam, *, weights=None, **options):
    """yᵢ minus the prediction of the problem solved again without row i, for every i, by n refits."""
    X, y = np.asarray(X), np.asarray(y)
    errors = []
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        system = System(X[rest], y[rest], weights=None if weights is None else np.asarray(weights)[rest], **options)
        fit = system.at(lam)
        errors.append(big(y[i]) - fit.intercept - mpmath.fsum(big(x) * w for x, w in zip(X[i], fit.coef, strict=True)))
    return errors


def coefficient_bound(system, solution, lam, unit):
    """‖δŵ‖/‖ŵ‖ to first order, where X̂ moves by unit·s₁ and ŷ by unit·‖ŷ‖ (unit = c·eps).

    From δŵ = G δX̂ᵀ r̂ − G X̂ᵀ δX̂ ŵ + G X̂ᵀ δŷ, G = (X̂ᵀX̂ + λI)⁻¹:

        ‖δŵ‖ ≤ unit · [ρ s₁ ‖r̂‖ + γ (s₁ ‖ŵ‖ + ‖ŷ‖)],    ρ = ‖G‖ = 1/(s_min² + λ),    γ = max s/(s² + λ).

    Where X̂ has full row rank r̂ = λα, and ‖α‖ ≤ ‖ŵ‖/s_min takes the place of ρ‖r̂‖. This is never more than twice
    unit · [κ_λ + κ_λ² ‖r_aug‖ / (s₁ ‖ŵ‖)] (Wedin; Björck 1996, 1.4), and unlike that does not grow for λ >> s₁².
    """
    sizes, lam = system.conditioning, big(lam)
    w, r = norm(solution.penalised), mp.sqrt(solution.rss)
    if w == 0 or mp.isinf(lam):
        return unit * sizes.growth
    s1, s_min = sizes.largest, sizes.smallest if sizes.full or lam == 0 else mpf(0)
    candidates = [r / (s_min**2 + lam)]
    if sizes.full_rows and lam > 0:
        candidates = [r / lam, w / s_min]
    elif sizes.full_rows:
        candidates.append(w / s_min)
    best = min(max(mp.sqrt(lam), s_min), s1)
    gamma = best / (best**2 + lam)
    return unit * sizes.growth * (min(candidates) * s1 + gamma * (s1 * w + system.target_size)) / w
