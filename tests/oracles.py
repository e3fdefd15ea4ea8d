"""Brute force in NumPy: augmented least squares, hat matrices and refits. Knows nothing of jaxridge."""

import numpy as np


def standard_scale(X, weights=None):
    """Standard deviation of each column, divisor Σω; 1 where a column is constant."""
    mean = np.average(X, axis=0, weights=weights)
    scale = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights))
    return np.where(scale <= 1e-14 * np.abs(X).max(0), 1.0, scale)


def ridge(X, y, lam, *, intercept=True, standardize=False, weights=None, penalty=None, unpenalized=()):
    """(coef, intercept) by least squares on [√ω [1 X]; √(λp)], which has a row for each penalised column."""
    n, d = X.shape
    penalty = np.ones(d) if penalty is None else np.array(penalty, float)
    if standardize:
        penalty = penalty * standard_scale(X, weights) ** 2
    penalty[list(unpenalized)] = 0.0
    root = np.ones(n) if weights is None else np.sqrt(weights)
    A = np.concatenate([np.ones((n, 1)), X], axis=1) * root[:, None]
    below = np.diag(np.sqrt(np.concatenate([[0.0], lam * penalty])))
    if not intercept:
        A, below = A[:, 1:], below[1:, 1:]
    b = (y.T * root).T
    if lam == 0:
        w = _least_norm(A, b, np.concatenate([[0.0], penalty])[1 - intercept :])
        return (w[1:], w[0]) if intercept else (w, np.zeros(y.shape[1:]))
    zeros = np.zeros((below.shape[0], *y.shape[1:]))
    w = np.linalg.lstsq(np.concatenate([A, below]), np.concatenate([b, zeros]), rcond=None)[0]
    return (w[1:], w[0]) if intercept else (w, np.zeros(y.shape[1:]))


def _least_norm(A, b, penalty):
    """Of all least-squares solutions the one of least Σ p w²: unpenalised columns are projected out first."""
    free, w = penalty == 0, np.zeros((A.shape[1], *b.shape[1:]))
    root = np.sqrt(penalty[~free])
    Q = np.linalg.qr(A[:, free])[0]
    outside = lambda M: M - Q @ (Q.T @ M)  # noqa: E731
    w[~free] = np.diag(1 / root) @ np.linalg.pinv(outside(outside(A[:, ~free] / root)), rcond=1e-13) @ outside(b)
    w[free] = np.linalg.lstsq(A[:, free], b - A[:, ~free] @ w[~free], rcond=None)[0]
    return w


def hat(X, lam, **options):
    """The n × n hat matrix, column by column: the fit to each unit vector."""
    n = X.shape[0]
    coef, intercept = ridge(X, np.eye(n), lam, **options)
    return X @ coef + intercept


def subset(rows, weights, **options):
    """Options for some of the rows."""
    return {**options, "weights": None if weights is None else weights[rows]}


def loo(X, y, lam, *, weights=None, standardize=False, penalty=None, **options):
    """yᵢ minus the prediction of the fit without row i; standardisation keeps the scale of all rows."""
    penalty = scaled_penalty(X, weights, standardize, penalty)
    errors = []
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        coef, intercept = ridge(X[rest], y[rest], lam, penalty=penalty, **subset(rest, weights, **options))
        errors.append(y[i] - X[i] @ coef - intercept)
    return np.array(errors)


def scaled_penalty(X, weights, standardize, penalty):
    penalty = np.ones(X.shape[1]) if penalty is None else penalty
    return penalty * standard_scale(X, weights) ** 2 if standardize else penalty


def gcv(X, y, lam, *, weights=None, **options):
    """n ‖√ω (I−H) y‖² / tr(I−H)², n the rows of positive weight."""
    H = hat(X, lam, weights=weights, **options)
    r = y - H @ y
    omega = np.ones(len(y)) if weights is None else weights
    n = np.sum(omega > 0)
    return n * omega @ r**2 / (n - np.trace(H)) ** 2


def folds(n, k):
    """Consecutive blocks, as scikit-learn's KFold: (train, test) pairs."""
    blocks = np.array_split(np.arange(n), k)
    return [(np.setdiff1d(np.arange(n), block), block) for block in blocks]


def fold_losses(X, y, lam, splits, *, loss=np.square, weights=None, standardize=False, penalty=None, **options):
    """Weighted mean held-out loss of each fold by a refit; the scale of ``standardize`` is that of all rows."""
    penalty, losses = scaled_penalty(X, weights, standardize, penalty), []
    for train, test in splits:
        coef, intercept = ridge(X[train], y[train], lam, penalty=penalty, **subset(train, weights, **options))
        e = loss(y[test] - X[test] @ coef - intercept)
        losses.append(np.average(e, axis=0, weights=None if weights is None else weights[test]))
    return np.array(losses)


def best_lam(score, low, high):
    """The minimiser of a smooth score between two λ, by golden section on log λ."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda x: score(np.exp(x)), bounds=np.log([low, high]), method="bounded", options={"xatol": 1e-10}
    )
    return np.exp(found.x)


def groups(labels):
    """(train, test) for each distinct label, in order."""
    return [(np.flatnonzero(labels != label), np.flatnonzero(labels == label)) for label in np.unique(labels)]


def shuffled(splits, order):
    """The same splits of rows in another order."""
    return [(order[train], order[test]) for train, test in splits]
