"""A batch whose loss or gradient is not a number, out of the blue."""

import numpy as np

from adamesh.doctor.commands import again
from adamesh.doctor.events import as_evidence, steps_of
from adamesh.doctor.finding import Advice, Answer, Finding, Unknown
from adamesh.doctor.record import Record

__all__ = ["NOT_FINITE", "examine", "first_not_finite", "is_sudden"]

_ORDINARY = 10
"""Steps before it. With fewer the usual is not known, and a learning rate that is too high needs no more."""
_LAST = 5
_LOSS_GREW, _NORM_GREW = 2.0, 10.0
"""From the median of all steps to that of the last few: what the guard calls beyond the usual (docs/guard.md)."""
NOT_FINITE = ("norm nan", "norm inf", "loss nan", "loss inf", "is not finite")
"""Words in which the guard says so (`adamesh.engine.refusal`)."""


def examine(record: Record) -> Answer:
    """Steps that the guard skipped because of one, or the step that ended the run."""
    skips = [event for event in record.events_of("skip") if any(word in event.message for word in NOT_FINITE)]
    if skips:
        count = "1 batch" if len(skips) == 1 else f"{len(skips)} batches"
        return Finding(
            saw=f"{count} gave a loss or a gradient that is not finite; the guard passed over them",
            evidence=[f"skipped: {steps_of(skips)}", *as_evidence(skips)],
            advice=[Advice("look at the samples that are named: empty ones, divisions by zero, values out of range")],
            causes=("rollbacks", "failure"),
        )
    pushed = sum(
        worker.get("non_finite", 0) for worker in (record.summary.get("asynchronous") or {}).get("workers", ())
    )
    if pushed:
        return Finding(
            saw="gradients that are not finite were pushed, and rejected",
            evidence=[f"{pushed:,.0f} samples of them in all"],
            advice=[Advice("train in step, guarded: the guard names the samples", _guarded(record))],
        )
    if not record.lines:
        return Unknown("no step is known")
    at = first_not_finite(record)
    if at is None or not is_sudden(record, at):
        return None
    line = next(line for line in record.lines if line["step"] == at)
    before = record.series("loss").finite
    kept = before.where(before.steps < at)
    return Finding(
        saw=f"step {at} gave {_what(line)}, with no sign of it in the steps before",
        evidence=[
            f"loss {line['loss']:g}, gradient norm {line.get('grad_norm', np.nan):g} at step {at}",
            f"median loss {kept.blocks(4)[-1].median:.4g} in {kept.blocks(4)[-1].span()}",
        ],
        advice=[
            Advice(
                "train again with a guard, which passes over such batches and names their samples", _guarded(record)
            ),
            Advice("look for an empty sample, a division by zero, a logarithm or a root of 0 in loss or data"),
        ],
        causes=("failure",),
    )


def first_not_finite(record: Record) -> int | None:
    """The first step whose loss or gradient norm is not finite, skipped ones left out; None: there is none."""
    for line in record.lines:
        if not line.get("skipped") and not (np.isfinite(line["loss"]) and np.isfinite(line.get("grad_norm", 0.0))):
            return int(line["step"])
    return None


def is_sudden(record: Record, at: int) -> bool:
    """Whether the steps before were like those before them."""
    for key, grew in (("loss", _LOSS_GREW), ("grad_norm", _NORM_GREW)):
        series = record.series(key).finite
        before = series.where(series.steps < at)
        if len(before) < _ORDINARY:
            return False
        if float(np.median(before.values[-_LAST:])) > grew * abs(before.median):
            return False
    return True


def _what(line: dict[str, float] | object) -> str:
    assert isinstance(line, dict)
    return (
        "a gradient that is not finite, from a loss that is"
        if np.isfinite(line["loss"])
        else "a loss that is not finite"
    )


def _guarded(record: Record) -> str | None:
    alone = record.config is not None and record.config.plan.schedule.kind == "async"
    return again(record, *(["--plan.sync", "every-step"] if alone else []), "--plan.guard")
