"""What a worker measures: times of contenders that take turns, and the memory of one that is alone."""

import gc
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from adamesh.bench.contenders import Contender, build
from adamesh.bench.models import Workload, workload
from adamesh.bench.records import Deviation, Load, Timing

__all__ = ["batches", "deviations", "measured_load", "peak_bytes", "take_turns", "turns"]

NUM_BATCHES = 4
MEMORY_STEPS = 4


def batches(work: Workload, rank: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """This worker's data, the same for every contender, used over and over."""
    generator = torch.Generator().manual_seed(1 + rank)
    drawn = [work.batch(generator) for _ in range(NUM_BATCHES)]
    return [(inputs.to(device), targets.to(device)) for inputs, targets in drawn]


def turns(names: Sequence[str], round_number: int) -> list[str]:
    """The order of a round: rotated by one each time, and read backwards every other time.

    So every contender comes first, in the middle and last, and has more than one predecessor.
    """
    start = round_number % len(names)
    order = [*names[start:], *names[:start]]
    return order[::-1] if round_number % 2 else order


def take_turns(
    contenders: Mapping[str, Contender],
    data: Sequence[tuple[Tensor, Tensor]],
    *,
    warmup: int,
    rounds: int,
    steps: int,
    on_turn: Callable[[], None],
) -> dict[str, Timing]:
    """Time every contender once a round.

    Args:
        contenders: in the same order on every worker; all of them stay alive.
        data: this worker's batches.
        warmup: rounds that are not recorded.
        rounds: rounds that are.
        steps: timed steps in a turn; one more, untimed, goes before.
        on_turn: called after each turn.
    """
    wait = torch.cuda.synchronize if data[0][0].is_cuda else _nothing
    step_s: dict[str, list[float]] = {name: [] for name in contenders}
    waited_s: dict[str, list[float]] = {name: [] for name in contenders}
    num_steps = dict.fromkeys(contenders, 0)

    def step(name: str) -> None:
        contenders[name].step(data[num_steps[name] % len(data)])
        num_steps[name] += 1

    gc.disable()
    for round_number in range(warmup + rounds):
        for name in turns(list(contenders), round_number):
            last_waited_s = contenders[name].waited_s
            step(name)  # brings back to caches and memory pools what the others displaced
            waited = 0.0
            wait()
            dist.barrier()
            wait()
            start = time.perf_counter()
            for _ in range(steps):
                step(name)
                waited += last_waited_s() if last_waited_s else 0.0
            wait()
            took = time.perf_counter() - start
            if round_number >= warmup:
                step_s[name].append(took / steps)
                if last_waited_s:
                    waited_s[name].append(waited / steps)
            on_turn()
        gc.collect()
    gc.enable()
    return {name: Timing(step_s[name], waited_s[name]) for name in contenders}


def deviations(
    contenders: Mapping[str, Contender], work: Workload, baseline: str, device: torch.device
) -> dict[str, Deviation]:
    """Compare the parameters of contenders that have taken the same steps; collective."""
    start_N = _flat(build("floor", work, device))
    end_N = _flat(contenders[baseline])
    went = (end_N - start_N).norm().item()
    found = {}
    for name, contender in contenders.items():
        apart_N = _flat(contender) - end_N
        found[name] = Deviation(apart_N.norm().item() / went, apart_N.abs().max().item())
    return found


def measured_load(since: Load | None = None) -> Load:
    """Who has used the machine's cores, up to now or since then."""
    own, machine = psutil.Process().cpu_times(), psutil.cpu_times()
    busy = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0)
    # Linux counts virtual machines' time as user time too.
    busy -= getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)
    now = Load(time.perf_counter(), own.user + own.system, busy)
    if since is None:
        return now
    return Load(
        now.seconds - since.seconds,
        now.own_core_s - since.own_core_s,
        now.machine_core_s - since.machine_core_s,
    )


def _flat(contender: Contender) -> Tensor:
    return torch.cat([p.flatten() for p in contender.whole_parameters()]).double()


def peak_bytes(name: str, model: str, *, tiny: bool, rank: int, device: torch.device) -> int:
    """How far this process, or on a GPU what it has allocated there, grows to build a contender and train it.

    To be called in a fresh process, once: a tiny model first brings in everything that is loaded on use.
    """
    _train(name, workload(model, tiny=True), rank, device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _train(name, workload(model, tiny=tiny), rank, device)
        return torch.cuda.max_memory_allocated() - before
    start = _reset_peak()
    _train(name, workload(model, tiny=tiny), rank, device)
    return max(0, _peak() - start)


def _train(name: str, work: Workload, rank: int, device: torch.device) -> None:
    contender = build(name, work, device)
    data = batches(work, rank, device)
    for index in range(MEMORY_STEPS):
        contender.step(data[index % len(data)])


def _reset_peak() -> int:
    """Resident bytes now; on Linux, the peak is counted afresh from here."""
    if platform.system() != "Linux":
        return _peak()
    # getrusage's peak is inherited from whoever started this process; the kernel's own can be reset.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _peak() -> int:
    if platform.system() == "Linux":
        return _status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def _nothing() -> None:
    return None


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(f"{key}:"))
    return 1024 * int(kib)
