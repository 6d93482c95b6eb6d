"""What every `Records` promises."""

import asyncio

import pytest

from sofs.errors import NoSpace
from tests.contracts.conftest import Host

SIZE = 1 << 20


def test_commits_are_seen_after_a_refresh_and_not_before(host: Host) -> None:
    async def main() -> None:
        records = host.files.records(f"{host.root}/r", SIZE)
        assert records.get(b"a") is None
        await records.commit([(b"a", b"1"), (b"b", b"2")])
        assert records.get(b"a") is None
        records.refresh()
        assert records.get(b"a") == b"1"
        for round in range(20):
            # Many commits under one reader: its state must stay whole, though old pages become free.
            await records.commit([(b"%04d" % n, b"%d" % round) for n in range(200)] + [(b"a", b"new")])
        assert records.get(b"a") == b"1" and records.get(b"0000") is None
        assert list(records.scan(b"", b"z")) == [(b"a", b"1"), (b"b", b"2")]
        records.refresh()
        assert records.get(b"a") == b"new" and records.get(b"0199") == b"19"
        records.close()

    host.run(main())


def test_deletions_and_puts_go_together(host: Host) -> None:
    async def main() -> None:
        records = host.files.records(f"{host.root}/r", SIZE)
        await records.commit([(b"%03d" % n, b"v%d" % n) for n in range(300)])
        await records.commit([(b"%03d" % n, None if n % 3 else b"w") for n in range(300)] + [(b"missing", None)])
        records.refresh()
        assert list(records.scan(b"000", b"010")) == [(b"000", b"w"), (b"003", b"w"), (b"006", b"w"), (b"009", b"w")]
        assert len(list(records.scan(b"", b"\xff"))) == 100
        records.close()

    host.run(main())


def test_scans_have_a_start_and_an_end(host: Host) -> None:
    async def main() -> None:
        records = host.files.records(f"{host.root}/r", SIZE)
        keys = [b"a", b"a\0", b"ab", b"b", b"k" * 511]
        await records.commit([(key, b"") for key in keys])
        records.refresh()
        assert [key for key, _ in records.scan(b"a", b"ab")] == [b"a", b"a\0"]
        assert [key for key, _ in records.scan(b"aa", b"z")] == keys[2:]
        assert list(records.scan(b"x", b"z")) == [] and list(records.scan(b"b", b"b")) == []
        records.close()

    host.run(main())


def test_commits_keep_their_order_and_survive_reopening(host: Host) -> None:
    async def main() -> None:
        records = host.files.records(f"{host.root}/r", SIZE)
        commits = [records.commit([(b"k", b"%d" % n)]) for n in range(10)]
        await asyncio.gather(*commits)
        records.close()
        records = host.files.records(f"{host.root}/r", SIZE)
        assert records.get(b"k") == b"9"
        records.close()

    host.run(main())


def test_a_full_environment_says_so_and_changes_nothing(host: Host) -> None:
    async def main() -> None:
        records = host.files.records(f"{host.root}/r", SIZE)
        await records.commit([(b"a", b"1")])
        with pytest.raises(NoSpace):
            await records.commit([(b"a", b"2")] + [(b"b%06d" % n, bytes(1000)) for n in range(3000)])
        records.refresh()
        assert list(records.scan(b"", b"z")) == [(b"a", b"1")]
        await records.commit([(b"c", b"3")])
        records.refresh()
        assert records.get(b"c") == b"3"
        records.close()

    host.run(main())


def test_a_copy_holds_the_newest_commit(host: Host) -> None:
    async def main() -> None:
        records = host.files.records(f"{host.root}/r", SIZE)
        await records.commit([(b"a", b"1")])
        await records.copy(f"{host.root}/copy")
        await records.commit([(b"a", b"2")])
        records.close()
        copy = host.files.records(f"{host.root}/copy", SIZE)
        assert list(copy.scan(b"", b"z")) == [(b"a", b"1")]
        copy.close()

    host.run(main())
