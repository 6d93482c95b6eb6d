"""A slice of the data crash simulation for every run of the tests; `python -m tests.simulation.data` runs more."""

import pytest

from tests.simulation.data import Run, run_seed


@pytest.mark.parametrize("seed", range(16))
def test_files_are_whole_and_all_counts_right_after_crashes_at_random_steps(seed: int) -> None:
    run_seed(seed)


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bits_on_one_of_two_disks_are_never_seen_in_files(seed: int) -> None:
    Run(seed).run_with_flips(4000)
