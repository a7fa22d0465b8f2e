"""What a step with row-sparse gradients does and refuses, whatever the mode."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import adamesh
from adamesh.comm.threads import Drop, Kill, ThreadWorld, WorkerKilled
from adamesh.engine import present
from adamesh.errors import (
    CheckpointError,
    ConfigurationError,
    GradientError,
    ParameterError,
    PeerLost,
    StateLost,
    StepOutOfSync,
)
from tests.parity.recommender import NUM_ITEMS, Recipe, Recommender, loss_share, on_mesh, take_steps, values
from tests.semantics.ranks import everywhere, state

F64 = torch.float64
MODES = ["lazy", "decayed", "exact"]
modes = pytest.mark.parametrize("mode", MODES)


def table(rows=6, width=2, dtype=F64, module=nn.Embedding):
    one = module(rows, width, sparse=True, dtype=dtype)
    with torch.no_grad():
        one.weight.copy_(torch.arange(rows * width).view(rows, width) / 7)
    return one


def build(mesh, module, mode, **options):
    keys = ("max_grad_norm", "overlap")
    plan = adamesh.Plan(mesh=mesh, **{key: options.pop(key) for key in keys if key in options})
    return adamesh.AdamW(adamesh.param_groups(module, mode), **{"lr": 0.1, **options}, plan=plan)


def touch(module, *rows, factor=1.0):
    (module(torch.tensor(rows)).sum() * factor).backward()


@modes
def test_only_touched_rows_change_and_replicas_stay_alike(mode):
    def law(mesh):
        one = table()
        optimizer = build(mesh, one, mode)
        before = one.weight.detach().clone()
        touch(one, 1, 1 + 3 * mesh.world.rank)
        optimizer.step()
        changed = (one.weight != before).any(dim=1).nonzero().squeeze(1).tolist()
        return changed, one.weight.detach().clone()

    results = everywhere(2, law)
    assert [changed for changed, _ in results] == [[1, 4]] * 2
    assert torch.equal(results[0][1], results[1][1])


@modes
def test_accumulated_micro_batches_are_one_batch(mode):
    def law(mesh, parts):
        one = table()
        optimizer = build(mesh, one, mode)
        for _ in range(3):
            for part in parts[:-1]:
                with optimizer.no_sync():
                    touch(one, *part)
            touch(one, *parts[-1])
            optimizer.step()
            optimizer.zero_grad()
        optimizer.flush()
        return one.weight

    whole, cut = everywhere(2, law, [(0, 1, 1, 5)]), everywhere(2, law, [(0, 1), (1,), (5,)])
    assert torch.equal(whole[0], cut[0])


@modes
@pytest.mark.parametrize("set_to_none", [True, False])
def test_what_zero_grad_forgot_is_not_in_the_step(mode, set_to_none):
    def law(mesh):
        one = table()
        optimizer = build(mesh, one, mode)
        touch(one, 0, 1)
        optimizer.zero_grad(set_to_none)
        touch(one, 2)
        optimizer.step()
        return (one.weight != table().weight).any(dim=1).nonzero().squeeze(1).tolist()

    assert everywhere(2, law) == [[2]] * 2


@modes
def test_a_table_that_no_rank_used_makes_no_step(mode):
    def law(mesh):
        first, second = table(), table()
        optimizer = build(mesh, nn.ModuleList([first, second]), mode)
        touch(first, 1)
        optimizer.step()
        optimizer.flush()
        assert torch.equal(second.weight, table().weight)
        return [state(optimizer, f"{number}.weight")["step"] for number in range(2)]

    assert everywhere(2, law) == [[1, 0]] * 2


@modes
def test_a_table_frozen_at_first_keeps_no_state_until_it_is_used(mode):
    def law(mesh):
        one = table().requires_grad_(False)
        optimizer = build(mesh, one, mode)
        frozen = optimizer.stats().state_bytes
        one.requires_grad_(True)
        touch(one, 1)
        optimizer.step()
        return frozen, optimizer.stats().state_bytes > 0

    assert everywhere(2, law) == [(0, True)] * 2


@modes
def test_tables_of_lower_precision_have_masters(mode):
    def law(mesh, dtype):
        one = table(dtype=dtype)
        optimizer = build(mesh, one, mode, lr=1e-3)
        for step in range(6):
            touch(one, step % 3, factor=1.0 + step)
            optimizer.step()
            optimizer.zero_grad()
        optimizer.flush()
        return one.weight.detach()

    bf16, fp32 = everywhere(2, law, torch.bfloat16)[0], everywhere(2, law, torch.float32)[0]
    start = table(dtype=torch.bfloat16).weight
    assert not torch.equal(bf16[1:3], start[1:3]), "without masters, steps of 1e-3 on numbers around 1 are lost"
    assert float((bf16.float() - fp32).abs().max()) <= 2**-8 * float(fp32.abs().max())


@pytest.mark.parametrize("mode", ["decayed", "exact"])
def test_clipping_and_grad_norm_count_each_touched_row_once(mode):
    def law(mesh):
        one = table()
        optimizer = build(mesh, one, mode, max_grad_norm=1.0)
        touch(one, 0, 3 if mesh.world.rank else 5)
        optimizer.step()
        return float(optimizer.grad_norm)

    # Two columns: row 0 has gradient 1 on all ranks, row 5 on the first of four, row 3 on the other three.
    expected = (2 * (1 + 0.25**2 + 0.75**2)) ** 0.5
    for shape in ((1, 4), (2, 2), (4, 1)):
        assert ThreadWorld(*shape).run(law) == pytest.approx([expected] * 4, rel=1e-12)


@modes
def test_bytes_grow_with_touched_rows_and_not_with_the_table(mode):
    def law(mesh, num_rows, touched):
        one = nn.Embedding(num_rows, 4, sparse=True)
        optimizer = build(mesh, one, mode, weight_decay=0.0)
        cost = []
        for step in range(3):
            optimizer.zero_grad()
            touch(one, *(2 * (step + i) + mesh.world.rank for i in range(touched)))
            optimizer.step()
            cost.append((optimizer.stats().bytes_up, optimizer.stats().bytes_down))
        return cost

    def total(num_rows, touched):
        return sum(sum(map(sum, cost)) for cost in everywhere(2, law, num_rows, touched))

    assert total(500, 8) == total(50_000, 8)
    assert total(500, 64) == pytest.approx(8 * total(500, 8), rel=0.3)
    # Rank 0 owns rows 0 and 1: each rank tells its row's number, rank 1 sends a gradient up, rank 0 two rows down.
    assert [cost[0] for cost in everywhere(2, law, 50_000, 1)] == [(4, 2 * 16), (4 + 16, 0)]


@modes
def test_an_error_on_one_rank_leaves_rows_and_state_as_they_were_on_all(mode):
    def law(mesh):
        one = table()
        both = nn.ModuleDict({"table": one, "other": nn.Linear(2, 1, dtype=F64)})
        optimizer = build(mesh, both, mode)
        touch(one, 1)
        optimizer.step()
        optimizer.zero_grad()
        optimizer.flush()
        before, held = values(both), state(optimizer, "table.weight")
        touch(one, 2)
        if mesh.world.rank:
            one.weight.grad = torch.ones(6, 2, dtype=F64)
        with pytest.raises(GradientError, match=r"'table\.weight'.*torch\.strided.*sparse=True"):
            optimizer.step()
        assert all(torch.equal(value, before[name]) for name, value in both.named_parameters())
        assert str(state(optimizer, "table.weight")) == str(held)
        optimizer.zero_grad()
        touch(one, 2)
        optimizer.step()
        assert not torch.equal(one.weight, before["table.weight"])

    everywhere(2, law)


def test_a_skipped_step_leaves_rows_as_they_were_and_the_next_one_is_the_first():
    def law(mesh, mode):
        one = table()
        optimizer, scaler = build(mesh, one, mode), adamesh.GradScaler(init_scale=4.0)
        touch(one, 1, factor=float("inf") if mesh.world.rank else 1.0)
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(one.weight, table().weight)
        assert state(optimizer, "weight")["step"] == 0
        optimizer.zero_grad()
        scaler.scale(one(torch.tensor([1])).sum()).backward()
        scaler.step(optimizer)
        optimizer.flush()
        return one.weight[1].tolist()

    for mode in MODES:
        expected = table().weight[1] * (1.0 if mode == "lazy" else 1 - 0.1 * 0.01) - 0.1
        assert everywhere(2, law, mode) == [pytest.approx(expected.tolist(), rel=1e-6)] * 2


@modes
def test_a_rank_lost_before_the_commit_leaves_rows_as_they_were(mode):
    """Whichever of the step's operations fails, rows are those before it until all have voted."""

    def law(mesh):
        one = table()
        optimizer = build(mesh, one, mode)
        operations = world.num_operations
        began = operations[mesh.world.rank]
        touch(one, 1, 4)
        try:
            optimizer.step()
        except (PeerLost, WorkerKilled):
            return began, one.weight.detach().clone()
        return began, operations[mesh.world.rank]

    world = ThreadWorld(1, 2)
    began, ended = world.run(law)[0]
    for operation in range(began, ended - 1):  # the last one sends new rows: by then, all have voted
        world = ThreadWorld(1, 2, [Kill(1, operation)])
        for _, weight in world.run(law):
            assert torch.equal(weight, table().weight)


@modes
def test_a_commit_that_is_cut_short_is_torn_and_says_so(mode):
    def law(mesh):
        one = table()
        optimizer = build(mesh, one, mode)
        touch(one, 1, 4)
        began = world.num_operations[mesh.world.rank]
        try:
            optimizer.step()
        except StateLost:
            with pytest.raises(StateLost, match="cut short"):
                optimizer.step()
            return True
        return world.num_operations[mesh.world.rank] - 1, began

    world = ThreadWorld(1, 2)
    (last, _), _ = world.run(law)
    world = ThreadWorld(1, 2, [Drop(1, last)])
    assert world.run(law)[0] is True


@modes
def test_rows_travel_exactly_whatever_the_wire_does_to_the_rest(mode):
    def law(mesh, wire):
        model = Recommender(torch.float32)
        plan = adamesh.Plan(mesh=mesh, wire=wire)
        optimizer = adamesh.AdamW(adamesh.param_groups(model, mode), lr=0.05, plan=plan)
        loss_share(model, 0, mesh.world.rank, mesh.world.size).backward()
        optimizer.step()
        optimizer.flush()
        return values(model)

    coded = everywhere(2, law, adamesh.Wire(up=adamesh.Feedback(adamesh.Int4()), down=adamesh.Int8()))
    exact = everywhere(2, law, adamesh.Wire())
    for name in ("items.weight", "popularity.weight", "genres.weight"):
        assert all(torch.equal(result[name], exact[0][name]) for result in coded)
    assert not torch.equal(coded[0]["head.weight"], exact[0]["head.weight"])
    assert torch.equal(coded[0]["head.weight"], coded[1]["head.weight"])


def test_rows_changed_from_outside_are_what_the_next_step_starts_from():
    def law(mesh, mode, dtype):
        one = table(dtype=dtype)
        optimizer = build(mesh, one, mode, weight_decay=0.0)
        with torch.no_grad():
            one.weight.fill_(3.0)
        touch(one, 1)
        optimizer.step()
        return one.weight.tolist()

    for mode in MODES:
        for dtype in (F64, torch.bfloat16):
            for weight in everywhere(2, law, mode, dtype):
                assert weight[0] == [3.0, 3.0]
                assert weight[1] == pytest.approx([2.9, 2.9], abs=1e-2)


def test_rows_changed_on_one_rank_only_are_refused_on_all():
    def law(mesh):
        one = table()
        optimizer = build(mesh, one, "lazy")
        if mesh.world.rank:
            with torch.no_grad():
                one.weight[1] = 3.0
        touch(one, 1)
        with pytest.raises(ParameterError, match=r"'weight'.*broadcast_module"):
            optimizer.step()

    everywhere(2, law)


# --- exact: rows that are behind ----------------------------------------------------------------------


def behind(mesh):
    """A table of which row 0 was touched, and is one step behind."""
    one = table()
    optimizer = build(mesh, one, "exact")
    for row in (0, 1):
        touch(one, row)
        optimizer.step()
        optimizer.zero_grad()
    return one, optimizer


def test_evaluating_with_rows_behind_is_refused_until_they_are_flushed():
    def law(mesh):
        one, optimizer = behind(mesh)
        one.eval()
        with pytest.raises(ParameterError, match=r"row 0 of 'weight' is 1 steps behind.*optimizer\.flush\(\)"):
            one(torch.tensor([0]))
        one(torch.tensor([1]))
        optimizer.flush()
        one(torch.arange(6))

    everywhere(2, law)


def test_a_gradient_of_rows_that_were_read_behind_the_modules_back_is_refused():
    def law(mesh):
        one, optimizer = behind(mesh)
        before = one.weight.detach().clone()
        nn.functional.embedding(torch.tensor([0]), one.weight, sparse=True).sum().backward()
        with pytest.raises(GradientError, match=r"row 0 of 'weight'.*1 steps behind.*through the modules"):
            optimizer.step()
        assert torch.equal(one.weight, before)

    everywhere(2, law)


def test_changing_a_table_with_rows_behind_is_refused():
    def law(mesh, then):
        one, optimizer = behind(mesh)
        with torch.no_grad():
            one.weight.mul_(2)
        with pytest.raises(ParameterError, match=r"'weight' was changed.*optimizer\.flush\(\)"):
            then(one, optimizer)

    everywhere(2, law, lambda one, optimizer: optimizer.step())
    everywhere(2, law, lambda one, optimizer: optimizer.flush())
    everywhere(2, law, lambda one, optimizer: one(torch.tensor([0])))


def test_state_with_rows_behind_is_not_given_away():
    def law(mesh):
        _, optimizer = behind(mesh)
        with pytest.raises(CheckpointError, match=r"'weight'.*optimizer\.flush\(\)"):
            optimizer.state_dict()
        optimizer.flush()
        assert state(optimizer, "weight")["step"] == 2

    everywhere(2, law)


def test_workers_that_do_not_read_together_are_told_so():
    def law(mesh):
        one, optimizer = behind(mesh)
        call = optimizer.step if mesh.world.rank == 0 else lambda: one(torch.tensor([0]))
        with pytest.raises(StepOutOfSync, match=r"worker 1 is in 'read rows' while worker 0 is in 'step'"):
            call()

    everywhere(2, law)


def test_a_worker_lost_while_rows_are_read_ends_it_for_all_with_nothing_changed():
    def law(mesh):
        one, optimizer = behind(mesh)
        before = one.weight.detach().clone()
        with pytest.raises(PeerLost, match=r"brought up to date.*load the last checkpoint") as raised:
            one(torch.tensor([0]))
        with pytest.raises(PeerLost):
            optimizer.step()
        assert torch.equal(one.weight, before)
        return raised.value

    reached = ThreadWorld(1, 2)
    reached.run(behind)
    for later in range(3):  # the announcement, the row numbers, the values
        fault = Kill(1, reached.num_operations[1] + later)
        outcome = ThreadWorld(1, 2, [fault]).run(law, return_exceptions=True)
        assert isinstance(outcome[0], PeerLost), later


def test_a_short_history_changes_nothing(monkeypatch):
    expected = on_mesh((1, 2), Recipe("exact", 10, options={"weight_decay": 0.1}))
    monkeypatch.setattr(present, "_HISTORY", 3)
    monkeypatch.setattr(present, "_CHUNK", 8)
    result = on_mesh((1, 2), Recipe("exact", 10, options={"weight_decay": 0.1}))
    assert all(torch.allclose(result[name], expected[name], rtol=0, atol=1e-12) for name in expected)


def test_the_history_is_as_short_as_promised(monkeypatch):
    monkeypatch.setattr(present, "_HISTORY", 3)

    def law(mesh):
        one = table()
        optimizer = build(mesh, one, "exact")
        lengths = []
        for step in range(7):
            touch(one, step % 6)
            optimizer.step()
            optimizer.zero_grad()
            lengths.append(len(optimizer.engine.tables[0].missed))
        return lengths

    assert everywhere(2, law) == [[1, 2, 0, 1, 2, 0, 1]] * 2


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_forward_that_is_computed_again_in_backward_reads_nothing_twice(use_reentrant):
    def law(mesh, again):
        model = Recommender()
        optimizer = Recipe("exact").optimizer(model, mesh)
        anchor = torch.ones((), requires_grad=True)

        def run(ids, bags, anchor):
            return Recommender.forward(model, ids, bags) * anchor

        def compute(ids, bags):
            return checkpoint(run, ids, bags, anchor, use_reentrant=use_reentrant) if again else run(ids, bags, anchor)

        for step in range(4):
            loss_share(compute, step, mesh.world.rank, mesh.world.size).backward()
            optimizer.step()
            optimizer.zero_grad()
        optimizer.flush()
        return values(model)

    twice, once = everywhere(2, law, True)[0], everywhere(2, law, False)[0]
    assert all(torch.equal(twice[name], once[name]) for name in once)


def test_an_optimizer_that_took_over_is_the_only_one_that_brings_rows_up_to_date():
    def law(mesh):
        one, older = behind(mesh)
        older.flush()
        newer = build(mesh, one, "exact")
        for row in (0, 1, 0):
            touch(one, row)
            newer.step()
            newer.zero_grad()
        newer.flush()
        with pytest.raises(ParameterError, match="newer optimizer"):
            older.step()
        return one.weight

    first, second = everywhere(2, law)
    assert torch.equal(first, second)


# --- what is refused from the start -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sparse": "eager"}, r"sparse='eager'.*lazy, decayed, exact"),
        ({"sparse": "exact"}, r"'weight'.*adamesh\.param_groups"),
        ({"sparse": "lazy", "weight_decay": 0.1}, r"weight_decay=0\.1.*SparseAdam.*'decayed'"),
        ({"sparse": "lazy", "amsgrad": True}, r"amsgrad=True.*sparse='exact'"),
        ({"sparse": "decayed", "amsgrad": True}, r"amsgrad=True.*sparse='exact'"),
    ],
)
def test_groups_that_cannot_be_are_refused(options, says):
    with pytest.raises(ConfigurationError, match=says):
        adamesh.AdamW([{"params": table().named_parameters(), **options}])


def test_a_table_must_be_one():
    with pytest.raises(ParameterError, match=r"'0\.0'.*\(3,\).*two dimensions"):
        adamesh.AdamW([{"params": [nn.Parameter(torch.ones(3))], "sparse": "lazy"}])


def test_a_hyperparameter_that_a_mode_cannot_work_with_is_refused_in_the_step():
    one = table()
    optimizer = adamesh.AdamW(adamesh.param_groups(one, "lazy"))
    optimizer.param_groups[0]["weight_decay"] = 0.5
    touch(one, 0)
    with pytest.raises(ConfigurationError, match=r"weight_decay=0\.5"):
        optimizer.step()
    assert torch.equal(one.weight, table().weight)


def test_groups_can_be_added_later():
    def law(mesh):
        model = Recommender()
        optimizer = adamesh.AdamW(model.head.named_parameters(), lr=0.1, plan=adamesh.Plan(mesh=mesh))
        for group in adamesh.param_groups(nn.ModuleList([model.items, model.popularity]), "exact"):
            optimizer.add_param_group(group)
        optimizer.add_param_group(adamesh.param_groups(nn.ModuleDict({"genres": model.genres}), "lazy")[0])
        take_steps(mesh, model, optimizer, range(4))
        optimizer.flush()
        return values(model)

    first, second = everywhere(2, law)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["items.weight"], Recommender().items.weight)
    assert first["items.weight"].shape[0] == NUM_ITEMS
