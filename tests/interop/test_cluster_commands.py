"""A single node becomes a cluster, with real processes and a real etcd: its data stays, others join, one is lost, etcd is lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.contracts.etcd_server import EtcdServer, free_ports
from tests.interop.running import SOFS, RunningNode
from tests.interop.smb import smbclient


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    (tmp_path / "etcd").mkdir()
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    yield server
    server.stop()


def sofs(*arguments: object) -> Any:
    """A command's answer in JSON."""
    done = subprocess.run([SOFS, *map(str, arguments), "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(*arguments: object) -> str:
    done = subprocess.run([SOFS, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_quickstart_nodes_data_joins_a_cluster_and_survives_the_loss_of_etcd(tmp_path: Path, etcd: EtcdServer) -> None:
    letter, back = tmp_path / "letter", tmp_path / "back"
    letter.write_text("dear reader\n")
    one = RunningNode(tmp_path / "one")
    with one:
        smbclient(one, f"put {letter} letter")
        assert "stop it first" in refused("cluster", "init", "--data", one.data, "--etcd", f"127.0.0.1:{etcd.port}", "--address", "127.0.0.1:1")
        assert "sofs cluster init" in refused("cluster", "status", "--data", one.data)
    config = one.data / "conf" / "sofs.toml"
    alone = config.read_text()
    first, second = free_ports(2)
    founded = sofs("cluster", "init", "--data", one.data, "--etcd", f"127.0.0.1:{etcd.port}", "--address", f"127.0.0.1:{first}", "--name", "one")
    assert founded["copied"] > 5

    # Whoever goes on with the old configuration would change records that nobody looks at any more.
    with_etcd = config.read_text()
    config.write_text(alone)
    with pytest.raises(AssertionError, match="handed over to cluster"):
        one.start()
    config.write_text(with_etcd)

    with one:
        smbclient(one, f"get letter {back}")
        assert back.read_text() == "dear reader\n"
        token = sofs("cluster", "token", "--data", one.data)["token"]
        joined = sofs("cluster", "join", token, "--data", tmp_path / "two", "--address", f"127.0.0.1:{second}", "--name", "two")
        assert joined["cluster"] == founded["cluster"]
        with RunningNode(tmp_path / "two") as two:
            status = sofs("cluster", "status", "--data", two.data)
            assert {member["name"]: member["state"] for member in status["members"]} == {"one": "active, running", "two": "active, running"}
            assert all(member["connected"] for member in status["members"])
            assert status["quorum"] and [member["state"] for member in status["store"]] == ["leader"]
            (volume,) = status["volumes"]
            assert (volume["coordinator"], volume["state"]) == ("one", "serving")
            # Every node serves every share.
            smbclient(two, f"get letter {back}.two")
            assert Path(f"{back}.two").read_text() == "dear reader\n"
            assert "says that it runs" in refused("cluster", "evict", "two", "--data", one.data)
            # etcd is lost with all its data while both run: clients notice nothing, and the records come back.
            etcd.lose()
            smbclient(two, f"get letter {back}.lost; put {letter} lost")
            assert "lost its records" in refused("share", "create", "further", "--volume", "default", "--data", two.data)
            assert sofs("cluster", "recover", "--data", one.data)["restored"] > 5
            assert sofs("cluster", "recover", "--data", two.data)["restored"] == 0
            sofs("share", "create", "further", "--volume", "default", "--data", two.data)
            smbclient(one, f"get lost {back}.found")
            two.kill()
            sofs("cluster", "evict", "two", "--force", "--data", one.data)
            assert "evicted" in start_refused(two)
            two._process = None
        members = sofs("cluster", "status", "--data", one.data)["members"]
        assert {member["name"]: member["state"].partition(",")[0] for member in members} == {"one": "active", "two": "evicted"}

    # etcd is lost with all its data.
    etcd.stop()
    (tmp_path / "another").mkdir()
    another = EtcdServer(tmp_path / "another")
    another.start()
    try:
        config.write_text(config.read_text().replace(f":{etcd.port}", f":{another.port}"))
        assert "sofs cluster recover" in start_refused(one)
        # What the copy does not know yet, the volumes' own logs do.
        forget_configurations(one.data)
        recovered = sofs("cluster", "recover", "--data", one.data)
        assert recovered["restored"] > 5
        with one:
            smbclient(one, f"get letter {back}.again")
        assert Path(f"{back}.again").read_text() == "dear reader\n"
    finally:
        another.stop()


def forget_configurations(data: Path) -> None:
    """As if the node's copy were older than its volumes."""
    path = data / "records.copy"
    revision, entries = msgspec.msgpack.decode(path.read_bytes())
    kept = [(key, value) for key, value in entries if not key.endswith("/configuration")]
    assert len(kept) < len(entries)
    path.write_bytes(msgspec.msgpack.encode([revision, kept]))


def start_refused(node: RunningNode) -> str:
    with pytest.raises(AssertionError) as caught:
        node.start()
    return str(caught.value)
