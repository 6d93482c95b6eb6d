"""Nodes prove to each other who they are."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sofs.cluster import Answer, Asked, NodeId
from sofs.cluster.authority import Authority, begins, expires, name_of, node_of
from sofs.cluster.founding import found
from sofs.cluster.renewal import renew_if_due
from sofs.errors import ConfigError, Unavailable
from sofs.runtime.ports import Connection
from sofs.runtime.simulated_loop import SimulatedLoop, simulate
from sofs.runtime.system_clock import SystemClock
from sofs.runtime.system_network import SystemNetwork
from sofs.runtime.system_tls import Tls
from sofs.types import UNIX_EPOCH, Time
from tests.contracts.test_network import Recorder
from tests.simulation.cluster_net import on_loopback
from tests.unit.cluster.test_membership import Rig, as_is, member

CLUSTER = "00c1a57e"
NOW = SystemClock().now()
YEAR = 365 * 86_400 * 10_000_000


def credentials(path: Path, authority: Authority, node: int, *, cluster: str = CLUSTER, now: Time = NOW) -> Tls:
    path.mkdir(exist_ok=True)
    tls = Tls(path)
    issued = authority.issue(cluster, NodeId(node), now)
    tls.store(authority.certificate, issued.key, issued.certificate)
    return tls


def identify(connection: Connection) -> NodeId | None:
    return node_of(CLUSTER, connection.names)


def echo(asked: Asked) -> Answer:
    return Answer(bytes(asked.body), (bytes(asked.payload),))


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make(CLUSTER, NOW)


def test_nodes_of_one_cluster_talk_over_tls_1_3(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        networks = [SystemNetwork(tls=credentials(tmp_path / str(n), authority, n)) for n in (1, 2)]
        one, two = await on_loopback(2, networks, identify=identify)
        two.serve("echo", echo)
        payload = bytes(3 << 20)
        answer = await one.peer(NodeId(2)).call("echo", b"body", (payload,))
        assert bytes(answer.body) == b"body" and answer.payload[0] == payload
        (connection,) = two._links.values()
        assert connection.names == (name_of(CLUSTER, NodeId(1)),)
        assert connection._transport.get_extra_info("ssl_object").version() == "TLSv1.3"  # type: ignore[attr-defined]
        for node in (one, two):
            await node.close()

    run(main())


def test_pieces_of_all_sizes_arrive_as_they_were_sent(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        networks = [SystemNetwork(tls=credentials(tmp_path / str(n), authority, n)) for n in (1, 2)]
        one, two = await on_loopback(2, networks, identify=identify)
        two.serve("echo", echo)
        sizes = [(1,), (104, 4096), (16384,), (16383, 1, 1), (5, 16385, 3), (40000, 2), *((104, 4096) for _ in range(20))]
        payloads = [tuple(bytes([number]) * size for number, size in enumerate(each)) for each in sizes]
        answers = await asyncio.gather(*(one.peer(NodeId(2)).call("echo", b"body", payload) for payload in payloads))
        assert [b"".join(answer.payload) for answer in answers] == [b"".join(payload) for payload in payloads]
        for node in (one, two):
            await node.close()

    run(main())


def test_a_certificate_of_another_node_is_refused_both_ways(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        networks = [SystemNetwork(tls=credentials(tmp_path / str(n), authority, n)) for n in (1, 3)]
        one, false_two = await on_loopback(2, networks, identify=identify)
        for node, other in ((one, 2), (false_two, 1)):
            with pytest.raises(Unavailable):
                await node.peer(NodeId(other)).call("echo", b"")
        for node in (one, false_two):
            await node.close()

    run(main())


@pytest.mark.parametrize("wrong", ["another authority", "out of date", "another cluster", "no certificate", "no tls"])
def test_who_has_no_good_certificate_does_not_get_in(tmp_path: Path, authority: Authority, wrong: str) -> None:
    async def main() -> None:
        good = SystemNetwork(tls=credentials(tmp_path / "1", authority, 1))
        match wrong:
            case "another authority":
                tls = credentials(tmp_path / "2", Authority.make(CLUSTER, NOW), 2)
            case "out of date":
                tls = credentials(tmp_path / "2", authority, 2, now=Time(NOW - 2 * YEAR))
            case "another cluster":
                tls = credentials(tmp_path / "2", authority, 2, cluster="other")
            case _:
                tls = credentials(tmp_path / "2", authority, 2)
        network = SystemNetwork(tls=tls if wrong != "no tls" else None)
        if wrong == "no certificate":
            network._client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            network._client.check_hostname = False
            network._client.verify_mode = ssl.CERT_NONE
        one, two = await on_loopback(2, [good, network], identify=identify)
        two._identify = None
        one.serve("echo", echo)
        with pytest.raises(Unavailable):
            await two.peer(NodeId(1)).call("echo", b"", deadline_s=3)
        assert not one._callers
        for node in (one, two):
            await node.close()

    run(main())


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("expired", "certificate has expired.*clock"),
        ("not yet valid", "certificate is not yet valid.*clock"),
        ("another authority", "another cluster"),
    ],
)
def test_why_a_certificate_is_not_trusted_is_said_at_both_ends(tmp_path: Path, authority: Authority, wrong: str, reason: str) -> None:
    async def main() -> None:
        shift = {"expired": -2 * YEAR, "not yet valid": 2 * YEAR}.get(wrong, 0)
        signer = Authority.make(CLUSTER, NOW) if wrong == "another authority" else authority
        wrong_tls = credentials(tmp_path / "2", signer, 2, now=Time(NOW + shift))
        networks = [SystemNetwork(tls=credentials(tmp_path / "1", authority, 1)), SystemNetwork(tls=wrong_tls)]
        one, two = await on_loopback(2, networks, identify=identify)
        with pytest.raises(Unavailable, match=reason):
            await one.peer(NodeId(2)).call("echo", b"", deadline_s=3)
        with pytest.raises(Unavailable, match="does not trust" if wrong == "another authority" else "clock"):
            await two.peer(NodeId(1)).call("echo", b"", deadline_s=3)
        for node in (one, two):
            await node.close()

    run(main())


def test_a_stranger_who_never_finishes_the_handshake_is_disconnected(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        network = SystemNetwork(connect_timeout=0.2, tls=credentials(tmp_path / "1", authority, 1))
        (one,) = await on_loopback(1, [network], identify=identify)
        stranger = Recorder()
        await SystemNetwork().connect("127.0.0.1", one._listeners[0].port, stranger)
        await stranger.until(ends=1)
        await one.close()

    run(main())


def test_new_credentials_serve_new_connections_without_a_restart(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        old = credentials(tmp_path / "2", authority, 2, now=Time(NOW - 2 * YEAR))
        networks = [SystemNetwork(tls=credentials(tmp_path / "1", authority, 1)), SystemNetwork(tls=old)]
        one, two = await on_loopback(2, networks, identify=identify)
        two.serve("echo", echo)
        with pytest.raises(Unavailable):
            await one.peer(NodeId(2)).call("echo", b"")
        issued = authority.issue(CLUSTER, NodeId(2), NOW)
        old.store(authority.certificate, issued.key, issued.certificate)
        assert bytes((await one.peer(NodeId(2)).call("echo", b"x")).body) == b"x"
        for node in (one, two):
            await node.close()

    run(main())


def test_an_authority_is_kept_as_text_and_knows_its_fingerprint(authority: Authority) -> None:
    again = Authority.decode(authority.encode())
    assert again.fingerprint == authority.fingerprint and again.certificate == authority.certificate
    assert Authority.make(CLUSTER, NOW).fingerprint != authority.fingerprint
    issued = again.issue(CLUSTER, NodeId(5), NOW)
    assert 364 * 86_400 < expires(issued.certificate) - SystemClock().now() // 10**7 + 11_644_473_600 < 366 * 86_400
    for nonsense in (b"", b"nonsense", authority.certificate):
        with pytest.raises(ConfigError, match="authority"):
            Authority.decode(nonsense)


def test_private_keys_are_their_owners_only(tmp_path: Path, authority: Authority) -> None:
    credentials(tmp_path / "1", authority, 1)
    assert (tmp_path / "1/tls/node.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "1/tls").stat().st_mode & 0o777 == 0o700
    with pytest.raises(ConfigError, match="sofs cluster join"):
        Tls.open(tmp_path)


def test_a_certificate_is_renewed_when_a_third_of_its_time_is_left(tmp_path: Path) -> None:
    async def main(rig: Rig) -> None:
        authority = await found(rig.store, member(1), CLUSTER, NOW, [], as_is)
        fresh = credentials(tmp_path / "fresh", authority, 1, now=Time(NOW - YEAR // 2))
        assert not await renew_if_due(rig.store, fresh, CLUSTER, NodeId(1), NOW)
        old = credentials(tmp_path / "old", authority, 1, now=Time(NOW - YEAR * 3 // 4))
        before = old.certificate
        assert await renew_if_due(rig.store, old, CLUSTER, NodeId(1), NOW)
        assert old.certificate != before and expires(old.certificate) > expires(before) + 200 * 86_400
        assert not await renew_if_due(rig.store, old, CLUSTER, NodeId(1), NOW)
        Tls.open(tmp_path / "old")

        # A host's clock was ahead when it got its certificate, or the authority, and was put right.
        ahead = credentials(tmp_path / "ahead", authority, 1, now=Time(NOW + YEAR))
        assert await renew_if_due(rig.store, ahead, CLUSTER, NodeId(1), NOW)
        assert not await renew_if_due(rig.store, ahead, CLUSTER, NodeId(1), NOW)
        assert begins(Authority.make(CLUSTER, Time(NOW + YEAR)).certificate) < (NOW - UNIX_EPOCH) / 10_000_000

    async def scene(loop: SimulatedLoop) -> None:
        await main(Rig(loop))

    simulate(scene)
