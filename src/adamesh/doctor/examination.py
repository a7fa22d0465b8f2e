"""Looks at a run for every symptom that is known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from adamesh.doctor.finding import Answer, Finding, Unknown
from adamesh.doctor.record import Record
from adamesh.doctor.symptoms import (
    checkpoints,
    communication,
    dead_units,
    divergence,
    explosion,
    failure,
    hardware,
    loss_scale,
    lost_workers,
    nan_batches,
    rollbacks,
    skipped_steps,
    stalled,
    starvation,
    stragglers,
    vanishing,
)

__all__ = ["SYMPTOMS", "Diagnosis", "diagnose"]

SYMPTOMS: Mapping[str, Callable[[Record], Answer]] = {
    "NaN batches": nan_batches.examine,
    "divergence": divergence.examine,
    "explosion": explosion.examine,
    "loss scale": loss_scale.examine,
    "vanishing gradients": vanishing.examine,
    "dead units": dead_units.examine,
    "stalled": stalled.examine,
    "data starvation": starvation.examine,
    "stragglers": stragglers.examine,
    "communication": communication.examine,
    "skipped steps": skipped_steps.examine,
    "rollbacks": rollbacks.examine,
    "hardware": hardware.examine,
    "lost workers": lost_workers.examine,
    "checkpoints": checkpoints.examine,
    "failure": failure.examine,
}
"""In the order in which they are reported: what makes others happen stands before them."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found."""

    findings: Mapping[str, Finding]
    """By symptom."""
    unknown: Mapping[str, str]
    """Symptoms that the record does not tell of, and why."""
    absent: Sequence[str]
    """Symptoms that were looked for and are not there."""

    @property
    def healthy(self) -> bool:
        return not self.findings

    def because_of(self, symptom: str) -> str | None:
        """Another symptom that was found and that this one mostly follows from."""
        return next(
            (name for name, found in self.findings.items() if symptom in found.causes and name != symptom), None
        )


def diagnose(record: Record) -> Diagnosis:
    """Every symptom's answer."""
    answers = {name: examine(record) for name, examine in SYMPTOMS.items()}
    return Diagnosis(
        findings={name: answer for name, answer in answers.items() if isinstance(answer, Finding)},
        unknown={name: answer.why for name, answer in answers.items() if isinstance(answer, Unknown)},
        absent=[name for name, answer in answers.items() if answer is None],
    )
