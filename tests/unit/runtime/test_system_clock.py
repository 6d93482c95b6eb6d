"""What is put off to the end of a tick, and done earlier when somebody knows that the tick is over."""

import asyncio

from sofs.runtime.system_clock import SystemClock


def test_what_was_put_off_is_done_once_and_in_order() -> None:
    async def main() -> None:
        clock, done = SystemClock(), []
        for number in range(3):
            clock.call_soon(lambda number=number: done.append(number))  # type: ignore[misc]
        assert not done
        clock.settle()
        assert done == [0, 1, 2]
        clock.settle()
        await asyncio.sleep(0.01)
        assert done == [0, 1, 2]
        clock.call_soon(lambda: done.append(3))
        await asyncio.sleep(0.01)
        assert done == [0, 1, 2, 3], "nobody has to settle"

    asyncio.run(main())


def test_what_is_put_off_while_settling_is_done_but_not_for_ever() -> None:
    async def main() -> None:
        clock, done = SystemClock(), []

        def again() -> None:
            done.append(1)
            clock.settle()  # nothing happens: it is being done
            if len(done) < 10:
                clock.call_soon(again)

        clock.call_soon(again)
        clock.settle()
        assert len(done) == 3
        await asyncio.sleep(0.01)
        assert len(done) == 10

    asyncio.run(main())


def test_a_call_that_fails_is_told_of_and_keeps_no_other_from_being_made() -> None:
    async def main() -> None:
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(str(context["exception"])))
        clock, done = SystemClock(), []
        clock.call_soon(lambda: 1 // 0)
        clock.call_soon(lambda: done.append(1))
        clock.settle()
        assert done == [1] and told == ["integer division or modulo by zero"]

    asyncio.run(main())


def test_while_it_is_held_the_loop_has_no_round_to_go_for_what_was_put_off() -> None:
    async def main() -> None:
        clock, done = SystemClock(), []
        clock.hold()
        clock.call_soon(lambda: done.append(1))
        await asyncio.sleep(0.01)
        assert not done, "who holds it settles"
        clock.settle()
        assert done == [1]
        clock.call_soon(lambda: done.append(2))
        await asyncio.sleep(0.01)
        assert done == [1, 2], "settling ends it"

    asyncio.run(main())


def test_what_is_held_while_settling_is_done_all_the_same() -> None:
    async def main() -> None:
        clock, done = SystemClock(), []

        def batch() -> None:  # such as what a connection goes on with when it can be sent to again
            clock.hold()
            clock.call_soon(again)
            clock.settle()

        def again() -> None:
            done.append(1)
            if len(done) < 10:
                clock.call_soon(batch)

        clock.call_soon(batch)
        await asyncio.sleep(0.01)
        assert len(done) == 10
        clock.call_soon(lambda: done.append(2))
        await asyncio.sleep(0.01)
        assert len(done) == 11

    asyncio.run(main())


def test_of_batches_within_each_other_the_outermost_settles() -> None:
    async def main() -> None:
        clock, done = SystemClock(), []
        clock.hold()
        clock.call_soon(lambda: done.append(1))
        clock.hold()
        clock.call_soon(lambda: done.append(2))
        clock.settle()
        assert not done
        clock.settle()
        assert done == [1, 2]

    asyncio.run(main())
