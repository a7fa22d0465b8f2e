"""Workers that come and go share the batches that `ElasticSampler` cuts, evenly or by speed."""

from functools import partial

import pytest
import torch
from torch import nn

import adamesh
from adamesh.comm.faults import Fault, Kill
from adamesh.comm.thread_company import ThreadCompanies, ThreadCompany

DATA, TARGETS = torch.randn(2, 20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def trained(company: ThreadCompany, balance: bool) -> torch.Tensor:
    """Two epochs of 20 samples in batches of 6, the last of each of two samples."""
    layer = nn.Linear(3, 3, dtype=torch.float64)
    with torch.no_grad():
        for p in layer.parameters():
            p.fill_(0.1)
    plan = adamesh.Plan(mesh=company, redundancy=2, balance=balance)
    optimizer = adamesh.AdamW(layer.parameters(), lr=0.05, plan=plan)
    sampler = adamesh.ElasticSampler(20, 6, optimizer, epochs=2)
    for indices in sampler:
        if len(indices):
            loss = (layer(DATA[indices]) - TARGETS[indices]).square().mean()
            (loss * sampler.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
    return layer.weight.detach().clone()


def run(balance: bool, *faults: Fault) -> tuple[list, int]:
    companies = ThreadCompanies(3, 0, faults)
    tales = companies.run(partial(trained, balance=balance))
    return tales, companies.num_operations[0]


@pytest.mark.parametrize("balance", [False, True])
def test_a_loop_goes_on_when_a_worker_dies_and_ends_where_it_would_have(balance):
    expected, operations = run(balance)
    for operation in range(12, operations, operations // 6):
        tales, _ = run(balance, Kill(1, operation))
        for tale in (tales[0], tales[2]):
            assert isinstance(tale, torch.Tensor), (operation, tale)
            assert (tale - expected[0]).abs().max() <= 1e-12
