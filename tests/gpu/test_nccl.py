"""The laws of communicators, over NCCL: a rank for each GPU of this machine, one included."""

import faulthandler
import multiprocessing
import os
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest
import torch
import torch.distributed as dist

from adamesh.comm.base import Mesh, chunk
from adamesh.comm.gloo import GlooCommunicator
from adamesh.comm.gloo_mailbox import GlooMailbox
from adamesh.comm.local import LocalCommunicator
from adamesh.comm.nccl import NcclCommunicator
from tests.conformance.test_communicators import LAWS, only_who_sums_natively_has_reduce_scatter
from tests.parity.zoo import Recipe, alone, distance, identical, on_mesh
from tests.tolerances import SINGLE_PROCESS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
PORT = 29555
STEPS = 12
LIMIT_S = 60


def nccl_sums_chunks_natively(mesh: Mesh) -> None:
    comm = mesh.world
    assert comm.sums_natively
    assert comm.reaches(torch.device("cuda"))
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        sent = torch.arange(3 * comm.size, dtype=dtype) + comm.rank
        received = torch.full((3,), 99, dtype=dtype)
        comm.reduce_scatter(received, sent).wait()
        ranks = sum(range(comm.size))
        expected = chunk(torch.arange(3 * comm.size, dtype=dtype), comm.rank, comm.size) * comm.size + ranks
        assert torch.equal(received, expected)


def an_engine_trains_over_it(mesh: Mesh) -> None:
    recipe = Recipe()
    (ours, _), (theirs, _) = on_mesh(mesh, recipe, STEPS), alone(recipe, STEPS)
    if mesh.world.size == 1:
        assert all(identical(a[name], b[name]) for a, b in zip(ours, theirs, strict=True) for name in a)
    assert distance(ours, theirs) <= SINGLE_PROCESS[torch.float64]


NCCLS = [law for law in LAWS if law is not only_who_sums_natively_has_reduce_scatter]
NCCLS += [nccl_sums_chunks_natively]


def obey(rank: int, size: int, outcomes: Any) -> None:
    """One rank's life: all laws, one after the other."""
    faulthandler.dump_traceback_later(LIMIT_S - 10)
    torch.cuda.set_device(rank)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(PORT), "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group("nccl", rank=rank, world_size=size, device_id=torch.device("cuda", rank))
    ranks = list(range(size))
    control = GlooCommunicator(dist.new_group(ranks, backend="gloo"), "world", partial(_mailbox, ranks))
    world = NcclCommunicator(dist.new_group(ranks, backend="nccl"), control)
    mesh = Mesh(world, world if size == 1 else LocalCommunicator(), world)
    for law in [*map(_on_the_gpu, NCCLS), an_engine_trains_over_it]:
        try:
            law(mesh)
        except Exception as error:
            outcomes.put((law.__name__, rank, f"{type(error).__name__}: {error}"))
            break
        outcomes.put((law.__name__, rank, None))
    faulthandler.cancel_dump_traceback_later()
    dist.destroy_process_group()


def _on_the_gpu(law: Callable[[Mesh], None]) -> Callable[[Mesh], None]:
    @wraps(law)
    def there(mesh: Mesh) -> None:
        with torch.device("cuda"):
            law(mesh)

    return there


def _mailbox(ranks: list[int]) -> GlooMailbox:
    return GlooMailbox(dist.new_group(ranks, backend="gloo"))


def test_all_laws_hold_over_nccl(monkeypatch):
    monkeypatch.setenv("ADAMESH_TEST_DEVICE", "cuda")  # for the ranks, which read it when they begin
    size = torch.cuda.device_count()
    context = multiprocessing.get_context("spawn")
    outcomes = context.Queue()
    ranks = [context.Process(target=obey, args=(rank, size, outcomes), daemon=True) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(LIMIT_S)
    found = {}
    while not outcomes.empty():
        name, rank, error = outcomes.get()
        found[name, rank] = error
    names = [law.__name__ for law in [*NCCLS, an_engine_trains_over_it]]
    assert found == {(name, rank): None for name in names for rank in range(size)}
