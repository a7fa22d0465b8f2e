"""The worker that each host runs for ``adamesh bench link``: all contenders train the same text, taking turns."""

import gc
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from adamesh.bench.link_contenders import Racer, build_racer
from adamesh.bench.models import TransformerWorkload
from adamesh.bench.worker import bar
from adamesh.optimizer import MeshOptimizer

__all__ = ["Course", "Curve", "main"]

_TIMEOUT = timedelta(minutes=5)
_SEED = 0
_EVAL_SEQUENCES = 16
_STEPS_A_TURN = 5


@dataclass(frozen=True)
class Course:
    """What is trained, by whom, and how far."""

    contenders: tuple[str, ...]
    """The first is the one that the others are compared with."""
    steps: int
    """Of every contender; those that are faster then go on until they have had as much time as the first."""
    batch_size: int
    """Sequences per host and step."""
    vocabulary: int
    context: int
    tiny: bool
    most_steps: int
    """No contender takes more."""


@dataclass
class Curve:
    """How one contender got on; times are those of its own steps, added up."""

    seconds: list[float] = field(default_factory=list)
    """After each step."""
    losses: list[float] = field(default_factory=list)
    """Of each step's batch, on this host."""
    eval_steps: list[int] = field(default_factory=list)
    eval_losses: list[float] = field(default_factory=list)
    """On the held-out text, the same on every host."""
    bytes_sent: int = 0
    """What left this host's interface in all its steps, protocol headers included."""
    waited_s: float | None = None
    """What its steps waited for the link, all in all; None where it does not say."""

    @property
    def elapsed_s(self) -> float:
        return self.seconds[-1] if self.seconds else 0.0


def main(arguments: Sequence[str]) -> int:
    """Run the course in the file ``arguments[0]``; the curves go beside it."""
    file = Path(arguments[0])
    plain = json.loads(file.read_text(encoding="utf-8"))
    interface = plain.pop("interface")
    course = Course(**{**plain, "contenders": tuple(plain["contenders"])})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=_TIMEOUT)
    rank = dist.get_rank()
    tokens = torch.load(file.with_name("tokens.pt"), weights_only=True)
    counter = Path(f"/sys/class/net/{interface}/statistics/tx_bytes")
    curves = Race(course, tokens["train"], tokens["test"], counter).run(shown=rank == 0)
    answer = {name: asdict(curve) for name, curve in curves.items()}
    file.with_name(f"curves{rank}.json").write_text(json.dumps(answer), encoding="utf-8")
    dist.barrier()
    # DDP's reducer must not be the last to let go of the group: torch 2.13 then joins the group's thread while it holds
    # the interpreter's lock, which that thread may be waiting for.
    gc.collect()
    dist.destroy_process_group()
    return 0


class Race:
    """All contenders, each with a model of its own, over one link."""

    def __init__(self, course: Course, train: Tensor, test: Tensor, counter: Path) -> None:
        self._course = course
        self._counter = counter
        self._work = _workload(course)
        self._train = train.long()
        self._test = test[: _EVAL_SEQUENCES * (course.context + 1)].long().view(-1, course.context + 1)
        self._racers: dict[str, Racer] = {}
        for name in course.contenders:
            torch.manual_seed(_SEED)
            self._racers[name] = build_racer(name, self._work.build())
        self.curves = {name: Curve() for name in course.contenders}

    def run(self, *, shown: bool) -> Mapping[str, Curve]:
        """Equal steps for all, in turns; then equal time for those that are faster. Collective."""
        course = self._course
        for name in course.contenders:
            self._evaluate(name)
        with bar(shown) as progress:
            task = progress.add_task("turns", total=len(course.contenders) * course.steps)
            for first in range(0, course.steps, _STEPS_A_TURN):
                for name in course.contenders:
                    taken = self._turn(name, min(_STEPS_A_TURN, course.steps - first))
                    progress.advance(task, taken)
                    progress.refresh()
            limit_s = self.curves[course.contenders[0]].elapsed_s
            late = progress.add_task("equal time", total=len(course.contenders) - 1)
            for name in course.contenders[1:]:
                while self._goes_on(name, limit_s):
                    self._turn(name, _STEPS_A_TURN)
                progress.advance(late)
                progress.refresh()
        return self.curves

    def _goes_on(self, name: str, limit_s: float) -> bool:
        """The first host's clock decides for all."""
        curve = self.curves[name]
        room = len(curve.seconds) < self._course.most_steps
        decision = torch.tensor([float(room and curve.elapsed_s < limit_s)])
        dist.broadcast(decision, src=0)
        return bool(decision)

    def _turn(self, name: str, steps: int) -> int:
        racer, curve = self._racers[name], self.curves[name]
        dist.barrier()
        sent = self._sent()
        start_s = time.perf_counter()
        before_s = curve.elapsed_s
        for _ in range(steps):
            inputs, targets = self._batch(len(curve.losses))
            loss = self._work.loss(racer.module(inputs), targets)
            loss.backward()
            racer.optimizer.step()
            if isinstance(racer.optimizer, MeshOptimizer):
                curve.waited_s = (curve.waited_s or 0.0) + racer.optimizer.stats().comm_exposed_s
            racer.optimizer.zero_grad()
            curve.losses.append(loss.item())
            curve.seconds.append(before_s + time.perf_counter() - start_s)
        dist.barrier()  # what is still in the sockets belongs to this turn
        curve.bytes_sent += self._sent() - sent
        self._evaluate(name)
        return steps

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This host's sequences of a step: the same for every contender."""
        generator = torch.Generator().manual_seed(step * dist.get_world_size() + dist.get_rank())
        length = self._course.context + 1
        starts = torch.randint(len(self._train) - length, (self._course.batch_size,), generator=generator)
        sequences = torch.stack([self._train[start : start + length] for start in starts])
        return sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous()

    @torch.no_grad()
    def _evaluate(self, name: str) -> None:
        racer, curve = self._racers[name], self.curves[name]
        module: Any = getattr(racer.module, "module", racer.module)
        inputs, targets = self._test[:, :-1], self._test[:, 1:]
        curve.eval_steps.append(len(curve.losses))
        curve.eval_losses.append(self._work.loss(module(inputs), targets).item())

    def _sent(self) -> int:
        return int(self._counter.read_text(encoding="ascii"))


def _workload(course: Course) -> TransformerWorkload:
    sizes = {"layers": 2, "width": 32, "heads": 2} if course.tiny else {}
    return TransformerWorkload(
        vocabulary=course.vocabulary, context=course.context, batch_size=course.batch_size, **sizes
    )
