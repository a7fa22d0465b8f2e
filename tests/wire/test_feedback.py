"""What codecs hold back changes when a step commits, and only then."""

import pytest
import torch
from torch import nn

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import GradientError, StepOutOfSync
from tests.wire.world import CODECS, Worker, alike, both_ways

INT4 = both_ways(CODECS["int4"])


def test_a_step_that_failed_on_one_worker_and_was_tried_again_equals_one_that_succeeded():
    def law(mesh: Mesh, fails: bool):
        worker = Worker(mesh, INT4).train(range(2))
        worker.optimizer.zero_grad()
        worker.backward(2)
        if fails:
            before = worker.residuals
            passage = worker.optimizer.engine.buckets[0].within
            assert passage is not None
            if mesh.world.rank == 1:

                def take_in(*_: object) -> None:
                    del passage.take_in
                    raise MemoryError

                passage.take_in = take_in  # type: ignore[method-assign, assignment]
            with pytest.raises(MemoryError if mesh.world.rank == 1 else StepOutOfSync):
                worker.optimizer.step()
            assert alike(worker.residuals, before)
        worker.optimizer.step()
        return worker.values, worker.residuals

    for once, again in zip(*(ThreadWorld(2, 2).run(law, fails) for fails in (False, True)), strict=True):
        assert alike(once[0], again[0])
        assert alike(once[1], again[1])


def test_a_bucket_that_is_sent_again_is_coded_again_from_the_same_residual():
    def law(mesh: Mesh, twice: bool):
        worker = Worker(mesh, INT4).train(range(2))
        worker.optimizer.zero_grad()
        if twice:
            worker.backward(7)
            worker.optimizer.zero_grad()
        worker.backward(2)
        worker.optimizer.step()
        assert bool(worker.optimizer.stats().buckets_resent) == twice
        return worker.values, worker.residuals

    for once, again in zip(*(ThreadWorld(1, 2).run(law, twice) for twice in (False, True)), strict=True):
        assert alike(once[0], again[0])
        assert alike(once[1], again[1])


def test_an_edited_gradient_is_refused_before_anything_is_held_back():
    def law(mesh: Mesh) -> None:
        worker = Worker(mesh, INT4).train(range(2))
        before = worker.values, worker.residuals
        worker.optimizer.zero_grad()
        worker.backward(2)
        nn.utils.clip_grad_norm_(worker.model.parameters(), 0.1)
        with pytest.raises(GradientError, match="was changed after it was sent"):
            worker.optimizer.step()
        assert alike(worker.values, before[0])
        assert alike(worker.residuals, before[1])

    ThreadWorld(1, 2).run(law)


def test_parameters_that_a_worker_does_not_use_keep_their_residual_and_send_nothing_of_it():
    def law(mesh: Mesh):
        p, q = (nn.Parameter(torch.linspace(-1, 1, 64)) for _ in range(2))
        optimizer = adamesh.AdamW([("p", p), ("q", q)], plan=adamesh.Plan(mesh=mesh, wire=INT4))
        for param in (p, q):
            param.grad = torch.linspace(0.3, 1, 64) ** 2
        optimizer.step()
        held = dict(optimizer.state_dict()["residuals"])
        kept = {key: entry[key.split("/")[0]].clone() for key, entry in held.items()}
        before = q.detach().clone()
        optimizer.zero_grad()
        p.grad = torch.ones(64)
        optimizer.step()
        assert float(optimizer.grad_norm) < 9  # p's, of which nothing of q's residual is a part
        now = {key: entry[key.split("/")[0]] for key, entry in optimizer.state_dict()["residuals"].items()}
        assert torch.equal(q.detach(), before)
        assert all(torch.equal(now[key], kept[key]) for key in kept if key.endswith("/q"))
        assert any(not torch.equal(now[key], kept[key]) for key in kept if key.endswith("/p"))
        assert all(bool(kept[key].any()) for key in kept if key == "residual_up/q")

    ThreadWorld(1, 2).run(law)
    ThreadWorld(2, 1).run(law)


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2, 2)], ids=str)
def test_residuals_are_in_unscaled_units_whatever_the_loss_scale(shape):
    def law(mesh: Mesh, init_scale: float | None):
        worker = Worker(mesh, INT4, bucket_mb=1e-4)
        scaler = adamesh.GradScaler(init_scale=init_scale or 1.0, enabled=init_scale is not None)
        resent = []
        for step in range(4):
            worker.optimizer.zero_grad()
            worker.backward(step, factor=scaler.get_scale())
            scaler.step(worker.optimizer)
            scaler.update()
            resent.append(worker.optimizer.stats().buckets_resent)
        return worker.values, worker.residuals, resent

    plain, scaled = (ThreadWorld(*shape).run(law, scale)[0] for scale in (None, 2.0**12))
    assert alike(plain[0], scaled[0])  # a power of two scales without rounding
    assert alike(plain[1], scaled[1])
    assert plain[2] == [0] * 4
    assert scaled[2][0] > 0
    assert scaled[2][1:] == [0] * 3


def test_an_overflow_under_a_scaler_skips_the_step_and_keeps_the_residuals():
    def law(mesh: Mesh) -> None:
        worker = Worker(mesh, INT4).train(range(1))
        before = worker.values, worker.residuals
        worker.optimizer.zero_grad()
        worker.backward(1, factor=float("inf") if mesh.world.rank else 4.0)
        assert not worker.optimizer.step_scaled(4.0)
        assert alike(worker.values, before[0])
        assert alike(worker.residuals, before[1])

    ThreadWorld(1, 2).run(law)


@pytest.mark.parametrize("shape", [(1, 2), (2, 2)], ids=str)
def test_a_warm_up_is_exact_to_the_bit_and_ends_at_its_step(shape):
    codec = adamesh.Feedback(adamesh.Int4())
    warm = adamesh.Wire(
        up=adamesh.Warmup(codec, 2), down=adamesh.Warmup(adamesh.Int4(), 2), across=adamesh.Warmup(codec, 2)
    )

    def law(mesh: Mesh, wire: adamesh.Wire):
        seen = []
        worker = Worker(mesh, wire)
        for step in range(4):
            stats = worker.train(range(step, step + 1)).optimizer.stats()
            seen.append((worker.values, stats.bytes_up + stats.bytes_down))
        return seen

    exact, warmed = (ThreadWorld(*shape).run(law, wire)[0] for wire in (adamesh.Wire(), warm))
    for step in range(2):
        assert alike(exact[step][0], warmed[step][0])
        assert exact[step][1] == warmed[step][1]
    for step in range(2, 4):
        assert not alike(exact[step][0], warmed[step][0])
        assert exact[step][1] > 6 * warmed[step][1]


def test_state_counts_masters_and_residuals_and_buffers_shrink_with_the_payload():
    def law(mesh: Mesh, wire: adamesh.Wire):
        p = nn.Parameter(torch.zeros(4096))
        optimizer = adamesh.AdamW([p], plan=adamesh.Plan(mesh=mesh, wire=wire))
        return optimizer.stats().state_bytes

    def state(wire: adamesh.Wire, shape: tuple[int, int]) -> int:
        (size,) = set(ThreadWorld(*shape).run(law, wire))
        return int(size)

    moments = 2 * 4 * 2048
    up, down = adamesh.Feedback(adamesh.Int4()), adamesh.Int8()
    assert state(adamesh.Wire(), (1, 2)) == moments
    assert state(adamesh.Wire(down=down), (1, 2)) == moments + 4 * 2048
    assert state(adamesh.Wire(up=up, down=down), (1, 2)) == moments + 4 * 2048 + 4 * 4096
    assert state(adamesh.Wire(across=up), (2, 2)) == moments + 4 * 2048 + 4 * 1024


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_residuals_stay_below_a_step_of_the_codec_and_do_not_grow(name):
    def law(mesh: Mesh):
        worker = Worker(mesh, adamesh.Wire(up=adamesh.Feedback(CODECS[name])))
        sizes = []
        for step in range(40):
            worker.train(range(step, step + 1))
            sizes.append(float(worker.residuals["up", "matrix"].abs().max()))
        return sizes

    for sizes in ThreadWorld(1, 2).run(law):
        assert max(sizes[20:]) < 2 * max(sizes[:20])
