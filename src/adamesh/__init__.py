"""adamesh: Adam on a mesh. An optimizer that scales past one GPU and one machine by changing one line.

Names are imported when they are first used, so that ``adamesh --help`` does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adamesh.adam import Adam, AdamW
    from adamesh.checkpoint.load import load
    from adamesh.checkpoint.save import save
    from adamesh.checkpoint.saver import Saver
    from adamesh.codecs.cast import Cast
    from adamesh.codecs.feedback import Feedback
    from adamesh.codecs.frozen import Frozen
    from adamesh.codecs.int2 import Int2
    from adamesh.codecs.int4 import Int4
    from adamesh.codecs.int8 import Int8
    from adamesh.codecs.lowrank import LowRank
    from adamesh.codecs.momentum import Momentum
    from adamesh.codecs.sign import Sign
    from adamesh.codecs.topk import TopK
    from adamesh.codecs.warmup import Warmup
    from adamesh.data.elastic import ElasticSampler
    from adamesh.entry import elastic, surviving
    from adamesh.errors import (
        AdameshError,
        CheckpointError,
        CommunicationError,
        Expelled,
        IncompatiblePlan,
        QuorumLost,
        StateLost,
    )
    from adamesh.groups import param_groups
    from adamesh.guard import Guard
    from adamesh.lbfgs import LBFGS
    from adamesh.onebit import OneBitAdam
    from adamesh.optimizer import MeshOptimizer
    from adamesh.plan import Plan
    from adamesh.replicas import average_buffers, broadcast_buffers, broadcast_module
    from adamesh.rivals import SGD, Adadelta, NAdam
    from adamesh.scaler import GradScaler
    from adamesh.sync.asynchronous import Async
    from adamesh.sync.diloco import DiLoCo
    from adamesh.sync.every_h import EveryH
    from adamesh.sync.every_step import EveryStep
    from adamesh.sync.outer import Nesterov
    from adamesh.sync.stale import Stale
    from adamesh.wire import Wire

__all__ = [
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adam",
    "AdamW",
    "AdameshError",
    "Async",
    "Cast",
    "CheckpointError",
    "CommunicationError",
    "DiLoCo",
    "ElasticSampler",
    "EveryH",
    "EveryStep",
    "Expelled",
    "Feedback",
    "Frozen",
    "GradScaler",
    "Guard",
    "IncompatiblePlan",
    "Int2",
    "Int4",
    "Int8",
    "LowRank",
    "MeshOptimizer",
    "Momentum",
    "NAdam",
    "Nesterov",
    "OneBitAdam",
    "Plan",
    "QuorumLost",
    "Saver",
    "Sign",
    "Stale",
    "StateLost",
    "TopK",
    "Warmup",
    "Wire",
    "average_buffers",
    "broadcast_buffers",
    "broadcast_module",
    "elastic",
    "load",
    "param_groups",
    "save",
    "surviving",
]
__version__ = "0.1.0"

_HOMES = {
    "TopK": "codecs.topk",
    "Sign": "codecs.sign",
    "Wire": "wire",
    "Warmup": "codecs.warmup",
    "Int8": "codecs.int8",
    "Int4": "codecs.int4",
    "Int2": "codecs.int2",
    "Feedback": "codecs.feedback",
    "Frozen": "codecs.frozen",
    "Cast": "codecs.cast",
    "Adadelta": "rivals",
    "Adam": "adam",
    "AdamW": "adam",
    "AdameshError": "errors",
    "CheckpointError": "errors",
    "CommunicationError": "errors",
    "Expelled": "errors",
    "QuorumLost": "errors",
    "StateLost": "errors",
    "Async": "sync.asynchronous",
    "DiLoCo": "sync.diloco",
    "Nesterov": "sync.outer",
    "Stale": "sync.stale",
    "ElasticSampler": "data.elastic",
    "EveryH": "sync.every_h",
    "EveryStep": "sync.every_step",
    "GradScaler": "scaler",
    "Guard": "guard",
    "IncompatiblePlan": "errors",
    "LowRank": "codecs.lowrank",
    "LBFGS": "lbfgs",
    "MeshOptimizer": "optimizer",
    "Momentum": "codecs.momentum",
    "NAdam": "rivals",
    "OneBitAdam": "onebit",
    "Plan": "plan",
    "SGD": "rivals",
    "Saver": "checkpoint.saver",
    "average_buffers": "replicas",
    "broadcast_buffers": "replicas",
    "broadcast_module": "replicas",
    "elastic": "entry",
    "load": "checkpoint.load",
    "param_groups": "groups",
    "save": "checkpoint.save",
    "surviving": "entry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'adamesh' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"adamesh.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
