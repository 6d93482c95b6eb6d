"""How the command line shows sizes."""

import pytest

from sofs.cli.show import size


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (1023 << 20, "1023 MiB"),
        (1 << 30, "1 GiB"),
        (75 << 30, "75 GiB"),
        (5 << 60, "5 EiB"),
        (5000 << 60, "5000 EiB"),
    ],
)
def test_a_size_has_three_figures_and_a_binary_unit(count: int, shown: str) -> None:
    assert size(count) == shown
