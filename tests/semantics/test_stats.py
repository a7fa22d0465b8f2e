"""What a step says it cost, and the norm it reports."""

import math

import pytest
import torch
from torch import nn

from adamesh.comm.threads import ThreadWorld
from tests.semantics.ranks import adamw, close, everywhere, filled, grad, parameter, pull, textbook
from tests.tolerances import SQUARED_NORM

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16


@pytest.mark.parametrize(("dtype", "itemsize"), [(F32, 4), (F64, 8), (BF16, 2)])
def test_two_ranks_each_send_half_a_bucket_up_and_half_a_bucket_down(dtype, itemsize):
    padded = 1024 + 128  # 1000 elements start at 0 and 100 at 1024 (whole grains of 64), padded to whole shards

    def law(mesh):
        params = [nn.Parameter(torch.ones(n, dtype=dtype)) for n in (100, 1000)]
        optimizer = adamw(mesh, params)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        return optimizer.stats()

    for stats in everywhere(2, law):
        assert (stats.bytes_up, stats.bytes_down) == (padded // 2 * itemsize,) * 2
        assert (stats.step, stats.committed, stats.world_size, stats.buckets_resent) == (1, True, 2, 0)
        assert 0 < stats.bytes_control < 100
        assert stats.comm_exposed_s > 0


def test_a_mesh_sends_gradients_along_both_axes_and_parameters_inside_islands_only():
    def law(mesh):
        p = nn.Parameter(torch.ones(256))
        optimizer = adamw(mesh, [p])
        p.grad = torch.ones_like(p)
        optimizer.step()
        return optimizer.stats()

    def bytes_sent(shape):
        return {(stats.bytes_up, stats.bytes_down) for stats in ThreadWorld(*shape).run(law)}

    half = 128 * 4
    assert bytes_sent((1, 2)) == {(half, half)}
    # Half the bucket to the owner; of the owned half, half to the counterpart, and the sum of the other half back.
    assert bytes_sent((2, 2)) == {(half + half // 2 + half // 2, half)}
    assert bytes_sent((2, 1)) == {(half + half, 0)}
    assert bytes_sent((1, 1)) == {(0, 0)}


@pytest.mark.parametrize(("dtype", "tensors", "itemsize"), [(F32, 2, 4), (F64, 2, 8), (BF16, 3, 4)])
def test_each_of_n_ranks_keeps_one_nth_of_the_state(dtype, tensors, itemsize):
    def law(mesh):
        return adamw(mesh, [nn.Parameter(torch.ones(1536, dtype=dtype))]).stats().state_bytes

    for num_ranks in (1, 2, 3, 4):
        assert everywhere(num_ranks, law) == [1536 * tensors * itemsize // num_ranks] * num_ranks
    assert ThreadWorld(2, 2).run(law) == [1536 * tensors * itemsize // 2] * 4


def test_frozen_parameters_have_no_state_and_send_nothing():
    def law(mesh):
        p, frozen = parameter(1.0), nn.Parameter(torch.ones(1000), requires_grad=False)
        optimizer = adamw(mesh, [p, frozen], bucket_mb=1e-6)
        pull(p, 1.0)
        optimizer.step()
        return optimizer.stats().bytes_up, optimizer.stats().state_bytes

    assert everywhere(2, law) == [(64 * 8, 2 * 64 * 8)] * 2


def test_a_second_backward_is_counted_as_sent_again():
    def law(mesh):
        p = nn.Parameter(torch.ones(128))
        optimizer = adamw(mesh, [p])
        for _ in range(2 if mesh.world.rank else 1):
            pull(p, *[1.0] * 128)
        optimizer.step()
        again = optimizer.stats()
        optimizer.zero_grad()
        pull(p, *[1.0] * 128)
        optimizer.step()
        once = optimizer.stats()
        return again.buckets_resent, again.bytes_up, once.buckets_resent, once.bytes_up

    assert everywhere(2, law) == [(1, 512, 0, 256)] * 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_the_norm_is_clip_grad_norms_of_the_mean_gradient_and_clips_like_it(dtype, shape):
    def gradients(model, rank):
        model = filled(model)
        for number, p in enumerate(model.parameters()):
            p.grad = torch.full_like(p, math.sin(1.0 + number + 10 * rank))

    def law(mesh):
        model = nn.Sequential(nn.Linear(7, 9), nn.Linear(9, 5)).to(dtype)
        gradients(model, mesh.world.rank)
        optimizer = adamw(mesh, model.parameters(), max_grad_norm=0.25, eps=1.0, lr=0.1, bucket_mb=1e-4)
        optimizer.step()
        return optimizer.grad_norm, list(model.parameters())

    twin = nn.Sequential(nn.Linear(7, 9), nn.Linear(9, 5)).to(dtype)
    size = shape[0] * shape[1]
    means = [torch.zeros_like(p) for p in twin.parameters()]
    for rank in range(size):
        gradients(twin, rank)
        means = [mean + grad(p) / size for mean, p in zip(means, twin.parameters(), strict=True)]
    for p, mean in zip(twin.parameters(), means, strict=True):
        p.grad = mean
    norm = nn.utils.clip_grad_norm_(twin.parameters(), 0.25)
    torch.optim.AdamW(twin.parameters(), eps=1.0, lr=0.1, fused=True).step()
    for ours, params in ThreadWorld(*shape).run(law):
        assert float(ours) == pytest.approx(float(norm), rel=SQUARED_NORM[dtype])
        assert all(close(p, q) for p, q in zip(params, twin.parameters(), strict=True))


def test_a_norm_below_the_limit_clips_nothing():
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p], max_grad_norm=10.0, eps=1.0)
        pull(p, 3.0)
        optimizer.step()
        return p, optimizer.grad_norm.item()

    for p, norm in everywhere(2, law):
        assert norm == 3.0
        assert close(p, textbook([1.0], [3.0, 3.0], eps=1.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_clips_as_torchs_does(bad):
    def law(mesh):
        p, q = parameter(1.0), parameter(1.0)
        optimizer = adamw(mesh, [p, q], max_grad_norm=1.0, weight_decay=0.0)
        pull(p, bad if mesh.world.rank else 1.0)
        pull(q, 1.0)
        optimizer.step()
        return p.item(), q.item()

    params = [parameter(1.0), parameter(1.0)]
    for p, g in zip(params, (bad, 1.0), strict=True):
        pull(p, g)
    nn.utils.clip_grad_norm_(params, 1.0)
    torch.optim.AdamW(params, weight_decay=0.0, fused=True).step()
    expected = str(tuple(p.item() for p in params))
    assert [str(values) for values in everywhere(2, law)] == [expected] * 2
