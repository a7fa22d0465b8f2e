"""The faults that can be rehearsed."""

from typing import Literal, get_args

__all__ = ["FAULTS", "FaultName"]

FaultName = Literal["kill", "stop", "cut", "slow", "kill-commit", "kill-checkpoint", "join", "leave"]

FAULTS: tuple[FaultName, ...] = get_args(FaultName)
