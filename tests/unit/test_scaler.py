import math

import pytest
import torch
from torch import nn

import adamesh
from adamesh.errors import ConfigurationError
from tests.device import DEVICE
from tests.semantics.ranks import adamw, close, everywhere, grad, parameter, pull, state, textbook

F16, F32 = torch.float16, torch.float32


def scaled(scaler, p, gradient):
    """A backward of a scaled loss whose unscaled gradient is this."""
    scaler.scale((p * torch.tensor(gradient, dtype=p.dtype, device=DEVICE)).sum()).backward()


@pytest.mark.parametrize("dtype", [F16, F32])
def test_a_gradient_that_overflows_on_one_rank_skips_the_step_on_all_and_scales_agree(dtype):
    def law(mesh):
        p = parameter(1.0, dtype=dtype)
        optimizer, scaler = adamw(mesh, [p], lr=0.5), adamesh.GradScaler(DEVICE.type, init_scale=1024.0)
        before = state(optimizer)
        scaled(scaler, p, math.inf if mesh.world.rank == 1 else 1.0)
        scaler.step(optimizer)
        scaler.update()
        assert (p.item(), state(optimizer), scaler.get_scale()) == (1.0, before, 512.0)
        assert not optimizer.stats().committed
        optimizer.zero_grad()
        scaled(scaler, p, 1.0)
        scaler.step(optimizer)
        scaler.update()
        return p, scaler.get_scale(), optimizer.grad_norm.item(), optimizer.stats().committed

    for p, *rest in everywhere(2, law):
        assert rest == [512.0, 1.0, True]
        assert close(p, textbook([1.0], [1.0, 1.0], lr=0.5))


def test_float16_gradients_that_would_vanish_arrive():
    def law(mesh):
        p = parameter(1.0, dtype=F16)
        optimizer, scaler = adamw(mesh, [p]), adamesh.GradScaler(DEVICE.type, init_scale=2.0**16)
        loss = scaler.scale((p.float() * 2.0**-30).sum())
        loss.backward()
        scaler.step(optimizer)
        return optimizer.grad_norm.item()

    assert everywhere(2, law) == [2.0**-30] * 2


def test_gradients_are_unscaled_before_they_are_clipped():
    def law(mesh):
        p = parameter(0.0, 0.0, dtype=F32)
        optimizer = adamw(mesh, [p], max_grad_norm=1.0, eps=1.0, weight_decay=0.0)
        scaler = adamesh.GradScaler(DEVICE.type, init_scale=256.0)
        scaler.scale((p * torch.tensor([3.0, 4.0], device=DEVICE)).sum()).backward()
        scaler.step(optimizer)
        return p.tolist(), optimizer.grad_norm.item()

    for values, norm in everywhere(2, law):
        assert norm == 5.0
        assert values == pytest.approx([-1e-3 * 0.6 / 1.6, -1e-3 * 0.8 / 1.8], rel=1e-6)


def test_the_scale_grows_after_enough_good_steps_in_a_row_and_halves_after_a_bad_one():
    p = parameter(1.0, dtype=F32)
    optimizer = adamesh.AdamW([p])
    scaler = adamesh.GradScaler(DEVICE.type, init_scale=8.0, growth_interval=2, growth_factor=4.0, backoff_factor=0.5)
    scales = []
    for gradient in [1.0, 1.0, 1.0, math.nan, 1.0, 1.0]:
        optimizer.zero_grad()
        scaled(scaler, p, gradient)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales == [8.0, 32.0, 32.0, 16.0, 16.0, 64.0]


def test_two_optimizers_share_a_scaler_and_one_overflow_lowers_it():
    p, q = parameter(1.0, dtype=F32), parameter(1.0, dtype=F32)
    optimizers, scaler = [adamesh.AdamW([p]), adamesh.AdamW([q])], adamesh.GradScaler(DEVICE.type, init_scale=8.0)
    scaled(scaler, p, math.inf)
    scaled(scaler, q, 1.0)
    for optimizer in optimizers:
        scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 4.0
    assert p.item() == 1.0
    assert q.item() != 1.0


def test_update_needs_a_step():
    with pytest.raises(ConfigurationError, match=r"scaler\.step\(optimizer\) first"):
        adamesh.GradScaler().update()


def test_update_may_set_the_scale():
    scaler = adamesh.GradScaler()
    scaler.update(7.0)
    assert scaler.get_scale() == 7.0


def test_unscale_is_refused_with_the_way_to_clip():
    with pytest.raises(ConfigurationError, match="max_grad_norm"):
        adamesh.GradScaler().unscale_(adamesh.AdamW([parameter(1.0)]))


def test_other_optimizers_are_refused():
    with pytest.raises(ConfigurationError, match="SGD"):
        adamesh.GradScaler().step(torch.optim.SGD([parameter(1.0)]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"growth_factor": 1.0}, {"backoff_factor": 1.0}, {"init_scale": 0.0}, {"growth_interval": 0}]
)
def test_factors_out_of_range_are_refused(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        adamesh.GradScaler(**options)


def test_a_disabled_scaler_lets_everything_pass():
    p = parameter(1.0, dtype=F32)
    optimizer, scaler = adamesh.AdamW([p]), adamesh.GradScaler(enabled=False)
    scaled(scaler, p, 2.0)
    scaler.step(optimizer)
    scaler.update()
    assert (grad(p).item(), scaler.get_scale(), scaler.is_enabled(), scaler.state_dict()) == (2.0, 1.0, False, {})
    assert close(p, textbook([1.0], [2.0]))


def test_a_saved_scaler_goes_on_where_it_was():
    first = adamesh.GradScaler(init_scale=8.0, growth_interval=2)
    p = parameter(1.0, dtype=F32)
    optimizer = adamesh.AdamW([p])
    first.step(optimizer)
    first.update()
    second = adamesh.GradScaler(growth_interval=2)
    second.load_state_dict(first.state_dict())
    for scaler in (first, second):
        scaler.step(optimizer)
        scaler.update()
    assert first.state_dict() == second.state_dict() == {"scale": 16.0, "good_steps": 0}


def test_torchs_own_scaler_is_refused_and_leaves_no_trace():
    def law(mesh):
        p = parameter(1.0, dtype=F32)
        optimizer, scaler = adamw(mesh, [p]), torch.amp.GradScaler(DEVICE.type)
        scaled(scaler, p, 1.0)
        with pytest.raises(ConfigurationError, match=r"torch\.amp\.GradScaler .*adamesh\.GradScaler"):
            scaler.step(optimizer)
        assert (p.item(), state(optimizer)["step"]) == (1.0, 0)
        assert not {"found_inf", "grad_scale"} & vars(optimizer).keys()
        optimizer.zero_grad()
        pull(p, 1.0)
        optimizer.step()
        return p

    for p in everywhere(2, law):
        assert close(p, textbook([1.0], [1.0, 1.0]))


def test_torchs_own_scaler_may_be_there_as_long_as_it_is_disabled():
    model = nn.Linear(2, 1)
    optimizer, scaler = adamesh.AdamW(model.parameters()), torch.amp.GradScaler(DEVICE.type, enabled=False)
    scaler.scale(model(torch.ones(1, 2)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.state_dict()["state"]["0.0"]["step"] == 1


def test_schedulers_and_step_hooks_see_a_scaled_step():
    p = parameter(1.0)
    optimizer, scaler = adamesh.AdamW([p]), adamesh.GradScaler(DEVICE.type)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(optimizer.stats().committed))
    for _ in range(2):
        scaled(scaler, p, 1.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()  # torch warns, and warnings are errors, where it saw no step before
    assert seen == [True, True]
    assert scheduler.get_last_lr() == [1e-3 / 4]


def test_several_losses_are_scaled_alike_and_a_foreign_state_is_refused():
    scaler = adamesh.GradScaler(DEVICE.type, init_scale=4.0)
    assert [loss.item() for loss in scaler.scale([torch.tensor(1.0), torch.tensor(2.0)])] == [4.0, 8.0]
    with pytest.raises(ConfigurationError, match="Start with a new scaler"):
        scaler.load_state_dict({})
