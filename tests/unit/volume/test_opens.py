"""Opens over a real volume: dispositions, rights, sharing, deletion, streams."""

import itertools

import pytest

from sofs.errors import (
    AccessDenied,
    CannotDelete,
    Closed,
    DeletePending,
    Exists,
    InvalidArgument,
    IsDirectory,
    LockConflict,
    LockNotHeld,
    NotDirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    ReadOnly,
    SharingViolation,
    SofsError,
    Stale,
)
from sofs.types import ROOT, Kind
from sofs.volume.api import (
    ARCHIVE,
    HIDDEN,
    READONLY,
    Access,
    Action,
    Clone,
    Copy,
    Disposition,
    GetExtended,
    ListOpens,
    ListStreams,
    Lock,
    Open,
    ReadDirectory,
    Rename,
    SetDisposition,
    Stateless,
    Unlock,
)
from tests.unit.volume.volume_rig import ALICE, BOB, SUPER, VolumeRig, run

READ, WRITE, DELETE = int(Access.READ_DATA), int(Access.WRITE_DATA), int(Access.DELETE)
SHARE_READ, SHARE_WRITE, SHARE_DELETE = 1, 2, 4

DISPOSITIONS = [
    # disposition, the file exists, what comes of it, whether its data is still there
    (Disposition.SUPERSEDE, True, Action.SUPERSEDED, False),
    (Disposition.SUPERSEDE, False, Action.CREATED, False),
    (Disposition.OPEN, True, Action.OPENED, True),
    (Disposition.OPEN, False, NotFound, False),
    (Disposition.CREATE, True, Exists, True),
    (Disposition.CREATE, False, Action.CREATED, False),
    (Disposition.OPEN_IF, True, Action.OPENED, True),
    (Disposition.OPEN_IF, False, Action.CREATED, False),
    (Disposition.OVERWRITE, True, Action.OVERWRITTEN, False),
    (Disposition.OVERWRITE, False, NotFound, False),
    (Disposition.OVERWRITE_IF, True, Action.OVERWRITTEN, False),
    (Disposition.OVERWRITE_IF, False, Action.CREATED, False),
]


@pytest.mark.parametrize("stream", [b"", b"s"], ids=["file", "stream"])
@pytest.mark.parametrize(("disposition", "exists", "outcome", "kept"), DISPOSITIONS)
def test_each_disposition_does_what_the_table_says(
    disposition: Disposition, exists: bool, outcome: Action | type[SofsError], kept: bool, stream: bytes
) -> None:
    async def scenario(rig: VolumeRig) -> None:
        if stream:
            rig.make_name(b"x")
        if exists:
            first = rig.open_name(b"x", stream=stream)
            await rig.put(first.open, 0, b"data" * 3000)
            rig.close_open(first)
        if isinstance(outcome, Action):
            opened = rig.open_name(b"X", disposition=disposition, stream=stream)
            assert opened.action == outcome and opened.path == ((b"x",) if exists or stream else (b"X",))
            assert opened.attributes.size == (12_000 if kept else 0)
            assert opened.attributes.allocated == (12_288 if kept else 0)
        else:
            with pytest.raises(outcome):
                rig.open_name(b"X", disposition=disposition, stream=stream)

    run(scenario)


@pytest.mark.parametrize("first_access", [READ, WRITE, DELETE, int(Access.READ_ATTRIBUTES)])
@pytest.mark.parametrize("first_share", range(8))
def test_every_pair_of_opens_goes_by_rights_and_share_modes(first_access: int, first_share: int) -> None:
    needs = {READ: SHARE_READ, WRITE: SHARE_WRITE, DELETE: SHARE_DELETE, int(Access.READ_ATTRIBUTES): 0}

    async def scenario(rig: VolumeRig) -> None:
        rig.open_name(b"x", access=first_access, share=first_share)
        for access, share in itertools.product(needs, range(8)):
            fits = not needs[access] & ~first_share and not needs[first_access] & ~share
            expected = fits or not needs[access] or not needs[first_access]
            try:
                rig.close_open(rig.open_name(b"x", access=access, share=share))
                assert expected, (access, share)
            except SharingViolation:
                assert not expected, (access, share)

    run(scenario)


def test_what_must_be_a_directory_or_a_file_is_one() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.make_name(b"f")
        rig.mkdir(b"d")
        with pytest.raises(NotDirectory):
            rig.open_name(b"f", directory=True)
        with pytest.raises(IsDirectory):
            rig.open_name(b"d", directory=False)
        for disposition in (Disposition.OVERWRITE, Disposition.SUPERSEDE, Disposition.OVERWRITE_IF):
            with pytest.raises(InvalidArgument):
                rig.open_name(b"d", disposition=disposition)
        made = rig.open_name(b"new", directory=True, disposition=Disposition.CREATE)
        assert made.attributes.kind == Kind.DIRECTORY and made.attributes.flags == 0
        assert rig.open_name(b"file").attributes.flags == ARCHIVE
        assert rig.open_name().attributes.inode == ROOT

    run(scenario)


def test_overwriting_takes_streams_and_attributes_along() -> None:
    async def scenario(rig: VolumeRig) -> None:
        first = rig.open_name(b"x", attributes=((b"EA", b"1"),), flags=HIDDEN)
        rig.close_open(rig.open_name(b"x", stream=b"s"))
        rig.close_open(first)
        with pytest.raises(AccessDenied):
            rig.open_name(b"x", disposition=Disposition.OVERWRITE)
        opened = rig.open_name(b"x", disposition=Disposition.OVERWRITE, flags=HIDDEN)
        assert rig.call(GetExtended(opened.open)).attributes == []
        assert rig.call(ListStreams(opened.open)).streams == []
        assert opened.attributes.flags == HIDDEN | ARCHIVE

    run(scenario)


def test_a_large_file_is_overwritten_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sofs.volume.ranges.SLICE", 64)

    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"big")
        await rig.put(Stateless(file, SUPER), 0, b"x" * (1 << 20))
        await rig.put(Stateless(file, SUPER), 1 << 20, b"x" * (1 << 20))
        request = Open(SUPER, ROOT, (b"big",), int(Access.ALL), 0, Disposition.OVERWRITE)
        opened = await rig.later(request)
        assert (opened.attributes.size, opened.attributes.allocated) == (0, 0)
        with pytest.raises(SharingViolation):
            rig.open_name(b"big")

    run(scenario)


def test_a_read_only_file_is_neither_written_nor_deleted() -> None:
    async def scenario(rig: VolumeRig) -> None:
        writer = rig.open_name(b"x", flags=READONLY)
        await rig.put(writer.open, 0, b"the one who made it may")
        rig.close_open(writer)
        with pytest.raises(AccessDenied):
            rig.open_name(b"x", access=WRITE)
        with pytest.raises(AccessDenied):
            rig.open_name(b"x", disposition=Disposition.OVERWRITE)
        with pytest.raises(CannotDelete):
            rig.open_name(b"x", access=DELETE, delete_on_close=True)
        with pytest.raises(CannotDelete):
            rig.open_name(b"y", flags=READONLY, delete_on_close=True)
        opened = rig.open_name(b"x", access=int(Access.MAXIMUM_ALLOWED))
        assert opened.access & DELETE and not opened.access & WRITE
        with pytest.raises(CannotDelete):
            rig.call(SetDisposition(opened.open, True))

    run(scenario)


def test_rights_are_granted_as_asked_for_and_never_beyond() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.make_name(b"x", mode=0o640, caller=ALICE)
        hers = rig.open_name(b"x", access=int(Access.MAXIMUM_ALLOWED), caller=ALICE)
        assert hers.access == int(Access.ALL) == hers.maximal
        for access in (READ, WRITE, int(Access.WRITE_DAC), int(Access.MAXIMUM_ALLOWED) | READ):
            with pytest.raises(AccessDenied):
                rig.open_name(b"x", access=access, caller=BOB)
        his = rig.open_name(b"x", access=int(Access.MAXIMUM_ALLOWED), caller=BOB)
        assert not his.access & (READ | WRITE) and his.access & DELETE  # the directory lets him delete
        with pytest.raises(AccessDenied):
            await rig.content(his.open)
        with pytest.raises(AccessDenied):
            rig.open_name(b"x", access=0)
        # MS-FSA 2.1.5.1 refuses no access at all and 0x0CE0FE00; SYNCHRONIZE alone is neither.
        rig.open_name(b"x", access=int(Access.SYNCHRONIZE))

    run(scenario)


def test_deletion_waits_for_the_last_close_and_opens_are_refused_meanwhile() -> None:
    async def scenario(rig: VolumeRig) -> None:
        first, second = rig.open_name(b"x"), rig.open_name(b"x")
        rig.call(SetDisposition(first.open, True))
        with pytest.raises(DeletePending):
            rig.open_name(b"x")
        assert rig.lookup(b"x").delete_pending
        rig.close_open(first)
        assert rig.names() == {b"x"}
        rig.call(SetDisposition(second.open, False))
        rig.close_open(rig.open_name(b"x"))
        rig.call(SetDisposition(second.open, True))
        rig.close_open(second)
        assert rig.names() == set()
        with pytest.raises(Closed):
            rig.close_open(second)

    run(scenario)


def test_a_file_opened_with_delete_on_close_goes_with_it() -> None:
    async def scenario(rig: VolumeRig) -> None:
        with pytest.raises(AccessDenied):
            rig.open_name(b"x", access=READ, delete_on_close=True)
        opened = rig.open_name(b"x", delete_on_close=True)
        other = rig.open_name(b"x")
        rig.close_open(opened)
        with pytest.raises(DeletePending):
            rig.open_name(b"x")
        rig.close_open(other)
        assert rig.names() == set()

    run(scenario)


def test_an_open_that_fails_leaves_no_mark() -> None:
    async def scenario(rig: VolumeRig) -> None:
        held = rig.open_name(b"x", share=0)
        with pytest.raises(SharingViolation):
            rig.open_name(b"x", delete_on_close=True)
        with pytest.raises(SharingViolation):
            rig.open_name(b"x", disposition=Disposition.OVERWRITE)
        rig.close_open(held)
        assert rig.names() == {b"x"}
        assert rig.open_name(b"x", share=0).action == Action.OPENED

    run(scenario)


def test_a_directory_is_deleted_only_while_it_is_empty() -> None:
    async def scenario(rig: VolumeRig) -> None:
        directory = rig.mkdir(b"d")
        opened = rig.open_name(b"d")
        rig.make_name(b"x", at=directory)
        with pytest.raises(NotEmpty):
            rig.call(SetDisposition(opened.open, True))
        rig.remove(b"x", at=directory)
        rig.call(SetDisposition(opened.open, True))
        rig.make_name(b"y", at=directory)
        rig.close_open(opened)
        assert rig.names() == {b"d"}
        root = rig.open_name()
        with pytest.raises(CannotDelete):
            rig.call(SetDisposition(root.open, True))

    run(scenario)


def test_posix_deletion_takes_the_name_at_once() -> None:
    async def scenario(rig: VolumeRig) -> None:
        opened = rig.open_name(b"x")
        await rig.put(opened.open, 0, b"data")
        rig.call(SetDisposition(opened.open, True, posix=True))
        assert rig.names() == set()
        assert await rig.content(opened.open) == b"data"
        rig.close_open(rig.open_name(b"x"))
        rig.close_open(opened)
        assert rig.names() == {b"x"}

    run(scenario)


def test_deletion_takes_the_name_that_was_marked_wherever_it_has_moved() -> None:
    async def scenario(rig: VolumeRig) -> None:
        directory = rig.mkdir(b"d")
        opened = rig.open_name(b"x", delete_on_close=True)
        rig.call(Rename(SUPER, directory, b"y", False, open=opened.open, fold=True))
        assert rig.names(directory) == {b"y"}
        rig.close_open(opened)
        assert rig.names(directory) == set()

    run(scenario)


def test_smb_renames_through_opens() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.make_name(b"taken")
        opened = rig.open_name(b"x")
        with pytest.raises(Exists):
            rig.call(Rename(SUPER, ROOT, b"TAKEN", False, open=opened.open, fold=True))
        blocking = rig.open_name(b"taken")
        with pytest.raises(AccessDenied):
            rig.call(Rename(SUPER, ROOT, b"taken", True, open=opened.open, fold=True))
        rig.close_open(blocking)
        rig.call(Rename(SUPER, ROOT, b"Taken", True, open=opened.open, fold=True))
        assert rig.names() == {b"Taken"}
        reader = rig.open_name(b"Taken", access=READ)
        with pytest.raises(AccessDenied):
            rig.call(Rename(SUPER, ROOT, b"z", False, open=reader.open, fold=True))

    run(scenario)


def test_a_directory_with_open_files_below_stays_where_smb_clients_know_it() -> None:
    async def scenario(rig: VolumeRig) -> None:
        directory = rig.mkdir(b"d")
        deeper = rig.mkdir(b"e", at=directory)
        opened = rig.open_name(b"d")
        inner = rig.open_name(b"x", at=deeper)
        with pytest.raises(AccessDenied):
            rig.call(Rename(SUPER, ROOT, b"f", False, open=opened.open, fold=True))
        with pytest.raises(AccessDenied):
            rig.call(Rename(SUPER, ROOT, b"d", False, open=opened.open, fold=True))  # nor to its own name
        rig.close_open(inner)
        rig.call(Rename(SUPER, ROOT, b"f", False, open=opened.open, fold=True))
        assert rig.names() == {b"f"}

    run(scenario)


def test_a_stream_has_data_of_its_own_and_the_rest_from_its_file() -> None:
    async def scenario(rig: VolumeRig) -> None:
        stream = rig.open_name(b"x", stream=b"s")
        assert stream.action == Action.CREATED and rig.names() == {b"x"}
        await rig.put(stream.open, 0, b"beside")
        file = rig.lookup(b"x")
        found = rig.stat(stream.open, by_open=True)
        assert (found.size, found.parent, found.mode, found.links) == (6, file.inode, file.mode, 1)
        assert (file.size, found.inode != file.inode) == (0, True)
        assert rig.call(ListStreams(Stateless(file.inode, SUPER))).streams == [(b"s", 6, 4096)]
        assert rig.open_name(b"x", stream=b"S", disposition=Disposition.OPEN).attributes.size == 6
        with pytest.raises(NotFound):
            rig.open_name(b"x", stream=b"t", disposition=Disposition.OPEN)
        directory = rig.mkdir(b"d")
        rig.open_name(b"d", stream=b"s", directory=False)
        assert rig.call(ListStreams(Stateless(directory, SUPER))).streams == [(b"s", 0, 0)]

    run(scenario)


def test_a_stream_gets_another_name() -> None:
    async def scenario(rig: VolumeRig) -> None:
        opened = rig.open_name(b"x", stream=b"s")
        await rig.put(opened.open, 0, b"data")
        rig.close_open(rig.open_name(b"x", stream=b"taken"))
        rig.call(Rename(SUPER, ROOT, b"", False, open=opened.open, stream=b"S"))
        with pytest.raises(Exists):
            rig.call(Rename(SUPER, ROOT, b"", False, open=opened.open, stream=b"TAKEN"))
        rig.call(Rename(SUPER, ROOT, b"", True, open=opened.open, stream=b"TAKEN"))
        assert rig.call(ListStreams(opened.open)).streams == [(b"TAKEN", 4, 4096)]
        rig.call(SetDisposition(opened.open, True))
        rig.close_open(opened)
        assert rig.call(ListStreams(Stateless(rig.lookup(b"x").inode, SUPER))).streams == []

    run(scenario)


def test_an_open_of_the_directory_can_keep_names_from_being_moved_into_it() -> None:
    async def scenario(rig: VolumeRig) -> None:
        rig.mkdir(b"d")
        access = int(Access.READ_DATA)
        for held, share, refused in ((access | DELETE, 7, True), (access, 5, True), (access, 7, False), (access, 3, False)):
            parent = rig.open_name(b"d", access=held, share=share)
            inode = parent.attributes.inode
            opened = rig.open_name(b"x", disposition=Disposition.CREATE)
            request = Rename(SUPER, inode, b"y", False, open=opened.open, fold=True)
            if refused:
                with pytest.raises(SharingViolation):
                    rig.call(request)
            else:
                rig.call(request)
            rig.call(SetDisposition(opened.open, True))
            rig.close_open(opened)
            rig.close_open(parent)

    run(scenario)


def test_streams_go_with_their_file_and_alone() -> None:
    async def scenario(rig: VolumeRig) -> None:
        stream = rig.open_name(b"x", stream=b"s")
        await rig.put(stream.open, 0, b"x" * 5000)
        rig.call(SetDisposition(stream.open, True))
        rig.close_open(stream)
        file = rig.lookup(b"x").inode
        assert rig.call(ListStreams(Stateless(file, SUPER))).streams == []
        again = rig.open_name(b"x", stream=b"s")
        await rig.put(again.open, 0, b"y" * 5000)
        rig.close_open(again)
        rig.remove(b"x")
        assert rig.names() == set()

    run(scenario)


def test_an_open_stream_holds_its_file() -> None:
    async def scenario(rig: VolumeRig) -> None:
        closed = rig.open_name(b"x", stream=b"s", share=SHARE_READ | SHARE_WRITE)
        with pytest.raises(SharingViolation):
            rig.open_name(b"x", access=DELETE)
        with pytest.raises(SharingViolation):
            rig.remove(b"x")
        rig.close_open(closed)
        shared = rig.open_name(b"x", stream=b"s", share=7)
        doomed = rig.open_name(b"x", access=DELETE)
        with pytest.raises(SharingViolation):
            rig.open_name(b"x", stream=b"s", share=SHARE_READ)
        rig.call(SetDisposition(doomed.open, True))
        with pytest.raises(DeletePending):
            rig.open_name(b"x", stream=b"t")
        rig.close_open(doomed)
        assert rig.names() == {b"x"}
        rig.close_open(shared)
        assert rig.names() == set()

    run(scenario)


def test_byte_ranges_bind_reads_and_writes() -> None:
    async def scenario(rig: VolumeRig) -> None:
        first, second = rig.open_name(b"x"), rig.open_name(b"x")
        await rig.put(first.open, 0, b"0123456789")
        rig.call(Lock(first.open, 2, 4, True))
        for offset in (0, 5):
            with pytest.raises(LockConflict):
                await rig.content(second.open, offset, 3)
        assert await rig.content(second.open, 6, 3) == b"678"
        with pytest.raises(LockConflict):
            await rig.put(Stateless(first.attributes.inode, SUPER), 3, b"x")
        with pytest.raises(LockConflict):
            rig.set_attributes(first.attributes.inode, size=3)
        with pytest.raises(LockConflict):
            rig.call(Lock(second.open, 5, 1, False))
        with pytest.raises(LockNotHeld):
            rig.call(Unlock(second.open, 2, 4))
        waiting = rig.volume.call(Lock(second.open, 5, 1, False, wait=True), None, (1, 1))  # type: ignore[arg-type]
        rig.call(Unlock(first.open, 2, 4))
        await waiting  # type: ignore[misc]
        with pytest.raises(LockConflict):
            await rig.put(first.open, 5, b"x")

    run(scenario)


def test_a_clone_passes_locked_bytes_and_a_copy_does_not() -> None:
    async def scenario(rig: VolumeRig) -> None:
        source, target, other = rig.open_name(b"source"), rig.open_name(b"target"), rig.open_name(b"source")
        await rig.put(source.open, 0, b"x" * 8192)
        rig.call(Lock(other.open, 0, 8192, True))
        with pytest.raises(LockConflict):
            await rig.later(Copy(source.open, 0, target.open, 0, 8192))
        await rig.later(Clone(source.open, 0, target.open, 0, 8192))
        assert await rig.content(target.open) == b"x" * 8192

    run(scenario)


def test_a_write_of_nothing_succeeds_wherever_it_is() -> None:
    async def scenario(rig: VolumeRig) -> None:
        opened = rig.open_name(b"x")
        await rig.put(opened.open, (1 << 63) - 1, b"")
        assert rig.stat(opened.open, by_open=True).size == 0

    run(scenario)


def test_stateless_io_is_denied_what_share_modes_deny() -> None:
    async def scenario(rig: VolumeRig) -> None:
        opened = rig.open_name(b"x", share=SHARE_READ)
        target = Stateless(opened.attributes.inode, SUPER)
        await rig.content(target)
        with pytest.raises(SharingViolation):
            await rig.put(target, 0, b"x")

    run(scenario)


def test_stateless_io_goes_by_the_mode_except_for_the_owner() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x", mode=0o400, caller=ALICE)
        await rig.put(Stateless(file, ALICE), 0, b"data")
        for caller in (BOB,):
            with pytest.raises(AccessDenied):
                await rig.content(Stateless(file, caller))
            with pytest.raises(AccessDenied):
                await rig.put(Stateless(file, caller), 0, b"x")
        with pytest.raises(Stale):
            await rig.content(Stateless(file, ALICE, generation=9))
        directory = rig.mkdir(b"d")
        with pytest.raises(IsDirectory):
            await rig.content(Stateless(directory, SUPER))

    run(scenario)


def test_an_open_with_the_same_guid_is_answered_not_repeated() -> None:
    async def scenario(rig: VolumeRig) -> None:
        first = rig.open_name(b"x", share=0, guid=b"g" * 16)
        assert rig.open_name(b"x", share=0, guid=b"g" * 16) == first
        rig.close_open(first)
        assert rig.open_name(b"x", share=0, guid=b"g" * 16).open != first.open

    run(scenario)


def test_a_directory_is_listed_through_its_open_by_the_opens_rights() -> None:
    async def scenario(rig: VolumeRig) -> None:
        directory = rig.mkdir(b"d")
        inner = rig.make_name(b"x", at=directory)
        blind = rig.open_name(b"d", access=int(Access.READ_ATTRIBUTES))
        with pytest.raises(AccessDenied):
            rig.call(ReadDirectory(SUPER, directory, 0, 10, open=blind.open))
        opened = rig.open_name(b"d", access=READ)
        # The open says which directory it is, whatever else is given.
        [entry] = rig.call(ReadDirectory(SUPER, ROOT, 0, 10, open=opened.open)).entries
        assert entry.inode == inner
        file = rig.open_name(b"f")
        with pytest.raises(NotDirectory):
            rig.call(ReadDirectory(SUPER, ROOT, 0, 10, open=file.open))

    run(scenario)


def test_operators_see_the_opens() -> None:
    async def scenario(rig: VolumeRig) -> None:
        opened = rig.open_name(b"x", stream=b"s", caller=ALICE)
        [info] = rig.call(ListOpens()).opens
        assert (info.open, info.name, info.uid, info.directory) == (opened.open, b"x:s", 1000, ROOT)
        assert rig.call(ListOpens(ROOT)).opens == []

    run(scenario)


def test_opens_of_another_start_are_gone_and_their_numbers_too() -> None:
    async def scenario(rig: VolumeRig) -> None:
        before = rig.open_name(b"x")
        await rig.reopen()
        with pytest.raises(Closed):
            await rig.content(before.open)
        assert rig.open_name(b"x", share=0).open > before.open

    run(scenario)


def test_a_read_only_volume_changes_nothing() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x")
        opened = rig.open_name(b"x")
        rig.volume.core.read_only = True
        for attempt in (
            lambda: rig.make_name(b"y"),
            lambda: rig.remove(b"x"),
            lambda: rig.rename(b"x", b"y"),
            lambda: rig.set_attributes(file, mode=0o600),
            lambda: rig.set_attributes(file, size=1),
            lambda: rig.open_name(b"z"),
            lambda: rig.open_name(b"x", disposition=Disposition.OVERWRITE),
            lambda: rig.open_name(b"x", delete_on_close=True),
            lambda: rig.call(SetDisposition(opened.open, True)),
        ):
            with pytest.raises(ReadOnly):
                attempt()
        with pytest.raises(ReadOnly):
            await rig.put(opened.open, 0, b"x")
        with pytest.raises(ReadOnly):
            await rig.put(Stateless(file, SUPER), 0, b"x")

    run(scenario)


def test_the_locks_of_a_file_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from sofs.volume import locking

    monkeypatch.setattr(locking, "MAX_LOCKS", 5)

    async def scenario(rig: VolumeRig) -> None:
        opened = rig.open_name(b"x", access=Access.READ_DATA | Access.WRITE_DATA, disposition=Disposition.CREATE)
        for number in range(5):
            rig.call(Lock(opened.open, number * 10, 5, True))
        for wait in (False, True):
            with pytest.raises(LockConflict):
                rig.call(Lock(opened.open, 100, 5, True, wait))
        rig.call(Unlock(opened.open, 0, 5))
        rig.call(Lock(opened.open, 100, 5, True))

    run(scenario)


def test_only_the_owner_changes_modes_and_only_the_superuser_gives_away() -> None:
    async def scenario(rig: VolumeRig) -> None:
        file = rig.make_name(b"x", mode=0o644, caller=ALICE)
        for changes in ({"mode": 0o777}, {"uid": 1001}, {"modified": 5}, {"flags": HIDDEN}):
            with pytest.raises(NotPermitted):
                rig.set_attributes(file, BOB, **changes)
        with pytest.raises(NotPermitted):
            rig.set_attributes(file, ALICE, uid=1001)
        with pytest.raises(AccessDenied):
            rig.set_attributes(file, BOB, modified=-1)
        rig.set_attributes(file, SUPER, mode=0o4755)
        rig.set_attributes(file, ALICE, mode=0o6755, modified=-1, accessed=77)
        found = rig.stat(file)
        assert (found.mode, found.accessed) == (0o6755, 77)
        rig.set_attributes(file, ALICE, gid=1000)
        assert rig.stat(file).mode == 0o755

    run(scenario)
