"""What all tests share: worker processes, started once."""

from collections.abc import Iterator

import hypothesis
import pytest
import torch

from tests.process_pool import ProcessPool

# How long an example takes says how busy the machine is, not whether the law holds.
hypothesis.settings.register_profile("adamesh", deadline=None)
hypothesis.settings.load_profile("adamesh")


@pytest.fixture(scope="session", autouse=True)
def _one_thread_a_rank() -> None:
    """Ranks are many and cores are few; and sums then never depend on how many there are."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPool]:
    """Four worker processes, to be run 1 to 4 at a time."""
    pool = ProcessPool(4)
    yield pool
    pool.close()
