"""Learning-rate schedules: pure functions from the step to a factor on every group's initial rate."""

from math import cos, pi

from adamesh.train.settings import ScheduleSettings

__all__ = ["lr_factor"]


def lr_factor(settings: ScheduleSettings, step: int, total_steps: int) -> float:
    """The factor at ``step``, from 0, of a run of ``total_steps``.

    Warm-up is linear and reaches 1 at step ``warmup_steps``; its first step already has a rate above 0. The
    schedule proper runs over the steps that are left.
    """
    warmup_steps = settings.warmup_steps or 0
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if settings.kind == "cosine":
        return cosine(progress, settings.final_factor)
    return 1.0


def cosine(progress: float, final_factor: float) -> float:
    """Half a cosine from 1 to ``final_factor`` (Loshchilov & Hutter 2017, SGDR, eq. 5, without restarts)."""
    return final_factor + (1 - final_factor) * (1 + cos(pi * progress)) / 2
