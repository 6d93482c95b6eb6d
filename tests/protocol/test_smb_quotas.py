"""Users' quotas over the wire."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateways.identity import Identities, domain_sid
from gateways.smb.header import Command
from sofs.volume.security import sid_bytes, sid_text
from tests.protocol import smb_client as smb
from tests.protocol.smb_client import Client, Reply
from tests.protocol.test_smb_offload import filled
from tests.served_smb import USERS, Served, smb_on

QUOTA = 4
QUOTA_FILE = "$Extend\\$Quota:$Q:$INDEX_ALLOCATION"
DENIED, NO_MORE, DISK_FULL, INVALID_SID = 0xC0000022, 0x8000001A, 0xC000007F, 0xC0000078
KNOWN = Identities(domain_sid(b"tests of sofs"), USERS)

Limits = tuple[int, int, int]
"""Used, threshold and limit."""


def run(path: Path, scene: Callable[[Served], Awaitable[None]]) -> None:
    async def main() -> None:
        async with smb_on(path / "v") as served:
            await scene(served)

    asyncio.run(main())


async def client_of(served: Served, user: str, password: str) -> Client:
    client = Client(served.gateway.service, user.encode().ljust(16, b"."))
    await client.start(user=user, password=password)
    return client


def entry(uid: int, soft: int, hard: int) -> bytes:
    sid = sid_bytes(KNOWN.sid_of_uid(uid))
    return struct.pack("<IIQQqq", 0, len(sid), 0, 0, soft, hard) + sid


def told(reply: Reply) -> dict[int, Limits]:
    at, length = struct.unpack_from("<HI", reply.body, 2)
    data, found = reply.message[at : at + length], {}
    while data:
        following, size, _, *limits = struct.unpack_from("<IIQQqq", data)
        uid = KNOWN.uid_of_sid(sid_text(data[40 : 40 + size]))
        assert uid is not None
        found[uid] = (limits[0], limits[1], limits[2])
        data = data[following:] if following else b""
    return found


def wanted(*uids: int, single: bool = False, restart: bool = True) -> bytes:
    sids = b""
    for place, uid in enumerate(uids):
        sid = sid_bytes(KNOWN.sid_of_uid(uid))
        following = 0 if place == len(uids) - 1 else 8 + len(sid)
        sids += struct.pack("<II", following, len(sid)) + sid
    return struct.pack("<BBHIII", single, restart, 0, len(sids), 0, 0) + sids


async def ask(client: Client, file: smb.FileId, given: bytes, room: int = 4096) -> Reply:
    return await client.ask(Command.QUERY_INFO, smb.query_info(file, QUOTA, 0, room, data=given))


def test_the_superuser_sets_quotas_that_bind_and_everybody_sees_his_own(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        root, alice = await client_of(served, "root", "wheel"), await client_of(served, "alice", "secret")
        file = await root.open(QUOTA_FILE, disposition=1, access=0x120089)
        for uid in (1000, 1001):
            change = smb.set_info(file, QUOTA, 0, entry(uid, 50_000, 100_000))
            assert (await root.ask(Command.SET_INFO, change)).status == 0
        await filled(alice, "f", bytes(8192))
        await served.volume.run_once()  # with the first quota of a volume the counting begins, in the background
        assert told(await ask(root, file, wanted(1000, 1001))) == {1000: (8192, 50_000, 100_000), 1001: (0, 50_000, 100_000)}
        listed = told(await ask(root, file, wanted()))
        assert listed[1000] == (8192, 50_000, 100_000) and 1001 in listed
        assert (await ask(root, file, wanted(restart=False))).status == NO_MORE
        first = told(await ask(root, file, wanted(single=True)))
        second = told(await ask(root, file, wanted(single=True, restart=False)))
        assert len(first) == len(second) == 1 and first.keys() < listed.keys() and not first.keys() & second.keys()

        own = await alice.open(QUOTA_FILE, disposition=1, access=0x120089)
        assert told(await ask(alice, own, wanted())) == {1000: (8192, 50_000, 100_000)}
        assert (await ask(alice, own, wanted(1001))).status == NO_MORE
        assert (await alice.ask(Command.SET_INFO, smb.set_info(own, QUOTA, 0, entry(1000, -1, -1)))).status == DENIED
        over = await alice.open("large")
        statuses = [(await alice.ask(Command.WRITE, smb.write(over, at * 65536, bytes(65536)))).status for at in range(3)]
        assert statuses[0] == 0 and statuses[-1] == DISK_FULL

        assert (await root.ask(Command.SET_INFO, smb.set_info(file, QUOTA, 0, entry(1000, -1, -1)))).status == 0
        assert (await alice.ask(Command.WRITE, smb.write(over, 1 << 20, bytes(65536)))).status == 0

    run(tmp_path, scene)


def test_lists_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        root = await client_of(served, "root", "wheel")
        file = await root.open(QUOTA_FILE, disposition=1, access=0x120089)
        whole = entry(1000, 1, 1)
        for cut in range(len(whole)):
            assert (await root.ask(Command.SET_INFO, smb.set_info(file, QUOTA, 0, whole[:cut]))).status != 0
        asked = wanted(1000, 1001)
        for cut in range(1, len(asked)):
            assert (await ask(root, file, asked[:cut])).status not in (0,) or cut == 16
        stranger = struct.pack("<IIQQqq", 0, 12, 0, 0, 1, 1) + sid_bytes("S-1-1-0")
        assert (await root.ask(Command.SET_INFO, smb.set_info(file, QUOTA, 0, stranger))).status == INVALID_SID

    run(tmp_path, scene)
