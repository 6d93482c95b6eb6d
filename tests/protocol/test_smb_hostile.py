"""What clients try on others' sessions, names and memory: the SMB gateway over a real volume, driven message by message."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import spnego

from gateways.exports import Share, SmbOptions
from gateways.smb import contexts, durable, notices
from gateways.smb import service as smb_service
from gateways.smb.commands import session_setup
from gateways.smb.header import FLAG_SIGNED, Command
from gateways.smb.service import SmbSettings
from gateways.smb.status import Status
from sofs.errors import PeerError
from sofs.types import ROOT, Kind
from sofs.volume.api import Binding, Caller, Changes, Make
from tests.protocol import smb_client as smb
from tests.protocol.smb_client import Client
from tests.served import VOLUME
from tests.served_smb import SHARES, Served, smb_on

Scene = Callable[[Served], Awaitable[None]]
DIRECTORY = 1


def run(path: Path, scene: Scene, settings: SmbSettings = SmbSettings()) -> None:
    async def main() -> None:
        async with smb_on(path / "v", settings, shares=[*SHARES, Share("open", 6, VOLUME, smb=SmbOptions(guests=True))]) as served:
            await scene(served)

    asyncio.run(main())


async def started(served: Served, user: str = "alice", password: str = "secret", guid: bytes = b"guid" * 4) -> Client:
    client = Client(served.gateway.service, guid)
    await client.start(user=user, password=password)
    return client


def sealed(client: Client, message: bytes) -> bytes:
    assert client.sealer is not None
    return b"".join(client.sealer.seal(message))


# Binding


def test_a_binding_that_is_encrypted_under_another_session_s_key_is_no_proof(tmp_path: Path) -> None:
    """Encryption proves who has the key of the session that encrypts, not of the one that is to be bound."""

    async def scene(served: Served) -> None:
        alice, bob = await started(served), await started(served, "bob", "hidden", b"b" * 16)
        service = served.gateway.service
        session = service.sessions[alice.session_id]
        token = spnego.client("alice", "guessed", hostname="test", service="cifs", protocol="ntlm").step()
        own, number = bob.session_id, bob.next_id
        bob.session_id = alice.session_id
        message = bob.header(Command.SESSION_SETUP, number, FLAG_SIGNED) + smb.session_setup(token or b"", 0, 1)
        bob.session_id = own
        with pytest.raises(PeerError):
            bob.deliver(sealed(bob, message))
        assert len(session.channels) == 1

    run(tmp_path, scene)


def test_a_session_ends_with_its_last_connection_whoever_is_still_trying_to_join_it(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        alice = await started(served)
        service = served.gateway.service
        await alice.open("held")
        half = Client(service)
        await half.negotiate()
        half.session_id, half.signer = alice.session_id, alice.signer
        token = spnego.client("alice", "secret", hostname="test", service="cifs", protocol="ntlm").step()
        message = half.signed(half.header(Command.SESSION_SETUP, 1) + smb.session_setup(token or b"", 0, 1), 1)
        half.deliver(message)
        assert (await half.final(1)).status == Status.MORE_PROCESSING_REQUIRED
        alice.core.closed("its cable was cut")
        assert alice.session_id not in service.sessions
        await asyncio.sleep(0.01)
        assert not list(service.handles())

    run(tmp_path, scene)


# Notifications


def test_who_watches_a_tree_hears_no_names_out_of_directories_he_may_not_enter(tmp_path: Path) -> None:
    """A home of mode 0700 has directories of mode 0755 below it: who cannot reach them by a path must not hear of what is in them."""

    async def scene(served: Served) -> None:
        super_ = Caller(0, 0, privileged=True)

        async def make(parent: int, name: bytes, mode: int, kind: Kind = Kind.DIRECTORY) -> int:
            made = served.volume.call(Make(super_, parent, name, kind, Changes(mode=mode, uid=1000, gid=1000)), None, Binding(9, 9))  # type: ignore[arg-type]
            if isinstance(made, Awaitable):
                made = await made
            return made.attributes.inode  # type: ignore[attr-defined,no-any-return]

        home = await make(ROOT, b"alice", 0o700)
        documents = await make(home, b"documents", 0o755)
        bob = await started(served, "bob", "hidden", b"b" * 16)
        top = await bob.open("", options=DIRECTORY, access=1)
        number = bob.request(Command.CHANGE_NOTIFY, smb.change_notify(top, tree=True))
        await bob.told(number)
        await make(documents, b"letter of resignation", 0o644, Kind.FILE)
        await make(ROOT, b"public", 0o755)
        assert smb.changes(await bob.final(number)) == [(1, "public")]

    run(tmp_path, scene)


def test_one_user_watches_only_so_many_trees(tmp_path: Path) -> None:
    """Each change passes all watchers of the trees above it, whosever it is."""

    async def scene(served: Served) -> None:
        bob = await started(served, "bob", "hidden", b"b" * 16)

        async def watched() -> int:
            top = await bob.open("", options=DIRECTORY, access=1)
            number = bob.request(Command.CHANGE_NOTIFY, smb.change_notify(top, tree=True))
            for _ in range(10):
                await asyncio.sleep(0)
            return number

        numbers = [await watched() for _ in range(256)]
        assert (await bob.final(await watched())).status == Status.REQUEST_NOT_ACCEPTED
        assert not set(numbers) & {reply.message_id for reply in bob.replies() if reply.status != Status.PENDING}
        alice = await started(served)
        top = await alice.open("", options=DIRECTORY, access=1)
        number = alice.request(Command.CHANGE_NOTIFY, smb.change_notify(top, tree=True))
        await alice.told(number)
        bob.core.closed("he has gone")
        again = await started(served, "bob", "hidden", b"b" * 16)
        top = await again.open("", options=DIRECTORY, access=1)
        number = again.request(Command.CHANGE_NOTIFY, smb.change_notify(top, tree=True))
        await again.told(number)

    run(tmp_path, scene)


# Logons


def test_guessing_passwords_ends_after_twenty_wrong_ones_from_an_address(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        service = served.gateway.service

        async def tries(password: str, user: str = "alice", peer: str = "192.0.2.9") -> int:
            client = Client(service)
            client.core.client = peer
            await client.negotiate()
            status = (await client.logon(user, password)).status
            client.core.closed("done")
            return status

        assert [await tries(f"guess {number}") for number in range(20)] == [Status.LOGON_FAILURE] * 20
        assert await tries("secret") == await tries("secret", "Alice") == Status.ACCOUNT_LOCKED_OUT
        assert await tries("secret", peer="192.0.2.10") == 0, "nobody is locked out elsewhere"
        assert await tries("hidden", "bob") == 0, "nor anybody else"
        assert [await tries("x", "nobody of this name") for _ in range(21)][-1] == Status.ACCOUNT_LOCKED_OUT, "which tells nothing"

    run(tmp_path, scene)


def test_a_session_ends_with_any_user_who_has_opened_something_in_it(tmp_path: Path) -> None:
    """An anonymous logon after one's own does not save what is open from the user's end."""

    async def scene(served: Served) -> None:
        alice = await started(served)
        await alice.open("held")
        service = served.gateway.service
        token = b"NTLMSSP\0\3\0\0\0" + struct.pack("<HHIHHIHHIHHIHHIHHII", *[0, 0, 88] * 6, 0) + bytes(24)
        assert (await alice.ask(Command.SESSION_SETUP, smb.session_setup(token))).status == 0
        assert service.sessions[alice.session_id].anonymous
        service.identities.replace([user for user in service.identities.all() if user.name != "alice"])
        service.refresh_users()
        assert alice.session_id not in service.sessions and not list(service.handles())

    run(tmp_path, scene, SmbSettings(anonymous=True))


def test_where_encryption_is_required_nobody_comes_in_without_a_key(tmp_path: Path) -> None:
    """An anonymous session has none: it would read and write shares for guests in the clear."""

    async def scene(served: Served) -> None:
        stranger = Client(served.gateway.service)
        await stranger.negotiate()
        token = b"NTLMSSP\0\3\0\0\0" + struct.pack("<HHIHHIHHIHHIHHIHHII", *[0, 0, 88] * 6, 0) + bytes(24)
        assert (await stranger.ask(Command.SESSION_SETUP, smb.session_setup(token))).status == Status.ACCESS_DENIED

    run(tmp_path, scene, SmbSettings(anonymous=True, encryption="required"))


# Memory


def test_one_user_s_opens_and_sessions_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smb_service, "OPENS_OF_USER", 6)
    monkeypatch.setattr(smb_service, "COUNTED", 2)
    monkeypatch.setattr(session_setup, "SESSIONS_OF_USER", 3)

    async def scene(served: Served) -> None:
        clients = [await started(served) for _ in range(3)]
        for client in clients:
            for name in range(2):
                await client.open(f"f{name}")
        refused = 0
        for client in clients:
            for name in range(2):
                reply = await client.ask(Command.CREATE, smb.create(f"f{name}"))
                refused += reply.status == Status.INSUFFICIENT_RESOURCES
        assert refused, "at the next time that they are counted"
        bob = await started(served, "bob", "hidden", b"b" * 16)
        await bob.open("bob's")
        late = Client(served.gateway.service)
        await late.negotiate()
        assert (await late.logon()).status == Status.TOO_MANY_SESSIONS
        clients[0].core.closed("gone")
        again = Client(served.gateway.service)
        await again.negotiate()
        assert (await again.logon()).status == 0

    run(tmp_path, scene)


def test_one_user_does_not_take_all_places_of_opens_whose_clients_are_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "AWAY_OF_USER", 3)

    async def scene(served: Served) -> None:
        async def leaves(user: str, password: str, guid: bytes) -> int:
            client = await started(served, user, password, guid)
            for number in range(5):
                wish = contexts.encode([smb.durable(b"%016d" % number), smb.lease(b"%s%015d" % (guid[:1], number), 3)])
                reply = await client.ask(Command.CREATE, smb.create(f"{user}{number}", extras=wish, level=0xFF))
                assert reply.status == 0, hex(reply.status)
            client.core.closed("gone")
            await asyncio.sleep(0.01)
            return len(served.gateway.service.durables._away)

        assert await leaves("alice", "secret", b"a" * 16) == 3
        assert await leaves("bob", "hidden", b"b" * 16) == 6

    run(tmp_path, scene)


def test_changes_that_nobody_asks_for_take_only_so_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "MOST_OF_ALL", 1000)

    async def scene(served: Served) -> None:
        alice = await started(served)
        opens = []
        for _ in range(5):
            top = await alice.open("", options=DIRECTORY, access=1)
            number = alice.request(Command.CHANGE_NOTIFY, smb.change_notify(top))
            await alice.told(number)
            alice.cancel(number)
            await alice.final(number)
            opens.append(top)
        for number in range(20):
            await alice.ask(Command.CLOSE, smb.close(await alice.open(f"{number:020}")))
        kept = served.gateway.service.notices.kept
        assert kept.size <= 1000
        told = [await alice.ask(Command.CHANGE_NOTIFY, smb.change_notify(top)) for top in opens]
        assert {reply.status for reply in told} <= {0, 0x10C} and 0x10C in {reply.status for reply in told}
        for top in opens:
            await alice.ask(Command.CLOSE, smb.close(top))
        assert kept.size == 0

    run(tmp_path, scene)
