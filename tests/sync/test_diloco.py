"""Islands that step alone and move an anchor together."""

import gc
import weakref

import pytest
import torch
from torch import nn

import adamesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import ConfigurationError, IncompatiblePlan, ParameterError
from adamesh.sync.outer import SGD
from tests.reference.islands import TextbookDiLoCo
from tests.sync.world import SHAPES, Islander, alike, distance, island_gradient, start, train
from tests.tolerances import TEXTBOOK

WORLDS = [(1, 1), (2, 1), (3, 1), (2, 2)]
NUM_STEPS = 12
F64 = torch.float64
RECIPES = {
    "diloco": adamesh.DiLoCo(4),
    "heavy-ball": adamesh.DiLoCo(3, outer=SGD(lr=0.5, momentum=0.8)),
    "averages": adamesh.DiLoCo(2, outer=SGD(lr=1.0)),
    "streaming": adamesh.DiLoCo(6, fragments=3),
    "delayed": adamesh.DiLoCo(5, delay=1, blend=0.25),
    "streaming-delayed": adamesh.DiLoCo(5, fragments=2, delay=3, blend=0.5),
    "more-fragments-than-steps": adamesh.DiLoCo(2, fragments=5, delay=1),
}


@pytest.mark.parametrize("shape", WORLDS)
@pytest.mark.parametrize("sync", RECIPES.values(), ids=RECIPES)
def test_islands_take_the_textbooks_steps(shape, sync):
    num_islands, size = shape
    books = {
        name: TextbookDiLoCo(start(name), number, num_islands, sync, {"lr": 1e-2}) for number, name in enumerate(SHAPES)
    }
    found = train(shape, sync, NUM_STEPS)
    for step in range(NUM_STEPS):
        expected = {
            name: book.step([island_gradient(name, step, i, size) for i in range(num_islands)])
            for name, book in books.items()
        }
        for worker, values in enumerate(found):
            book = {name: by_island[worker // size] for name, by_island in expected.items()}
            assert distance(values[step], book) <= TEXTBOOK[F64], (step, worker)


@pytest.mark.parametrize("shape", [(3, 1), (2, 2)])
def test_one_inner_step_of_sgd_and_an_outer_one_of_length_one_is_the_exact_step(shape):
    options = {"build": adamesh.SGD, "lr": 0.1}
    ours = train(shape, adamesh.DiLoCo(1, outer=SGD(lr=1.0, momentum=0.0)), 3, options=options)
    exact = train(shape, adamesh.EveryStep(), 3, options=options)
    assert distance(ours[0][-1], exact[0][-1]) <= TEXTBOOK[F64]


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("codec", [None, adamesh.Feedback(adamesh.Int4()), adamesh.LowRank(2)])
def test_replicas_are_identical_after_an_agreement(dtype, codec):
    found = train((3, 1), adamesh.DiLoCo(3, codec=codec), 6, dtype=dtype)
    for step in range(6):
        same = alike(found[0][step], found[1][step]) and alike(found[0][step], found[2][step])
        assert same == ((step + 1) % 3 == 0)


def test_the_number_of_workers_in_an_island_changes_no_fragment():
    def law(mesh):
        # The same gradients everywhere: islands of one and of three then do the same.
        params = [nn.Parameter(start(name).clone()) for name in SHAPES]
        sync = adamesh.DiLoCo(4, fragments=3, codec=adamesh.Feedback(adamesh.Int4()))
        optimizer = adamesh.AdamW(params, plan=adamesh.Plan(mesh=mesh, sync=sync, bucket_mb=1e-3))
        for step in range(9):
            optimizer.zero_grad()
            for p in params:
                (p * (step + 1 + p.detach().sin())).sum().backward()
            optimizer.step()
        return params

    small, large = (ThreadWorld(2, size).run(law)[0] for size in (1, 3))
    for a, b in zip(small, large, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_the_wires_codec_across_and_the_schedules_own_are_one():
    coding = adamesh.Feedback(adamesh.Int4())
    ours = train((2, 1), adamesh.DiLoCo(2, codec=coding), 4)
    theirs = train((2, 1), adamesh.DiLoCo(2), 4, options={"wire": adamesh.Wire(across=coding)})
    assert alike(ours[0][-1], theirs[0][-1])


def test_coded_pseudo_gradients_are_few_bytes_and_lead_to_nearly_the_same():
    exact, coded = (
        train((2, 1), adamesh.DiLoCo(3, codec=codec), 9) for codec in (None, adamesh.Feedback(adamesh.Int4()))
    )
    assert 0 < distance(exact[0][-1], coded[0][-1]) < 0.02

    def sent(codec):
        def law(mesh):
            return (
                Islander(mesh, adamesh.DiLoCo(1, codec=codec), dtype=torch.float32).step(0).optimizer.stats().bytes_up
            )

        return ThreadWorld(2, 1).run(law)[0]

    assert sent(adamesh.Feedback(adamesh.Int4())) < sent(None) / 6


def test_what_fades_of_sparse_pseudo_gradients_is_sparselocos_error():
    """One fragment of one parameter: e <- b e + D, the largest are sent and taken out of e."""
    decay, numel = 0.9, 4096
    coding = adamesh.Feedback(adamesh.TopK(density=0.25), decay=decay)

    def law(mesh):
        p = nn.Parameter(torch.zeros(numel))
        sync = adamesh.DiLoCo(1, outer=SGD(lr=1.0), codec=coding)
        optimizer = adamesh.SGD([p], lr=1.0, plan=adamesh.Plan(mesh=mesh, sync=sync))
        for step in range(3):
            p.grad = torch.linspace(-1, 1, numel).roll(100 * step)
            optimizer.step()
        return p.detach()

    anchor, error, held = (torch.zeros(numel) for _ in range(3))
    for step in range(3):
        # Coded there, and what has arrived once more on the way back, where nothing fades.
        sent, error = _largest(decay * error + torch.linspace(-1, 1, numel).roll(100 * step))
        back, held = _largest(held + sent)
        anchor -= back
    assert torch.allclose(ThreadWorld(1, 1).run(law)[0], anchor, rtol=0, atol=1e-6)


def _largest(x):
    index = x.abs().topk(1024).indices
    sent = torch.zeros_like(x)
    sent[index] = x[index].to(torch.bfloat16).float()
    return sent, x - sent


def test_what_is_not_finite_is_never_coded():
    def law(mesh):
        sync = adamesh.DiLoCo(2, codec=adamesh.Feedback(adamesh.Int8()))
        islander = Islander(mesh, sync, dtype=torch.float32)
        for step in range(6):
            if step == 3 and mesh.world.rank == 0:
                islander.params["b"].register_hook(lambda grad: grad * float("nan"))
            islander.step(step)
        return islander.values, islander.optimizer.stats().committed

    first, other = ThreadWorld(2, 1).run(law)
    assert alike(first[0], other[0])
    assert all(bool(value.isfinite().all()) for value in first[0].values())
    assert (first[1], other[1]) == (False, True)


def test_weights_loaded_before_the_first_step_are_the_anchor():
    def law(mesh, differ):
        islander = Islander(mesh, adamesh.DiLoCo(2))
        with torch.no_grad():
            islander.params["b"].fill_(5.0 + differ * mesh.world.rank)
        return islander.train(range(2)).values["b"]

    for value in ThreadWorld(2, 1).run(law, 0):
        assert (value - 5.0).abs().max() < 0.1
    with pytest.raises(ParameterError, match="islands would never agree"):
        ThreadWorld(2, 1).run(law, 1)


def test_the_outer_state_is_cut_over_an_island_and_counted():
    def law(mesh, sync):
        stats = adamesh.AdamW([nn.Parameter(torch.zeros(1536))], plan=adamesh.Plan(mesh=mesh, sync=sync)).stats()
        return stats.state_bytes

    for size in (1, 2, 3):
        inner = 2 * 1536 * 4 // size
        assert ThreadWorld(2, size).run(law, adamesh.DiLoCo(4))[0] == 2 * inner
        assert ThreadWorld(2, size).run(law, adamesh.DiLoCo(4, outer=SGD()))[0] == inner * 3 // 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"delay": 8}, "Take a delay below h: DiLoCo(h=8, delay=7)"),
        ({"delay": 2, "blend": 0.0}, "Keep a share, blend=0.5, or take delay=0"),
        ({"fragments": 2, "codec": adamesh.LowRank(2)}, "Take fragments=1"),
        ({"codec": adamesh.Feedback(adamesh.Int8(), decay=0.9)}, "outer=SGD(lr=1.0), or decay=1.0"),
    ],
)
def test_what_is_unsound_together_is_refused(settings, says):
    with pytest.raises(IncompatiblePlan) as refused:
        adamesh.DiLoCo(8, **settings)
    assert says in str(refused.value)


def test_a_wire_that_does_not_fit_the_schedule_is_refused():
    coding = adamesh.Feedback(adamesh.Int8())
    with pytest.raises(IncompatiblePlan, match="Give one of them"):
        adamesh.Plan(sync=adamesh.DiLoCo(8, codec=coding), wire=adamesh.Wire(across=coding))
    with pytest.raises(IncompatiblePlan, match="Take fragments=1"):
        adamesh.Plan(sync=adamesh.DiLoCo(8, fragments=2), wire=adamesh.Wire(across=adamesh.LowRank(2)))
    with pytest.raises(IncompatiblePlan, match="without feedback"):
        adamesh.Plan(sync=adamesh.DiLoCo(8, codec=adamesh.Int4()))
    fading = adamesh.Feedback(adamesh.Int8(), decay=0.5)
    for wire in (adamesh.Wire(up=fading), adamesh.Wire(across=fading)):
        with pytest.raises(IncompatiblePlan, match="never reaches Adam"):
            adamesh.Plan(wire=wire)


@pytest.mark.parametrize(
    "settings", [{"fragments": 0}, {"delay": -1}, {"blend": 1.0}, {"outer": "nesterov"}, {"codec": "int4"}]
)
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(ConfigurationError):
        adamesh.DiLoCo(8, **settings)


@pytest.mark.parametrize("values", [{"lr": 0.0}, {"momentum": 1.0}, {"momentum": -0.1}])
def test_outer_rules_refuse_what_is_out_of_range(values):
    for rule in (SGD, adamesh.Nesterov):
        with pytest.raises(ConfigurationError, match=r"as in Nesterov\(lr=0.7"):
            rule(**values)


@pytest.mark.parametrize("sync", [adamesh.EveryStep(), adamesh.EveryH(2), adamesh.DiLoCo(1), adamesh.Stale(1)])
def test_an_optimizer_that_nobody_uses_any_more_goes_at_once_with_its_ways(sync):
    p = nn.Parameter(torch.ones(2))
    optimizer = adamesh.AdamW([p], plan=adamesh.Plan(sync=sync, wire=adamesh.Wire(up=adamesh.Int8())))
    p.grad = torch.ones(2)
    optimizer.step()
    transaction = optimizer.engine.transaction
    outer = transaction.agreement.outer
    ways = [optimizer.engine.buckets[0].within, *(lane.passage for lane in (outer.lanes([0]) if outer else []))]
    held = [weakref.ref(way) for way in (transaction, *ways)]
    gc.disable()
    try:
        del optimizer, transaction, outer, ways
        assert [there() for there in held] == [None] * len(held)
    finally:
        gc.enable()
