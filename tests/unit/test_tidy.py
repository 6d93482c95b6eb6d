"""Style is a test: what every module keeps to."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sofs import errors

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("sofs/**/*.py"), *ROOT.glob("gateways/**/*.py")])
OUTSIDE_WORLD = {"time", "random", "secrets", "socket", "threading", "subprocess", "select", "selectors", "tempfile"}

# Only these reach time, chance, sockets, threads and disks by themselves. All else is handed ports, and runs
# unchanged in the simulator.
ADAPTERS = (
    "sofs/runtime/",
    "sofs/coordination/etcd",
    "sofs/admin/",
    "sofs/cli/",
    "sofs/lab/",
    "sofs/node.py",
    "sofs/service.py",
    "sofs/config.py",
    "gateways/server.py",
    "gateways/parting.py",
)
# Protocol cores: bytes in, events and bytes out.
CORES = ("sofs/volume/", "sofs/log/", "sofs/pool/", "sofs/locks/", "gateways/smb/", "gateways/nfs/")
LONGEST_MODULE = 600


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """The top-level modules that a source imports, however deep the statement stands; not those for types only."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_adapters_reach_the_outside_world(path: Path) -> None:
    if name_of(path).startswith(ADAPTERS):
        return
    assert sorted(OUTSIDE_WORLD & set(imports(path))) == []


def called_on_os(path: Path) -> set[str]:
    """What a source uses of the module `os`."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
    }


@pytest.mark.parametrize("path", [p for p in SOURCES if name_of(p).startswith(CORES)], ids=name_of)
def test_cores_use_no_files_and_no_chance_of_their_own(path: Path) -> None:
    assert "urandom" not in called_on_os(path)
    assert {"open", "preadv", "pwritev", "fsync", "fdatasync", "rename", "unlink"} & called_on_os(path) == set()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "a module docstring says what the thing is"


# Their modules are families that the docstring describes as such: one for each command, one for each adapter.
FAMILIES = ("sofs", "sofs/runtime", "gateways/smb/commands", "gateways/smb/control", "gateways/smb/info")


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=name_of)
def test_a_package_says_where_each_of_its_modules_belongs(path: Path) -> None:
    if name_of(path.parent) in FAMILIES:
        return
    chapter = ast.get_docstring(ast.parse(path.read_text())) or ""
    modules = [*path.parent.glob("*.py"), *(package.parent for package in path.parent.glob("*/__init__.py"))]
    named = {module.stem for module in modules if not module.stem.startswith("__")}
    # In a sentence or a list, or as a line of a table.
    assert sorted(name for name in named if not re.search(rf"`{name}/?`|^ *{name}  ", chapter, re.MULTILINE)) == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE


def test_only_a_package_says_twice_what_it_offers() -> None:
    """Elsewhere the underscore says it; lists that nothing checks had become wrong."""
    with_list = [path for path in SOURCES if re.search(r"^__all__\b", path.read_text(), re.MULTILINE)]
    assert [name_of(path) for path in with_list if path.name != "__init__.py"] == []


def test_nothing_in_the_tree_names_the_machine_it_was_written_on() -> None:
    wrong = re.compile("/" + "work/|/" + "farm/|/" + "root/|TO" + "DO|FIX" + "ME")
    found = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for folder in ("sofs", "gateways", "tests", "bench", "conf", "systemd", ".ci")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and path.suffix in (".py", ".md", ".sh", ".toml", ".service", "")
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if wrong.search(line)
    ]
    assert found == []


def outcomes() -> list[type[errors.SofsError]]:
    """Every outcome there is, except those that an operator or a start-up sees and no client."""
    inner = {errors.SofsError, errors.ConfigError, errors.DiskRefused, errors.ExtentGone}
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    return [kind for kind in classes if issubclass(kind, errors.SofsError) and kind not in inner]


def tables() -> dict[str, dict[type[errors.SofsError], object]]:
    """Each gateway's table from outcomes to its protocol's statuses."""
    from gateways.nfs import status as nfs
    from gateways.nfs.v4 import status as nfs4
    from gateways.smb import status as smb

    return {"smb": smb.STATUS, "nfs": nfs.STATUS, "nfs4": nfs4.STATUS}


@pytest.mark.parametrize("protocol", ["smb", "nfs", "nfs4"])
def test_every_outcome_has_a_status_in_every_protocol(protocol: str) -> None:
    missing = [kind.__name__ for kind in outcomes() if kind not in tables()[protocol]]
    assert missing == []


def dependencies() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return {re.split(r"[<>=!~\[]", text)[0].lower() for text in wanted}


def test_every_dependency_has_its_reason_in_the_readme() -> None:
    rows = re.findall(r"^\| `([A-Za-z0-9_-]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert dependencies() - {name.lower() for name in rows} == set()


def test_what_the_readme_names_on_its_way_through_one_write_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    walk = text[text.index("### One WRITE") : text.index("`tests/` mirrors the source")]
    named = set(re.findall(r"`([^`\n]+)`", walk))
    files = {name for name in named if name.endswith((".py", "/"))}
    sources = {name_of(path): path for path in SOURCES}
    found = {file: [name for name in sources if f"/{name}".endswith(f"/{file}") or name.startswith(file)] for file in files}
    assert [file for file, names in found.items() if not names] == []
    code = "\n".join(sources[name].read_text() for names in found.values() for name in names)
    functions = {name for name in named - files if ("/" not in name and "." not in name) or name[0].isupper()}
    assert [name for name in sorted(functions) if not re.search(rf"\b(def|class) {name.rpartition('.')[2]}\b", code)] == []
