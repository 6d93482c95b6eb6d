"""File handles: what they say, to whom, and what is refused."""

import pytest

from gateways.exports import Client, NfsOptions, Share, Shares, Squash
from gateways.nfs.auth import Credential
from gateways.nfs.handles import FORMS, HANDLE_SIZE, BadHandle, Handles, Named, Place, Places
from sofs.errors import AccessDenied, Stale, Unavailable
from sofs.types import Inode, VolumeId
from sofs.volume.api import Caller, Volume

KEY = bytes(range(32))
VOLUME = VolumeId(0x1122334455667788)


class AVolume:
    """Only its identity matters here."""


def places(*shares: Share, peer: str = "10.1.2.3", serving: bool = True, port: int = 50_000) -> Places:
    volume: Volume = AVolume()  # type: ignore[assignment]
    registry = Shares(lambda number: volume if serving else None)
    registry.replace(shares)
    return Places(Handles(KEY), registry, lambda uid: (uid + 1000,), peer, port)


def share(number: int = 5, **options: object) -> Share:
    return Share(f"share{number}", number, VOLUME, nfs=NfsOptions(**options))  # type: ignore[arg-type]


def handle(export: int = 5, inode: int = 42, generation: int = 3) -> bytes:
    return Handles(KEY).make(export, VOLUME, Inode(inode), generation)


def at(found: Places, which: bytes, who: Credential | None = None) -> Place:
    place = found.at(which, who or Credential(False, 7, 8, (9,)))
    assert place is not None
    return place


def test_a_handle_says_what_it_was_made_of_after_any_restart() -> None:
    made = Handles(KEY).make(5, VOLUME, Inode(42), 3, 9)
    assert len(made) == HANDLE_SIZE <= 64
    assert Handles(KEY).read(made) == Named(5, VOLUME, 9, Inode(42), 3)
    # The format is for ever: clients hold handles over upgrades.
    assert made.hex() == ("010000000000000511223344556677880000000000000009000000000000002a0000000300000000" + made[-8:].hex())


def test_no_changed_byte_goes_unnoticed() -> None:
    made = handle()
    for index in range(len(made)):
        changed = bytearray(made)
        changed[index] ^= 1
        with pytest.raises(BadHandle):
            Handles(KEY).read(bytes(changed))


@pytest.mark.parametrize("data", [b"", b"x", bytes(48), bytes(64), handle()[:-1], handle() + b"\0"])
def test_what_is_no_handle_is_refused(data: bytes) -> None:
    with pytest.raises(BadHandle):
        Handles(KEY).read(data)


def test_another_clusters_handle_is_refused() -> None:
    with pytest.raises(BadHandle):
        Handles(bytes(32)).read(handle())


def test_a_place_has_the_file_and_the_users_rights() -> None:
    place = at(places(share()), handle())
    assert place.target.inode == 42
    assert place.target.generation == 3
    assert place.caller == Caller(7, 8, (9,))
    assert not place.read_only


def test_the_handle_of_an_export_that_is_gone_is_stale() -> None:
    found = places(share(6))
    with pytest.raises(Stale):
        at(found, handle())
    with pytest.raises(Stale):
        at(places(share(enabled=False)), handle())


def test_places_are_forgotten_when_the_shares_change() -> None:
    found = places(share())
    at(found, handle())
    found.shares.replace([])
    with pytest.raises(Stale):
        at(found, handle())


def test_a_volume_that_is_not_served_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        at(places(share(), serving=False), handle())


def test_an_address_outside_the_client_list_is_refused() -> None:
    lines = (Client("10.1.0.0/16", read_only=True), Client("192.0.2.9"))
    assert at(places(share(clients=lines)), handle()).read_only
    assert not at(places(share(clients=lines), peer="::ffff:192.0.2.9"), handle()).read_only
    with pytest.raises(AccessDenied):
        at(places(share(clients=lines), peer="192.0.2.8"), handle())


def test_the_directory_above_the_exports_has_its_own_handle() -> None:
    found = places()
    assert found.at(found.root_handle, Credential(True)) is None


def test_two_users_on_one_connection_do_not_share_a_place() -> None:
    found = places(share())
    one, other = Credential(False, 1, 1), Credential(False, 2, 2)
    assert at(found, handle(), one).caller.uid == 1
    assert at(found, handle(), other).caller.uid == 2
    assert at(found, handle(), one).caller.uid == 1


ROOT, USER = Credential(False, 0, 0, (0, 5)), Credential(False, 7, 0, (0, 5))
NOBODY = Caller(65534, 65534)


@pytest.mark.parametrize(
    ("squash", "who", "expected"),
    [
        (Squash.NONE, ROOT, Caller(0, 0, (0, 5), privileged=True)),
        (Squash.NONE, USER, Caller(7, 0, (0, 5))),
        (Squash.NONE, Credential(True), NOBODY),
        (Squash.ROOT, ROOT, NOBODY),
        (Squash.ROOT, USER, Caller(7, 65534, (5,))),
        (Squash.ROOT, Credential(True), NOBODY),
        (Squash.ALL, ROOT, NOBODY),
        (Squash.ALL, USER, NOBODY),
        (Squash.ALL, Credential(True), NOBODY),
    ],
)
def test_squashing(squash: Squash, who: Credential, expected: Caller) -> None:
    assert at(places(share(clients=(Client(squash=squash),))), handle(), who).caller == expected


def test_a_full_group_list_is_completed_at_the_server() -> None:
    many = Credential(False, 7, 8, tuple(range(100, 116)))
    assert at(places(share()), handle(), many).caller.groups == (*range(100, 116), 1007)
    fewer = Credential(False, 7, 8, tuple(range(100, 115)))
    assert at(places(share()), handle(), fewer).caller.groups == tuple(range(100, 115))


def test_an_export_for_privileged_ports_is_for_nobody_else() -> None:
    guarded, plain = share(5, require_privileged_port=True), share(6)
    for port, seen in ((1023, [guarded, plain]), (1024, [plain])):
        found = places(guarded, plain, port=port)
        assert found.visible() == seen
        assert at(found, handle(6)).share == plain
        if guarded in seen:
            assert at(found, handle(5)).share == guarded
        else:
            with pytest.raises(AccessDenied):
                found.at(handle(5), Credential(False, 7, 8, ()))
            with pytest.raises(AccessDenied):
                found.place(guarded, Credential(False, 0, 0, ()), Inode(1))


def test_what_is_remembered_of_listings_goes_when_it_is_not_asked_for() -> None:
    handles, tree = Handles(KEY), handle()
    first = handles.listed(tree, 0)
    first[1] = b"record", 3, b"name", b"entry"
    for form in range(1, 2 * FORMS):
        handles.listed(tree, form)
        assert handles.listed(handle(inode=7), 0) is first, "one tree, one form"
    for form in range(1, FORMS + 1):
        handles.listed(tree, form)
    assert handles.listed(tree, 0) == {}
