"""How the command line shows sizes."""

import pytest

from sofs.admin.api import Disk, User
from sofs.cli.show import DISKS, USERS, size, table


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


def test_an_identifier_is_shown_in_one_piece_however_narrow_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    disk = Disk("6c33ff326078758b", "/srv/sofs/" + "long/" * 12, "ssd", "default", "healthy", 1 << 38, 1 << 36, "a-node")
    table([disk], DISKS, "")
    assert disk.id in capsys.readouterr().out


def test_what_is_the_matter_with_a_disk_is_told_with_its_state(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    table([Disk("6c33ff326078758b", "/d", "ssd", "default", "missing", reason="/d has no label: is the disk mounted there?")], DISKS, "")
    assert "missing: /d has no label: is the disk mounted there?" in capsys.readouterr().out
