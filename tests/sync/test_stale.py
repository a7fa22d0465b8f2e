"""Gradients applied some steps late."""

import copy

import pytest
import torch
from torch import nn

import adamesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import CheckpointError, ConfigurationError, IncompatiblePlan
from tests.reference.adam import TextbookAdam
from tests.sync.world import SHAPES, Islander, alike, distance, island_gradient, start, train
from tests.tolerances import TEXTBOOK

WORLDS = [(1, 1), (1, 3), (3, 1), (2, 2)]
F64 = torch.float64
NUM_STEPS = 10


@pytest.mark.parametrize("shape", WORLDS)
@pytest.mark.parametrize("s", [1, 2, 3])
def test_every_update_is_made_with_the_gradients_of_s_steps_ago(shape, s):
    size = shape[0] * shape[1]
    found = train(shape, adamesh.Stale(s), NUM_STEPS)
    books = {name: TextbookAdam(start(name), lr=1e-2) for name in SHAPES}
    for step in range(NUM_STEPS):
        if step >= s:
            for name, book in books.items():
                book.step([island_gradient(name, step - s, 0, size)])
        expected = {name: book.rounded for name, book in books.items()}
        assert all(distance(values[step], expected) <= TEXTBOOK[F64] for values in found)
        assert all(alike(values[step], found[0][step]) for values in found)


@pytest.mark.parametrize("shape", WORLDS)
def test_no_delay_is_every_step_to_the_bit(shape):
    ours, exact = (train(shape, sync, 4) for sync in (adamesh.Stale(0), adamesh.EveryStep()))
    assert alike(ours[0][-1], exact[0][-1])


@pytest.mark.parametrize("options", [{"overlap": False}, {"max_grad_norm": 0.5}, {"bucket_mb": 25}])
@pytest.mark.parametrize("dtype", [F64, torch.bfloat16])
def test_the_same_gradients_made_by_hand_give_the_same_parameters_to_the_bit(options, dtype):
    """The exact schedule, fed with what workers had s steps ago."""

    def by_hand(mesh):
        islander = Islander(mesh, adamesh.EveryStep(), options=options, dtype=dtype)
        return islander.train(range(5)).values

    found = train((2, 2), adamesh.Stale(2), 7, options=options, dtype=dtype)
    assert alike(found[0][-1], ThreadWorld(2, 2).run(by_hand)[0])


def test_draining_makes_the_updates_that_are_outstanding():
    def law(mesh):
        islander = Islander(mesh, adamesh.Stale(3)).train(range(5))
        islander.optimizer.drain()
        islander.optimizer.drain()
        return islander.values

    exact = train((2, 1), adamesh.EveryStep(), 5)
    for values in ThreadWorld(2, 1).run(law):
        assert alike(values, exact[0][-1])


@pytest.mark.parametrize(
    "wire", [adamesh.Wire(up=adamesh.Int8(), down=adamesh.Int4()), adamesh.Wire(across=adamesh.Int8())]
)
def test_codecs_without_feedback_work_with_it(wire):
    coded, exact = (
        train((2, 2), adamesh.Stale(1), 8, options={"wire": w}, dtype=torch.float32) for w in (wire, adamesh.Wire())
    )
    assert 0 < distance(coded[0][-1], exact[0][-1]) < 0.05
    assert all(alike(values[-1], coded[0][-1]) for values in coded)


def test_feedback_and_scalers_are_refused():
    for wire in (adamesh.Wire(up=adamesh.Feedback(adamesh.Int4())), adamesh.Wire(up=adamesh.LowRank(2))):
        with pytest.raises(IncompatiblePlan, match="the next ones leave before it is known"):
            adamesh.Plan(sync=adamesh.Stale(1), wire=wire)
    optimizer = adamesh.SGD([nn.Parameter(torch.zeros(1))], plan=adamesh.Plan(sync=adamesh.Stale(1)))
    with pytest.raises(ConfigurationError, match="an old scale"):
        adamesh.GradScaler().step(optimizer)
    with pytest.raises(ConfigurationError, match="at least 0"):
        adamesh.Stale(-1)


def test_stats_say_how_stale_gradients_are():
    def law(mesh):
        return Islander(mesh, adamesh.Stale(2)).train(range(3)).optimizer.stats().staleness

    assert ThreadWorld(1, 2).run(law) == [2, 2]


@pytest.mark.parametrize(
    ("shape", "options"), [((1, 2), {}), ((3, 1), {"max_grad_norm": 0.5}), ((2, 2), {"max_grad_norm": 0.5})]
)
def test_a_run_resumed_with_outstanding_gradients_is_the_uninterrupted_one_to_the_bit(tmp_path, shape, options):
    sync = adamesh.Stale(2)

    def model(islander):
        module = nn.Module()
        for name, param in islander.params.items():
            module.register_parameter(name, param)
        return module

    def save(mesh):
        islander = Islander(mesh, sync, options=options)
        for step in range(8):
            islander.step(step)
            adamesh.save(tmp_path / f"{step}", model(islander), islander.optimizer)
        return islander.values

    def resume(mesh, stop):
        islander = Islander(mesh, sync, options=options)
        adamesh.load(tmp_path / f"{stop - 1}", model(islander), islander.optimizer)
        return islander.train(range(stop, 8)).values

    expected = ThreadWorld(*shape).run(lambda mesh: Islander(mesh, sync, options=options).train(range(8)).values)
    assert alike(ThreadWorld(*shape).run(save)[0], expected[0])
    for stop in (1, 2, 6):
        assert alike(ThreadWorld(*shape).run(resume, stop)[0], expected[0]), stop
    if not options:
        other = ThreadWorld(1, 3).run(resume, 8)
        assert alike(other[0], expected[0])


def test_a_workers_own_state_dict_needs_a_flush_and_goes_on_to_the_bit():
    def law(mesh):
        islander = Islander(mesh, adamesh.Stale(2)).train(range(4))
        with pytest.raises(CheckpointError, match="gradients are on their way"):
            islander.optimizer.state_dict()
        islander.optimizer.flush()
        values, state = islander.values, copy.deepcopy(islander.optimizer.state_dict())
        other = Islander(mesh, adamesh.Stale(2))
        with torch.no_grad():
            for name, param in other.params.items():
                param.copy_(values[name])
        other.optimizer.load_state_dict(state)
        return islander.train(range(4, 8)).values, other.train(range(4, 8)).values

    for ours, theirs in ThreadWorld(1, 2).run(law):
        assert alike(ours, theirs)
