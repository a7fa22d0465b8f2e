"""Who measures when."""

import itertools

import pytest

from adamesh.nodes.turns import turns


@pytest.mark.parametrize("ranks", [[0, 1], [0, 2, 5], [0, 1, 2, 3], list(range(7))])
@pytest.mark.parametrize("alone", [0, 16])
def test_each_direction_comes_once_and_no_node_is_in_a_turn_twice(ranks, alone):
    found = turns(ranks, alone)
    assert sorted(leg for turn in found for leg in turn) == sorted(itertools.permutations(ranks, 2))
    for turn in found:
        nodes = [node for leg in turn for node in leg]
        assert len(nodes) == len(set(nodes))
        assert alone == 0 or len(turn) == 1


def test_a_crowd_takes_as_many_turns_as_a_tournament_there_and_back():
    assert len(turns(range(32))) == 2 * 31
