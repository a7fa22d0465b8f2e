"""Parameters that somebody else writes to between two steps."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import adamesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import ParameterError
from tests.semantics.ranks import adamw, close, everywhere, parameter, pull, state, textbook

BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64
Write = Callable[[nn.Parameter, torch.Tensor], None]


@torch.no_grad()
def copied(p, value):
    p.copy_(value)


def replaced(p, value):
    p.data = value.clone()


@torch.no_grad()
def loaded(p, value):
    holder = nn.Module()
    holder.p = p
    holder.load_state_dict({"p": value})


def set_in_parts(p, value):
    with torch.no_grad():
        for i, element in enumerate(value):
            p[i] = element


WRITES = [copied, replaced, loaded, set_in_parts]


def stepped(optimizer, p, gradient):
    optimizer.zero_grad()
    pull(p, gradient)
    optimizer.step()


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("dtype", [F64, F32, BF16])
def test_a_parameter_changed_on_all_ranks_goes_on_from_its_new_value_with_its_old_moments(dtype, write):
    new = torch.tensor([4.0, -2.0]).to(dtype)

    def law(mesh):
        p = parameter(1.0, 1.0, dtype=dtype)
        optimizer = adamw(mesh, [p])
        stepped(optimizer, p, 1.0)
        write(p, new)
        assert torch.equal(p, new)
        stepped(optimizer, p, 1.0)
        return p, p.grad, state(optimizer)

    once = textbook([0.0, 0.0], [1.0], [1.0], weight_decay=0.0) - textbook([0.0, 0.0], [1.0], weight_decay=0.0)
    expected = (new.double() * (1 - 1e-3 * 1e-2) + once).to(dtype)
    for p, grad, kept in everywhere(2, law):
        assert close(p, expected)
        assert grad.tolist() == [1.0, 1.0]
        assert kept["step"] == 2
        assert "master" not in kept or torch.equal(kept["master"].to(dtype), p[kept["start"] : kept["stop"]])


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("dtype", [F64, BF16])
def test_a_parameter_changed_on_some_ranks_is_refused_on_all_and_nothing_is_changed(dtype, write):
    def law(mesh):
        p, q = parameter(1.0, dtype=dtype), parameter(1.0, dtype=dtype)
        optimizer = adamw(mesh, [("p", p), ("q", q)])
        before = [state(optimizer, name) for name in "pq"]
        pull(p, 1.0)
        pull(q, 1.0)
        if mesh.world.rank == 1:
            write(q, torch.tensor([3.0], dtype=dtype))
        with pytest.raises(ParameterError, match=r"'q'.*worker\(s\) \[1\].*broadcast_module"):
            optimizer.step()
        assert (p.item(), q.item()) == (1.0, 3.0 if mesh.world.rank == 1 else 1.0)
        assert [state(optimizer, name) for name in "pq"] == before
        return None

    everywhere(2, law)


@pytest.mark.parametrize("dtype", [F64, BF16])
def test_what_the_refusal_advises_helps(dtype):
    def law(mesh):
        model = nn.Linear(2, 2).to(dtype)
        nn.init.ones_(model.weight)
        optimizer = adamw(mesh, model.named_parameters())
        if mesh.world.rank == 1:
            nn.init.zeros_(model.weight)
        with pytest.raises(ParameterError, match="weight"):
            optimizer.step()
        adamesh.broadcast_module(model, mesh.world)
        stepped(optimizer, model.weight, 1.0)
        return model.weight

    for weight in everywhere(2, law):
        assert close(weight.view(-1), textbook([1.0] * 4, [1.0, 1.0]).to(dtype))


@pytest.mark.parametrize("dtype", [F64, BF16])
def test_an_average_swapped_in_on_all_ranks_and_back_leaves_the_values_where_they_were(dtype):
    def law(mesh, swap):
        p = parameter(1.0, dtype=dtype)
        # Steps smaller than bfloat16 can show at 1.0: a master that fell back to its rounding would never move.
        optimizer = adamw(mesh, [p], lr=1e-3, weight_decay=0.0)
        for _ in range(8):
            stepped(optimizer, p, 1.0)
            own = p.detach().clone()
            if swap:
                copied(p, torch.tensor([9.0], dtype=dtype))
                copied(p, own)
        return p.item()

    assert everywhere(2, law, True) == everywhere(2, law, False)
    assert everywhere(2, law, True)[0] < 0.995


def test_parameters_changed_to_different_values_are_refused_where_nothing_would_heal_them():
    def law(mesh):
        p = parameter(1.0, 2.0)
        optimizer = adamesh.AdamW([("culprit", p)], plan=adamesh.Plan(mesh=mesh))
        copied(p, torch.full((2,), float(mesh.world.rank), dtype=F64))
        p.grad = torch.ones_like(p)
        with pytest.raises(ParameterError, match="'culprit' was changed from outside, to another value on worker 1"):
            optimizer.step()
        adamesh.broadcast_module(nn.ParameterList([p]), mesh.world)
        optimizer.step()
        return p.tolist()

    for shape in ((2, 1), (1, 2), (2, 2)):
        values = ThreadWorld(*shape).run(law)
        assert all(value == values[0] for value in values)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("contiguous", [True, False])
def test_parameters_changed_to_different_values_are_refused_until_they_are_the_same(contiguous, write):
    def law(mesh):
        p = nn.Parameter(torch.ones(2, 3, dtype=F64) if contiguous else torch.ones(3, 2, dtype=F64).t())
        optimizer = adamw(mesh, [p])
        write(p, torch.full_like(p, float(mesh.world.rank)))
        p.grad = torch.ones_like(p)
        for _ in range(2):
            with pytest.raises(ParameterError, match="to another value on worker 1"):
                optimizer.step()
        write(p, torch.ones_like(p))
        optimizer.step()
        return p

    for p in everywhere(2, law):
        assert close(p.reshape(-1), textbook([1.0] * 6, [1.0]))


def test_a_changed_frozen_parameter_is_nobodys_business_but_its_value_is_kept():
    def law(mesh):
        p, frozen = parameter(1.0), parameter(1.0).requires_grad_(False)
        optimizer = adamw(mesh, [p, frozen])
        copied(frozen, torch.tensor([7.0], dtype=F64))
        stepped(optimizer, p, 1.0)
        return frozen.item()

    assert everywhere(2, law) == [7.0, 7.0]


def test_a_change_outside_the_bucket_is_seen_too():
    """Parameters that are not contiguous keep their own memory."""

    def law(mesh, write):
        p = nn.Parameter(torch.ones(2, 3, dtype=F64).t())
        optimizer = adamw(mesh, [p], lr=0.5, weight_decay=0.0)
        stepped(optimizer, p, 1.0)
        write(p, torch.full((2, 3), 5.0, dtype=F64).t())
        stepped(optimizer, p, 1.0)
        return p

    for write in (copied, replaced):
        for p in everywhere(2, law, write):
            assert close(p.reshape(-1), textbook([5.0] * 6, [1.0], lr=0.5, weight_decay=0.0))


@pytest.mark.parametrize("backward_first", [True, False])
@pytest.mark.parametrize("convert", [lambda m: m.double(), lambda m: m.bfloat16()], ids=["up", "down"])
def test_a_model_cast_after_the_optimizer_was_built_is_refused(convert, backward_first):
    def law(mesh):
        model = nn.Linear(2, 1)
        optimizer = adamw(mesh, model.named_parameters())
        if backward_first:
            model(torch.ones(1, 2)).sum().backward()
        convert(model)
        if not backward_first:
            model(torch.ones(1, 2, dtype=model.weight.dtype)).sum().backward()
        with pytest.raises(ParameterError, match=r"is now .*Build the optimizer after"):
            optimizer.step()

    everywhere(2, law)


def test_a_model_resized_after_the_optimizer_was_built_is_refused():
    def law(mesh):
        p = parameter(1.0, 2.0)
        optimizer = adamw(mesh, [p])
        p.data = torch.zeros(3, dtype=F64)
        p.grad = None
        pull(p, 1.0)
        with pytest.raises(ParameterError, match=r"is now \(3,\)"):
            optimizer.step()

    everywhere(2, law)


def test_initial_values_are_the_first_ranks():
    def law(mesh):
        p = parameter(10.0 + mesh.world.rank, dtype=F64)
        low = parameter(10.0 + mesh.world.rank, dtype=BF16)
        odd = nn.Parameter(torch.full((2, 3), float(mesh.world.rank)).t())
        frozen = parameter(float(mesh.world.rank)).requires_grad_(False)
        optimizer = adamw(mesh, [p, low, odd, frozen])
        masters = [entry["master"] for entry in optimizer.state_dict()["state"].values() if "master" in entry]
        return p.item(), low.item(), odd.unique().tolist(), frozen.item(), [m.tolist() for m in masters]

    for *values, masters in everywhere(3, law):
        assert values == [10.0, 10.0, [0.0], 0.0]
        assert masters in ([], [[10.0]])


def test_a_copied_model_is_independent():
    def law(mesh):
        model = nn.Linear(2, 2)
        optimizer = adamw(mesh, model.parameters())
        twin = copy.deepcopy(model)
        before = twin.weight.detach().clone()
        stepped(optimizer, model.weight, 1.0)
        twin(torch.ones(1, 2)).sum().backward()  # no hook of ours listens
        optimizer.step()
        return torch.equal(twin.weight, before) and not torch.equal(model.weight, before)

    assert everywhere(2, law) == [True, True]
