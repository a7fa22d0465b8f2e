"""Learning-rate schedules: pure functions from the step to a factor on every group's initial rate."""

from math import cos, pi

from adamesh.train.settings import ScheduleSettings

__all__ = ["lr_factor"]

_CYCLE_RISE = 0.3
"""The share of a cycle's steps that its rise takes; this and the next two are torch's OneCycleLR's."""
_CYCLE_START = 1 / 25
_CYCLE_END = _CYCLE_START / 1e4


def lr_factor(settings: ScheduleSettings, step: int, total_steps: int) -> float:
    """The factor at ``step``, from 0, of a run of ``total_steps``.

    Warm-up is linear and reaches 1 at step ``warmup_steps``; its first step already has a rate above 0. The
    schedule proper runs over the steps that are left.
    """
    warmup_steps = settings.warmup_steps or 0
    if settings.kind == "one-cycle":
        return one_cycle(step, total_steps, warmup_steps or _CYCLE_RISE * total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    left = max(1, total_steps - warmup_steps)
    progress = min(1.0, (step - warmup_steps) / left)
    match settings.kind:
        case "cosine":
            return cosine(progress, settings.final_factor)
        case "linear":
            return 1 + (settings.final_factor - 1) * progress
        case "step":
            every = settings.step_every or -(-left // 3)
            return settings.step_factor ** ((step - warmup_steps) // every)
        case _:
            return 1.0


def cosine(progress: float, final_factor: float) -> float:
    """Half a cosine from 1 to ``final_factor`` (Loshchilov & Hutter 2017, SGDR, eq. 5, without restarts)."""
    return final_factor + (1 - final_factor) * (1 + cos(pi * progress)) / 2


def one_cycle(step: int, total_steps: int, rise_steps: float) -> float:
    """Up from 1/25 to 1 and down to next to nothing, along half cosines (Smith & Topin 2018), as OneCycleLR goes.

    Momentum stays as it is.
    """
    top = max(1.0, rise_steps - 1)  # the step of the highest rate; OneCycleLR's may lie between two steps as well
    if step <= top:
        return cosine(1 - step / top, _CYCLE_START)
    progress = min(1.0, (step - top) / max(1.0, total_steps - 1 - top))
    return cosine(progress, _CYCLE_END)
