"""Parameters of every memory format and dtype."""

import pytest
import torch
from torch import nn

import adamesh
from adamesh.errors import ParameterError
from tests.device import DEVICE
from tests.semantics.ranks import adamw, close, everywhere, filled, parameter, pull, textbook
from tests.tolerances import TEXTBOOK

F64 = torch.float64


def conv_steps(mesh, memory_format):
    model = filled(nn.Conv2d(3, 5, 3)).double()
    model.weight.data = model.weight.data.to(memory_format=memory_format)
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(params, lr=0.01, fused=True) if mesh is None else adamw(mesh, params, lr=0.01)
    for step in range(4):
        x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(step), dtype=F64)
        x = x.to(DEVICE, memory_format=memory_format)
        optimizer.zero_grad()
        (model(x if mesh is None else x.chunk(mesh.world.size)[mesh.world.rank]).square().mean()).backward()
        optimizer.step()
    return model.weight


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_channels_last_weights_are_trained_where_they_are(num_ranks):
    """Within rounding: torch's fused kernel rounds by the place in memory, and buckets are in logical order."""
    alone = conv_steps(None, torch.channels_last)
    for weight in everywhere(num_ranks, conv_steps, torch.channels_last):
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert close(weight.reshape(-1), alone.reshape(-1))


def test_a_model_may_become_channels_last_later():
    def law(mesh):
        model = nn.Conv2d(2, 2, 2).to(DEVICE, F64)
        nn.init.ones_(model.weight)
        optimizer = adamw(mesh, model.parameters())
        for step in range(3):
            pull(model.weight, 1.0)
            optimizer.step()
            if step == 0:
                model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        assert model.weight.is_contiguous(memory_format=torch.channels_last)
        return model.weight

    for weight in everywhere(2, law):
        assert close(weight.reshape(-1), textbook([1.0] * 16, [1.0], [2.0], [3.0]))


def complex_steps(mesh):
    p = nn.Parameter(torch.tensor([[1 + 2j], [-0.5j], [3]], dtype=torch.complex128, device=DEVICE))
    optimizer = torch.optim.AdamW([p], lr=0.01) if mesh is None else adamw(mesh, [p], lr=0.01)
    for step in range(4):
        optimizer.zero_grad()
        target = torch.tensor([1j, 2.0, step], device=DEVICE)[:, None]
        (p - target).abs().square().sum().backward()
        optimizer.step()
    return p


def test_complex_parameters_take_torchs_step():
    alone = complex_steps(None)
    for p in everywhere(2, complex_steps):
        assert float((p - alone).detach().abs().max()) <= TEXTBOOK[F64]


def test_one_optimizer_holds_parameters_of_several_dtypes():
    dtypes = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

    def law(mesh):
        params = [parameter(1.0, 2.0, dtype=dtype) for dtype in dtypes]
        optimizer = adamw(mesh, params, lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            for p in params:
                pull(p, step + 1.0)
            optimizer.step()
        return params

    expected = textbook([1.0, 2.0], [1.0], [2.0], [3.0], lr=0.1)
    for params in everywhere(2, law):
        assert [p.dtype for p in params] == dtypes
        for p in params[:2]:
            assert close(p, expected)
        for p in params[2:]:
            assert torch.equal(p, expected.to(p))


def test_all_kinds_of_emptiness():
    def law(mesh):
        params = [nn.Parameter(torch.empty(shape)) for shape in [(0,), (3, 0), ()]]
        optimizer = adamw(mesh, params)
        for p in params:
            pull(p, 1.0)
        optimizer.step()
        return [optimizer.state_dict()["state"][f"0.{i}"]["step"] for i in range(3)]

    assert everywhere(3, law) == [[1, 1, 1]] * 3


def test_integers_do_not_train():
    p = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
    with pytest.raises(ParameterError, match=r"'0\.0'.*torch\.int64.*floating-point"):
        adamesh.AdamW([p])


def test_values_must_exist():
    with pytest.raises(ParameterError, match=r"meta device.*materialise"):
        adamesh.AdamW(nn.Linear(2, 2, device="meta").parameters())
