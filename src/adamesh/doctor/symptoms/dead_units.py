"""Hidden units that pass nothing on, whatever comes in."""

from adamesh.doctor.commands import again
from adamesh.doctor.finding import Advice, Answer, Finding, Unknown
from adamesh.doctor.record import Record

__all__ = ["examine"]

_SHARE, _WORST = 0.6, 0.9
"""Of all hidden units, and of those of one layer. The embedded digits' CNN has 36 % of its hidden layer dead from its
initialisation on and learns to 98.9 %: units to spare are no fault. With nine in ten gone a layer is a bottleneck."""


def examine(record: Record) -> Answer:
    """By the gradients of biases, which are exactly zero for a unit that is off for all samples."""
    share, worst = record.together("dead_units", "dead_units_worst_layer")
    if not len(share):
        return Unknown("no step was looked at (from the 60th on, every 60th is, in models with biases or batch norm)")
    if share.values[-1] < _SHARE and worst.values[-1] < _WORST:
        return None
    lr = None if record.config is None else record.config.optim.lr
    rate = [] if lr is None else ["--optim.lr", f"{lr / 10:g}"]
    lower = again(record, *rate, "--schedule.warmup-steps", "100")
    return Finding(
        saw=f"{share.values[-1]:.0%} of the hidden units are dead",
        evidence=[
            (
                f"{share.values[-1]:.0%} of all, {worst.values[-1]:.0%} in the worst layer, had no gradient in all "
                f"looks before step {share.steps[-1]}"
            ),
            f"{share.values[0]:.0%} and {worst.values[0]:.0%} at step {share.steps[0]}",
        ],
        advice=[
            Advice("a lower learning rate with a warm-up: a step that is too long pushes biases far below zero", lower),
            Advice("change the model: LeakyReLU or GELU for ReLU, or normalisation before it"),
        ],
        causes=("stalled", "vanishing gradients"),
    )
