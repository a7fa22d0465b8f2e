"""Several backwards before a step, in all the orders that people write."""

from contextlib import nullcontext

import pytest
import torch

from tests.semantics.ranks import adamw, close, everywhere, grad, parameter, pull, state, textbook

BF16 = torch.bfloat16
TINY = 2.0**-9  # lost when added to a bfloat16 1.0, as is the ninth when nine are added


def test_backwards_inside_no_sync_add_up_and_nothing_leaves():
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p])
        with optimizer.no_sync():
            pull(p, 1.0)
            pull(p, 2.0 + mesh.world.rank)
        assert not optimizer.engine.reducer.dirty
        pull(p, 3.0)
        assert optimizer.engine.reducer.dirty
        optimizer.step()
        assert optimizer.stats().buckets_resent == 0
        return p

    for p in everywhere(2, law):
        assert close(p, textbook([1.0], [6.0, 7.0]))


def test_a_step_right_after_no_sync_sends_what_there_is():
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p])
        with optimizer.no_sync():
            pull(p, 1.0 + mesh.world.rank)
        optimizer.step()
        return p

    for p in everywhere(2, law):
        assert close(p, textbook([1.0], [1.0, 2.0]))


@pytest.mark.parametrize("num_synced", [0, 1, 10])
def test_bfloat16_gradients_add_up_in_float32(num_synced):
    def law(mesh):
        p = parameter(1.0, dtype=BF16)
        optimizer = adamw(mesh, [p])
        for _ in range(2):
            optimizer.zero_grad()
            for number, gradient in enumerate([1.0, *[TINY] * 9]):
                with optimizer.no_sync() if number < 10 - num_synced else nullcontext():
                    pull(p, gradient)
            optimizer.step()
        return optimizer.grad_norm.item(), grad(p).item(), optimizer.stats().buckets_resent

    exact = 1.0 + 9 * TINY
    assert everywhere(2, law) == [(exact, torch.tensor(exact).to(BF16).item(), int(num_synced > 1))] * 2


def test_bfloat16_gradients_of_channels_last_weights_add_up_in_float32():
    def law(mesh):
        p = torch.nn.Parameter(torch.ones(1, 2, 2, 2, dtype=BF16).to(memory_format=torch.channels_last))
        optimizer = adamw(mesh, [p])
        for gradient in [1.0, *[TINY] * 9]:
            pull(p, gradient)
        optimizer.step()
        return optimizer.grad_norm.item(), grad(p).unique().tolist()

    exact = 1.0 + 9 * TINY
    rounded = torch.tensor(exact).to(BF16).item()
    assert everywhere(2, law) == [(pytest.approx(8**0.5 * exact), [rounded])] * 2


def test_float32_sums_of_bfloat16_gradients_take_the_float32_twins_step():
    gradients = [0.1, 0.02, 0.003, 0.0004]

    def law(mesh, dtype, rounded):
        p = parameter(1.0, dtype=dtype)
        optimizer = adamw(mesh, [p], eps=1.0)
        for g in gradients:
            pull(p, torch.tensor(g).to(rounded).item())
        optimizer.step()
        return state(optimizer).get("master", p)

    for in_bf16, in_fp32 in zip(everywhere(1, law, BF16, BF16), everywhere(1, law, torch.float32, BF16), strict=True):
        assert torch.equal(in_bf16, in_fp32)


@pytest.mark.parametrize("dtype", [BF16, torch.float64])
def test_a_second_backward_without_no_sync_is_sent_again_on_all_ranks(dtype):
    def law(mesh):
        p, q = parameter(1.0, dtype=dtype), parameter(1.0, dtype=dtype)
        optimizer = adamw(mesh, [p, q], bucket_mb=1e-6, eps=1.0)
        pull(p, 2.0)
        if mesh.world.rank == 0:
            pull(p, 4.0)
        pull(q, 1.0)
        optimizer.step()
        return p, q, optimizer.grad_norm.item()

    for p, q, norm in everywhere(2, law):
        assert close(p, textbook([1.0], [6.0, 2.0], eps=1.0).to(dtype))
        assert close(q, textbook([1.0], [1.0, 1.0], eps=1.0).to(dtype))
        assert norm == pytest.approx(17**0.5)


@pytest.mark.parametrize("dtype", [BF16, torch.float64])
def test_without_zero_grad_gradients_add_up_over_steps_as_in_torch(dtype):
    def law(mesh):
        p = parameter(1.0, dtype=dtype)
        optimizer = adamw(mesh, [p], eps=1.0, max_grad_norm=100.0)
        for _ in range(3):
            pull(p, 1.0 + mesh.world.rank)
            optimizer.step()
        return p, grad(p).item()

    for rank, (p, total) in enumerate(everywhere(2, law)):
        assert close(p, textbook([1.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0], eps=1.0).to(dtype))
        assert total == 3.0 * (1 + rank)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("ranks", [[0], [0, 1]])
@pytest.mark.parametrize("backward_again", [True, False])
def test_zero_grad_between_backward_and_step_forgets_what_left(set_to_none, ranks, backward_again):
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p])
        pull(p, 8.0)
        mesh.world.exchange(b"")  # everybody's 8 has arrived
        if mesh.world.rank in ranks:
            optimizer.zero_grad(set_to_none)
        if backward_again:
            pull(p, 2.0)
        optimizer.step()
        return p

    again = 2.0 if backward_again else 0.0
    gradients: list[float | None] = [again if rank in ranks else 8.0 + again for rank in range(2)]
    if ranks == [0, 1] and set_to_none and not backward_again:
        gradients = [None, None]
    for p in everywhere(2, law):
        assert close(p, textbook([1.0], gradients))


@pytest.mark.parametrize("set_to_none", [True, False])
def test_the_models_own_zero_grad_will_do(set_to_none):
    def law(mesh):
        model = torch.nn.Linear(1, 1, bias=False).double()
        torch.nn.init.ones_(model.weight)
        optimizer = adamw(mesh, model.parameters())
        for _ in range(3):
            model.zero_grad(set_to_none)
            pull(model.weight, 1.0 + mesh.world.rank)
            optimizer.step()
        return model.weight.view(-1)

    for p in everywhere(2, law):
        assert close(p, textbook([1.0], *[[1.0, 2.0]] * 3))


def test_the_models_own_zero_grad_between_backward_and_backward_forgets_what_left():
    def law(mesh):
        p, q = parameter(1.0), parameter(1.0)
        optimizer = adamw(mesh, [p, q])
        pull(p, 8.0)
        p.grad = q.grad = None
        pull(q, 2.0)
        optimizer.step()
        return p, q

    for p, q in everywhere(2, law):
        assert p.item() == 1.0
        assert close(q, textbook([1.0], [2.0, 2.0]))


def test_a_zero_grad_inside_the_window_of_no_sync_starts_over():
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p])
        with optimizer.no_sync():
            pull(p, 8.0)
        optimizer.zero_grad()
        pull(p, 1.0)
        optimizer.step()
        return p, optimizer.stats().buckets_resent

    for p, resent in everywhere(2, law):
        assert resent == 0
        assert close(p, textbook([1.0], [1.0, 1.0]))


def test_a_gradient_asked_for_in_between_is_not_added_to_the_float32_sum():
    def law(mesh):
        p = parameter(1.0, dtype=BF16)
        optimizer = adamw(mesh, [p], eps=1.0)
        for _ in range(3):
            pull(p, 1.0)
            torch.autograd.grad((100.0 * p).sum(), p)
        optimizer.step()
        return optimizer.grad_norm.item()

    assert everywhere(2, law) == [3.0, 3.0]


def test_hooks_that_change_a_gradient_change_the_float32_sum():
    def law(mesh):
        p = parameter(1.0, dtype=BF16)
        optimizer = adamw(mesh, [p], eps=1.0)
        p.register_hook(lambda grad: grad * 0.5)
        for _ in range(3):
            pull(p, 1.0)
        optimizer.step()
        return optimizer.grad_norm.item()

    assert everywhere(2, law) == [1.5, 1.5]
