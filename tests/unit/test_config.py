"""The configuration file: what it accepts, and how it complains."""

from pathlib import Path

import pytest

from sofs.config import Config, amended, changes, load, parse, render
from sofs.errors import ConfigError

SAMPLE = Path(__file__).parents[2] / "conf" / "sofs.toml"


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "sofs.toml")
    return str(caught.value)


def test_the_sample_file_is_what_the_dataclasses_say() -> None:
    assert SAMPLE.read_text() == render(Config(), commented=True), "run: python -m sofs.config > conf/sofs.toml"


def test_the_sample_file_changes_nothing() -> None:
    assert load(SAMPLE) == Config()


def test_a_written_configuration_reads_back_as_itself() -> None:
    config = Config()
    config.smb.port = 4450
    config.node.name = 'a "quoted" \\ name'
    config.nfs.addresses = ["127.0.0.1", "::1"]
    assert parse(render(config, commented=False), "x") == config


def test_an_unknown_key_names_file_line_and_the_likely_key() -> None:
    assert complaint("# a comment\n[smb]\nport = 445\nsining = 'required'\n") == ("sofs.toml:4: unknown key `sining`; did you mean `signing`?")


def test_the_line_is_that_of_the_right_section() -> None:
    assert complaint("[nfs]\nport = 1\n[smb]\nport = 'x'\n").startswith("sofs.toml:4: `port` is")


def test_an_unknown_section_lists_the_known_ones() -> None:
    assert complaint("\n[xyzzy]\na = 1\n").startswith("sofs.toml:2: unknown section or key `xyzzy`; remove it, or")


def test_a_key_outside_a_section_is_told_where_it_stands() -> None:
    assert complaint("smb = 3\n") == "sofs.toml:1: `smb` is a section: write it as [smb]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[smb]\nport = true", "sofs.toml:2: `port` is true; write a whole number"),
        ("[smb]\nport = 70000", "sofs.toml:2: `port` is 70000; write a number from 0 to 65535"),
        ("[smb]\nsigning = 'maybe'", 'sofs.toml:2: `signing` is "maybe"; write one of required, offered'),
        ("[smb]\naddresses = '::'", 'sofs.toml:2: `addresses` is "::"; write a list of texts (["…", "…"])'),
        ("smb.port = 'x'", 'sofs.toml:1: `port` is "x"; write a whole number'),
        ("[nfs]\nportmap = 1", "sofs.toml:2: `portmap` is 1; write true or false"),
    ],
)
def test_a_wrong_value_is_shown_with_what_to_write(text: str, expected: str) -> None:
    assert complaint(text) == expected


def test_broken_toml_names_the_line() -> None:
    assert "line 2" in complaint("[smb]\nport = = 4\n")


def test_a_missing_file_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--config"):
        load(tmp_path / "absent.toml")


def test_changes_tell_which_settings_are_live() -> None:
    assert list(changes(Config(), parse("[log]\nlevel = 'debug'\n[smb]\nport = 4450\n", "x"))) == [
        ("log.level", "debug", True),
        ("smb.port", 4450, False),
    ]


def test_single_keys_are_set_in_a_file_that_somebody_wrote() -> None:
    text = '# mine\n[node]\nname = "a"  # its name\n[coordination]\n# kind = "embedded"\nprefix = "x/"\n[smb]\nport = 4450\n'
    changed = amended(text, "f", "coordination", {"kind": "etcd", "prefix": "sofs/", "endpoints": ["a:1", "b:2"]})
    config = parse(changed, "f")
    assert (config.coordination.kind, config.coordination.prefix, config.coordination.endpoints) == ("etcd", "sofs/", ["a:1", "b:2"])
    assert config.node.name == "a" and config.smb.port == 4450 and "# its name" in changed and "# mine" in changed
    assert parse(amended("", "f", "cluster", {"addresses": ["1.2.3.4:5"]}), "f").cluster.addresses == ["1.2.3.4:5"]
    with pytest.raises(ConfigError, match=r"section \[coordination\] could not be changed; write there endpoints"):
        amended('[coordination]\nendpoints = [\n "a:1",\n]\n', "f", "coordination", {"endpoints": ["b:2"]})
