"""What can happen at run time, as data: one code for every problem of a batch, with its message."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxridge.core.types import Array, Int

__all__ = ["RESULTS", "first_failure", "messages", "override"]


class RESULTS(eqx.Enumeration):
    """Outcome of one problem. Compare with ``==``; printing it, or ``RESULTS[item]``, gives the message.

    Only ``successful``, ``rank_deficient``, ``unresolved``, ``nearly_dependent``, ``max_products``,
    ``residual_floor``, ``unreachable_residual``, ``trivial_residual``, ``prior_only``, ``perfect_fit``, ``bands_off``,
    ``open_gap``, ``not_unique``, ``at_kink`` and ``undetermined_intercept`` come with finite numbers.

    >>> import jaxridge as jxr, jax.numpy as jnp
    >>> fit = jxr.ridge(jnp.eye(3), jnp.ones(3), -1.0)
    >>> bool(fit.result == jxr.RESULTS.invalid_lam)
    True
    """

    successful = "solved"
    rank_deficient = (
        "lam = 0, and to the precision of this dtype the columns are linearly dependent: of the many least-squares "
        "solutions this is the one of minimum norm. Use lam > 0 for a solution that depends smoothly on the data."
    )
    unresolved = (
        "lam is too small for this dtype: what rounding does to X may change the coefficients by a twentieth or "
        "more. Use a larger lam, or float64."
    )
    nonfinite_input = "X, y, weights or penalty hold NaN or infinity. Remove or impute those entries."
    invalid_lam = "lam is negative or NaN. Use lam >= 0."
    invalid_weights = "weights must be >= 0, with a positive one for every unpenalised column at least."
    invalid_penalty = "penalty must be > 0. Name columns without a penalty in `unpenalized` instead."
    dependent_unpenalized = (
        "The unpenalised columns (the intercept is one) are linearly dependent, so that their "
        "coefficients are not determined. Drop one, or set intercept=False."
    )
    nearly_dependent = (
        "The unpenalised columns (the intercept is one) are so nearly dependent in this dtype that rounding may change "
        "their coefficients by a twentieth or more. Drop one, give it a penalty, or use float64."
    )
    invalid_radius = "radius must be >= 0, a fraction between 0 and 1."
    nonfinite_kernel = (
        "The kernel matrix holds NaN or infinity: look for NaN in the points, and for a length scale or a weight of "
        "a kernel that is not positive."
    )
    indefinite_kernel = (
        "The kernel matrix has an eigenvalue below zero by more than rounding, so it is not a kernel. Check "
        "that it is symmetric and positive semidefinite, or add a multiple of the identity."
    )
    no_score = (
        "The rule has no score at any lam of the grid, so that none was chosen. Look at the scores, and for NaN and "
        "negative numbers in lams and in what the rule was made of."
    )
    max_products = (
        "As many products as allowed did not solve this lam to tol: residual_norm or error_bound says how far it came. "
        "Raise max_steps or budget, rank, tol or lam."
    )
    residual_floor = (
        "Rounding keeps the residual at this lam above tol, however many steps are taken: residual_norm says how far "
        "it came. Use a larger lam or tol, or float64."
    )
    shared_null_space = (
        "A and L have a null space in common, so that x is not determined there. Use another L, such as the identity."
    )
    unreachable_residual = "No lam makes the residual as small as asked, so lam is 0. Is the noise level too low?"
    trivial_residual = (
        "The residual is smaller than asked even for the smoothest x, so lam is infinite. Is the noise level too high, "
        "or is there no signal?"
    )
    prior_only = (
        "The evidence is largest at lam = infinity: noise alone explains y as well as the penalised columns do, so "
        "that their coefficients and the variance of their prior are 0."
    )
    perfect_fit = (
        "The penalised columns explain y to rounding, and the evidence is largest without noise: lam and noise are 0. "
        "Pass noise where it is known."
    )
    bands_off = (
        "Some bands explain no more of y than noise would: their lam is infinite and their coefficients are 0. Look at "
        "lams for which."
    )
    path_ended = "The path was followed to a larger lam only. Raise max_knots, or make this lam a part of lams."
    open_gap = (
        "The duality gap, which bounds how far the objective may lie above its minimum, stayed above tol. Use a larger "
        "tol or lam, or float64; where there is max_steps, raise it."
    )
    not_unique = (
        "Columns that are linearly dependent have the same part in the fit: the objective is at its minimum, and other "
        "coefficients reach it too. Drop columns, or use lam2 > 0."
    )
    at_kink = (
        "The solution is right, and at this lam it has no derivative but one-sided ones: its support changes here. "
        "Derivatives are those of one side. Move lam a little."
    )
    undetermined_intercept = (
        "No row lies on the margin itself, so that a whole interval of intercepts is as good as this one. Its "
        "derivatives are NaN. Use another lam, or the squared hinge."
    )
    invalid_labels = (
        "Labels must be -1 and 1: for 0 and 1 pass 2 * y - 1, for more classes margins.one_vs_rest(labels)."
    )
    negative_epsilon = "epsilon must be >= 0."
    lam_not_positive = "lam must be positive and finite here."
    one_class = "All labels are the same, so that there is nothing to separate. Pass rows of both classes."
    gradient_converged = "converged: the gradient is as small as gtol asks"
    cost_converged = "converged: no step that the data determine gains more than ftol of the cost"
    step_converged = "converged: the steps that the data determine are as short as xtol asks, or as rounding allows"
    undetermined = (
        "converged: the cost is stationary, but the data do not determine every combination of the parameters. Of "
        "derivatives, those of what is determined exist. Fix a parameter, or use lam > 0."
    )
    no_influence = (
        "converged: the cost is stationary, but at the answer a free parameter does not change the residual, as where "
        "a bound holds another one. It stays where it was. Fix it, or use lam > 0."
    )
    evaporated = (
        "Where the search ended a parameter has no influence on the residual any more, although it had on the way, "
        "and no bound is active: its value means nothing. Bound the parameters, or start nearer."
    )
    saddle = "The gradient is zero but the point is no minimum: a saddle or a maximum. Start from another point."
    max_steps = "max_steps was reached before any convergence test was met. Raise it, or start nearer."
    rounding_limited = (
        "Rounding in the residual hides what could still be gained, which may be a percent of the cost or more. "
        "The point is the best that this dtype can tell. Use float64, or scale the problem."
    )
    stalled = (
        "No step reduces the cost although the model says that it can fall: the residual may be noisy or not "
        "smooth at this precision, or its derivative wrong. Use float64, or check the residual."
    )
    nonfinite_start = (
        "The residual or its Jacobian is NaN or infinite at x0. Look for NaN in the data and for divisions by 0, or "
        "start from another point."
    )
    nonfinite_region = (
        "The residual or its Jacobian is NaN or infinite everywhere near the best point, which is kept. Bound the "
        "parameters, or rewrite the residual."
    )
    not_at_minimum = (
        "The solution is no minimum of the objective that residual, args and loss make, so its uncertainty is not "
        "defined. Pass those of the fit, without penalty."
    )
    crossed_bounds = "A lower bound lies above its upper bound."
    unstable_rate = (
        "The learning rate is past what is stable for these data, so that training diverges. Use a smaller one."
    )
    invalid_noise = "noise, gain or learning rate is negative or NaN. Use numbers >= 0, and a learning rate > 0."
    outside_conductance = (
        "The weights lie outside of what the map of the device can show. Start inside, or scale the map."
    )
    correlated_columns = (
        "Two columns of X are so correlated that a synapse feels how the other moves, which the prediction leaves out. "
        "Measure with simulate, or decorrelate the columns."
    )
    not_inverse = "The inverse of the map does not undo the map between its limits. Correct it, or narrow the limits."
    overflow = (
        "The scales of X, y and lam lie so far apart that the answer or a step towards it leaves the range of "
        "this dtype. Rescale the data, or use float64."
    )


def first_failure(*cases: tuple[Array, Any], shape: tuple[int, ...]) -> Any:
    """The item of the first true case, elementwise over ``shape``; ``successful`` where none is true."""
    code: Any = RESULTS.successful._value
    for condition, failure in reversed(cases):
        code = jnp.where(condition, failure._value, code)
    return _items(jnp.broadcast_to(code, shape))


def override(failure: Any, bad: Array, result: Any) -> Any:
    """``result``, with ``failure`` in its place where ``bad``."""
    return _items(jnp.where(bad, failure._value, result._value))


def _items(code: Int[Array, "..."]) -> Any:
    """Items of these codes, as selections of whole numbers: `RESULTS.where` for each case takes longer to compile."""
    return eqx.tree_at(lambda item: item._value, RESULTS.successful, code)


def messages(result: Any) -> list[str]:
    """What concrete items say that are not ``successful`` or a way to converge, each message once."""
    found = dict.fromkeys(np.ravel(np.asarray(result._value)).tolist())
    said = [RESULTS._index_to_message[index] for index in found]
    return [message for message in said if message != "solved" and not message.startswith("converged")]
