"""Save in the middle of a period, with fragments on their way: what goes on is what would have gone on."""

import copy

import pytest
import torch
from torch import nn

import adamesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import CheckpointError
from tests.sync.world import SHAPES, Islander, alike, distance

SCHEDULES = {
    "every-4": adamesh.EveryH(4, exp_avg=2),
    "diloco": adamesh.DiLoCo(4),
    "streaming": adamesh.DiLoCo(5, fragments=3, delay=3),
}
END = 12


class Whole(nn.Module):
    """The parameters as a model, for what is saved is one."""

    def __init__(self, params):
        super().__init__()
        self.params = nn.ParameterDict(params)


def islander(mesh, sync, **given):
    found = Islander(mesh, sync, **given)
    return found, Whole(found.params)


def everything(found):
    """All that a worker's next steps depend on."""
    found.optimizer.flush()
    return found.values, copy.deepcopy(found.optimizer.state_dict())


@pytest.mark.parametrize("sync", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 1), torch.float64), ((3, 1), torch.bfloat16), ((2, 2), torch.bfloat16)]
)
def test_a_run_resumed_at_any_step_is_the_uninterrupted_one_to_the_bit(tmp_path, shape, sync, dtype):
    def save(mesh):
        found, model = islander(mesh, sync, dtype=dtype)
        for step in range(END):
            found.step(step)
            adamesh.save(tmp_path / f"{step}", model, found.optimizer)
        return found.values

    def resume(mesh, stop):
        found, model = islander(mesh, sync, dtype=dtype)
        with torch.no_grad():
            for param in found.params.values():
                param.add_(1.0)  # so that what is not loaded shows
        adamesh.load(tmp_path / f"{stop - 1}", model, found.optimizer)
        return found.train(range(stop, END)).values

    def undisturbed(mesh):
        return Islander(mesh, sync, dtype=dtype).train(range(END)).values

    expected = ThreadWorld(*shape).run(undisturbed)
    saving = ThreadWorld(*shape).run(save)
    assert all(alike(a, b) for a, b in zip(saving, expected, strict=True)), "saving has changed the run"
    for stop in range(1, END, 2 if shape == (2, 1) else 4):
        resumed = ThreadWorld(*shape).run(resume, stop)
        assert all(alike(a, b) for a, b in zip(resumed, expected, strict=True)), stop


@pytest.mark.parametrize("sync", SCHEDULES.values(), ids=SCHEDULES)
def test_another_size_of_islands_goes_on_the_same_but_for_rounding(tmp_path, sync):
    """Islands of three workers become islands of one that see the same gradients."""

    def law(mesh, steps, load, save):
        params = {str(i): nn.Parameter(torch.full((100 + i,), float(i + 1), dtype=torch.float64)) for i in range(3)}
        plan = adamesh.Plan(mesh=mesh, sync=sync, bucket_mb=1e-3)
        optimizer = adamesh.AdamW(list(params.items()), lr=1e-2, plan=plan)
        if load:
            adamesh.load(tmp_path / "c", Whole(params), optimizer)
        for step in steps:
            optimizer.zero_grad()
            for p in params.values():
                (p * (p.detach() * (step + 1)).sin() * (1 + mesh.replicate.rank)).sum().backward()
            optimizer.step()
        if save:
            adamesh.save(tmp_path / "c", Whole(params), optimizer)
        return {name: p.detach() for name, p in params.items()}

    expected = ThreadWorld(2, 3).run(law, range(9), False, False)
    ThreadWorld(2, 3).run(law, range(6), False, True)
    resumed = ThreadWorld(2, 1).run(law, range(6, 9), True, False)
    for island in range(2):
        for name, value in resumed[island].items():
            assert torch.allclose(value, expected[3 * island][name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("sync", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("shape", [(3, 1), (1, 2)])
def test_another_number_of_islands_starts_from_the_mean_and_the_anchor_as_it_is(tmp_path, sync, shape):
    def save(mesh):
        found, model = islander(mesh, sync)
        found.train(range(7))
        adamesh.save(tmp_path / "c", model, found.optimizer)
        return everything(found)

    def load(mesh):
        found, model = islander(mesh, sync)
        adamesh.load(tmp_path / "c", model, found.optimizer)
        return everything(found)

    saved, loaded = ThreadWorld(2, 1).run(save), ThreadWorld(*shape).run(load)
    mean = {name: (saved[0][0][name] + saved[1][0][name]) / 2 for name in SHAPES}
    assert all(distance(values, mean) <= 1e-15 for values, _ in loaded)
    entry, was, other = (found[1]["state"]["a"] for found in (loaded[0], *saved))
    run = slice(entry["start"], entry["stop"])
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.allclose(entry[key], (was[key] + other[key])[run] / 2, rtol=1e-12, atol=0)
    if "anchor" in was:
        assert torch.equal(entry["anchor"], was["anchor"][run])
        assert torch.equal(entry["outer_momentum"], was["outer_momentum"][run])


def test_the_model_in_a_checkpoint_is_the_mean_of_the_islands(tmp_path):
    def save(mesh):
        found, model = islander(mesh, adamesh.EveryH(4))
        found.train(range(6))
        adamesh.save(tmp_path / "c", model, found.optimizer)
        return found.values

    first, other = ThreadWorld(2, 1).run(save)
    from adamesh.checkpoint.load import load_model

    model = Whole({name: nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for name, shape in SHAPES.items()})
    load_model(tmp_path / "c", model)
    for name, param in model.params.items():
        assert torch.allclose(param, ((first[name] + other[name]) / 2).cpu(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("after", ["streaming", "every-4"])
@pytest.mark.parametrize("before", [adamesh.EveryStep(), SCHEDULES["streaming"]])
@pytest.mark.filterwarnings("ignore:the saved state holds an anchor")
def test_any_schedule_takes_over_from_any_other(tmp_path, before, after):
    def save(mesh):
        found, model = islander(mesh, before)
        adamesh.save(tmp_path / "c", model, found.train(range(4)).optimizer)
        return found.values

    def load(mesh):
        found, model = islander(mesh, SCHEDULES[after])
        adamesh.load(tmp_path / "c", model, found.optimizer)
        return found.values, found.train(range(4, 20)).values

    saved, loaded = ThreadWorld(2, 1).run(save), ThreadWorld(2, 1).run(load)
    assert all(alike(a, b) for a, (b, _) in zip(saved, loaded, strict=True))
    assert distance(loaded[0][0], loaded[0][1]) < 0.5


def test_an_anchor_that_nobody_takes_is_dropped_with_a_warning(tmp_path):
    def save(mesh):
        found, model = islander(mesh, adamesh.DiLoCo(4))
        adamesh.save(tmp_path / "c", model, found.train(range(6)).optimizer)

    def load(mesh):
        found, model = islander(mesh, adamesh.EveryStep())
        adamesh.load(tmp_path / "c", model, found.optimizer)
        return found.train(range(6, 8)).values

    ThreadWorld(2, 1).run(save)
    with pytest.warns(UserWarning, match="holds an anchor"):  # here, because threads share the list of warnings
        first, other = ThreadWorld(2, 1).run(load)
    assert alike(first, other)


def test_a_workers_own_state_dict_goes_on_to_the_bit_once_fragments_have_arrived():
    sync = SCHEDULES["streaming"]

    def law(mesh):
        found = Islander(mesh, sync).train(range(5))
        assert found.optimizer.engine.transaction.agreement.outer.under_way
        with pytest.raises(CheckpointError, match=r"call optimizer.flush\(\)"):
            found.optimizer.state_dict()
        values, state = everything(found)
        other = Islander(mesh, sync)
        with torch.no_grad():
            for name, param in other.params.items():
                param.copy_(values[name])
        other.optimizer.load_state_dict(state)
        return found.train(range(5, 11)).values, other.train(range(5, 11)).values

    for ours, theirs in ThreadWorld(2, 2).run(law):
        assert alike(ours, theirs)


def test_what_codecs_held_back_of_fragments_is_saved_once_for_any_number_of_islands(tmp_path):
    sync = adamesh.DiLoCo(4, fragments=2, delay=1, codec=adamesh.Feedback(adamesh.Int4()))

    def save(mesh):
        found, model = islander(mesh, sync)
        adamesh.save(tmp_path / "c", model, found.train(range(9)).optimizer)
        means = found.optimizer.residual_means()
        return {name: mean.clone() for name, mean in means.items()}

    def load(mesh):
        found, model = islander(mesh, sync)
        adamesh.load(tmp_path / "c", model, found.optimizer)
        means = found.optimizer.residual_means()
        return {name: mean.clone() for name, mean in means.items()}, found.train(range(9, 14)).values

    saved = ThreadWorld(2, 1).run(save)[0]
    assert any(bool(mean.any()) for mean in saved.values())
    loaded, values = ThreadWorld(3, 1).run(load)[0]
    for name, mean in saved.items():
        assert torch.allclose(loaded[name], mean, rtol=0, atol=1e-12)
    assert all(bool(value.isfinite().all()) for value in values.values())


@pytest.mark.parametrize("fragments", [1, 3])
def test_a_workers_own_residuals_of_fragments_go_on_to_the_bit(fragments):
    sync = adamesh.DiLoCo(3, fragments=fragments, codec=adamesh.Feedback(adamesh.Int4()))

    def law(mesh):
        found = Islander(mesh, sync, dtype=torch.float32).train(range(7))
        values, state = everything(found)
        other = Islander(mesh, sync, dtype=torch.float32)
        with torch.no_grad():
            for name, param in other.params.items():
                param.copy_(values[name])
        other.optimizer.load_state_dict(state)
        return bool(state["residuals"]), found.train(range(7, 14)).values, other.train(range(7, 14)).values

    for held, ours, theirs in ThreadWorld(2, 2).run(law):
        assert held
        assert alike(ours, theirs)
