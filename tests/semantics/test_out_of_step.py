"""Ranks that do not step together."""

import copy

import pytest

from adamesh.comm.threads import ThreadWorld
from adamesh.errors import PeerLost, StepOutOfSync
from tests.semantics.ranks import adamw, close, everywhere, parameter, pull, state, textbook


def test_ranks_at_different_steps_are_told_so_and_nothing_changes():
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p])
        start = copy.deepcopy(optimizer.state_dict())
        pull(p, 1.0)
        optimizer.step()
        if mesh.world.rank == 1:
            optimizer.load_state_dict(start)  # and its parameter stays
        before = p.item(), state(optimizer)
        with pytest.raises(StepOutOfSync, match=r"worker 1 is at step 0 .*worker 0 at step 1 "):
            optimizer.step()
        assert (p.item(), state(optimizer)) == before

    everywhere(2, law)


@pytest.mark.parametrize("pending", [True, False])
def test_a_rank_that_steps_more_often_loses_the_others_and_keeps_what_it_has(pending):
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p])
        pull(p, 1.0)
        optimizer.step()
        if mesh.world.rank == 1:
            return p
        optimizer.zero_grad()
        if pending:
            pull(p, 1.0)
        for _ in range(2):
            with pytest.raises(PeerLost, match="step 1 was aborted"):
                optimizer.step()
        assert state(optimizer)["step"] == 1
        return p

    for p in ThreadWorld(1, 3).run(law) if pending else everywhere(2, law):
        assert close(p, textbook([1.0], [1.0]))
