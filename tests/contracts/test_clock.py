"""What every `Clock` and `Random` promises."""

import asyncio

from tests.contracts.conftest import Host


def test_clocks_go_forward_and_sleep_lasts_as_long_as_asked(host: Host) -> None:
    async def main() -> None:
        monotonic, boottime, now = host.clock.monotonic(), host.clock.boottime(), host.clock.now()
        await host.clock.sleep(0.02)
        # The three clocks are distinct ones of the kernel's; each may lag by its own granularity.
        assert host.clock.monotonic() - monotonic >= 0.019
        assert host.clock.boottime() - boottime >= 0.019
        assert host.clock.now() > now > 133_000_000_000_000_000

    host.run(main())


def test_calls_run_in_the_order_of_their_times_unless_cancelled(host: Host) -> None:
    async def main() -> None:
        seen: list[str] = []
        done = asyncio.Event()
        host.clock.call_later(0.03, done.set)
        host.clock.call_later(0.01, lambda: seen.append("early"))
        host.clock.call_later(0.02, lambda: seen.append("never")).cancel()
        host.clock.call_soon(lambda: seen.append("soon"))
        assert seen == []
        await done.wait()
        assert seen == ["soon", "early"]

    host.run(main())


def test_random_numbers_have_the_size_asked_for(host: Host) -> None:
    assert len(host.random.bytes(33)) == 33
    numbers = [host.random.number(63) for _ in range(50)]
    assert len(set(numbers)) == 50 and max(numbers) < 1 << 63 and max(numbers) > 1 << 56
    assert {host.random.number(1) for _ in range(100)} == {0, 1}
