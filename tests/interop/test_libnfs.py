"""libnfs and its users: nfs-ls and nfs-cp, and qemu's images over nfs://."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import digest, write_random
from tests.interop.namespace import NetworkNamespace
from tests.interop.running import RunningNode


def run(*command: str, prefix: list[str] | None = None, check: bool = True, timeout: float = 240) -> str:
    outcome = subprocess.run([*(prefix or []), *command], capture_output=True, text=True, timeout=timeout)
    printed = outcome.stdout + outcome.stderr
    if check:
        assert outcome.returncode == 0, f"{command}: {printed}"
    return printed


def test_a_copy_there_and_back_keeps_its_bytes(node: RunningNode, tmp_path: Path) -> None:
    write_random(tmp_path / "out", 64)
    run("nfs-cp", str(tmp_path / "out"), node.nfs_url("copied"))
    run("nfs-cp", node.nfs_url("copied"), str(tmp_path / "back"))
    assert digest(tmp_path / "back") == digest(tmp_path / "out")


def test_a_listing_shows_names_and_sizes(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 12345)
    run("nfs-cp", str(tmp_path / "f"), node.nfs_url("listed"))
    lines = [line for line in run("nfs-ls", node.nfs_url()).splitlines() if line.endswith(" listed")]
    assert len(lines) == 1 and "12345" in lines[0]


def test_an_unknown_export_is_refused(node: RunningNode) -> None:
    url = node.nfs_url().replace(f"/{node.nfs.share}/", "/nowhere/")
    outcome = subprocess.run(["nfs-ls", url], capture_output=True, text=True, timeout=60)
    assert outcome.returncode != 0
    assert "MNT3ERR_NOENT" in outcome.stderr


class Qemu:
    """A node at the ports qemu knows, in a network namespace, and qemu's tools beside it."""

    def __init__(self, prefix: list[str]) -> None:
        self._prefix = prefix

    def __call__(self, *command: str) -> str:
        return run(*command, prefix=self._prefix)

    @staticmethod
    def url(name: str) -> str:
        return f"nfs://127.0.0.1/share/{name}"


@pytest.fixture(scope="module")
def qemu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qemu]:
    home = tmp_path_factory.mktemp("qemu")
    with NetworkNamespace() as namespace:
        ports = {"smb_port": 4450, "nfs_port": 2049}
        with RunningNode(home / "data", **ports, options=["--portmap"], prefix=namespace.prefix):  # type: ignore[arg-type]
            yield Qemu(namespace.prefix)


def test_qemu_img_makes_converts_and_checks_an_image(qemu: Qemu, tmp_path: Path) -> None:
    write_random(tmp_path / "raw", 64)
    qemu("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(tmp_path / "raw"), qemu.url("image.qcow2"))
    assert "No errors" in qemu("qemu-img", "check", qemu.url("image.qcow2"))
    qemu("qemu-img", "convert", "-f", "qcow2", "-O", "raw", qemu.url("image.qcow2"), str(tmp_path / "back"))
    assert digest(tmp_path / "back") == digest(tmp_path / "raw")


def test_qemu_img_creates_a_large_thin_image(qemu: Qemu) -> None:
    qemu("qemu-img", "create", "-f", "qcow2", qemu.url("thin.qcow2"), "100G")
    assert "virtual size: 100 GiB" in qemu("qemu-img", "info", qemu.url("thin.qcow2"))


def test_qemu_io_reads_the_patterns_it_wrote(qemu: Qemu) -> None:
    name = qemu.url("pattern.qcow2")
    qemu("qemu-img", "create", "-f", "qcow2", name, "1G")
    writes = ["write -P 0x11 0 64k", "write -P 0x22 12345 70001", "write -P 0x33 512M 8M", "flush"]
    reads = ["read -P 0x11 0 12345", "read -P 0x22 12345 70001", "read -P 0x33 512M 8M", "read -P 0 1M 1M"]
    for steps in (writes, reads, ["discard 512M 8M", "read -P 0 512M 8M"]):
        printed = qemu("qemu-io", "-f", "qcow2", *[word for step in steps for word in ("-c", step)], name)
        assert "Pattern verification failed" not in printed
    assert "No errors" in qemu("qemu-img", "check", name)


def test_the_server_lists_its_exports(qemu: Qemu) -> None:
    assert "share" in qemu("nfs-ls", "-D", "nfs://127.0.0.1")


def test_the_portmapper_names_our_ports(qemu: Qemu) -> None:
    listing = qemu("rpcinfo", "-p", "127.0.0.1")
    assert any(line.split()[:4] == ["100003", "3", "tcp", "2049"] for line in listing.splitlines())
    assert any(line.split()[:4] == ["100005", "3", "tcp", "2049"] for line in listing.splitlines())


def test_the_system_s_own_tools_find_the_gateway(qemu: Qemu) -> None:
    assert "/share *" in qemu("showmount", "-e", "127.0.0.1")
    assert "program 100003 version 3 ready" in qemu("rpcinfo", "-T", "tcp", "127.0.0.1", "nfs", "3")
    assert "program 100000 version 4 ready" in qemu("rpcinfo", "-T", "udp", "127.0.0.1", "portmapper")
