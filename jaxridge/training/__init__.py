"""What training regularises by itself: optimisers with weight decay, steps that stop early, synapses of hardware.

Whose decay is ridge: gradient descent's, with momentum too (at λ(1 − β) where the decay comes after it), and Adam's
where the penalty is part of the loss. Whose is not: AdamW's, which in full batches shrinks nothing inside ‖w‖∞ = 1/wd
and under noise penalises each column by the size of its gradients; and cautious decay, which ends at least squares in
full batches and under noise decays at about half of its steps.
Noise on the state of a synapse does not by itself regularise: it depends on where the update acts.
"""

from jaxridge.training.decay import Limit, fixed_point, lam_of
from jaxridge.training.device import Device, differential
from jaxridge.training.drift import drift, drift_expansion
from jaxridge.training.field import Effective, effective_lam
from jaxridge.training.maps import Conductance, Custom, Exponential, Linear, Tanh
from jaxridge.training.optimisers import (
    AdamL2,
    AdamW,
    CautiousDecay,
    CoupledDecay,
    DecoupledDecay,
    IndependentDecay,
    Optimiser,
    PreconditionedDecay,
    cautious_decay,
    group_decay,
)
from jaxridge.training.run import Run, train
from jaxridge.training.simulate import Measured, simulate
from jaxridge.training.stopping import lam_of_stopping, stopping_filter
from jaxridge.training.updates import ChainRule, ClosedLoop, PulseNoise, SoftBounds, StateStep, Update

__all__ = [
    "AdamL2",
    "AdamW",
    "CautiousDecay",
    "ChainRule",
    "ClosedLoop",
    "Conductance",
    "CoupledDecay",
    "Custom",
    "DecoupledDecay",
    "Device",
    "Effective",
    "Exponential",
    "IndependentDecay",
    "Limit",
    "Linear",
    "Measured",
    "Optimiser",
    "PreconditionedDecay",
    "PulseNoise",
    "Run",
    "SoftBounds",
    "StateStep",
    "Tanh",
    "Update",
    "cautious_decay",
    "differential",
    "drift",
    "drift_expansion",
    "effective_lam",
    "fixed_point",
    "group_decay",
    "lam_of",
    "lam_of_stopping",
    "simulate",
    "stopping_filter",
    "train",
]
