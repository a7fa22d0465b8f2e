from adamesh.data.seeds import derived_seed


def test_a_seed_depends_on_every_part_and_on_their_order():
    seeds = {derived_seed(*parts) for parts in [(0, 1), (1, 0), (0,), (0, 1, 0), ("a", 0), ("b", 0), (1,), (11,)]}
    assert len(seeds) == 8


def test_a_seed_is_the_same_in_every_process_and_fits_torch():
    assert derived_seed("step", 0, 5, 1) == 4008443072373240413
    assert all(0 <= derived_seed(number) < 2**63 for number in range(100))
