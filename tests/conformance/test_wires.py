"""One battery for every codec on every way of a mesh: what compression must not change."""

import math

import pytest
import torch
from torch import nn

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from tests.wire.world import CODECS, SHAPES, WIRES, Worker, alike, counted, train

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", WIRES)
def test_replicas_are_alike_to_the_bit(name, shape):
    first, *others = train(shape, WIRES[name])
    assert all(alike(first, other) for other in others)
    assert all(bool(values.isfinite().all()) for values in first.values())


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", WIRES)
def test_replicas_are_alike_to_the_bit_after_a_thousand_steps(name):
    first, *others = train((2, 2), WIRES[name], steps=1000)
    assert all(alike(first, other) for other in others)
    assert all(bool(values.isfinite().all()) for values in first.values())


@pytest.mark.parametrize("dtype", [F64, BF16, torch.float16], ids=str)
@pytest.mark.parametrize("name", WIRES)
def test_replicas_of_other_precisions_are_alike_to_the_bit_and_so_is_a_second_run(name, dtype):
    (first, other), again = (train((1, 2), WIRES[name], dtype=dtype) for _ in range(2))
    assert alike(first, other)
    assert alike(first, again[0])
    assert all(bool(values.isfinite().all()) for values in first.values())


LOWRANK = adamesh.LowRank(2)
HELD_BACK = {
    (name, shape): adamesh.Wire(up=adamesh.Feedback(codec), across=adamesh.Feedback(codec))
    for name, codec in CODECS.items()
    for shape in [(1, 3), (2, 2)]
}
HELD_BACK |= {("lowrank", (1, 3)): adamesh.Wire(up=LOWRANK), ("lowrank", (3, 1)): adamesh.Wire(across=LOWRANK)}
HELD_BACK |= {("lowrank and int4", (2, 2)): adamesh.Wire(up=LOWRANK, across=adamesh.Feedback(CODECS["int4"]))}


@pytest.mark.parametrize(("name", "shape"), HELD_BACK, ids=str)
def test_what_was_applied_and_what_is_held_back_is_what_went_in(name, shape):
    wire = HELD_BACK[name, shape]

    def law(mesh: Mesh):
        worker = Worker(mesh, wire, dtype=F64)
        given = {key: torch.zeros_like(value).view(-1) for key, value in worker.values.items()}
        applied = {key: torch.zeros_like(value) for key, value in given.items()}
        reducer = worker.optimizer.engine.reducer
        commit = reducer.commit

        def noting_what_is_applied() -> None:
            for index, shard in worker.optimizer.engine.transaction.shards.items():
                reduced_S = worker.optimizer.engine.buckets[index].reduced_S
                assert reduced_S is not None
                for p in shard.pieces:
                    run = reduced_S[p.place.offset :][: p.place.stop - p.place.start]
                    applied[p.slot.name][p.place.start : p.place.stop] += run
            commit()

        reducer.commit = noting_what_is_applied  # type: ignore[method-assign]
        for step in range(7):
            worker.optimizer.zero_grad()
            worker.backward(step)
            for key, p in worker.model.named_parameters():
                if p.grad is not None:
                    given[key] += p.grad.view(-1)
            worker.optimizer.step()
        return given, applied, worker.residuals

    results = ThreadWorld(*shape).run(law)
    share = {"up": 1 / len(results), "across": 1 / shape[0], "back": 1.0}
    for key in results[0][0]:
        mean_given = sum(given[key] for given, _, _ in results) / len(results)
        total = sum(applied[key] for _, applied, _ in results) / shape[0]  # owners' slices; islands apply the same
        for _, _, held in results:
            total = total + sum(share[kind] * held[kind, key] for kind in share)
        assert torch.allclose(total, mean_given, rtol=0, atol=1e-12), key
    if not name.endswith("16"):  # what bfloat16 drops of a gradient is little
        kinds = [kind for kind in share for _, _, held in results if float(held[kind, "matrix"].abs().max()) > 1e-4]
        assert kinds


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("name", WIRES)
def test_a_gradient_that_is_not_finite_on_one_worker_aborts_the_step_and_changes_nothing(name, poison):
    def law(mesh: Mesh):
        worker = Worker(mesh, WIRES[name]).train(range(2))
        before = worker.values, worker.residuals
        steps = [worker.optimizer.state_dict()["state"][key]["step"] for key in worker.values]
        worker.optimizer.zero_grad()
        worker.backward(2)
        if mesh.world.rank == 1:
            worker.optimizer.zero_grad()
            worker.backward(2, factor=poison)
        worker.optimizer.step()
        assert not worker.optimizer.stats().committed
        assert alike(worker.values, before[0])
        assert alike(worker.residuals, before[1])
        assert steps == [worker.optimizer.state_dict()["state"][key]["step"] for key in worker.values]
        return worker.train(range(3, 5)).values

    first, *others = ThreadWorld(2, 2).run(law)
    assert all(alike(first, other) for other in others)
    assert all(bool(values.isfinite().all()) for values in first.values())


@pytest.mark.parametrize("name", WIRES)
def test_what_is_counted_is_what_is_moved(name):
    def law(mesh: Mesh) -> None:
        mesh, moved = counted(mesh)
        worker = Worker(mesh, WIRES[name])
        moved()
        for step in range(3):
            worker.train(range(step, step + 1))
            stats = worker.optimizer.stats()
            assert stats.bytes_up + stats.bytes_down == moved() > 0

    for shape in [(1, 2), (2, 2), (3, 1)]:
        ThreadWorld(*shape).run(law)


@pytest.mark.parametrize("name", CODECS)
def test_what_comes_down_does_not_depend_on_the_number_of_workers(name):
    """Every worker has the same gradient, exactly summed: parameters part only if blocks are cut elsewhere."""

    def law(mesh: Mesh):
        worker = Worker(mesh, adamesh.Wire(down=CODECS[name]), dtype=F64)
        for step in range(4):
            for p in worker.model.parameters():
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step), dtype=F64)
            worker.optimizer.step()
        return worker.values

    # 2 and 4 copies of a number add up without rounding.
    alone, *others = [ThreadWorld(*shape).run(law)[0] for shape in [(1, 1), (1, 2), (1, 4), (2, 2)]]
    assert all(alike(alone, other) for other in others)


@pytest.mark.parametrize("name", WIRES)
def test_weight_decay_takes_the_same_part_of_a_parameter_under_every_codec(name):
    def law(mesh: Mesh, wire: adamesh.Wire):
        p = nn.Parameter(torch.linspace(-2, 2, 200))
        optimizer = adamesh.AdamW([p], lr=0.1, weight_decay=0.5, plan=adamesh.Plan(mesh=mesh, wire=wire))
        for _ in range(20):
            p.grad = torch.zeros_like(p)
            optimizer.step()
        return optimizer.full_state_dict()

    expected = torch.linspace(-2, 2, 200)
    for _ in range(20):
        expected = expected * (1 - 0.1 * 0.5)
    for shape in [(1, 2), (2, 1)]:
        master = ThreadWorld(*shape).run(law, WIRES[name])[0]["state"][0]["master"]
        assert torch.allclose(master, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_accumulated_micro_batches_are_coded_once(name, overlap):
    def law(mesh: Mesh):
        worker = Worker(mesh, WIRES[name], options={"overlap": overlap})
        for step in range(3):
            worker.optimizer.zero_grad()
            with worker.optimizer.no_sync():
                worker.backward(2 * step)
            worker.backward(2 * step + 1)
            worker.optimizer.step()
            assert worker.optimizer.stats().buckets_resent == 0
        return worker.values

    first, *others = ThreadWorld(1, 3).run(law)
    assert all(alike(first, other) for other in others)
