"""The door of a verb: a signature that shows every keyword, and words of other libraries answered by its own name."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["verb"]

Verb = TypeVar("Verb", bound=Callable[..., Any])

# What to write instead, in the words of a verb that has the first name; "" stands for every verb.
_LAM = (("lam", "write lam, the same number"), ("lams", "write lams, a grid of the same numbers"))
_GRID = (("lams", "write lams"), ("lam", "write lam for one number, or call the verb's twin for a path or a choice"))
_SEED = (("", "nothing here is random but what takes a key, such as select.kfold(5, key) or Nystroem(key)"),)
CURES: dict[str, tuple[tuple[str, str], ...]] = {
    "alpha": (
        ("lam2", "write lam = 2n·alpha for scikit-learn's alpha; glmnet's alpha, a mixture, is lam against lam2"),
        *_LAM,
    ),
    "lambda_": _LAM,
    "lmbda": _LAM,
    "lambd": _LAM,
    "reg": _LAM,
    "ridge": _LAM,
    "l2": _LAM,
    "penalty_weight": _LAM,
    "C": (("lam", "write lam = 1/(2C)"), ("lams", "write lams = 1/(2C)")),
    "damp": (("lam", "write lam = damp²"), ("lams", "write lams = damp²")),
    "alphas": _GRID,
    "lambdas": _GRID,
    "lambda_path": _GRID,
    "nlambda": (("lams", "write lams, such as jnp.logspace(-3, 3, 50)"),),
    "fit_intercept": (("intercept", "write intercept"),),
    "add_intercept": (("intercept", "write intercept"),),
    "sample_weight": (("weights", "write weights"),),
    "sample_weights": (("weights", "write weights"),),
    "normalize": (("standardize", "write standardize, which leaves coefficients in the units of X"),),
    "penalty_factor": (("penalty", "write penalty, one factor of lam for each column"),),
    "penalty_factors": (("penalty", "write penalty, one factor of lam for each column"),),
    "cv": (
        ("rule", "write rule=select.kfold(5), or leave it out for leave-one-out"),
        ("", "ridge_cv and kernel_ridge_cv choose, with rule=select.kfold(5)"),
    ),
    "n_folds": (("rule", "write rule=select.kfold(5)"),),
    "nfolds": (("rule", "write rule=select.kfold(5)"),),
    "scoring": (("rule", "write rule, such as select.loo, select.gcv or select.kfold(5)"),),
    "gcv_mode": (("rule", "write rule=select.gcv"),),
    "alpha_per_target": (("per_target", "write per_target"),),
    "l1_ratio": (("lam2", "write lam = 2n·l1_ratio·alpha and lam2 = n·(1 − l1_ratio)·alpha"),),
    "epsilon": (("loss", "write loss=margins.EpsilonInsensitive(epsilon)"),),
    "gamma": (("kernel", "write kernel=kernels.RBF(scale) with scale = 1/√(2 gamma)"),),
    "length_scale": (("kernel", "write kernel=kernels.RBF(length_scale), or another of jaxridge.kernels"),),
    "degree": (("kernel", "write kernel=kernels.Polynomial(...)"),),
    "coef0": (("kernel", "write kernel=kernels.Polynomial(...)"),),
    "kernel_params": (("kernel", "write them into the kernel, as in kernel=kernels.RBF(2.0)"),),
    "jac": (("jacobian", "leave it out for automatic differentiation, or write jacobian=function(x, args)"),),
    "Dfun": (("jacobian", "leave it out for automatic differentiation, or write jacobian=function(x, args)"),),
    "method": (("solver", "write solver, an object such as TrustRegion()"),),
    "optimizer": (("solver", "write solver, an object such as TrustRegion()"),),
    "f_scale": (("loss", "write loss=losses.scaled(losses.huber, f_scale)"),),
    "x_scale": (("", "there is none: the scale of every parameter is found on the way"),),
    "diag": (("", "there is none: the scale of every parameter is found on the way"),),
    "p0": (("x0", "write x0"),),
    "init": (("x0", "write x0"),),
    "initial_guess": (("x0", "write x0"),),
    "sigma": (("residual", "divide the residual by sigma"),),
    "max_nfev": (("max_steps", "write max_steps"),),
    "maxfev": (("max_steps", "write max_steps"),),
    "maxiter": (("max_steps", "write max_steps"),),
    "max_iter": (("max_steps", "write max_steps"), ("", "there is none: a factorisation takes no iterations")),
    "tol": (("gtol", "write gtol, xtol or ftol"), ("", "there is none: a factorisation takes no iterations")),
    "L_matrix": (("L", "write L"),),
    "reg_L": (("L", "write L"),),
    "x0": (("x_ref", "write x_ref for what the penalty pulls x to; no start is needed"),),
    "random_state": _SEED,
    "seed": _SEED,
    "copy_X": (("", "there is none: arrays are never changed"),),
    "n_jobs": (("", "there is none: XLA uses all cores"),),
    "family": (("", "the loss is that of least squares; for classes there is svm"),),
    "positive": (("", "ridge_positive has coefficients that are not negative, least_squares other bounds"),),
    "verbose": (("callback", "write callback, a function that is shown every step"), ("", "there is none")),
}


def verb(*options: Callable[..., Any]) -> Callable[[Verb], Verb]:
    """Show the keywords of ``options`` where a verb passes its own on, and answer those that it has not.

    >>> import jaxridge as jxr
    >>> jxr.ridge([[1.0]], [1.0], 1.0, fit_intercept=False)
    Traceback (most recent call last):
    TypeError: ridge has no argument 'fit_intercept': write intercept.
    """

    def door(fn: Verb) -> Verb:
        signature = _explicit(fn, options)
        names = [
            name for name, parameter in signature.parameters.items() if parameter.kind is not parameter.VAR_KEYWORD
        ]

        @functools.wraps(fn)
        def called(*args: Any, **keywords: Any) -> Any:
            for name in keywords:
                if name not in names:
                    raise TypeError(f"{fn.__name__} has no argument {name!r}: {_cure(name, names)}")
            return fn(*args, **keywords)

        called.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
        return called  # pyright: ignore[reportReturnType]

    return door


def _explicit(fn: Callable[..., Any], options: tuple[Callable[..., Any], ...]) -> inspect.Signature:
    """The signature of ``fn`` with the keyword-only parameters of ``options`` in the place of its ``**``."""
    own = inspect.signature(fn)
    parameters = {name: p for name, p in own.parameters.items() if p.kind is not p.VAR_KEYWORD}
    for option in options:
        for name, parameter in inspect.signature(option).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY:
                parameters.setdefault(name, parameter)
    return own.replace(parameters=sorted(parameters.values(), key=lambda parameter: parameter.kind))


def _cure(name: str, names: list[str]) -> str:
    """What to write instead."""
    for has, cure in CURES.get(name, ()):
        if has in names or not has:
            return f"{cure}."
    near = difflib.get_close_matches(name, names, 1)
    return f"is it {near[0]}?" if near else f"it takes {', '.join(names)}."
