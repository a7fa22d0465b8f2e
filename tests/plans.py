"""A table of plans of every kind, for laws that are to hold whatever the plan."""

from typing import Any

import adamesh
from tests.wire.world import CODECS, both_ways

PLANS: dict[str, dict[str, Any]] = {
    "exact": {},
    "clipped": {"max_grad_norm": 0.5},
    "copies": {"redundancy": 2},
    "guarded": {"guard": adamesh.Guard()},
    "balanced": {"balance": True},
    "not-overlapped": {"overlap": False},
    "every-3": {"sync": adamesh.EveryH(3)},
    "des-loc": {"sync": adamesh.EveryH(2, exp_avg=2, exp_avg_sq=4)},
    "diloco": {"sync": adamesh.DiLoCo(4, fragments=2, delay=1, codec=adamesh.Feedback(adamesh.Int4()))},
    "stale": {"sync": adamesh.Stale(1)},
    "lowrank": {"wire": adamesh.Wire(up=adamesh.LowRank(2))},
}
"""One line for each kind of plan, and one for each codec."""
PLANS |= {name: {"wire": both_ways(codec)} for name, codec in CODECS.items()}
