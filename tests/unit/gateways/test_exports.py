"""Shares as values, and the set that is offered."""

import pytest

from gateways.exports import Client, NfsOptions, Share, Shares, SmbOptions, Squash
from sofs.errors import ConfigError, InvalidName
from sofs.types import Inode, VolumeId


def share(name: str, number: int = 1) -> Share:
    return Share(name, number, VolumeId(9))


def test_a_share_is_stored_and_read_back() -> None:
    whole = Share(
        "data", 3, VolumeId(9), Inode(77), "/a", "for all", True,
        SmbOptions(encrypt=True), NfsOptions(clients=(Client("10.0.0.0/8", True, Squash.ALL, 5, 6),)),
    )  # fmt: skip
    assert Share.decode(whole.encode()) == whole


def test_what_a_newer_version_has_added_is_ignored() -> None:
    assert Share.decode(b'{"name":"a","number":1,"volume":9,"novelty":1}') == share("a")


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{}",
        b'{"name":"a/b","number":1,"volume":9}',
        b'{"name":"a","number":0,"volume":9}',
        b'{"name":"a","number":1,"volume":"x"}',
        b'{"name":"\xff","number":1,"volume":9}',
        b'{"name":"a","number":1,"volume":9,"nfs":{"clients":[{"network":"10.0.0.0/33"}]}}',
        b'{"name":"a","number":1,"volume":9,"nfs":{"clients":[{"squash":"some"}]}}',
        b'{"name":"a","number":1,"volume":9,"nfs":{"clients":[{"anonymous_uid":-1}]}}',
    ],
)
def test_a_record_that_makes_no_share_is_refused(record: bytes) -> None:
    with pytest.raises(ConfigError):
        Share.decode(record)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a:b", "a\nb", "x" * 81])
def test_a_name_that_clients_could_not_use_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        share(name)


def test_lookup_is_exact_and_folds_when_asked() -> None:
    shares = Shares(lambda volume: None)
    shares.replace([share("Data", 1), share("data", 2), share("Other", 3)])
    assert shares.named("DATA") is None
    assert shares.named("data") == share("data", 2)
    assert shares.named("Data", fold=True) == share("Data", 1)
    assert shares.named("DATA", fold=True) in (share("Data", 1), share("data", 2))
    assert shares.numbered(3) == share("Other", 3)
    assert [one.name for one in shares.all()] == ["Data", "Other", "data"]


def test_replacing_the_shares_is_noticed() -> None:
    shares = Shares(lambda volume: None)
    before = shares.version
    shares.replace([share("a")])
    assert shares.version > before
    shares.replace([])
    assert shares.named("a") is None


def test_the_first_line_that_admits_a_client_counts() -> None:
    lines = (Client("10.1.0.0/16", squash=Squash.NONE), Client("10.0.0.0/8", read_only=True), Client("2001:db8::/32"))
    one = Share("a", 1, VolumeId(9), nfs=NfsOptions(clients=lines))
    assert one.client("10.1.2.3", 2000) is lines[0]
    assert one.client("10.2.2.3", 2000) is lines[1]
    assert one.client("::ffff:10.2.2.3", 2000) is lines[1]
    assert one.client("2001:db8::1%eth0", 2000) is lines[2]
    assert one.client("192.0.2.1", 2000) is None
