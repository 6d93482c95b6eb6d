"""Quotas: who is refused what, what is counted for whom, and that a recount always comes to the same."""

import pytest
from structlog.testing import capture_logs

from sofs.errors import CrossVolume, Delayed, InvalidArgument, NotFound, QuotaExceeded
from sofs.types import PAGE, ROOT, Inode, Kind
from sofs.volume import keys, security
from sofs.volume.api import (
    Access,
    Allocate,
    Caller,
    Changes,
    Clone,
    Copy,
    GetQuota,
    GetSpace,
    Link,
    ListQuotas,
    Quota,
    QuotaKind,
    QuotaList,
    Reply,
    SetAttributes,
    SetQuota,
    SetSecurity,
    Stateless,
)
from sofs.volume.quotas.limits import DEFAULT
from tests.unit.volume.rig import done
from tests.unit.volume.test_data import pattern
from tests.unit.volume.volume_rig import ALICE, BOB, SUPER, VolumeRig, run

KIB = 1024
USER, GROUP, DIRECTORY, VOLUME = QuotaKind.USER, QuotaKind.GROUP, QuotaKind.DIRECTORY, QuotaKind.VOLUME


async def limit(rig: VolumeRig, kind: QuotaKind, subject: int = 0, size: int = 0, files: int = 0) -> Quota:
    rig.call(SetQuota(Quota(kind, subject, 0, size, files)))
    await rig.volume.run_once()
    return used(rig, kind, subject)


def used(rig: VolumeRig, kind: QuotaKind, subject: int = 0) -> Quota:
    reply: QuotaList = rig.call(GetQuota(kind, subject))
    return reply.quotas[0]


def own(inode: Inode, caller: Caller = ALICE) -> Stateless:
    return Stateless(inode, caller)


def test_a_user_is_refused_what_goes_beyond_the_limit_and_nothing_has_changed() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"a", caller=ALICE)
        await rig.put(own(file), 0, bytes(3 * PAGE))
        quota = await limit(rig, USER, 1000, 5 * PAGE)
        assert (quota.used_bytes, quota.used_files) == (3 * PAGE, 1)
        await rig.put(own(file), PAGE + 7, bytes(3 * PAGE))
        before = rig.stat(file)
        for attempt in (
            lambda: rig.put(own(file), 6 * PAGE, b"x"),
            lambda: rig.put(own(file), PAGE, bytes(200 * PAGE)),
            lambda: rig.later(Allocate(own(file), 0, 6 * PAGE)),
        ):
            with pytest.raises(QuotaExceeded):
                await attempt()
        assert rig.stat(file) == before
        await rig.put(own(file), 0, bytes(5 * PAGE))  # what is there already may be written
        assert used(rig, USER, 1000).used_bytes == 5 * PAGE
        await done(rig.set_attributes(file, ALICE, size=PAGE))
        await rig.put(own(file), 8 * PAGE, bytes(4 * PAGE))
        other = rig.make_name(b"b", caller=BOB)
        await rig.put(own(other, BOB), 0, bytes(20 * PAGE))
        rig.remove(b"a")
        with pytest.raises(NotFound):
            rig.call(GetQuota(USER, 77))
        assert used(rig, USER, 1000).used_bytes == 0

    run(scenario)


def test_files_are_limited_as_well_and_the_default_holds_for_all_but_the_superuser() -> None:
    async def scenario(rig: VolumeRig) -> None:
        await limit(rig, USER, DEFAULT, files=2)
        rig.make_name(b"a", caller=ALICE)
        rig.mkdir(b"d", caller=ALICE)
        for kind in (Kind.FILE, Kind.DIRECTORY, Kind.FIFO):
            with pytest.raises(QuotaExceeded):
                rig.make_name(b"more", kind, caller=ALICE)
        with pytest.raises(QuotaExceeded):
            rig.open_name(b"more", caller=ALICE)
        assert b"more" not in rig.names()
        await limit(rig, USER, 1000, files=3)
        rig.make_name(b"more", caller=ALICE)
        rig.make_name(b"bob's", caller=BOB)
        for number in range(5):
            rig.make_name(b"root's %d" % number)
        users = {quota.subject: quota.used_files for quota in rig.call(ListQuotas()).quotas if quota.kind == USER}
        assert users == {0: 6, 1000: 3, 1001: 1, DEFAULT: 0}

    run(scenario)


def test_the_volume_and_groups_have_limits_too() -> None:
    async def scenario(rig: VolumeRig) -> None:
        await limit(rig, VOLUME, 0, 10 * PAGE)
        await limit(rig, GROUP, 1001, 4 * PAGE)
        file, other = rig.make_name(b"a", caller=ALICE), rig.make_name(b"b", caller=BOB)
        with pytest.raises(QuotaExceeded):
            await rig.put(own(other, BOB), 0, bytes(5 * PAGE))
        await rig.put(own(other, BOB), 0, bytes(4 * PAGE))
        with pytest.raises(QuotaExceeded):
            await rig.put(own(file), 0, bytes(7 * PAGE))
        await rig.put(own(file), 0, bytes(6 * PAGE))
        assert used(rig, VOLUME).used_bytes == 10 * PAGE

    run(scenario)


def test_whoever_gets_a_file_must_have_room_for_it_and_its_streams() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"a", caller=ALICE)
        await rig.put(own(file), 0, bytes(3 * PAGE))
        stream = rig.open_name(b"a", caller=ALICE, stream=b"s")
        await rig.put(stream.open, 0, bytes(2 * PAGE))
        rig.close_open(stream)
        await limit(rig, USER, 1001, 4 * PAGE)
        with pytest.raises(QuotaExceeded):
            rig.set_attributes(file, SUPER, uid=1001)
        sid = security.sid_bytes(rig.volume.core.judge.identities.sid_of_uid(1001))
        descriptor = security.encode(security.Descriptor(0, sid, None, None, None))
        with pytest.raises(QuotaExceeded):
            rig.call(SetSecurity(Stateless(file, SUPER), security.OWNER_PART, descriptor))
        assert rig.stat(file).uid == 1000
        await limit(rig, USER, 1001, 5 * PAGE)
        rig.set_attributes(file, SUPER, uid=1001)
        assert used(rig, USER, 1001).used_bytes == 5 * PAGE
        assert used(rig, USER, 1001).used_files == 2

    run(scenario)


def test_a_directory_with_a_quota_counts_what_was_there_and_what_comes() -> None:
    async def scenario(rig: VolumeRig) -> None:
        top = rig.mkdir(b"top")
        below = rig.mkdir(b"below", top)
        file = rig.make_name(b"a", at=below)
        await rig.put(Stateless(file, SUPER), 0, bytes(4 * PAGE))
        for number in range(1200):
            rig.make_name(b"%d" % number, at=below)
        quota = await limit(rig, DIRECTORY, top, 6 * PAGE, 1204)
        assert (quota.used_bytes, quota.used_files) == (4 * PAGE, 1203)
        other = rig.make_name(b"b", at=rig.lookup(b"top", b"below").inode)
        with pytest.raises(QuotaExceeded):
            rig.make_name(b"c", at=below)
        with pytest.raises(QuotaExceeded):
            await rig.put(Stateless(other, SUPER), 0, bytes(3 * PAGE))
        await rig.put(Stateless(other, SUPER), 0, bytes(2 * PAGE))
        outside = rig.make_name(b"outside")
        await rig.put(Stateless(outside, SUPER), 0, bytes(30 * PAGE))
        await rig.clean()
        assert rig.call(ListQuotas(directory=below)).quotas == [used(rig, DIRECTORY, top)]
        assert rig.call(ListQuotas(directory=ROOT)).quotas == []
        rig.call(SetQuota(Quota(DIRECTORY, top)))
        await rig.volume.run_once()
        assert rig.record(below).tree == rig.record(file).tree == rig.record(top).tree == 0
        assert next(rig.store.keyspace.walk(keys.QUOTA), None) is None

    run(scenario)


def test_names_move_between_directories_with_quotas_as_between_volumes() -> None:
    async def scenario(rig: VolumeRig) -> None:
        top, other = rig.mkdir(b"top"), rig.mkdir(b"other")
        await limit(rig, DIRECTORY, top, 4 * PAGE)
        file, full, empty = rig.make_name(b"a"), rig.mkdir(b"full"), rig.mkdir(b"empty")
        rig.make_name(b"x", at=full)
        await rig.put(Stateless(file, SUPER), 0, bytes(3 * PAGE))
        with pytest.raises(CrossVolume):
            rig.rename(b"full", b"full", to=top)
        rig.rename(b"empty", b"empty", to=top)
        rig.rename(b"a", b"a", to=top)
        assert used(rig, DIRECTORY, top).used_bytes == 3 * PAGE
        big = rig.make_name(b"big")
        await rig.put(Stateless(big, SUPER), 0, bytes(2 * PAGE))
        with pytest.raises(QuotaExceeded):
            rig.rename(b"big", b"big", to=top)
        with pytest.raises(CrossVolume):
            rig.call(Link(SUPER, big, top, b"link"))
        third = rig.mkdir(b"third")
        await limit(rig, DIRECTORY, third, files=9)
        with pytest.raises(CrossVolume):
            rig.rename(b"top", b"top2", to=third)
        rig.call(Link(SUPER, file, empty, b"link"))
        with pytest.raises(CrossVolume):
            rig.rename(b"a", b"a", at=top)
        rig.remove(b"link", at=empty)
        rig.rename(b"a", b"a", at=top, to=other)
        assert used(rig, DIRECTORY, top).used_files == 2
        rig.rename(b"top", b"renamed", to=other)
        rig.make_name(b"in it", at=top)
        with pytest.raises(InvalidArgument):
            rig.call(SetQuota(Quota(DIRECTORY, empty, 0, 5)))
        with pytest.raises(InvalidArgument):
            rig.call(SetQuota(Quota(DIRECTORY, other, 0, 5)))
        with pytest.raises(InvalidArgument):
            rig.call(SetQuota(Quota(DIRECTORY, ROOT, 0, 5)))

    run(scenario)


def test_what_stays_in_one_tree_is_put_off_until_the_walk_has_come_to_it() -> None:
    async def scenario(rig: VolumeRig) -> None:
        top = rig.mkdir(b"top")
        below = rig.mkdir(b"below", at=top)
        file = rig.make_name(b"f", at=below)
        rig.call(Link(SUPER, file, below, b"second"))
        for size in (1 << 30, 0):  # set, and taken away
            rig.call(SetQuota(Quota(DIRECTORY, top, 0, size)))
            with pytest.raises(Delayed):
                rig.call(Link(SUPER, file, top, b"third"))
            with pytest.raises(Delayed):
                rig.rename(b"f", b"f", at=below, to=top)
            await rig.volume.run_once()
            rig.call(Link(SUPER, file, top, b"third"))
            rig.rename(b"f", b"f", at=below, to=top)
            rig.rename(b"f", b"f", at=top, to=below)
            rig.remove(b"third", at=top)

    run(scenario)


def test_clones_and_copies_count_in_full() -> None:
    async def scenario(rig: VolumeRig) -> None:
        source, target = rig.make_name(b"a", caller=ALICE), rig.make_name(b"b", caller=ALICE)
        data = pattern(100 * PAGE)
        await rig.put(own(source), 0, data)
        await limit(rig, USER, 1000, 150 * PAGE)
        for request in (
            Clone(own(source), 0, own(target), 0, len(data)),
            Copy(own(source), 0, own(target), 0, len(data)),
            Clone(own(source), 0, own(target), PAGE, 60 * PAGE),
        ):
            with pytest.raises(QuotaExceeded):
                await rig.later(request)
        assert rig.stat(target).allocated == 0
        await limit(rig, USER, 1000, 200 * PAGE)
        await rig.later(Clone(own(source), 0, own(target), 0, len(data)))
        assert used(rig, USER, 1000).used_bytes == 200 * PAGE
        await rig.put(own(target), 5, b"changed")
        with pytest.raises(QuotaExceeded):
            await rig.put(own(target), 100 * PAGE, b"x")
        rig.remove(b"a")
        assert used(rig, USER, 1000).used_bytes == 100 * PAGE

    run(scenario, whole_from=1)


def test_free_space_is_what_the_tightest_quota_leaves() -> None:
    async def scenario(rig: VolumeRig) -> None:
        plain = rig.call(GetSpace(ALICE))
        assert plain.available == plain.free
        top = rig.mkdir(b"top", mode=0o777)
        await limit(rig, DIRECTORY, top, 8 * PAGE)
        file = rig.make_name(b"a", at=top, caller=ALICE)
        await rig.put(own(file), 0, bytes(3 * PAGE))
        space = rig.call(GetSpace(ALICE, file))
        assert (space.total, space.available) == (8 * PAGE, 5 * PAGE) and space.free > space.available
        assert rig.call(GetSpace(ALICE, ROOT)).total == plain.total
        await limit(rig, USER, 1000, 4 * PAGE)
        assert rig.call(GetSpace(ALICE, top)).available == PAGE
        assert rig.call(GetSpace(BOB, top)).available == 5 * PAGE
        with pytest.raises(QuotaExceeded):
            rig.open_name(b"top", b"announced", caller=ALICE, allocation=2 * PAGE)
        rig.open_name(b"top", b"announced", caller=ALICE, allocation=PAGE)

    run(scenario)


def test_limits_and_counts_outlive_a_restart_and_half_done_walks_go_on() -> None:
    async def scenario(rig: VolumeRig) -> None:
        top = rig.mkdir(b"top")
        for number in range(20):
            rig.make_name(b"%d" % number, at=rig.mkdir(b"d%d" % number, at=top))
        rig.call(SetQuota(Quota(DIRECTORY, top, 0, 0, 41)))
        await rig.reopen()
        await rig.volume.run_once()
        assert used(rig, DIRECTORY, top).used_files == 41
        with pytest.raises(QuotaExceeded):
            rig.make_name(b"one more", at=top)
        rig.remove(b"0", at=rig.lookup(b"top", b"d0").inode)
        rig.make_name(b"one more", at=top)

    run(scenario)


def test_a_removed_directory_takes_its_quota_along() -> None:
    async def scenario(rig: VolumeRig) -> None:
        top = rig.mkdir(b"top")
        await limit(rig, DIRECTORY, top, 8 * PAGE)
        rig.remove(b"top")
        await rig.volume.run_once()
        assert rig.call(ListQuotas()).quotas == []
        assert next(rig.store.keyspace.walk(keys.QUOTA), None) is None

    run(scenario)


def test_a_wrong_count_is_found() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.make_name(b"a", caller=ALICE)
        await limit(rig, USER, 1000, 8 * PAGE)
        overlay = rig.store.keyspace.overlay
        for key, value in list(rig.store.keyspace.walk(keys.QUOTA)):
            if key[-1:] == b"l":
                continue
            overlay.put(key, (99).to_bytes(8, "little"))
            assert (await rig.check()).findings, key
            overlay.delete(key)
            assert (await rig.check()).findings, key
            overlay.put(key, value)
        await rig.clean()

    run(scenario)


def test_a_volume_without_quotas_counts_nothing() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"a", caller=ALICE)
        await rig.put(own(file), 0, bytes(PAGE))
        assert next(rig.store.keyspace.walk(keys.QUOTA), None) is None
        await limit(rig, USER, 1000, 8 * PAGE)
        rig.call(SetQuota(Quota(USER, 1000)))
        assert next(rig.store.keyspace.walk(keys.QUOTA), None) is None
        with pytest.raises(NotFound):
            rig.call(SetQuota(Quota(USER, 1000)))
        assert isinstance(rig.call(SetAttributes(own(file), Changes(mode=0o600))), Reply)
        assert Access.ALL

    run(scenario)


def test_a_soft_limit_is_warned_about_once_and_hinders_nobody() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"a", caller=ALICE)
        rig.call(SetQuota(Quota(USER, 1000, 2 * PAGE, 100 * PAGE)))
        await rig.volume.run_once()
        with capture_logs() as logs:
            for page in range(5):
                await rig.put(own(file), page * PAGE, bytes(PAGE))
            assert [entry["whose"] for entry in logs if entry["event"] == "soft_quota_exceeded"] == ["user 1000"]
            await done(rig.set_attributes(file, ALICE, size=0))
            for page in range(5):
                await rig.put(own(file), page * PAGE, bytes(PAGE))
            assert len([entry for entry in logs if entry["event"] == "soft_quota_exceeded"]) == 2

    run(scenario)
