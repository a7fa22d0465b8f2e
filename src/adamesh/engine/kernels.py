"""Which codecs of a plan are compiled: decided once, when the optimizer is built, and never waited for in a step."""

import logging
from collections.abc import Iterable, Mapping

from torch import Tensor

from adamesh.codecs.base import Codec
from adamesh.codecs.compiled import compiled
from adamesh.comm.channel import state_dtype
from adamesh.errors import CannotCompile
from adamesh.plan import Plan

__all__ = ["LEAST_ELEMENTS", "compiled_codecs"]

LEAST_ELEMENTS = 4 * 2**20
"""Compiling takes 5 to 20 s, and less from the second process on; it spares 4 to 15 ns per element and step, so that
from here on it pays within some hundred steps."""
_PATIENCE_S = 120.0
"""Workers wait for the one that compiles longest; where they are told to wait for less, none does."""
_told: set[str] = set()


def compiled_codecs(plan: Plan, params: Iterable[Tensor]) -> Mapping[Codec, Codec]:
    """The compiled forms of the plan's codecs, by codec; empty where none is compiled.

    Args:
        plan: its ``compile`` decides; None: for models on CPUs of `LEAST_ELEMENTS` elements that train.
        params: the optimizer's.
    """
    trained = [p for p in params if p.requires_grad and p.device.type == "cpu"]
    patient = plan.timeout_s is None or plan.timeout_s >= _PATIENCE_S
    pays = patient and sum(p.numel() for p in trained) >= LEAST_ELEMENTS
    codecs = plan.full_wire.codecs
    if not codecs or not trained or plan.compile is False or (plan.compile is None and not pays):
        return {}
    sums = {state_dtype(p.dtype.to_real()) for p in trained}
    try:
        return {codec: compiled(codec, sums) for codec in codecs}
    except CannotCompile as error:
        _tell(f"codecs are not compiled, and cost more time: {error}")
        return {}


def _tell(line: str) -> None:
    """Once a process, not once an optimizer."""
    if line not in _told:
        _told.add(line)
        logging.getLogger("adamesh").warning(line)
