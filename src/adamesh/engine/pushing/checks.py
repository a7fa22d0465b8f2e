"""What a worker finds wrong with a step of its own: nobody else hears of it."""

from collections.abc import Mapping, Sequence

import torch

from adamesh.engine.bucket import LiveBucket
from adamesh.engine.owner import Shard
from adamesh.errors import ConfigurationError, GradientError, IncompatiblePlan, ParameterError
from adamesh.rules.base import Hyper, Rule

__all__ = ["changed_parameter", "refuse_unfit"]


def refuse_unfit(
    buckets: Sequence[LiveBucket],
    shards: Mapping[int, Shard],
    rule: Rule,
    hypers: Sequence[Hyper],
    loss_scale: float | None,
) -> None:
    """Raise what is wrong on this worker, before anything is sent.

    Raises:
        IncompatiblePlan: a gradient scaler was used.
        ConfigurationError: a hyper-parameter is out of range.
        GradientError: a gradient is sparse.
        ParameterError: a parameter was changed.
    """
    if loss_scale is not None:
        raise IncompatiblePlan(
            "a GradScaler with Plan(sync=Async(...)): which steps to skip is decided by all workers together, and "
            "here no step is anybody else's. Train in bfloat16 (or float32) without a scaler, or use EveryStep()"
        )
    for hyper in hypers:
        rule.check(hyper)
    for shard in shards.values():
        missing = set(rule.state_names(hypers[shard.bucket.place.group])) - shard.state_S.keys()
        if missing:
            raise ConfigurationError(
                f"a parameter group was changed so that it needs {sorted(missing)}, which it has not kept from "
                "the start (amsgrad, for one, cannot be switched on later): build a new optimizer"
            )
    changed = changed_parameter(buckets)
    if changed is not None:
        raise changed
    for bucket in buckets:
        for slot in bucket.slots:
            if slot.param.grad is not None and slot.param.grad.layout != torch.strided:
                raise GradientError(
                    f"the gradient of {slot.name!r} is of layout {slot.param.grad.layout}: only dense gradients "
                    "can be pushed. Build its layer with sparse=False"
                )


def changed_parameter(buckets: Sequence[LiveBucket]) -> ParameterError | None:
    """Whether somebody wrote to a parameter since the last step."""
    for bucket in buckets:
        for slot in bucket.slots:
            if slot.changed or not slot.fits:
                return ParameterError(
                    f"parameter {slot.name!r} was changed from outside since the last step: under Async its owners "
                    "have the value that counts, and would write over it. Load with adamesh.load, or change "
                    "parameters before the optimizer is built"
                )
    return None
