"""The laws that depend on what is in flight and when, once more over real sockets."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import nn

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.process_group import process_mesh
from adamesh.errors import CommunicationTimeout, GradientError, ParameterError, PeerLost
from tests.device import DEVICE
from tests.semantics.ranks import adamw, close, filled, parameter, pull, state, textbook

F64 = torch.float64


def in_process(law: Callable[[Mesh], None], timeout_s: float) -> None:
    law(process_mesh(None, DEVICE, timeout_s))


def in_process_to_the_end(law: Callable[[Mesh], None], timeout_s: float) -> None:
    """Every worker stays until all are done: one that leaves takes its connections with it."""
    mesh = process_mesh(None, DEVICE, timeout_s)
    law(mesh)
    dist.barrier()
    assert mesh.world.size > 1


def a_second_backward_on_one_rank_is_sent_again_by_all(mesh: Mesh) -> None:
    params = [parameter(*[1.0] * 100) for _ in range(4)]
    optimizer = adamw(mesh, params, bucket_mb=1e-6)
    for p in params:
        pull(p, 1.0)
    if mesh.world.rank == 0:
        pull(params[2], 3.0)
    optimizer.step()
    mean = [4.0, *[1.0] * (mesh.world.size - 1)]
    for p, gradients in zip(params, ([1.0], [1.0], mean, [1.0]), strict=True):
        assert close(p, textbook([1.0] * 100, gradients))


def what_zero_grad_forgot_is_not_in_the_step(mesh: Mesh) -> None:
    params = [parameter(*[1.0] * 100) for _ in range(4)]
    optimizer = adamw(mesh, params, bucket_mb=1e-6)
    for number, p in enumerate(params):
        pull(p, 8.0)
        if mesh.world.rank == number:
            optimizer.zero_grad()
    pull(params[0], 1.0)
    optimizer.step()
    for number, p in enumerate(params):
        gradients = [8.0 if rank < number else 0.0 for rank in range(mesh.world.size)]
        assert close(p, textbook([1.0] * 100, [1.0] if number == 0 else gradients)), number


def an_edit_is_refused_and_training_goes_on(mesh: Mesh) -> None:
    params = [parameter(*[1.0] * 100) for _ in range(3)]
    optimizer = adamw(mesh, params, bucket_mb=1e-6)
    for p in params:
        pull(p, 8.0)
    if mesh.world.rank == 1:
        nn.utils.clip_grad_norm_(params, 1.0)
    with pytest.raises(GradientError, match="max_grad_norm"):
        optimizer.step()
    optimizer.zero_grad()
    for p in params:
        pull(p, 2.0)
    optimizer.step()
    assert all(close(p, textbook([1.0] * 100, [2.0])) for p in params)


def a_change_on_one_rank_is_refused_and_nothing_is_changed(mesh: Mesh) -> None:
    p, q = parameter(*[1.0] * 100), parameter(*[1.0] * 100)
    optimizer = adamw(mesh, [p, q], bucket_mb=1e-6)
    pull(p, 1.0)
    with torch.no_grad():
        q.fill_(2.0)
        p.add_(0.0)
    if mesh.world.rank == 0:
        q.data = q.data.clone()
    optimizer.step()  # all wrote to both
    if mesh.world.rank == 1:
        nn.init.zeros_(q)
    pull(p, 1.0)
    with pytest.raises(ParameterError, match=r"'0\.1'.*\[1\]"):
        optimizer.step()
    assert state(optimizer)["step"] == 1
    adamesh.broadcast_module(nn.ParameterList([p, q]), mesh.world)
    optimizer.step()
    assert state(optimizer)["step"] == 2


def an_overflow_on_one_rank_skips_the_step_on_all(mesh: Mesh) -> None:
    p = parameter(*[1.0] * 100, dtype=torch.float16)
    optimizer, scaler = adamw(mesh, [p]), adamesh.GradScaler("cpu", init_scale=64.0)
    for factor in (math.inf if mesh.world.rank == 1 else 1.0, 1.0):
        optimizer.zero_grad()
        scaler.scale((p * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert (scaler.get_scale(), state(optimizer)["step"], optimizer.grad_norm.item()) == (32.0, 1, 10.0)


def two_optimizers_of_one_model_do_not_get_in_each_others_way(mesh: Mesh) -> None:
    layers = [nn.Linear(3, 3) for _ in range(6)]
    model = filled(nn.Sequential(*layers)).double()
    meshes = [mesh, process_mesh(None, DEVICE, 20.0)]
    halves = [nn.ModuleList(layers[parity::2]) for parity in (0, 1)]
    optimizers = [adamw(m, half.parameters(), lr=0.01, bucket_mb=1e-6) for m, half in zip(meshes, halves, strict=True)]
    twin = filled(nn.Sequential(*(nn.Linear(3, 3) for _ in range(6)))).double()
    reference = torch.optim.AdamW(twin.parameters(), lr=0.01, fused=True)
    for step in range(4):
        x = torch.randn(12, 3, generator=torch.Generator().manual_seed(step), dtype=F64)
        for module, each in ((model, optimizers), (twin, [reference])):
            for optimizer in each:
                optimizer.zero_grad()
            share = x.chunk(mesh.world.size)[mesh.world.rank] if module is model else x
            module(share).square().mean().backward()
            for optimizer in each:
                optimizer.step()
    assert all(close(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


LAWS = [
    a_second_backward_on_one_rank_is_sent_again_by_all,
    what_zero_grad_forgot_is_not_in_the_step,
    an_edit_is_refused_and_training_goes_on,
    a_change_on_one_rank_is_refused_and_nothing_is_changed,
    an_overflow_on_one_rank_skips_the_step_on_all,
    two_optimizers_of_one_model_do_not_get_in_each_others_way,
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("num_workers", [2, 3])
def test_over_real_sockets(pool, num_workers, law):
    pool.run(num_workers, in_process, law, 20.0)


def stepping_alone(mesh: Mesh) -> None:
    p = parameter(1.0)
    optimizer = adamw(mesh, [p])
    pull(p, 1.0)
    optimizer.step()
    if mesh.world.rank == 0:
        with pytest.raises(CommunicationTimeout, match="step 1 was aborted"):
            optimizer.step()
    assert close(p, textbook([1.0], [1.0]))


def test_a_rank_that_steps_more_often_times_out_and_keeps_what_it_has(pool):
    pool.run(2, in_process_to_the_end, stepping_alone, 1.0)


def stepping_on(mesh: Mesh) -> None:
    p = parameter(1.0)
    optimizer = adamw(mesh, [p])
    pull(p, 1.0)
    optimizer.step()
    if mesh.world.rank == 0:
        with pytest.raises(PeerLost, match="step 1 was aborted"):
            optimizer.step()


def test_a_rank_that_goes_on_when_another_has_dropped_its_optimizer_is_told_at_once(pool):
    pool.run(2, in_process, stepping_on, 20.0)
