"""What a step's line of metrics.jsonl says, beside its number, its loss and its samples."""

from adamesh.train.untold import OwnStep
from adamesh.train.vitals import paces

__all__ = ["step_numbers"]


def step_numbers(step: OwnStep, seconds: float, num_workers: int) -> dict[str, float]:
    """Of one step, as this worker saw it.

    Args:
        step: which.
        seconds: that it took, waiting for the others afterwards included.
        num_workers: of the run.
    """
    stats = step.stats
    return {
        "lr": step.local.lr,
        "grad_norm": step.grad_norm,
        "step_s": seconds,
        "data_wait_s": step.local.data_wait_s,
        "comm_exposed_s": stats.comm_exposed_s,
        "bytes_up": stats.bytes_up,
        "bytes_down": stats.bytes_down,
        "bytes_per_step": stats.bytes_per_step,
        "state_bytes": stats.state_bytes,
        **paces(stats.work_s, num_workers),
        **step.local.vitals,
        **({"skipped": 1} if step.local.skipped else {}),
        **({} if stats.divergence is None else {"divergence": stats.divergence}),
        **({} if stats.frozen_after is None else {"frozen_after": stats.frozen_after}),
    }
