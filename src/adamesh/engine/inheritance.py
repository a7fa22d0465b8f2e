"""What workers hold of a state between them, and how each gets what it is to keep: in memory, from peer to peer.

Every rank tells all others what it holds. From then on all make the same plan of who sends which elements to whom, and
every element travels once, and only where it is not there already.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adamesh.comm.base import Communicator
from adamesh.engine.runs import HeldRun
from adamesh.reshard import Range, plan_copies

__all__ = ["Want", "bequeathed"]


@dataclass(frozen=True)
class Want:
    """Elements ``start:stop`` of some state tensors of one parameter."""

    name: str
    keys: tuple[str, ...]
    start: int
    stop: int


@dataclass
class Estate:
    """What all ranks hold, by parameter and state tensor."""

    ranges: dict[tuple[str, str], list[Range]] = field(default_factory=dict)
    """Each with the number of a run as its source."""
    dtypes: dict[tuple[str, str], torch.dtype] = field(default_factory=dict)
    holders: list[tuple[int, int]] = field(default_factory=list)
    """By number of a run: the rank that holds it, and which of that rank's runs it is."""


def bequeathed(
    comm: Communicator, mine: Sequence[HeldRun], wants: Sequence[Sequence[Want]], device: torch.device
) -> list[HeldRun]:
    """What this rank wants, out of what all ranks hold. Collective.

    Args:
        comm: among whom.
        mine: what this rank holds; runs may overlap, on one rank and between ranks, and hold the same numbers then.
        wants: by rank, the same on every rank.
        device: where all of it is.

    Raises:
        LayoutError: somebody wants elements that nobody holds; on every rank.
    """
    catalog = [[run.name, run.start, run.stop, {k: _name(t) for k, t in run.tensors.items()}] for run in mine]
    catalogs = [json.loads(message) for message in comm.exchange(json.dumps(catalog).encode(), "holdings")]
    estate = _estate(catalogs)
    sent: list[list[Tensor]] = [[] for _ in range(comm.size)]
    got: list[HeldRun] = []
    coming: list[list[Tensor]] = [[] for _ in range(comm.size)]
    for rank, its in enumerate(wants):
        near = {number for number, (holder, _) in enumerate(estate.holders) if holder == rank}
        for want in its:
            tensors: dict[str, Tensor] = {}
            for key in want.keys:
                copies = plan_copies(estate.ranges.get((want.name, key), ()), want.start, want.stop, want.name, near)
                if rank == comm.rank:
                    dtype = estate.dtypes.get((want.name, key))
                    tensors[key] = torch.empty(want.stop - want.start, dtype=dtype, device=device)
                for copy in copies:
                    holder, index = estate.holders[copy.source]
                    length = copy.source_stop - copy.source_start
                    if holder == comm.rank:
                        held = mine[index].tensors[key][copy.source_start : copy.source_stop]
                        if rank == comm.rank:
                            tensors[key][copy.target_start :][:length].copy_(held)
                        else:
                            sent[rank].append(held)
                    elif rank == comm.rank:
                        coming[holder].append(tensors[key][copy.target_start :][:length])
            if rank == comm.rank:
                got.append(HeldRun(want.name, want.start, want.stop, tensors))
    send = [_packed(parts, device) for parts in sent]
    lengths = [sum(t.numel() * t.element_size() for t in parts) for parts in coming]
    recv = [torch.empty(length, dtype=torch.uint8, device=device) for length in lengths]
    comm.all_to_all_uneven(recv, send).wait()
    for packed, parts in zip(recv, coming, strict=True):
        at = 0
        for part in parts:
            num_bytes = part.numel() * part.element_size()
            part.view(torch.uint8).copy_(packed[at : at + num_bytes])
            at += num_bytes
    return got


def _estate(catalogs: Sequence[Sequence[tuple[str, int, int, Mapping[str, str]]]]) -> Estate:
    estate = Estate()
    for rank, catalog in enumerate(catalogs):
        for index, (name, start, stop, keys) in enumerate(catalog):
            for key, dtype in keys.items():
                held = estate.ranges.setdefault((name, key), [])
                held.append(Range(len(estate.holders), start, stop))
                estate.dtypes[name, key] = getattr(torch, dtype)
            estate.holders.append((rank, index))
    return estate


def _packed(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    empty = torch.empty(0, dtype=torch.uint8, device=device)
    return torch.cat([empty, *(part.contiguous().view(torch.uint8) for part in parts)])


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
