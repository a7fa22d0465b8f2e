import torch
from torch import nn

import adamesh
from tests.semantics.ranks import everywhere


def model(rank):
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module.odd = nn.Parameter(torch.ones(2, 3).t())
    module.register_buffer("low", torch.zeros(1, dtype=torch.bfloat16))
    module.register_buffer("flag", torch.zeros(1, dtype=torch.bool))
    module.register_buffer("empty", torch.zeros(0))
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor.detach().fill_(rank)
    return module


def distinct(tensors):
    return sorted({float(element) for tensor in tensors for element in tensor.detach().reshape(-1)})


def test_everything_becomes_the_first_ranks():
    def law(mesh):
        module = model(mesh.world.rank + 3)
        adamesh.broadcast_module(module, mesh.world)
        return distinct([*module.parameters(), *(b for b in module.buffers() if b.dtype != torch.bool)])

    assert everywhere(3, law) == [[3.0]] * 3


def test_buffers_become_their_mean_and_counters_the_first_ranks():
    def law(mesh):
        module = model(mesh.world.rank + 1)
        adamesh.average_buffers(module, mesh.world)
        counter = module[1].num_batches_tracked.item()
        return distinct(module.parameters()), module[1].running_mean.tolist(), module.low.item(), counter

    assert everywhere(3, law) == [([float(rank + 1)], [2.0, 2.0], 2.0, 1) for rank in range(3)]


def test_means_are_the_same_bits_on_all_ranks():
    def law(mesh):
        module = nn.Module()
        mean = torch.randn(100, generator=torch.Generator().manual_seed(mesh.world.rank))
        module.register_buffer("mean", mean)
        adamesh.average_buffers(module, mesh.world)
        return mean

    first, *others = everywhere(3, law)
    assert all(torch.equal(first, other) for other in others)


def test_one_process_alone_is_left_as_it_is():
    module = model(5)
    adamesh.broadcast_module(module)
    adamesh.average_buffers(module)
    assert distinct(module.parameters()) == [5.0]
    assert distinct([module[1].running_mean, module.low]) == [5.0]
