"""1-bit Adam: exact until second moments are frozen, by all workers at once, and coded from then on."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import StepOutOfSync
from tests.reference.onebit import TextbookOneBitAdam
from tests.tolerances import TRAJECTORY
from tests.wire.world import alike

SHARDED = [(1, 1), (1, 2), (1, 3), (1, 4)]
REPLICATED = [(2, 1), (3, 1), (4, 1)]
MIXED = [(2, 2)]
F64 = torch.float64


def gradient(step: int, rank: int, numel: int) -> Tensor:
    """Every worker's own, of elements whose sizes differ by three orders of magnitude."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    sizes = torch.logspace(-2, 1, numel, dtype=F64)
    return (torch.randn(numel, generator=generator, dtype=F64) + 0.5) * sizes


def islands(given: list[Tensor], number: int) -> list[list[Tensor]]:
    size = len(given) // number
    return [given[i : i + size] for i in range(0, len(given), size)]


def train(mesh: Mesh, steps: range, given: adamesh.OneBitAdam | None = None, **options):
    """Two parameters, of 300 elements and of 70, on gradients to order."""
    optimizer = given
    if optimizer is None:
        p, q = (nn.Parameter(torch.linspace(-1, 1, n, dtype=F64)) for n in (300, 70))
        plan = adamesh.Plan(mesh=mesh, wire=options.pop("wire", adamesh.Wire()), bucket_mb=1e-3)
        options = {"lr": 1e-2, "betas": (0.875, 0.99), **options}
        optimizer = adamesh.OneBitAdam([("p", p), ("q", q)], plan=plan, **options)
    history = []
    for step in steps:
        for param in optimizer.param_groups[0]["params"]:
            param.grad = gradient(step, mesh.world.rank, param.numel())
        optimizer.step()
        history.append({name: param.detach().clone() for name, param in optimizer.named_params()})
    return optimizer, history


@pytest.mark.parametrize("shape", [*SHARDED, *REPLICATED, *MIXED], ids=str)
def test_both_forms_are_the_papers(shape):
    steps, freeze_at = 40, 15
    # 1 - 0.875 is a power of two: the paper's units and ours differ by no rounding.
    histories = ThreadWorld(*shape).run(lambda mesh: train(mesh, range(steps), freeze_at=freeze_at)[1])
    workers = shape[0] if shape[0] > 1 else shape[1]  # islands take the paper's workers' place
    for name, numel in (("p", 300), ("q", 70)):
        start = torch.linspace(-1, 1, numel, dtype=F64)
        book = TextbookOneBitAdam(start, workers, freeze_at, momentum_travels=shape[0] > 1)
        for step in range(steps):
            given = [gradient(step, rank, numel) for rank in range(len(histories))]
            expected = book.step([torch.stack(g).mean(0) for g in islands(given, workers)])
            for history in histories:
                assert float((history[step][name] - expected).abs().max()) <= TRAJECTORY[F64], (name, step)


@pytest.mark.parametrize("shape", [*SHARDED, *REPLICATED, *MIXED], ids=str)
def test_until_it_is_frozen_it_is_adamw_to_the_bit(shape):
    def law(mesh: Mesh) -> None:
        _, ours = train(mesh, range(12), freeze_at=8)
        p, q = (nn.Parameter(torch.linspace(-1, 1, n, dtype=F64)) for n in (300, 70))
        twin = adamesh.AdamW([p, q], lr=1e-2, betas=(0.875, 0.99), plan=adamesh.Plan(mesh=mesh, bucket_mb=1e-3))
        for step in range(12):
            for param in (p, q):
                param.grad = gradient(step, mesh.world.rank, param.numel())
            twin.step()
            assert alike(ours[step], {"p": p.detach(), "q": q.detach()}) == (step < 8)
        before, _ = train(mesh, range(7), freeze_at=8)
        held = before.state_dict()["residuals"]
        assert not any(bool(entry[key.split("/")[0]].any()) for key, entry in held.items())

    ThreadWorld(*shape).run(law)


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (2, 2)], ids=str)
def test_replicas_are_alike_to_the_bit_over_many_steps(shape):
    first, *others = ThreadWorld(*shape).run(lambda mesh: train(mesh, range(80), freeze_at=20)[1][::17])
    assert all(alike(a, b) for other in others for a, b in zip(first, other, strict=True))
    assert all(bool(value.isfinite().all()) for value in first[-1].values())


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (2, 2)], ids=str)
def test_replicas_are_alike_to_the_bit_after_a_thousand_steps(shape):
    first, *others = ThreadWorld(*shape).run(lambda mesh: train(mesh, range(1000), freeze_at=30)[1][-1])
    assert all(alike(first, other) for other in others)
    assert all(bool(value.isfinite().all()) for value in first.values())


@pytest.mark.parametrize("at", [4, 5, 8])
@pytest.mark.parametrize("shape", [(1, 2), (2, 1)], ids=str)
def test_a_step_that_failed_on_one_worker_and_was_tried_again_equals_one_that_succeeded(shape, at):
    """The last exact one, the first coded one, or a later one."""

    def law(mesh: Mesh, fails: bool):
        optimizer, _ = train(mesh, range(at), freeze_at=5)
        if fails and mesh.world.rank == 1:
            bucket = optimizer.engine.buckets[0]
            passage = bucket.within or bucket.across
            assert passage is not None

            def take_in(*_: object) -> None:
                del passage.take_in
                raise MemoryError

            passage.take_in = take_in
        if fails:
            before = optimizer.param_groups[0]["frozen_after"]
            with pytest.raises(MemoryError if mesh.world.rank == 1 else StepOutOfSync):
                train(mesh, range(at, at + 1), optimizer)
            assert optimizer.param_groups[0]["frozen_after"] == before
        return train(mesh, range(at, 12), optimizer)[1][-1]

    for once, again in zip(*(ThreadWorld(*shape).run(law, fails) for fails in (False, True)), strict=True):
        assert alike(once, again)


def settle(mesh: Mesh, steps: range, betas: tuple[float, float] = (0.9, 0.9), lr: float = 1e-2):
    """A gradient that halves every 6 steps until step 12 and then stays: v settles; every worker's noise is its own."""
    p = nn.Parameter(torch.linspace(-1, 1, 300, dtype=F64))
    optimizer = adamesh.OneBitAdam([("p", p)], lr=lr, betas=betas, plan=adamesh.Plan(mesh=mesh))
    return optimizer, go_on(optimizer, mesh, steps)


def go_on(optimizer: adamesh.OneBitAdam, mesh: Mesh, steps: range) -> list[int | None]:
    (p,) = optimizer.param_groups[0]["params"]
    found = []
    for step in steps:
        generator = torch.Generator().manual_seed(1000 * step + mesh.world.rank)
        noise = torch.randn(300, generator=generator, dtype=F64) * (1 + mesh.world.rank)
        p.grad = (3 + noise / 10) * 0.5 ** (min(step, 12) / 6)
        optimizer.step()
        found.append(optimizer.stats().frozen_after)
    return found


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1), (2, 2)], ids=str)
def test_all_workers_freeze_after_the_same_step_although_their_gradients_and_slices_differ(shape):
    def law(mesh: Mesh) -> list[int | None]:
        optimizer, found = settle(mesh, range(80))
        assert optimizer.param_groups[0]["frozen_after"] == found[-1]
        return found

    found, *others = ThreadWorld(*shape).run(law)
    assert all(other == found for other in others)
    after = found[-1]
    assert after is not None
    assert found == [None] * (after - 1) + [after] * (80 - after + 1)
    assert 23 <= after <= 80  # D is 10, and the plateau begins with the 13th gradient


def test_it_freezes_when_the_sum_of_v_has_changed_by_less_than_4_percent_in_d_updates():
    p = nn.Parameter(torch.linspace(-1, 1, 300, dtype=F64))
    optimizer = adamesh.OneBitAdam([p], betas=(0.9, 0.9))
    sums: list[float] = []
    while optimizer.stats().frozen_after is None:
        p.grad = gradient(len(sums), 0, 300) * 0.5 ** (min(len(sums), 12) / 6)
        optimizer.step()
        sums.append(float(optimizer.state_dict()["state"]["0.0"]["exp_avg_sq"].sum()))
    # The vote of a step is about v before it.
    steady = [t for t in range(10, len(sums)) if 0.96 <= sums[t] / sums[t - 10] <= 1 / 0.96]
    assert steady[0] == len(sums) - 2


def test_it_does_not_freeze_while_the_learning_rate_rises():
    def after(rises_until: int) -> int:
        p = nn.Parameter(torch.ones(64))
        optimizer = adamesh.OneBitAdam([p], betas=(0.9, 0.9))
        for step in range(80):
            optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / rises_until)
            p.grad = torch.ones(64)
            optimizer.step()
        found = optimizer.stats().frozen_after
        assert found is not None
        return found

    assert after(1) < after(70)
    # The 70th step is the first of the whole rate, and the 71st sees that it rose no further.
    assert after(70) == 71


@pytest.mark.parametrize("momentum", [False, True])
def test_steps_are_as_long_after_the_freeze_as_before(momentum):
    """A constant gradient makes Adam step by lr exactly, if v is corrected by the bias that it has."""

    def law(mesh: Mesh) -> list[float]:
        p = nn.Parameter(torch.zeros(128, dtype=F64))
        plan = adamesh.Plan(mesh=mesh)
        optimizer = adamesh.OneBitAdam([p], lr=0.1, weight_decay=0.0, freeze_at=5, plan=plan)
        values = [0.0]
        for _ in range(12):
            p.grad = torch.full((128,), 2.0, dtype=F64)
            optimizer.step()
            values.append(float(p.detach().mean()))
        return [before - after for before, after in pairwise(values)]

    for steps in ThreadWorld(2, 1).run(law) if momentum else ThreadWorld(1, 2).run(law):
        # 2.0 and what Adam makes of it come through a scale of eight bits. Without the correction: 1.4.
        assert all(abs(step - 0.1) <= 0.1 * 2**-7 for step in steps)


def test_a_second_moment_far_below_its_blocks_is_raised_and_one_without_a_gradient_stands_still():
    p = nn.Parameter(torch.zeros(192, dtype=F64))
    optimizer = adamesh.OneBitAdam([p], lr=0.1, weight_decay=0.0, freeze_at=3)
    g = torch.zeros(192, dtype=F64)
    g[:64], g[5] = 1.0, 1e-9  # in the second and third block there is none
    for step in range(40):
        p.grad = g.clone()
        if step >= 3:
            p.grad[70] = 1.0  # not before the freeze
        before = p.detach().clone()
        optimizer.step()
        longest = float((p.detach() - before).abs().max())
        assert longest <= 0.1 * 10 * 1.01
    v = optimizer.state_dict()["state"]["0.0"]["exp_avg_sq"]
    assert float(v[5]) == pytest.approx(0.01 * float(v[:64].mean()), rel=0.02)
    assert float(v[0]) == pytest.approx(1 - 0.95**3)
    assert bool((p.detach()[64:] == 0).all())


def test_a_skipped_step_does_not_count_and_leaves_everything_as_it_was():
    def law(mesh: Mesh) -> None:
        optimizer, _ = train(mesh, range(4), freeze_at=6)
        state = optimizer.state_dict()
        for step in (4, 5, 6, 7, 8):
            if step in (5, 8):
                held = {k: e[k.split("/")[0]].clone() for k, e in optimizer.state_dict()["residuals"].items()}
                for p in optimizer.param_groups[0]["params"]:
                    p.grad = torch.full_like(p, float("nan") if mesh.world.rank else 1.0)
                before = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
                optimizer.step()
                assert not optimizer.stats().committed
                assert all(torch.equal(p, b) for p, b in zip(optimizer.param_groups[0]["params"], before, strict=True))
                now = {k: e[k.split("/")[0]] for k, e in optimizer.state_dict()["residuals"].items()}
                assert all(torch.equal(now[k], held[k]) for k in held)
            else:
                train(mesh, range(step, step + 1), optimizer)
            # Steps 0 to 4 and 6 are six updates.
            assert optimizer.stats().frozen_after == (6 if step >= 6 else None)
        assert state["adamesh"]["step"] == 4

    ThreadWorld(1, 2).run(law)
    ThreadWorld(2, 1).run(law)


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2, 2)], ids=str)
def test_parameters_that_nobody_uses_stand_still_and_what_is_held_back_of_them_stays(shape):
    def law(mesh: Mesh) -> tuple[list[Tensor], bool]:
        optimizer, _ = train(mesh, range(8), freeze_at=4)
        p, q = optimizer.param_groups[0]["params"]

        def held() -> dict[str, Tensor]:
            found = optimizer.state_dict()["residuals"]
            return {key: entry[key.split("/")[0]].clone() for key, entry in found.items() if key.endswith("/q")}

        before, kept = q.detach().clone(), held()
        for step in range(8, 10):
            p.grad, q.grad = gradient(step, mesh.world.rank, 300), None
            optimizer.step()
        assert torch.equal(q.detach(), before)
        assert all(torch.equal(residual, kept[key]) for key, residual in held().items())
        # And where one worker uses it, its momentum is everybody's.
        q.grad = gradient(10, 0, 70) if mesh.world.rank == 0 else None
        optimizer.step()
        assert not torch.equal(q.detach(), before)
        return [p.detach().clone(), q.detach().clone()], any(bool(residual.any()) for residual in kept.values())

    results = ThreadWorld(*shape).run(law)
    assert any(holds for _, holds in results)
    assert all(torch.equal(a, b) for values, _ in results for a, b in zip(results[0][0], values, strict=True))


def test_a_parameter_that_is_first_used_after_the_freeze_learns_its_second_moment_then():
    p, late = (nn.Parameter(torch.zeros(64, dtype=F64)) for _ in range(2))
    optimizer = adamesh.OneBitAdam([("p", p), ("late", late)], lr=0.1, weight_decay=0.0, freeze_at=4)
    for step in range(12):
        p.grad = torch.ones(64, dtype=F64)
        late.grad = torch.ones(64, dtype=F64) if step >= 6 else None
        optimizer.step()
    state = optimizer.state_dict()["state"]
    assert (state["p"]["frozen_steps"], state["late"]["frozen_steps"]) == (4, 4)
    assert float(late.detach().mean()) == pytest.approx(-0.6, rel=0.02)


def test_at_most_three_tenths_of_a_byte_per_parameter_and_direction_travel_after_the_freeze():
    def law(mesh: Mesh) -> None:
        p = nn.Parameter(torch.zeros(50_000))
        optimizer = adamesh.OneBitAdam([p], freeze_at=2, plan=adamesh.Plan(mesh=mesh))
        for step in range(4):
            p.grad = torch.randn(50_000, generator=torch.Generator().manual_seed(step))
            optimizer.step()
            stats = optimizer.stats()
            if step < 2:
                assert stats.bytes_up > 50_000
            elif mesh.replicate.size == 1:
                assert 0 < stats.bytes_up <= 0.3 * 50_000
                assert 0 < stats.bytes_down <= 0.3 * 50_000
            else:  # both directions between islands are UP; nothing comes DOWN in islands of one
                assert 0 < stats.bytes_up <= 2 * 0.3 * 50_000
                assert stats.bytes_down == 0

    for shape in [(1, 2), (1, 4), (2, 1), (4, 1)]:
        ThreadWorld(*shape).run(law)


def test_weight_decay_is_not_in_what_is_coded():
    def law(mesh: Mesh) -> None:
        p = nn.Parameter(torch.linspace(-2, 2, 200, dtype=F64))
        optimizer = adamesh.OneBitAdam([p], lr=0.1, weight_decay=0.5, freeze_at=3, plan=adamesh.Plan(mesh=mesh))
        for _ in range(20):
            p.grad = torch.zeros_like(p)
            optimizer.step()
        full = optimizer.full_state_dict()
        if mesh.world.rank == 0:
            master = full["state"][0].get("master", p.detach())
            assert torch.allclose(master, torch.linspace(-2, 2, 200, dtype=F64) * 0.95**20, rtol=1e-12, atol=0)

    for shape in [(1, 2), (2, 1)]:
        ThreadWorld(*shape).run(law)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1, 2), (2, 1)], ids=str)
def test_replicas_of_low_precision_are_alike_to_the_bit_under_a_scaler(shape, dtype):
    def law(mesh: Mesh, scale: float | None) -> dict[str, Tensor]:
        p = nn.Parameter(torch.linspace(-1, 1, 300, dtype=dtype))
        optimizer = adamesh.OneBitAdam([p], lr=1e-2, freeze_at=4, plan=adamesh.Plan(mesh=mesh))
        scaler = adamesh.GradScaler(init_scale=scale or 1.0, enabled=scale is not None)
        for step in range(10):
            optimizer.zero_grad()
            weights = gradient(step, mesh.world.rank, 300).to(dtype)
            scaler.scale((p * weights).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        assert optimizer.stats().frozen_after == 4
        return {"p": p.detach().clone()}

    plain, scaled = (ThreadWorld(*shape).run(law, scale) for scale in (None, 2.0))
    assert alike(plain[0], plain[1])
    assert alike(plain[0], scaled[0])  # a power of two scales without rounding
    assert alike(plain[0], scaled[1])


def test_a_group_that_is_added_after_the_freeze_learns_its_second_moment_first():
    p, q = (nn.Parameter(torch.zeros(64, dtype=F64)) for _ in range(2))
    optimizer = adamesh.OneBitAdam([p], lr=0.1, weight_decay=0.0, freeze_at=4)
    for step in range(20):
        if step == 6:
            optimizer.add_param_group({"params": [q]})
        for param in [p] if step < 6 else [p, q]:
            param.grad = torch.ones(64, dtype=F64)
        optimizer.step()
    assert [group["frozen_after"] for group in optimizer.param_groups] == [4, 4]
    state = optimizer.state_dict()["state"]
    assert (state["0.0"]["frozen_steps"], state["1.0"]["frozen_steps"]) == (4, 4)
    assert float(q.detach().mean()) == pytest.approx(-1.4, rel=0.02)


def test_state_is_cut_in_one_form_and_whole_in_the_other():
    def law(mesh: Mesh) -> int:
        return adamesh.OneBitAdam([nn.Parameter(torch.zeros(4096))], plan=adamesh.Plan(mesh=mesh)).stats().state_bytes

    assert ThreadWorld(1, 2).run(law) == [4096 * (12 // 2 + 4)] * 2
    assert ThreadWorld(2, 1).run(law) == [4096 * (8 + 4 + 4 // 2)] * 2
