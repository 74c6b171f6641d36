"""The context of a call goes where its work goes."""

from __future__ import annotations

import asyncio
import threading
from contextvars import copy_context
from dataclasses import FrozenInstanceError

import pytest

from mesh.context import MAX_ATTRIBUTES, CallContext, annotate, current, entered, without_deadline

OUTER = CallContext("order-1", "0" * 31 + "1", "0" * 15 + "1")
INNER = CallContext("order-2", "0" * 31 + "2", "0" * 15 + "2", sampled=False, deadline=12.5)


def test_there_is_none_outside_of_any_call() -> None:
    assert current() is None


def test_it_lasts_for_a_block_and_nests() -> None:
    with entered(OUTER) as given:
        assert given is OUTER
        assert current() is OUTER
        with entered(INNER):
            assert current() is INNER
        assert current() is OUTER
    assert current() is None


def test_an_error_leaves_it() -> None:
    with pytest.raises(RuntimeError), entered(OUTER):
        raise RuntimeError
    assert current() is None


def test_it_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        OUTER.span_id = "f" * 16  # type: ignore[misc]


async def test_tasks_work_for_who_made_them() -> None:
    async def seen() -> CallContext | None:
        await asyncio.sleep(0)
        return current()

    with entered(OUTER):
        one = asyncio.create_task(seen())
        with entered(INNER):
            two = asyncio.create_task(seen())
    assert list(await asyncio.gather(one, two, seen())) == [OUTER, INNER, None]


async def test_a_task_keeps_its_own_to_itself() -> None:
    async def enter() -> CallContext | None:
        with entered(INNER):
            await asyncio.sleep(0)
            return current()

    with entered(OUTER):
        assert await asyncio.create_task(enter()) is INNER
        assert current() is OUTER


async def test_threads_of_asyncio_have_it() -> None:
    with entered(OUTER):
        assert await asyncio.to_thread(current) is OUTER


def test_other_threads_have_it_with_a_copy() -> None:
    found: list[CallContext | None] = []
    with entered(OUTER):
        copied = copy_context()
        threads = [
            threading.Thread(target=lambda: found.append(copied.run(current))),
            threading.Thread(target=lambda: found.append(current())),
        ]
    for thread in threads:
        thread.start()
        thread.join()
    assert found[0] is OUTER
    # Python 3.14 may be built such that threads begin with a copy of their own.
    assert found[1] in (None, OUTER)


def test_what_must_be_done_has_no_deadline() -> None:
    context = CallContext("c", "a" * 32, "b" * 16, deadline=5.0)
    with entered(context):
        with without_deadline():
            inside = current()
        assert current() is context
    assert inside == CallContext("c", "a" * 32, "b" * 16)
    with without_deadline():
        assert current() is None


async def test_what_is_said_of_a_call_is_said_of_all_that_belongs_to_it() -> None:
    annotate("outside", "nothing happens")
    context = CallContext("c", "a" * 32, "b" * 16, deadline=5.0)
    with entered(context):
        annotate("order.id", "7")
        with without_deadline():
            annotate("order.id", "8")
        await asyncio.create_task(asyncio.to_thread(annotate, "paid", value=True))
    assert context.attributes == {"order.id": "8", "paid": True}
    assert CallContext("c", "a" * 32, "b" * 16).attributes == {}, "each context has its own"


def test_a_loop_that_annotates_does_not_grow_it_for_ever() -> None:
    with entered(CallContext("c", "a" * 32, "b" * 16)) as context:
        for number in range(2 * MAX_ATTRIBUTES):
            annotate(f"n{number}", number)
        annotate("n0", "again")
    assert len(context.attributes) == MAX_ATTRIBUTES
    assert context.attributes["n0"] == "again"
