"""State in torch's own format, both ways."""

import copy

import pytest
import torch
from torch import nn

import adamesh
from adamesh.errors import CheckpointError
from tests.parity.zoo import identical
from tests.semantics.ranks import adamw, close, everywhere, parameter, pull, textbook


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.empty(9, 11))
        self.scalar = nn.Parameter(torch.empty(()))
        self.never = nn.Parameter(torch.empty(3))
        self.frozen = nn.Parameter(torch.empty(2), requires_grad=False)
        with torch.no_grad():
            for number, p in enumerate(self.parameters()):
                p.copy_(torch.linspace(-1, number, p.numel()).view(p.shape))

    def groups(self, named):
        first, second = (
            [("matrix", self.matrix), ("scalar", self.scalar)],
            [("never", self.never), ("frozen", self.frozen)],
        )
        pairs = (first, second) if named else ([p for _, p in first], [p for _, p in second])
        return [{"params": pairs[0], "lr": 0.1}, {"params": pairs[1], "weight_decay": 0.5}]

    def advance(self, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            (self.matrix.square().sum() * self.scalar + (self.matrix * step).sum()).backward()
            optimizer.step()


def torchs(model, named, options):
    return torch.optim.AdamW(model.groups(named), fused=True, **options)


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for number, entry in theirs.items():
        assert list(ours[number]) == list(entry)
        assert all(identical(ours[number][key], value) for key, value in entry.items()), number
    return True


# Two ranks with the same gradients: their mean is exactly the gradient, so everything is compared to the bit.
OPTIONS = {"plain": {}, "amsgrad": {"amsgrad": True}}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_torch_loads_what_adamesh_gives_and_goes_on(options, named):
    def law(mesh):
        model = Small()
        optimizer = adamw(mesh, model.groups(named), **options)
        model.advance(optimizer, range(3))
        full = optimizer.full_state_dict()
        model.advance(optimizer, range(3, 6))
        return full, optimizer.full_state_dict(), model

    (full, later, trained), *others = everywhere(2, law)
    assert all(given == {} for given, _, _ in others)
    twin = Small()
    reference = torchs(twin, named, options)
    twin.advance(reference, range(3))
    assert same(full["state"], reference.state_dict()["state"])
    assert [g["params"] for g in full["param_groups"]] == [[0, 1], [2, 3]]
    fresh = torchs(twin, named, options)
    fresh.load_state_dict(full)
    for group in fresh.param_groups:
        group["fused"] = True  # which kernel to use is no part of the state
    twin.advance(fresh, range(3, 6))
    assert same(later["state"], fresh.state_dict()["state"])
    assert all(identical(a, b) for a, b in zip(trained.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_adamesh_loads_what_torch_gives_and_goes_on(options):
    twin = Small()
    reference = torchs(twin, False, options)
    twin.advance(reference, range(3))
    reference.param_groups[0]["lr"] = 0.05
    given = copy.deepcopy(reference.state_dict())
    values = {name: value.clone() for name, value in twin.state_dict().items()}
    twin.advance(reference, range(3, 6))

    def law(mesh):
        model = Small()
        optimizer = adamw(mesh, model.groups(False), **options)
        model.advance(optimizer, range(1))
        model.load_state_dict(values)
        optimizer.load_full_state_dict(given if mesh.world.rank == 0 else None)
        model.advance(optimizer, range(3, 6))
        return model, optimizer.full_state_dict()

    results = everywhere(2, law)
    assert same(results[0][1]["state"], reference.state_dict()["state"])
    for model, _ in results:
        assert all(identical(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_masters_of_low_precision_come_and_go_with_it():
    def law(mesh):
        p = parameter(1.0, 2.0, dtype=torch.bfloat16)
        optimizer = adamw(mesh, [p])
        for _ in range(2):
            optimizer.zero_grad()
            pull(p, 1.0)
            optimizer.step()
        full = optimizer.full_state_dict()
        other = adamw(mesh, [parameter(1.0, 2.0, dtype=torch.bfloat16)])
        other.load_full_state_dict(full)
        return full, other.full_state_dict()

    (full, again), _ = everywhere(2, law)
    assert same(again["state"], full["state"])
    assert close(full["state"][0]["master"], textbook([1.0, 2.0], [1.0], [1.0]))
    torch_adamw = torch.optim.AdamW([parameter(1.0, 2.0, dtype=torch.bfloat16)], fused=True)
    torch_adamw.load_state_dict(full)


def test_full_state_may_be_asked_for_in_the_middle_of_a_window():
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p])
        if mesh.world.rank == 0:
            pull(p, 2.0)
        assert mesh.world.rank or optimizer.full_state_dict()["state"] == {}
        if mesh.world.rank:
            optimizer.full_state_dict()
            pull(p, 4.0)
        optimizer.step()
        return p

    for p in everywhere(2, law):
        assert close(p, textbook([1.0], [2.0, 4.0]))


WRONG = {
    "not-a-state": ({"weights": 1}, r"torch\.optim\.AdamW\.state_dict"),
    "other-groups": (torch.optim.AdamW([parameter(1.0), parameter(1.0)]).state_dict(), "groups of \\[2\\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_state_that_does_not_fit_is_refused_on_all_ranks_and_changes_nothing(name):
    given, match = WRONG[name]

    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p])
        with pytest.raises(CheckpointError, match=match):
            optimizer.load_full_state_dict(given if mesh.world.rank == 0 else None)
        pull(p, 1.0)
        optimizer.step()
        return p

    for p in everywhere(2, law):
        assert close(p, textbook([1.0], [1.0, 1.0]))


def test_a_state_of_another_shape_or_of_other_options_is_refused():
    def law(mesh, given):
        optimizer = adamw(mesh, [parameter(1.0)])
        with pytest.raises(CheckpointError, match=r"buil[dt]"):
            optimizer.load_full_state_dict(given if mesh.world.rank == 0 else None)

    for p, amsgrad in [(parameter(1.0, 2.0), False), (parameter(1.0), True)]:
        reference = torch.optim.AdamW([p], fused=True, amsgrad=amsgrad)
        pull(p, 1.0)
        reference.step()
        everywhere(2, law, reference.state_dict())


def test_another_optimizers_own_part_is_not_taken_for_ours():
    optimizer = adamesh.AdamW([parameter(1.0)])
    with pytest.raises(CheckpointError, match="load_full_state_dict"):
        optimizer.load_state_dict(torch.optim.AdamW([parameter(1.0)]).state_dict())


def test_a_state_without_step_counts_is_refused_on_all_ranks():
    def law(mesh):
        p = parameter(1.0)
        reference = torch.optim.SGD([p], momentum=0.9)
        p.grad = torch.ones_like(p)
        reference.step()
        given = reference.state_dict() if mesh.world.rank == 0 else None
        with pytest.raises(CheckpointError, match="no 'step'"):
            adamw(mesh, [p]).load_full_state_dict(given)

    everywhere(2, law)
