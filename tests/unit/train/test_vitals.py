"""What the trainer looks at for the doctor."""

from typing import Any

import pytest
import torch
from torch import nn

from adamesh.train.vitals import Vitals, paces


def looks(model: Any, inputs, count=8, log_every=1):
    """The numbers of each step that was looked at, of so many."""
    vitals = Vitals(model, log_every)
    seen = {}
    for step in range(15 * count):
        model.zero_grad()
        model(inputs[step % len(inputs)]).square().sum().backward()
        if numbers := vitals.look(step):
            seen[step + 1] = numbers
    return seen


def test_every_fifteenth_step_is_looked_at_and_later_every_sixtieth_of_those_that_are_logged():
    model, inputs = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), torch.randn(5, 8, 3)
    assert list(looks(model, inputs, count=13)) == [15, 30, 45, 60, 120, 180]
    assert list(looks(model, inputs, count=3, log_every=4)) == [16, 32]
    assert list(looks(model, inputs, count=3, log_every=25)) == [25]
    assert list(looks(model, inputs, count=11, log_every=25)) == [25, 50, 75, 150]


def test_the_first_and_the_last_weight_are_compared_and_embeddings_are_none():
    model: Any = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    numbers = looks(model, torch.randint(0, 9, (1, 5)), count=1)[15]
    for key, layer in (("grad_rms_first", model[1]), ("grad_rms_last", model[3])):
        assert numbers[key] == pytest.approx(float(layer.weight.grad.square().mean().sqrt()))
    assert looks(nn.Linear(3, 2), torch.randn(1, 5, 3), count=1) == {}


def test_a_unit_is_dead_that_is_off_for_all_samples_of_all_looks():
    model: Any = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([-99.0, 9.0, 9.0, 9.0]))
        model[2].bias.copy_(torch.tensor([-999.0, -999.0, -999.0, 99.0, 99.0, 99.0]))
    seen = looks(model, torch.randn(5, 8, 3))
    assert "dead_units" not in seen[45]
    assert seen[60]["dead_units"] == pytest.approx(4 / 10)
    assert seen[60]["dead_units_worst_layer"] == pytest.approx(1 / 2)


def test_a_unit_that_works_for_some_batches_only_is_not_dead():
    model: Any = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[0].bias.zero_()
    batches = [torch.full((4, 1), sign) for sign in (1.0, -1.0) for _ in range(15)]
    assert looks(model, batches)[120]["dead_units"] == 0.0


def test_biases_that_a_batch_norm_takes_away_and_those_of_outputs_do_not_count():
    model: Any = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([-99.0, 0.0, 0.0, 0.0]))
    assert looks(model, torch.randn(5, 8, 3))[120]["dead_units"] == pytest.approx(1 / 4)


def test_the_slowest_is_set_beside_the_median_of_the_others():
    told = paces((0.1, 0.5, 0.2, 0.3), 4)
    assert told == {"work_s": 0.1, "work_slowest_s": 0.5, "work_others_s": 0.2, "slowest_worker": 1}
    assert paces((0.1,), 1) == paces((), 2) == paces((0.1,), 2) == {}
