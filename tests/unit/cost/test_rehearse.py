"""What is rehearsed on paper is what real workers do: bytes, state and buffers to the byte."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from adamesh.comm.threads import ThreadWorld
from adamesh.cost.case import open_case
from adamesh.cost.paper import Speed, Tally, on_paper
from adamesh.cost.rehearse import Stage, rehearse_on_paper
from adamesh.train.config import PlanSettings, RunConfig
from adamesh.train.names import build_optimizer, build_plan

SPEED = Speed(flops_per_s=1e10, bytes_per_s=1e10, operation_s=1e-6)
PLANS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "exact": (1, 2, {}),
    "several buckets": (1, 3, {"bucket_mb": 0.05}),
    "int8": (1, 2, {"up": "int8", "down": "int8"}),
    "int4 of three": (1, 3, {"up": "int4", "down": "int4"}),
    "redundancy 2": (1, 3, {"redundancy": 2}),
    "every-4": (2, 1, {"sync": "every-4"}),
    "diloco-4, int4": (2, 1, {"sync": "diloco-4", "across": "int4"}),
    "streaming": (2, 1, {"sync": "diloco-4-streaming-2-delay-1"}),
    "islands of two": (2, 2, {"across": "int8"}),
    "stale-1": (1, 2, {"sync": "stale-1"}),
}


def case_of(world, task="mlp"):
    return open_case(RunConfig(task=task, batch_size=8), world)


def settings_of(name):
    islands, size, given = PLANS[name]
    return PlanSettings(**given, islands=islands), islands, size


def really(case, settings, islands, size, steps):
    """The first worker's statistics of each step, of workers that are all there."""

    def law(mesh):
        plan = build_plan(replace(settings, islands=1), torch.device("cpu"), case.world)
        model = case.build_model()
        optimizer = build_optimizer(case.config.optim, model, replace(plan, mesh=mesh, compile=False))
        seen = []
        for _ in range(steps):
            case.step(model, optimizer, case.micro_batches())
            seen.append(optimizer.stats())
        return seen

    return ThreadWorld(islands, size).run(law)[0]


@pytest.mark.parametrize("name", PLANS)
def test_bytes_state_and_buffers_on_paper_are_those_of_real_workers(name):
    settings, islands, size = settings_of(name)
    case = case_of(islands * size)
    paper = rehearse_on_paper(case, settings, SPEED)
    assert paper.not_traced is None
    period = len(paper.period)
    seen = really(case, settings, islands, size, 3 * period + 1)[2 * period : 3 * period]
    assert paper.bytes_up == sum(stats.bytes_up for stats in seen) / period
    assert paper.bytes_down == sum(stats.bytes_down for stats in seen) / period
    assert paper.mean(lambda kind: kind.bytes_control) == sum(stats.bytes_control for stats in seen) / period
    assert paper.state_bytes == seen[-1].state_bytes
    memory = paper.counted
    assert memory.parameters + memory.gradients + memory.exchange == seen[-1].buffer_bytes


def test_silent_workers_for_real_are_told_as_much_as_on_paper():
    case, settings = case_of(2), PlanSettings(up="int4")
    paper, stage = rehearse_on_paper(case, settings, SPEED), Stage(case, settings, case.micro_batches())
    stage.round()
    stage.round()
    real = stage.seen()
    assert [k.bytes_up for k in real.kinds] == [k.bytes_up for k in paper.kinds]
    told = [[(e.kind, e.axis, e.sent, e.messages) for e in t.traces[0].events] for t in (paper, real)]
    assert told[0] == told[1]
    assert len(real.works_s) == 2
    assert min(real.works_s) > 0


def test_a_schedules_period_is_rehearsed_once_of_each_kind():
    paper = rehearse_on_paper(case_of(2), PlanSettings(sync="every-16"), SPEED)
    assert len(paper.kinds) == 2
    assert paper.period == (0,) * 15 + (1,)


def test_halves_of_a_batch_in_turn_need_less_memory():
    whole = open_case(RunConfig(task="mlp", batch_size=512), 2)
    halves = replace(whole, config=replace(whole.config, micro_batches=4))
    activations = [rehearse_on_paper(c, PlanSettings(), SPEED).counted.activations for c in (whole, halves)]
    assert activations[1] < activations[0]


def test_more_workers_hold_less_state_each():
    state = [rehearse_on_paper(case_of(w), PlanSettings(), SPEED).counted.state for w in (1, 2, 4)]
    assert state[0] > state[1] > state[2]


class Looks(nn.Module):
    """Its forward looks at numbers in a way that has no meaning on paper."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 1)

    def forward(self, x):
        return self.inner(x[x.sum(dim=1) > 0])


def test_a_model_that_looks_at_numbers_is_run_for_real_and_says_so():
    case = case_of(2, task="regression")
    task = case.task
    found = rehearse_on_paper(replace(case, task=LooksTask(task)), PlanSettings(), SPEED)
    assert found.not_traced is not None
    assert found.counted.peak > 0


class LooksTask:
    """The task, with a model whose shapes depend on its inputs."""

    def __init__(self, inner):
        self.defaults = inner.defaults

    def build_model(self):
        return Looks()

    def loss(self, model, batch):
        return model(torch.arange(12.0).view(3, 4)).square().mean() * len(model(torch.ones(2, 4)).tolist())


@pytest.mark.parametrize("batch", [3, 64])
def test_the_tally_counts_what_is_alive_as_real_tensors_would_be(batch):
    def work():
        model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
        model(torch.ones(batch, 32)).square().mean().backward()
        return model

    fake, real = Tally(SPEED), Tally(SPEED)
    with on_paper(fake):
        kept = work()
    with real:
        also = work()
    assert fake.peak_bytes == real.peak_bytes
    assert fake.live_bytes == real.live_bytes == sum(2 * 4 * p.numel() for p in kept.parameters())
    assert fake.flops == real.flops == 2 * batch * (2 * 32 * 64 + 3 * 64 * 8)
    assert also is not kept
