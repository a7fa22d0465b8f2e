"""Optimizers come and go."""

import gc
import os

import torch
from torch import nn

import adamesh
from tests.process_pool import ProcessPool


def train_many(number: int) -> tuple[int, int]:
    """File descriptors and threads of this process, after building, using and dropping optimizers."""
    model = nn.Linear(4, 4)
    for _ in range(number):
        optimizer = adamesh.AdamW(model.parameters())
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        del optimizer
        gc.collect()
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def test_an_optimizer_takes_its_connections_and_threads_with_it(pool: ProcessPool) -> None:
    few, many = pool.run(2, train_many, 2), pool.run(2, train_many, 9)
    for (fds, threads), (fds_later, threads_later) in zip(few, many, strict=True):
        assert fds_later <= fds + 5
        assert threads_later <= threads + 3
