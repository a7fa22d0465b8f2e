"""The state of every rule goes into torch's format and back, and through checkpoints at any number of workers."""

import copy

import pytest
import torch
from torch import nn

import adamesh
from adamesh.errors import CheckpointError
from tests.parity.zoo import identical
from tests.semantics.ranks import everywhere
from tests.tolerances import TRAJECTORY

RULES = {
    "nadam": ("NAdam", {"momentum_decay": 0.1}),
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd-momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    "adadelta": ("Adadelta", {}),
}


class Small(nn.Module):
    """At two workers and more, some own nothing of the scalar and of what is never used."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.linspace(-1, 1, 301, dtype=torch.float64).view(7, 43))
        self.scalar = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.never = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def advance(self, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            (self.matrix.square().mean() * self.scalar + (self.matrix * step).mean()).backward()
            optimizer.step()


def build(rule, options, model, mesh):
    return getattr(adamesh, rule)(model.named_parameters(), **options, plan=adamesh.Plan(mesh=mesh))


def torchs(rule, options, model):
    fused = {"fused": True} if rule == "SGD" and not options.get("momentum") else {}
    return getattr(torch.optim, rule)(model.parameters(), **options, **fused)


def apart(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("name", RULES)
def test_torch_loads_what_adamesh_gives_and_goes_on(name):
    rule, options = RULES[name]

    def law(mesh):
        model = Small()
        optimizer = build(rule, options, model, mesh)
        model.advance(optimizer, range(3))
        full = optimizer.full_state_dict()
        values = copy.deepcopy(model.state_dict())
        model.advance(optimizer, range(3, 6))
        return full, values, model

    full, values, trained = everywhere(3, law)[0]
    twin = Small()
    reference = torchs(rule, options, twin)
    twin.advance(reference, range(3))
    theirs = reference.state_dict()["state"]
    assert full["state"].keys() == theirs.keys()
    assert all(list(full["state"][number]) == list(entry) for number, entry in theirs.items())
    twin.load_state_dict(values)
    fresh = torchs(rule, options, twin)
    fresh.load_state_dict({"state": full["state"], "param_groups": reference.state_dict()["param_groups"]})
    for entry in fresh.state.values():
        if "mu_product" in entry:
            entry["mu_product"] = entry["mu_product"].float()  # loading, torch gave it the parameter's precision
    twin.advance(fresh, range(3, 6))
    assert apart(trained, twin) <= TRAJECTORY[torch.float64]


@pytest.mark.parametrize("name", RULES)
def test_adamesh_loads_what_torch_gives_and_goes_on(name):
    rule, options = RULES[name]
    twin = Small()
    reference = torchs(rule, options, twin)
    twin.advance(reference, range(3))
    given, values = copy.deepcopy(reference.state_dict()), copy.deepcopy(twin.state_dict())
    twin.advance(reference, range(3, 6))

    def law(mesh):
        model = Small()
        optimizer = build(rule, options, model, mesh)
        model.load_state_dict(values)
        optimizer.load_full_state_dict(given if mesh.world.rank == 0 else None)
        model.advance(optimizer, range(3, 6))
        return model

    assert all(apart(model, twin) <= TRAJECTORY[torch.float64] for model in everywhere(2, law))


@pytest.mark.parametrize("name", RULES)
def test_a_run_goes_on_from_a_checkpoint_at_another_number_of_workers(name, tmp_path):
    rule, options = RULES[name]

    def first(mesh):
        model = Small()
        optimizer = build(rule, options, model, mesh)
        model.advance(optimizer, range(3))
        adamesh.save(tmp_path, model, optimizer)
        own = optimizer.state_dict()
        model.advance(optimizer, range(3, 6))
        return model, own["state"]["scalar"].get("mu_product")

    def second(mesh):
        model = Small()
        optimizer = build(rule, options, model, mesh)
        adamesh.load(tmp_path, model, optimizer)
        model.advance(optimizer, range(3, 6))
        return model

    results = everywhere(3, first)
    assert len({number for _, number in results}) == 1, "a scalar is the same on all ranks, owners or not"
    for size in (1, 2, 4):
        for model in everywhere(size, second):
            assert apart(model, results[0][0]) <= TRAJECTORY[torch.float64]


def test_a_part_is_taken_back_with_its_scalars():
    def law(mesh):
        model = Small()
        optimizer = build("NAdam", {}, model, mesh)
        model.advance(optimizer, range(3))
        part, values = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
        model.advance(optimizer, range(3, 5))
        expected = copy.deepcopy(model.state_dict())
        model.load_state_dict(values)
        optimizer.load_state_dict(part)
        model.advance(optimizer, range(3, 5))
        return expected, model.state_dict()

    for expected, found in everywhere(2, law):
        assert all(identical(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(("saver", "loader"), [("Adam", "NAdam"), ("NAdam", "Adam"), ("SGD", "Adam"), ("Adam", "SGD")])
def test_the_checkpoint_of_another_rule_is_refused_on_all_workers(saver, loader, tmp_path):
    def law(mesh):
        model = Small()
        optimizer = build(saver, {}, model, mesh)
        model.advance(optimizer, range(2))
        adamesh.save(tmp_path, model, optimizer)
        with pytest.raises(CheckpointError, match="saved state"):
            adamesh.load(tmp_path, model, build(loader, {}, Small(), mesh))

    everywhere(2, law)
