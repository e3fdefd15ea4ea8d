"""Nasty inputs for ridge regression, and what counts as solving them.

An input is one (X, y, λ, options). It is *solved* when the code is ``successful`` and the answer obeys the bound
below, *flagged* when it has another code, *silently wrong* otherwise. The bound on the coefficients ŵ of the
standard form X̂ (weighted, centred, scaled by the penalties) is what first-order perturbation theory gives for the
augmented least-squares problem [X̂; √λ I] ŵ ≈ [ŷ; 0] (Wedin; Björck 1996, Numerical Methods for Least Squares
Problems, section 1.4),

    ‖δŵ‖ / ‖ŵ‖ ≤ c · eps · [κ_λ + κ_λ² ‖r_aug‖ / (s₁ ‖ŵ‖)],     κ_λ = √((s₁² + λ)/(s_min² + λ)),

with r_aug its residual and s_min the smallest singular value of X̂ (0 for a rank below min(n − q, d) and λ > 0). It
is evaluated in the sharper form of `reference.coefficient_bound`, at most twice this and often much less. Any
normwise backward stable method reaches it; normal equations square κ_λ.

c = 2·(n + d). A singular value below max(n, d)·eps·s₁ counts as zero, so X̂ moves by up to max(n, d)·eps·s₁; standard
form, QR and SVD together move it by no more than that again. (LAPACK's own tests accept 30·max(n, d)·eps for each.)

Where the bound passes 0.1 no digit of ŵ is promised by it. Such an input must be flagged, or still be right to ten
per cent; it is never counted as solved because its bound is large. Entries may be off by n + d smallest normal
numbers, which is underflow; what overflows must be flagged.

The other numbers of a fit follow: the intercept to bound · (|ȳ| + ‖x̄‖ ‖w‖), the degrees of freedom to
c·eps·κ_λ·a for a columns, and the root of the residual sum of squares to 3·c·eps·κ_λ·‖ŷ‖.
"""

import warnings
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import reference
from mpmath import mp, mpf
from scipy import linalg

TALL, WIDE, SQUARE, ROW, COLUMN = (12, 5), (5, 12), (8, 8), (1, 4), (9, 1)
CODES = (
    "successful",
    "rank_deficient",
    "unresolved",
    "nonfinite_input",
    "invalid_lam",
    "invalid_weights",
    "invalid_penalty",
    "dependent_unpenalized",
    "overflow",
)


@dataclass(frozen=True)
class Data:
    """A design and target, with the λ to try on it. ``invalid`` names the codes that must come back."""

    name: str
    X: np.ndarray
    y: np.ndarray
    lams: tuple
    options: dict = field(default_factory=dict)
    invalid: tuple = ()

    @property
    def group(self):
        """What is compiled once."""
        static = {k: v for k, v in self.options.items() if k in ("intercept", "unpenalized", "standardize")}
        arrays = [k for k in self.options if k in ("weights", "penalty")]
        return (self.X.shape, *sorted(static.items()), *sorted(arrays))


class Range:
    """The powers of ten that a census in one dtype uses: 1e±150 in float64 are 1e±18 in float32."""

    def __init__(self, dtype):
        single = np.dtype(dtype) == np.float32
        self.eps = 1e-7 if single else 2e-16
        self.far = 1e18 if single else 1e150
        self.most = 1e37 if single else 1e307
        self.wide = 1e4 if single else 1e8
        self.tiny, self.huge = tiny, huge = (1e-30, 1e30) if single else (1e-300, 1e300)
        small = (1e-14, 1e-7) if single else (1e-30, 1e-20, 1e-14, 1e-8)
        self.every = (0.0, tiny, *small, 1.0, 1e8, huge)
        self.some = (0.0, tiny, small[0], 1.0, huge)
        self.few = (0.0, small[-1], 1.0)


def _kahan(n, theta=1.2):
    c, s = np.cos(theta), np.sin(theta)
    return np.diag(s ** np.arange(n)) @ (np.eye(n) - c * np.triu(np.ones((n, n)), 1))


def _conditioned(rng, n, d, condition):
    k = min(n, d)
    U, V = np.linalg.qr(rng.standard_normal((n, k)))[0], np.linalg.qr(rng.standard_normal((d, k)))[0]
    return (U * np.logspace(0, -np.log10(condition), k)) @ V.T


def _lauchli(n, d, mu):
    """A row of ones over μI, with rows of zeros below."""
    X = np.zeros((n, d))
    X[0] = 1.0
    k = min(n - 1, d)
    X[1 : k + 1, :k] = mu * np.eye(k)
    return X


def _designs(dtype):
    """Families of X by name, with their shapes; generic targets come later."""
    rng, at = np.random.default_rng(1), Range(dtype)
    far, eps = at.far, at.eps
    base = rng.standard_normal(TALL)

    for n, d in (SQUARE, TALL, WIDE):
        yield f"hilbert {n}x{d}", 1 / (np.arange(n)[:, None] + np.arange(d)[None, :] + 1.0), at.every
        x = np.linspace(0, 1, n)
        yield f"vandermonde {n}x{d}", x[:, None] ** np.arange(d), at.every
        yield f"monomials -9..-3 {n}x{d}", (x * 6 - 9)[:, None] ** np.arange(1, d + 1), at.every
        yield f"cauchy {n}x{d}", 1 / (np.arange(1, n + 1)[:, None] + np.arange(d)[None, :] / 3 + 0.1), at.some
        yield f"ones {n}x{d}", np.ones((n, d)), at.some
        yield f"zero {n}x{d}", np.zeros((n, d)), at.every
        yield f"rank one {n}x{d}", np.outer(np.arange(1.0, n + 1), np.arange(1.0, d + 1)), at.every
        yield f"rank two {n}x{d}", np.vander(np.arange(1.0, n + 1), 2) @ rng.integers(-3, 4, (2, d)), at.some
        yield f"integers {n}x{d}", rng.integers(-1000, 1000, (n, d)).astype(float), at.some
        yield f"orthonormal {n}x{d}", _conditioned(rng, n, d, 1.0), at.some
        yield f"identity {n}x{d}", np.eye(n, d), at.every
        for power in (4, 8, 12, 15):
            yield f"condition 1e{power} {n}x{d}", _conditioned(rng, n, d, 10.0**power), at.every
        for mu in (1e-3, eps**0.5, eps**0.6, eps**0.8, eps):
            yield f"lauchli {mu:.0e} {n}x{d}", _lauchli(n, d, mu), at.some
        for scale in (far, 1 / far):
            X = rng.standard_normal((n, d))
            yield f"scale {scale:.0e} {n}x{d}", scale * X, (*at.some, at.far, 1 / at.far)
        columns = at.wide ** np.linspace(-1, 1, d)
        yield f"columns 1e±8 {n}x{d}", rng.standard_normal((n, d)) * columns, at.every
        yield f"columns far {n}x{d}", rng.standard_normal((n, d)) * far ** np.linspace(-1, 1, d), at.every
        yield f"rows 1e±8 {n}x{d}", rng.standard_normal((n, d)) * (at.wide ** np.linspace(-1, 1, n))[:, None], at.some
        yield f"rows far {n}x{d}", rng.standard_normal((n, d)) * (far ** np.linspace(-1, 1, n))[:, None], at.some
        yield f"entries far {n}x{d}", rng.standard_normal((n, d)) * far ** rng.uniform(-1, 1, (n, d)), at.some
        yield f"huge entries {n}x{d}", rng.uniform(-1, 1, (n, d)) * at.huge, at.some
        yield f"tiny entries {n}x{d}", rng.uniform(-1, 1, (n, d)) * at.tiny, at.some

    yield "kahan", _kahan(8), at.every
    yield "pascal", linalg.pascal(8).astype(float), at.every
    yield "wilkinson", linalg.toeplitz([1.0, *[-1.0] * 7], [1.0, *[0.0] * 7]), at.some
    yield "nearly upper triangular", np.triu(np.ones((8, 8))) + eps * np.ones((8, 8)), at.some
    yield "inverse hilbert", linalg.invhilbert(8), at.every

    for name, copies in (
        ("duplicate", (1.0,)),
        ("opposite", (-1.0,)),
        ("multiple", (1e4,)),
        ("two duplicates", (1, 2)),
    ):
        X = base.copy()
        for j, factor in enumerate(copies):
            X[:, 4 - j] = factor * X[:, 0]
        yield f"{name} column", X, at.every
    for gap in (1e-3, eps**0.5, eps**0.75, 10 * eps, eps):
        X = base.copy()
        X[:, 4] = X[:, 0] * (1 + gap * np.sign(X[:, 1]))
        yield f"near-duplicate column, gap {gap:.0e}", X, at.every
    X = base.copy()
    X[:, 2] = 0
    yield "zero column", X, at.every
    X[:, 3] = X[:, 1]
    yield "zero and duplicate columns", X, at.every
    for level in (1.0, 1e6, far):
        X = base.copy()
        X[:, 2] = level
        yield f"constant column {level:.0e}", X, at.some
    X = base.copy()
    X[:, 2] = 0.1  # whose mean is not exact
    yield "constant column 0.1", X, at.every
    X[:, 2] = np.where(
        np.arange(12) == 4, np.nextafter(np.float32(0.6), np.float32(1)) if eps > 1e-10 else np.nextafter(0.6, 1), 0.6
    )
    yield "constant column but for one ulp", X, at.every
    for mean in (1e3, eps**-0.5, 0.01 / eps, 0.3 / eps):
        yield f"means {mean:.0e}", base + mean, at.every
    X = base.copy()
    X[0] *= 1e6
    yield "one outlying row", X, at.every
    X = base.copy()
    X[:, 0] = np.eye(12)[0]
    yield "a column for one row", X, at.every
    X = np.zeros(TALL)
    X[3, 2] = 1.0
    yield "one entry", X, at.some
    yield "all rows equal", np.tile(base[:1], (12, 1)), at.some
    yield "pairs of equal rows", np.repeat(base[:6], 2, axis=0), at.some
    yield "few distinct rows", np.tile(base[:3], (4, 1)), at.every
    yield "graded", base * 10.0 ** -(np.arange(5.0)[None, :] ** 2), at.every
    yield "one-hot", np.eye(5)[np.arange(12) % 5], at.every  # with an intercept: the dummy variable trap

    for n, d in (ROW, COLUMN):
        X = rng.standard_normal((n, d))
        yield f"plain {n}x{d}", X, at.every
        yield f"far {n}x{d}", X * far, at.some
        yield f"near {n}x{d}", X / far, at.some
        yield f"zero {n}x{d}", 0 * X, at.some
        yield f"ones {n}x{d}", 0 * X + 1, at.some
        yield f"mixed scales {n}x{d}", X * far ** rng.uniform(-1, 1, X.shape), at.some


def _optioned(dtype):
    """Weights, penalties, unpenalised columns and scales of y."""
    rng, at = np.random.default_rng(2), Range(dtype)
    far, eps = at.far, at.eps
    for n, d in (TALL, WIDE):
        X, y = rng.standard_normal((n, d)), rng.standard_normal(n)
        ones_n, ones_d = np.ones(n), np.ones(d)
        zeroed = (np.arange(n) % 3 > 0).astype(float)
        rows = {
            "equal": ones_n,
            "zeros": zeroed,
            "only one": np.eye(n)[1],
            "1e±8": at.wide ** rng.uniform(-1, 1, n),
            "far": far ** rng.uniform(-1, 1, n),
            "all tiny": ones_n * at.tiny,
            "all huge": ones_n * at.huge,
            "one huge": ones_n + far * np.eye(n)[0],
            "one tiny": np.where(np.arange(n) == 0, 1 / far, 1.0),
        }
        for name, weights in rows.items():
            yield Data(f"weights {name} {n}x{d}", X, y, at.some, {"weights": weights, "penalty": ones_d})
        junk = np.where(zeroed > 0, 1.0, far)
        weighted = {"weights": zeroed, "penalty": ones_d}
        yield Data(f"junk in rows of weight 0 {n}x{d}", X * junk[:, None], y, at.some, weighted)
        yield Data(f"junk in y of weight 0 {n}x{d}", X, y * junk**1.2, at.some, weighted)
        penalties = {
            "1e±8": at.wide ** rng.uniform(-1, 1, d),
            "far": far ** rng.uniform(-1, 1, d),
            "all huge": ones_d * at.huge,
            "all tiny": ones_d * at.tiny,
        }
        for name, penalty in penalties.items():
            yield Data(f"penalty {name} {n}x{d}", X, y, at.some, {"weights": ones_n, "penalty": penalty})
        mixed = {"weights": at.wide ** rng.uniform(-1, 1, n), "penalty": at.wide ** rng.uniform(-1, 1, d)}
        yield Data(f"weights and penalty 1e±8 {n}x{d}", X, y, at.some, mixed)
        for name, target in {
            "zero": 0 * y,
            "constant": 0 * y + 0.1,
            "far": far * y,
            "near": y / far,
            "largest": at.most * y / np.max(np.abs(y)),
            "tiny": y * at.tiny,
            "mean": y + 0.01 / eps,
            "consistent": X @ np.ones(d),
            "one": np.eye(n)[0],
        }.items():
            yield Data(f"y {name} {n}x{d}", X, target, at.some)
        largest = at.most * np.sign(X), at.most * np.sign(y)
        yield Data(f"entries ±1e307 {n}x{d}", *largest, at.some)
        yield Data(f"entries ±1e307, no intercept {n}x{d}", *largest, at.some, {"intercept": False})
        yield Data(f"far X, far y {n}x{d}", far * X, far * y, at.some)
        yield Data(f"far X, near y {n}x{d}", far * X, y / far, at.some)
        yield Data(f"near X, far y {n}x{d}", X / far, far * y, at.some)
        yield Data(f"near X, near y {n}x{d}", X / far, y / far, at.some)
        yield Data(f"answer too large {n}x{d}", X / far, far**1.2 * y, at.some)

    X, y = rng.standard_normal(TALL), rng.standard_normal(TALL[0])
    free = {"unpenalized": (1,)}
    yield Data("unpenalized plain", X, y, at.every, free)
    for name, column in {
        "far": far * X[:, 1],
        "near": X[:, 1] / far,
        "large mean": X[:, 1] + eps**-0.4,
        "same as a penalised column": X[:, 0],
        "close to a penalised column": X[:, 0] + eps**0.4 * X[:, 1],
    }.items():
        replaced = X.copy()
        replaced[:, 1] = column
        yield Data(f"unpenalized {name}", replaced, y, at.some, free)
    for name, column in {"zero": 0 * X[:, 1], "constant": 0 * X[:, 1] + 0.1}.items():
        replaced = X.copy()
        replaced[:, 1] = column
        yield Data(f"unpenalized {name}", replaced, y, at.few, free, ("dependent_unpenalized",))


def _invalid(dtype):
    """Inputs that have no answer; λ = ∞ has one, w = 0."""
    rng = np.random.default_rng(3)
    for n, d in (TALL, WIDE):
        X, y = rng.standard_normal((n, d)), rng.standard_normal(n)
        given = {"weights": np.ones(n), "penalty": np.ones(d)}
        for bad in (np.nan, np.inf, -np.inf):
            spoiled = X.copy()
            spoiled[2, 1] = bad
            yield Data(f"{bad} in X {n}x{d}", spoiled, y, (0.0, 1.0), {}, ("nonfinite_input",))
            yield Data(f"all {bad} {n}x{d}", 0 * X + bad, y, (0.0, 1.0), {}, ("nonfinite_input",))
            spoiled = y.copy()
            spoiled[2] = bad
            yield Data(f"{bad} in y {n}x{d}", X, spoiled, (0.0, 1.0), {}, ("nonfinite_input",))
            for name in given:
                spoiled = given[name].copy()
                spoiled[2] = bad
                codes = ("nonfinite_input", "invalid_weights", "invalid_penalty")
                yield Data(f"{bad} in {name} {n}x{d}", X, y, (0.0, 1.0), {**given, name: spoiled}, codes)
        yield Data(f"bad lam {n}x{d}", X, y, (np.nan, -np.inf, -1.0, -Range(dtype).tiny), {}, ("invalid_lam",))
        yield Data(f"edges of lam {n}x{d}", X, y, (-0.0, np.inf, 5e-324), {})
        negative, none = given["weights"] - 2 * np.eye(n)[1], 0 * given["weights"]
        yield Data(f"negative weight {n}x{d}", X, y, (1.0,), {**given, "weights": negative}, ("invalid_weights",))
        yield Data(f"no weight {n}x{d}", X, y, (1.0,), {**given, "weights": none}, ("invalid_weights",))
        for name, value in (("zero", 0.0), ("negative", -1.0)):
            penalty = np.where(np.arange(d) == 1, value, 1.0)
            yield Data(f"{name} penalty {n}x{d}", X, y, (1.0,), {**given, "penalty": penalty}, ("invalid_penalty",))


@lru_cache
def datasets(dtype):
    """Every data set of the census, cast to the dtype; the cast data are the problem."""
    rng, found = np.random.default_rng(4), []
    for name, X, lams in _designs(dtype):
        n = X.shape[0]
        y = rng.standard_normal(n)
        for intercept in (True, False):
            suffix = "" if intercept else ", no intercept"
            found.append(Data(name + suffix, X, y, lams, {"intercept": intercept}))
    found += [*_optioned(dtype), *_invalid(dtype)]
    with np.errstate(all="ignore"):
        return [_cast(data, np.dtype(dtype)) for data in found]


def _cast(data, dtype):
    arrays = {k: v.astype(dtype) if isinstance(v, np.ndarray) else v for k, v in data.options.items()}
    lams = tuple(dtype.type(lam) for lam in data.lams)
    return replace(data, X=data.X.astype(dtype), y=data.y.astype(dtype), lams=lams, options=arrays)


def valid(data):
    """Whether the cast problem has an answer."""
    arrays = [data.X, data.y, *(v for v in data.options.values() if isinstance(v, np.ndarray))]
    return not data.invalid and all(np.all(np.isfinite(a)) for a in arrays)


@dataclass(frozen=True)
class Answer:
    """What a method says: numbers, or a flag."""

    flag: str  # empty if it claims success
    coef: np.ndarray | None = None
    intercept: float = 0.0
    dof: float | None = None
    rss: float | None = None


def ours(data, lam):
    import jaxridge as jxr

    fit = jxr.ridge(data.X, data.y, lam, **data.options)
    code = next(name for name in CODES if bool(fit.result == getattr(jxr.RESULTS, name)))
    numbers = (np.asarray(fit.coef), float(fit.intercept), float(fit.dof), float(fit.rss))
    return Answer("" if code == "successful" else code, *numbers)


def scikit_learn(data, lam):
    """Ridge with its default solver; a refusal or a warning counts as a flag."""
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=float(lam), fit_intercept=data.options.get("intercept", True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        root = np.sqrt(data.options.get("penalty", np.ones(data.X.shape[1], data.X.dtype)))
        try:
            model.fit(data.X / root, data.y, data.options.get("weights"))
        except (ValueError, Warning, np.linalg.LinAlgError) as error:
            return Answer(type(error).__name__)
        coef = model.coef_ / root
    flag = "" if np.all(np.isfinite(coef)) and np.isfinite(model.intercept_) else "nonfinite"
    return Answer(flag, coef, float(model.intercept_))


def normal_equations(data, lam):
    """LU of XᵀX + λP after centring."""
    n, d = data.X.shape
    weights = data.options.get("weights", np.ones(n, data.X.dtype))
    penalty = data.options.get("penalty", np.ones(d, data.X.dtype))
    with np.errstate(all="ignore"):
        mean_X, mean_y = np.zeros(d, data.X.dtype), data.y.dtype.type(0)
        if data.options.get("intercept", True):
            mean_X, mean_y = weights @ data.X / weights.sum(), weights @ data.y / weights.sum()
        X, y = data.X - mean_X, data.y - mean_y
        try:
            coef = np.linalg.solve(X.T @ (weights[:, None] * X) + lam * np.diag(penalty), X.T @ (weights * y))
        except np.linalg.LinAlgError:
            return Answer("singular")
        intercept = float(mean_y - mean_X @ coef)
    return Answer("" if np.all(np.isfinite(coef)) else "nonfinite", coef, intercept)


# A column without a penalty is not something that these two can be asked for.
METHODS = {"jaxridge": ours, "scikit-learn Ridge": scikit_learn, "normal equations, LU": normal_equations}


def applies(method, data):
    return method == "jaxridge" or "unpenalized" not in data.options


@lru_cache(maxsize=2)
def _system(dtype, index):
    data = datasets(dtype)[index]
    options = {"intercept": True, **data.options}
    system = reference.System(data.X, data.y, **options)
    return None if system.projection is None else system


@lru_cache(maxsize=2)
def _solution(dtype, index, which):
    return _system(dtype, index).at(datasets(dtype)[index].lams[which])


@dataclass(frozen=True)
class Verdict:
    """solved, flagged, wrong or needless (flagged though well conditioned), with the numbers behind it."""

    kind: str
    detail: str
    ratio: float = 0.0  # error over bound
    bound: float = 0.0


def judge(dtype, index, which, method):
    """Solve data set ``index`` at its λ numbered ``which``; of jaxridge codes, dof and rss must be right too."""
    data, complete = datasets(dtype)[index], method == "jaxridge"
    answer = METHODS[method](data, data.lams[which])
    lam, info = data.lams[which], np.finfo(dtype)
    if not valid(data):
        wanted = data.invalid or ("nonfinite_input",)
        if not answer.flag:
            return Verdict("wrong", "no flag for invalid input")
        if complete and (answer.flag not in wanted or np.any(np.isfinite(answer.coef))):
            return Verdict("wrong", f"{answer.flag} where {wanted} was due, coef {answer.coef}")
        return Verdict("flagged", answer.flag)
    system = _system(dtype, index)
    if system is None:
        return Verdict("flagged" if answer.flag else "wrong", answer.flag or "dependent columns not noticed")
    exact = _solution(dtype, index, which)
    unit = 2 * sum(data.X.shape) * mpf(float(info.eps))
    bound = reference.coefficient_bound(system, exact, lam, unit)
    size, tiny, most = reference.norm(exact.penalised), mpf(float(info.tiny)), mpf(float(info.max))
    beyond = any(abs(x) > most for x in (*exact.coef, exact.intercept))
    if answer.flag:
        singular = lam == 0 and (system.rank < len(system.kept))
        easy = bound < mpf("1e-3") and not beyond and not singular
        if complete and answer.flag in ("rank_deficient", "unresolved") and not np.all(np.isfinite(answer.coef)):
            return Verdict("wrong", f"{answer.flag} without finite numbers")
        if answer.flag == "rank_deficient" and bound < mpf("1e-3"):
            ratio = _coefficient_error(system, exact, answer, tiny) / (bound * size) if size else mpf(0)
            if ratio > 1:
                return Verdict("wrong", f"not the minimum-norm solution, {mp.nstr(ratio, 3)} of the bound")
        return Verdict("needless" if easy else "flagged", answer.flag, 0.0, float(bound))
    numbers = (*answer.coef, answer.intercept)
    if beyond or not np.all(np.isfinite(numbers)):
        return Verdict("wrong", f"success with {numbers}; the answer {'is' if beyond else 'is not'} out of range")
    error = _coefficient_error(system, exact, answer, tiny)
    allowed = min(bound, mpf("0.1")) * size
    # A constant y is centred to a few eps² of its size, which is no error of any other kind.
    allowed += _noise_of_constant_y(system, lam, unit)
    if error > allowed:
        relative = mp.nstr(error / size, 3) if size else "inf"
        return Verdict(
            "wrong", f"coef off by {relative}, bound {mp.nstr(bound, 3)}", _ratio(error, allowed), float(bound)
        )
    verdict = Verdict("solved", "", _ratio(error, allowed), float(bound))
    if bound > mpf("0.1"):
        return verdict
    return _other_numbers(system, exact, answer, lam, bound, unit, tiny, complete) or verdict


def _ratio(error, allowed):
    return 0.0 if error == 0 else float(error / allowed) if allowed > 0 else np.inf


def _coefficient_error(system, exact, answer, tiny):
    """‖√P (w − exact)‖ beyond what underflow explains, which is one smallest number for each term of each entry."""
    penalised, lost = [mp.sqrt(reference.big(p)) for p in system.P], sum(system.shape) * tiny
    errors = [
        root * max(abs(reference.big(answer.coef[j]) - exact.coef[j]) - lost, mpf(0))
        for root, j in zip(penalised, system.kept, strict=True)
    ]
    return reference.norm(errors) if errors else mpf(0)


def _other_numbers(system, exact, answer, lam, bound, unit, tiny, complete):
    """A verdict against the intercept, dof or rss, or None."""
    sizes, size, kappa = system.conditioning, reference.norm(exact.penalised), system.conditioning.kappa(lam)
    of_X, of_y = system.projection
    if system.intercept:
        roots = [mp.sqrt(reference.big(p)) for p in system.P]
        reach = reference.norm([reference.big(g) / root for g, root in zip(of_X[0], roots, strict=True)])
        allowed = (bound + unit) * (abs(reference.big(of_y[0])) + reach * size) + _rounding_of_mean(system, unit)
        error = abs(reference.big(answer.intercept) - exact.intercept) - sum(system.shape) * tiny
        if error > allowed:
            return Verdict("wrong", f"intercept off by {mp.nstr(error, 3)}, allowed {mp.nstr(allowed, 3)}")
    if not complete:
        return None
    error, allowed = abs(reference.big(answer.dof) - exact.dof), unit * kappa * (len(system.kept) + system.q)
    if error > allowed:
        return Verdict("wrong", f"dof off by {mp.nstr(error, 3)}, allowed {mp.nstr(allowed, 3)}")
    root, largest = mp.sqrt(exact.rss), mpf(float(np.finfo(answer.coef.dtype).max))
    if not tiny < exact.rss < largest:
        return None
    error = abs(mp.sqrt(reference.big(answer.rss)) - root)
    noise = _rounding_of_mean(system, unit) * mp.sqrt(reference.big(sum(system.omega)))
    allowed = unit * (3 * kappa * sizes.growth * system.target_size + noise)
    if not error <= allowed:
        return Verdict("wrong", f"√rss {mp.nstr(root, 3)} off by {mp.nstr(error, 3)}, allowed {mp.nstr(allowed, 3)}")
    return None


def _rounding_of_mean(system, unit):
    """Averaging y rounds to n·eps of its largest entry that counts."""
    return unit * max(
        (abs(reference.big(v)) for v, o in zip(system.y, system.omega, strict=True) if o != 0), default=mpf(0)
    )


def _noise_of_constant_y(system, lam, unit):
    """γ · unit² · max|yᵢ|: what is left of a mean of y after it is taken off."""
    sizes, lam = system.conditioning, reference.big(lam)
    if sizes.largest == 0 or mp.isinf(lam):
        return mpf(0)
    best = min(max(mp.sqrt(lam), sizes.smallest), sizes.largest)
    total = mp.sqrt(reference.big(sum(system.omega)))
    return best / (best**2 + lam) * unit * _rounding_of_mean(system, unit) * total


def work(connection, dtype, tasks):
    """In a process of its own: announce each task, then send its verdict."""
    import conftest  # noqa: F401  (the strictness of the tests)

    for index, which, method in tasks:
        connection.send((index, which, method))
        try:
            verdict = judge(dtype, index, which, method)
        except Exception as error:
            verdict = Verdict("wrong", f"raised {type(error).__name__}: {str(error)[:200]}")
        connection.send(verdict)
    connection.close()
