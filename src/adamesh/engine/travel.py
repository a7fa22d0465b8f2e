"""How rows travel: who has touched which, to their owners, and back to everybody.

Every rank tells all others which rows it means. From then on all lengths are known everywhere: values go to owners and
new values come back with no further word about what they are.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from adamesh.comm.base import Communicator, Mesh
from adamesh.engine.meter import Meter

__all__ = ["RowTravel"]


class RowTravel:
    """The collectives of one optimizer's tables. All are launched by all ranks in the same order."""

    def __init__(self, mesh: Mesh, meter: Meter) -> None:
        self.mesh = mesh
        self.meter = meter

    def announce(self, rows: Sequence[Tensor], topic: str, flags: int = 0) -> tuple[list[list[int]], int]:
        """Tell everybody of the world how many rows of each table this rank means.

        Args:
            rows: row numbers, by table; as many tables on every rank.
            topic: what for.
            flags: bits to be told along with it.

        Returns:
            By rank of the world, by table: how many; and the bits that any rank has set.
        """
        message = np.array([flags, *map(len, rows)], dtype=np.int64).tobytes()
        answers = [np.frombuffer(m, dtype=np.int64) for m in self.meter.exchange(self.mesh.world, message, topic)]
        return [answer[1:].tolist() for answer in answers], int(np.bitwise_or.reduce([a[0] for a in answers]))

    def tell(self, rows: Sequence[Tensor], counts: Sequence[Sequence[int]], small: bool) -> list[list[Tensor]]:
        """Tell everybody of the world which rows of each table this rank means.

        Args:
            rows: ascending row numbers, int64, by table.
            counts: what `announce` gave.
            small: all row numbers fit into four bytes.

        Returns:
            By table, by rank of the world: ascending row numbers, int64.
        """
        world = self.mesh.world
        mine = torch.cat([*rows]).to(torch.int32 if small else torch.int64)
        received = [torch.empty(sum(n), dtype=mine.dtype, device=mine.device) for n in counts]
        received[world.rank] = mine
        self.meter.bytes_up += mine.numel() * mine.element_size() * (world.size - 1)
        self._swap(world, received, [mine] * world.size)
        parts = [tensor.long().split(n) for tensor, n in zip(received, counts, strict=True)]
        return [[part[i] for part in parts] for i in range(len(rows))]

    def to_owners(
        self, comm: Communicator, values: Sequence[Sequence[Tensor]], counts: Sequence[Sequence[int]]
    ) -> list[list[Tensor]]:
        """Send rows of several tables to the ranks of an axis.

        Args:
            comm: the axis.
            values: by table, by destination: [rows, width] of one dtype.
            counts: by table, by source: how many rows come.

        Returns:
            By table, by source: [rows, width]; this rank's own is what it was to send to itself.
        """
        send = [torch.cat([t[peer].reshape(-1) for t in values]) for peer in range(comm.size)]
        lengths = [[n[peer] * t[0].shape[1] for n, t in zip(counts, values, strict=True)] for peer in range(comm.size)]
        received = [torch.empty(sum(length), dtype=send[0].dtype, device=send[0].device) for length in lengths]
        received[comm.rank] = send[comm.rank]
        self.meter.bytes_up += sum(t.numel() * t.element_size() for i, t in enumerate(send) if i != comm.rank)
        self._swap(comm, received, send)
        parts = [r.split(length) for r, length in zip(received, lengths, strict=True)]
        return [_shaped(parts, i, counts[i], t[0].shape[1]) for i, t in enumerate(values)]

    def to_everybody(self, rows: Sequence[Tensor], counts: Sequence[Sequence[int]]) -> list[list[Tensor]]:
        """Send this rank's new rows of several tables to everybody in the island.

        Args:
            rows: by table: [rows, width] of one dtype.
            counts: by table, by owner: how many rows come.

        Returns:
            By table, by owner: [rows, width].
        """
        comm = self.mesh.shard
        mine = torch.cat([r.reshape(-1) for r in rows])
        lengths = [[n[peer] * r.shape[1] for n, r in zip(counts, rows, strict=True)] for peer in range(comm.size)]
        received = [torch.empty(sum(length), dtype=mine.dtype, device=mine.device) for length in lengths]
        received[comm.rank] = mine
        self.meter.bytes_down += mine.numel() * mine.element_size() * (comm.size - 1)
        self._swap(comm, received, [mine] * comm.size)
        parts = [t.split(length) for t, length in zip(received, lengths, strict=True)]
        return [_shaped(parts, i, counts[i], r.shape[1]) for i, r in enumerate(rows)]

    def _swap(self, comm: Communicator, received: list[Tensor], sent: list[Tensor]) -> None:
        self.meter.wait(comm.all_to_all_uneven(received, sent))


def _shaped(parts: Sequence[Sequence[Tensor]], table: int, counts: Sequence[int], width: int) -> list[Tensor]:
    return [part[table].view(count, width) for part, count in zip(parts, counts, strict=True)]
