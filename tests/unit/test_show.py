"""How the command line shows sizes."""

import pytest

from sofs.admin.api import User
from sofs.cli.show import USERS, size, table


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


def test_names_are_shown_as_they_are_and_command_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["[bold]x[/bold]", "[/nonsense]", "a\x1b[2Jb", "line\nline", "grün"]
    table([User(name, 1, 1, []) for name in names], USERS, "none")
    shown = capsys.readouterr().out
    assert "[bold]x[/bold]" in shown and "[/nonsense]" in shown and "grün" in shown
    assert "\x1b" not in shown and "a\\x1b[2Jb" in shown and "line\\x0aline" in shown
