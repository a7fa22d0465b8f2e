"""One battery of laws for every communicator: alone, threads of one process, real processes over Gloo, by the host.

tests/gpu/test_nccl.py has NCCL's part.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from adamesh.comm.base import Communicator, Mesh, Work, chunk
from adamesh.comm.failure import translated
from adamesh.comm.local import LocalCommunicator
from adamesh.comm.process_group import process_mesh
from adamesh.comm.staged import StagedCommunicator
from adamesh.comm.threads import Call, Delay, Drop, Fault, Kill, ThreadWorld, WorkerKilled
from adamesh.errors import CommunicationError, CommunicationTimeout, ConfigurationError, PeerLost, StepOutOfSync
from tests.device import DEVICE
from tests.process_pool import ProcessPool, WorkerDied

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8, torch.int64)
CHUNK_LENGTHS = (0, 1, 5)
UNTOUCHED = 99


@dataclass(frozen=True)
class World:
    """Something that runs a law on every rank of a mesh."""

    kind: str
    shape: tuple[int, int]
    pool: ProcessPool | None = None

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def run(self, law: Callable[..., Any], *args: Any) -> list[Any]:
        if self.kind == "local":
            alone = LocalCommunicator()
            return [law(Mesh(alone, alone, alone), *args)]
        if self.kind == "threads":
            return ThreadWorld(*self.shape).run(law, *args)
        if self.kind == "staged":
            return ThreadWorld(*self.shape).run(staged, law, *args)
        assert self.pool is not None
        return self.pool.run(self.size, in_process, self.shape, law, *args)


def staged(mesh: Mesh, law: Callable[..., Any], *args: Any) -> Any:
    """As buffers of a GPU go by way of the host; without one, both are the CPU's memory."""
    of = {comm: StagedCommunicator(comm, DEVICE) for comm in (mesh.world, mesh.replicate, mesh.shard)}
    with DEVICE:
        return law(Mesh(of[mesh.world], of[mesh.replicate], of[mesh.shard]), *args)


def in_process(shape: tuple[int, int], law: Callable[..., Any], *args: Any) -> Any:
    device_mesh = init_device_mesh(DEVICE.type, shape, mesh_dim_names=("replicate", "shard"))
    with DEVICE:
        return law(process_mesh(device_mesh, DEVICE, timeout_s=20.0), *args)


WORLDS = [
    ("local", (1, 1)),
    *(("threads", shape) for shape in [(1, 1), (1, 2), (1, 3), (1, 4), (4, 1), (2, 2)]),
    *(("staged", shape) for shape in [(1, 2), (1, 3), (2, 2)]),
    *(("processes", shape) for shape in [(1, 2), (1, 3), (1, 4), (4, 1), (2, 2)]),
]


@pytest.fixture(params=WORLDS, ids=[f"{kind}-{rows}x{columns}" for kind, (rows, columns) in WORLDS])
def world(request: pytest.FixtureRequest) -> World:
    kind, shape = request.param
    return World(kind, shape, request.getfixturevalue("pool") if kind == "processes" else None)


def communicators(mesh: Mesh) -> list[Communicator]:
    return [mesh.world, mesh.replicate, mesh.shard]


def here() -> torch.device:
    """Where a law's tensors are."""
    return torch.get_default_device()


def value(source: int, target: int) -> int:
    """What ``source`` sends to ``target``: distinct for each pair, and exact in every dtype."""
    return 1 + 5 * source + target


def uneven(source: int, target: int) -> int:
    """How many elements ``source`` sends to ``target``: different each way, and none between some."""
    return (3 * source + 5 * target) % 4


def outgoing(comm: Communicator, length: int, dtype: torch.dtype) -> torch.Tensor:
    values = [value(comm.rank, target) for target in range(comm.size)]
    return torch.tensor(values, dtype=dtype).repeat_interleave(length)


def incoming(comm: Communicator, length: int, dtype: torch.dtype) -> torch.Tensor:
    values = [UNTOUCHED if source == comm.rank else value(source, comm.rank) for source in range(comm.size)]
    return torch.tensor(values, dtype=dtype).repeat_interleave(length)


def launch_all_to_all(comm: Communicator, length: int, dtype: torch.dtype) -> tuple[Work, torch.Tensor]:
    received = comm.allocate(length * comm.size, dtype, here()).fill_(UNTOUCHED)
    return comm.all_to_all(received, outgoing(comm, length, dtype)), received


# --- the laws -----------------------------------------------------------------------------------------


def all_to_all_moves_every_chunk_but_the_own(mesh: Mesh) -> None:
    for comm in communicators(mesh):
        for dtype in DTYPES:
            for length in CHUNK_LENGTHS:
                work, received = launch_all_to_all(comm, length, dtype)
                work.wait()
                assert torch.equal(received, incoming(comm, length, dtype)), (dtype, length, received)


def all_to_all_only_reads_what_it_sends(mesh: Mesh) -> None:
    comm = mesh.world
    sent = outgoing(comm, 5, torch.float32)
    received = torch.zeros_like(sent)
    comm.all_to_all(received, sent).wait()
    assert torch.equal(sent, outgoing(comm, 5, torch.float32))


def all_to_all_uneven_moves_any_lengths_but_the_own(mesh: Mesh) -> None:
    for comm in communicators(mesh):
        for dtype in DTYPES:
            sent = [torch.full((uneven(comm.rank, j),), value(comm.rank, j), dtype=dtype) for j in range(comm.size)]
            received = [torch.full((uneven(i, comm.rank),), UNTOUCHED, dtype=dtype) for i in range(comm.size)]
            comm.all_to_all_uneven(received, sent).wait()
            for source, tensor in enumerate(received):
                number = UNTOUCHED if source == comm.rank else value(source, comm.rank)
                assert tensor.tolist() == [number] * uneven(source, comm.rank), (dtype, source, tensor)


def all_to_all_uneven_gathers_where_all_are_sent_the_same(mesh: Mesh) -> None:
    comm = mesh.world
    mine = torch.arange(3 * comm.rank, dtype=torch.int32)  # the first rank has nothing to give
    received = [torch.full((3 * rank,), UNTOUCHED, dtype=torch.int32) for rank in range(comm.size)]
    comm.all_to_all_uneven(received, [mine] * comm.size).wait()
    assert all(received[rank].tolist() == list(range(3 * rank)) for rank in range(comm.size) if rank != comm.rank)
    assert mine.tolist() == list(range(3 * comm.rank))


def all_gather_fills_in_every_other_chunk(mesh: Mesh) -> None:
    for comm in communicators(mesh):
        for dtype in DTYPES:
            for length in CHUNK_LENGTHS:
                buffer = comm.allocate(length * comm.size, dtype, here())
                chunk(buffer, comm.rank, comm.size).fill_(comm.rank + 1)
                comm.all_gather(buffer).wait()
                expected = (torch.arange(comm.size) + 1).to(dtype).repeat_interleave(length)
                assert torch.equal(buffer, expected), (dtype, length, buffer)


def broadcast_overwrites_with_any_rank_s_tensor(mesh: Mesh) -> None:
    for comm in communicators(mesh):
        for src in range(comm.size):
            for dtype in DTYPES:
                for shape in ((0,), (1,), (3, 2)):
                    tensor = torch.full(shape, comm.rank + 1, dtype=dtype)
                    comm.broadcast(tensor, src).wait()
                    assert torch.equal(tensor, torch.full(shape, src + 1, dtype=dtype)), (src, dtype, tensor)


def a_parameter_may_be_broadcast(mesh: Mesh) -> None:
    parameter = torch.nn.Parameter(torch.full((3,), float(mesh.world.rank)))
    mesh.world.broadcast(parameter, 0).wait()
    assert parameter.tolist() == [0.0, 0.0, 0.0]


def exchange_returns_messages_by_rank(mesh: Mesh) -> None:
    for comm in communicators(mesh):
        for length in (0, 1, 1000):
            messages = comm.exchange(bytes([comm.rank]) * length)
            assert messages == [bytes([rank]) * length for rank in range(comm.size)]


def exchange_keeps_every_length(mesh: Mesh) -> None:
    for comm in communicators(mesh):
        for lengths in ((0, 0, 0, 0), (3, 0, 1, 2), (0, 300, 0, 0), (1, 0, 0, 0)):
            messages = comm.exchange(b"x" * lengths[comm.rank])
            assert messages == [b"x" * lengths[rank] for rank in range(comm.size)]


def operations_may_be_waited_for_in_any_order(mesh: Mesh) -> None:
    launched = [
        (comm, length, *launch_all_to_all(comm, length, torch.float32))
        for length in range(1, 6)
        for comm in communicators(mesh)
    ]
    # Not even the same order on all ranks.
    for comm, length, work, received in launched[::-1] if mesh.world.rank % 2 else launched[3:] + launched[:3]:
        work.wait()
        assert torch.equal(received, incoming(comm, length, torch.float32))


def waiting_twice_is_harmless(mesh: Mesh) -> None:
    work, received = launch_all_to_all(mesh.world, 2, torch.float32)
    work.wait()
    received.fill_(7)
    work.wait()
    assert received.tolist() == [7.0] * len(received)


def an_operation_that_nobody_waits_for_hurts_no_other(mesh: Mesh) -> None:
    # Gloo loses the connection if a receive is dropped, so the communicator must keep it.
    for length in (1, 100_000):
        launch_all_to_all(mesh.world, length, torch.float32)
        work, received = launch_all_to_all(mesh.world, 1, torch.float32)
        work.wait()
        assert torch.equal(received, incoming(mesh.world, 1, torch.float32))


def an_exchange_may_overtake_a_collective(mesh: Mesh) -> None:
    for waited_for in (True, False):
        comm = mesh.world
        late = comm.rank % 2 == 1
        work, received = (None, None) if late else launch_all_to_all(comm, 3, torch.float32)
        if not waited_for:
            work = None  # and the exchanges must not wait for it either: the others launch it after them
        for _ in range(3):
            assert comm.exchange(bytes([comm.rank])) == [bytes([rank]) for rank in range(comm.size)]
        if late:
            work, received = launch_all_to_all(comm, 3, torch.float32)
        if work is not None:
            assert received is not None
            work.wait()
            assert torch.equal(received, incoming(comm, 3, torch.float32))
    # Whoever drops its communicator drops what it still owes; with this one nothing is owed.
    launch_all_to_all(mesh.world, 1, torch.float32)[0].wait()


def large_buffers_arrive_whole(mesh: Mesh) -> None:
    comm, length = mesh.world, 300_000
    ramp = torch.arange(length, dtype=torch.float32)
    buffer = comm.allocate(length * comm.size, torch.float32, here())
    chunk(buffer, comm.rank, comm.size).copy_(ramp + comm.rank)
    works = [comm.all_gather(buffer), launch_all_to_all(comm, length, torch.uint8)[0]]
    for work in works:
        work.wait()
    assert all(torch.equal(chunk(buffer, r, comm.size), ramp + r) for r in range(comm.size))


def allocated_buffers_are_zero_flat_and_aligned(mesh: Mesh) -> None:
    for comm in communicators(mesh):
        for dtype in DTYPES:
            for numel in (0, 1, 1001):
                buffer = comm.allocate(numel, dtype, here())
                assert buffer.shape == (numel,)
                assert buffer.dtype == dtype
                assert buffer.device.type == here().type
                assert buffer.data_ptr() % 64 == 0
                assert not buffer.any()


def axes_join_an_island_and_its_counterparts(mesh: Mesh) -> None:
    num_replicas, num_shards = mesh.shape
    mine = bytes([mesh.world.rank])
    island = [mesh.replicate.rank * num_shards + shard for shard in range(num_shards)]
    counterparts = [replica * num_shards + mesh.shard.rank for replica in range(num_replicas)]
    assert mesh.world.exchange(mine) == [bytes([rank]) for rank in range(mesh.world.size)]
    assert mesh.shard.exchange(mine) == [bytes([rank]) for rank in island]
    assert mesh.replicate.exchange(mine) == [bytes([rank]) for rank in counterparts]


def an_axis_that_is_the_world_is_the_same_communicator(mesh: Mesh) -> None:
    num_replicas, num_shards = mesh.shape
    assert (mesh.shard is mesh.world) == (num_replicas == 1)
    assert (mesh.replicate is mesh.world) == (num_shards == 1)


def only_who_sums_natively_has_reduce_scatter(mesh: Mesh) -> None:
    for comm in communicators(mesh):
        assert not comm.sums_natively
        with pytest.raises(NotImplementedError, match=r"send_N|all_to_all"):
            comm.reduce_scatter(torch.zeros(1), torch.zeros(comm.size))


LAWS = [
    all_to_all_moves_every_chunk_but_the_own,
    all_to_all_only_reads_what_it_sends,
    all_to_all_uneven_moves_any_lengths_but_the_own,
    all_to_all_uneven_gathers_where_all_are_sent_the_same,
    all_gather_fills_in_every_other_chunk,
    broadcast_overwrites_with_any_rank_s_tensor,
    a_parameter_may_be_broadcast,
    exchange_returns_messages_by_rank,
    exchange_keeps_every_length,
    operations_may_be_waited_for_in_any_order,
    waiting_twice_is_harmless,
    an_operation_that_nobody_waits_for_hurts_no_other,
    an_exchange_may_overtake_a_collective,
    large_buffers_arrive_whole,
    allocated_buffers_are_zero_flat_and_aligned,
    axes_join_an_island_and_its_counterparts,
    an_axis_that_is_the_world_is_the_same_communicator,
    only_who_sums_natively_has_reduce_scatter,
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(world: World, law: Callable[[Mesh], None]) -> None:
    world.run(law)


# --- threads: what fails, and how ---------------------------------------------------------------------


def a_few_operations(mesh: Mesh) -> list[float]:
    """Six operations a rank on a 2x2 mesh: two on the world, two between islands, two inside an island."""
    total = torch.zeros(4)
    for comm in communicators(mesh):
        buffer = torch.zeros(4)
        chunk(buffer, comm.rank, comm.size).fill_(1.0 + mesh.world.rank)
        comm.all_gather(buffer).wait()
        comm.exchange(b"x")
        total += buffer
    return total.tolist()


def outcomes(*faults: Fault, timeout_s: float = 10.0) -> list[Any]:
    """The results of `a_few_operations`, or the types of what was raised."""
    results = ThreadWorld(2, 2, faults, timeout_s).run(a_few_operations, return_exceptions=True)
    return [type(result) if isinstance(result, Exception) else result for result in results]


def test_operations_are_counted_over_all_communicators() -> None:
    world = ThreadWorld(2, 2)
    world.run(a_few_operations)
    assert world.num_operations == [6, 6, 6, 6]
    world.run(lambda mesh: mesh.shard.exchange(b"x" * 1000))
    assert world.num_operations == [2, 2, 2, 2]


def test_workers_in_different_calls_are_told_so() -> None:
    def part_ways(mesh: Mesh) -> None:
        mesh.world.exchange(b"x", "save" if mesh.world.rank == 0 else "step")

    outcome = ThreadWorld(1, 3).run(part_ways, return_exceptions=True)
    assert [type(error) for error in outcome] == [StepOutOfSync] * 3
    assert "worker 1 is in 'step' while worker 0 is in 'save'" in str(outcome[2])


def test_delays_change_nothing() -> None:
    expected = outcomes()
    for rank in range(4):
        assert outcomes(*(Delay(rank, operation, 0.002) for operation in range(6))) == expected


def those_who_notice(rank: int, operation: int) -> set[int]:
    """All four, directly or because a rank that failed is missing elsewhere; at the end only the island."""
    return set(range(4)) if operation < 4 else {rank, rank ^ 1}


@pytest.mark.parametrize("operation", range(6))
@pytest.mark.parametrize("rank", range(4))
def test_a_killed_rank_is_lost_to_who_needs_it(rank: int, operation: int) -> None:
    expected = outcomes()
    for noticing in those_who_notice(rank, operation):
        expected[noticing] = PeerLost
    expected[rank] = WorkerKilled
    assert outcomes(Kill(rank, operation)) == expected


def test_a_killed_rank_takes_part_in_nothing_more() -> None:
    def stubborn(mesh: Mesh) -> None:
        if mesh.world.rank == 1:
            with pytest.raises(WorkerKilled, match="killed at its operation 0"):
                mesh.world.exchange(b"x")
        mesh.shard.exchange(b"y")

    first, second = ThreadWorld(1, 2, [Kill(1, 0)]).run(stubborn, return_exceptions=True)
    assert isinstance(first, PeerLost)
    assert isinstance(second, WorkerKilled)


@pytest.mark.parametrize("operation", range(6))
@pytest.mark.parametrize("rank", range(4))
def test_a_dropped_message_times_out_without_waiting_in_real_time(rank: int, operation: int) -> None:
    expected = outcomes()
    for noticing in those_who_notice(rank, operation):
        expected[noticing] = CommunicationTimeout
    start = time.monotonic()
    assert outcomes(Drop(rank, operation), timeout_s=60) == expected
    assert time.monotonic() - start < 20


def test_a_rank_that_hangs_outside_a_collective_is_given_up_in_real_time() -> None:
    def hang(mesh: Mesh, enough: threading.Event) -> None:
        if mesh.world.rank == 1:
            enough.wait(30)
        try:
            mesh.world.exchange(b"x")
        finally:
            enough.set()

    results = ThreadWorld(1, 2, timeout_s=0.05).run(hang, threading.Event(), return_exceptions=True)
    assert isinstance(results[0], CommunicationTimeout)


@pytest.mark.parametrize(
    "other",
    [
        lambda comm: comm.all_to_all(torch.zeros(6), torch.zeros(6)),
        lambda comm: comm.all_gather(torch.zeros(9)),
        lambda comm: comm.all_gather(torch.zeros(6, dtype=torch.float64)),
        lambda comm: comm.broadcast(torch.zeros(6), 0),
    ],
)
def test_different_operations_at_one_number_are_an_error_on_every_rank(
    other: Callable[[Communicator], Work],
) -> None:
    def disagree(mesh: Mesh) -> None:
        comm = mesh.world
        work = other(comm) if comm.rank == 1 else comm.all_gather(torch.zeros(6))
        work.wait()

    results = ThreadWorld(1, 3).run(disagree, return_exceptions=True)
    assert [type(result) for result in results] == [CommunicationError] * 3
    for result in results:
        assert "rank 0: all_gather of 6 torch.float32; rank 1: " in str(result)


def test_a_buffer_is_read_when_the_last_rank_launches() -> None:
    def hasty(mesh: Mesh, changed: threading.Event) -> list[float]:
        buffer = torch.full((2,), 1.0 + mesh.world.rank)
        work = mesh.world.all_gather(buffer)
        if mesh.world.rank == 0:
            buffer[0] = 50.0
            changed.set()
        work.wait()
        return buffer.tolist()

    changed = threading.Event()
    world = ThreadWorld(1, 2, [Call(1, 0, partial(changed.wait, 10))])
    assert world.run(hasty, changed) == [[50.0, 2.0], [50.0, 2.0]]


def test_the_cause_is_raised_and_not_its_consequences() -> None:
    def fail(mesh: Mesh) -> None:
        if mesh.world.rank == 2:
            raise ZeroDivisionError("the cause")
        try:
            mesh.world.exchange(b"x")
        except PeerLost as error:
            if mesh.world.rank == 0:
                raise RuntimeError("a consequence") from error
            raise

    with pytest.raises(ZeroDivisionError, match="the cause") as caught:
        ThreadWorld(2, 2).run(fail)
    assert caught.value.__notes__ == ["(rank 2 of 4)"]


def test_a_rank_that_returns_early_is_lost_to_who_waits_for_it() -> None:
    def leave(mesh: Mesh) -> str:
        if mesh.world.rank == 0:
            return "left"
        mesh.world.exchange(b"x")
        return "stayed"

    left, lost = ThreadWorld(1, 2).run(leave, return_exceptions=True)
    assert left == "left"
    assert isinstance(lost, PeerLost)
    assert "rank 0 of the world ended" in str(lost)


def test_ranks_have_gradients_on_wherever_they_are_started() -> None:
    with torch.no_grad():
        assert ThreadWorld(1, 2).run(lambda mesh: torch.is_grad_enabled()) == [True, True]


@pytest.mark.parametrize("faults", [[Kill(4, 0)], [Drop(-1, 0)]])
def test_a_fault_on_a_rank_that_is_not_there_is_refused(faults: list[Fault]) -> None:
    with pytest.raises(ConfigurationError, match="ranks are 0 to 3"):
        ThreadWorld(2, 2, faults)


# --- processes: building the mesh, and losing a worker ------------------------------------------------


def coordinates(names: tuple[str, ...], ranks: list[Any]) -> tuple[int, int, int]:
    mesh = process_mesh(DeviceMesh("cpu", ranks, mesh_dim_names=names), CPU, 20.0)
    everybody = mesh.world.exchange(bytes([dist.get_rank()]))
    assert everybody[mesh.world.rank] == bytes([dist.get_rank()])
    return mesh.replicate.rank, mesh.shard.rank, mesh.world.rank


@pytest.mark.parametrize(
    ("names", "ranks", "expected"),
    [
        (("replicate", "shard"), [[3, 1], [0, 2]], [(1, 0, 2), (0, 1, 1), (1, 1, 3), (0, 0, 0)]),
        (("shard", "replicate"), [[0, 1], [2, 3]], [(0, 0, 0), (1, 0, 2), (0, 1, 1), (1, 1, 3)]),
        (("shard",), [2, 0, 3, 1], [(0, 1, 1), (0, 3, 3), (0, 0, 0), (0, 2, 2)]),
        (("replicate",), [2, 0, 3, 1], [(1, 0, 1), (3, 0, 3), (0, 0, 0), (2, 0, 2)]),
    ],
)
def test_a_device_mesh_may_arrange_ranks_in_any_way(
    pool: ProcessPool, names: tuple[str, ...], ranks: list[Any], expected: list[Any]
) -> None:
    assert pool.run(4, coordinates, names, ranks) == expected


def refuse(names: tuple[str, ...], ranks: list[Any]) -> None:
    process_mesh(DeviceMesh("cpu", ranks, mesh_dim_names=names), CPU, 20.0)


@pytest.mark.parametrize(
    ("names", "ranks", "said"),
    [
        (("dp", "tp"), [[0], [1]], "has axes .'dp', 'tp'.; adamesh needs 'replicate' and 'shard'"),
        (("shard", "tp"), [[0], [1]], "has axes .'shard', 'tp'."),
        (("shard",), [0], "holds ranks .0. but the default process group has 2"),
    ],
)
def test_a_mesh_with_other_axes_or_ranks_is_refused(
    pool: ProcessPool, names: tuple[str, ...], ranks: list[Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        pool.run(2, refuse, names, ranks)


def islands_by_default(*_: object) -> tuple[tuple[int, int], int]:
    mesh = process_mesh(None, CPU, None)
    # The user's own collectives go on in the default group meanwhile.
    work, received = launch_all_to_all(mesh.world, 3, torch.float32)
    total = torch.ones(1)
    if mesh.world.size > 1:
        dist.all_reduce(total)
    work.wait()
    assert torch.equal(received, incoming(mesh.world, 3, torch.float32))
    return mesh.shape, int(total)


@pytest.mark.parametrize("size", [1, 3])
def test_no_device_mesh_is_one_island_of_everybody(pool: ProcessPool, size: int) -> None:
    assert pool.run(size, islands_by_default) == [((1, size), size)] * size


def test_without_a_process_group_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for num_started in (None, "1"):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if num_started is not None:
            monkeypatch.setenv("WORLD_SIZE", num_started)
        mesh = process_mesh(None, CPU, None)
        assert mesh.shape == (1, 1)
        assert isinstance(mesh.world, LocalCommunicator)


def test_several_started_workers_without_a_process_group_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigurationError, match=r"WORLD_SIZE=4 but no process group: call torch.distr"):
        process_mesh(None, CPU, None)


def survive() -> list[CommunicationError]:
    """Rank 1 dies while the others wait for it; returns what they see then, and at their next launch."""
    mesh = process_mesh(None, CPU, 20.0)
    mesh.world.exchange(b"x")
    if mesh.world.rank == 1:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    seen = []
    for _ in range(2):
        try:
            launch_all_to_all(mesh.world, 500_000, torch.float32)[0].wait()
        except CommunicationError as error:
            seen.append(error)
    return seen


def time_out() -> str:
    mesh = process_mesh(None, CPU, 1.5)  # on a busy machine, connecting takes its share of it
    if mesh.world.rank == 1:
        time.sleep(3.0)
        return "slept"
    try:
        mesh.world.exchange(b"x")
    except CommunicationError as error:
        return type(error).__name__
    return "nothing"


def test_survivors_of_a_dead_process_get_peer_lost_at_once(pool: ProcessPool) -> None:
    start = time.monotonic()
    results = pool.run(3, survive, return_exceptions=True)
    assert time.monotonic() - start < 15  # the timeout is 20 s
    assert isinstance(results[1], WorkerDied)
    assert "exit code -9" in str(results[1])
    for rank in (0, 2):
        for number, error in zip((0, 1), results[rank], strict=True):
            assert isinstance(error, PeerLost)
            assert str(error).startswith(f"all_to_all number {number} on rank {rank} of 3 (world): another worker")
    assert pool.run(3, dist.get_rank) == [0, 1, 2]  # the pool has replaced it


def test_a_process_that_does_not_come_is_a_timeout(pool: ProcessPool) -> None:
    assert pool.run(2, time_out) == ["CommunicationTimeout", "slept"]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("[pair.cc:553] Connection closed by peer [127.0.0.1]:44702. This is typically", PeerLost),
        ("[pair.cc:537] Read error [127.0.0.1]:23984: Connection reset by peer.", PeerLost),
        ("NCCL error: remote process exited or there was a network error", PeerLost),
        ("[unbound_buffer.cc:78] Timed out waiting 2000ms for recv operation", CommunicationTimeout),
        ("Application timeout caused pair closure", CommunicationTimeout),
        ("something never seen before", CommunicationError),
    ],
)
def test_what_torch_says_tells_what_happened(said: str, meant: type) -> None:
    error = translated(RuntimeError(said), "all_gather number 3 on rank 1 of 4 (world)")
    assert type(error) is meant
    assert str(error).startswith("all_gather number 3 on rank 1 of 4 (world): ")
    assert str(error).endswith(f"torch.distributed said: {said}")


def letters_arrive(mesh: Mesh) -> None:
    """Everybody writes to everybody and answers; answers are awaited before they are asked for."""
    mailbox = mesh.world.open_mailbox()
    rank, size = mailbox.rank, mailbox.size
    others = [other for other in range(size) if other != rank]
    answers = {other: torch.zeros(3, dtype=torch.uint8) for other in others}
    coming = [mailbox.await_answer(answers[other], other, 7) for other in others]
    sending = [mailbox.post(torch.tensor([rank, other, 1], dtype=torch.uint8), other) for other in others]
    inbox, seen = torch.zeros(5, dtype=torch.uint8), []
    for _ in others:
        sender = mailbox.receive_any(inbox)
        assert inbox[:2].tolist() == [sender, rank]
        seen.append(sender)
        sending.append(mailbox.answer(torch.tensor([rank, sender, 2], dtype=torch.uint8), sender, 7))
    for work in [*sending, *coming]:
        work.wait()
    assert sorted(seen) == others
    assert {other: answer.tolist() for other, answer in answers.items()} == {o: [o, rank, 2] for o in others}
    mesh.world.exchange(b"", "the end")  # nobody leaves while others read


def test_letters_arrive_at_the_inbox_and_answers_where_they_are_awaited(world: World) -> None:
    world.run(letters_arrive)
