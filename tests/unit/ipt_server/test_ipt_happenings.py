"""What happened, numbered for whoever asks: nothing of a daemon's next life is taken for what was told in this one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ipt_server import happenings
from ipt_server.happenings import Events


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_700_000_000.0]
    monkeypatch.setattr(happenings.time, "time", lambda: now[0])
    return now


def after(events: Events, since: int) -> list[dict[str, Any]]:
    return asyncio.run(events.after(since))


def test_events_are_told_once_and_in_order(clock: list[float]) -> None:
    events = Events()
    events.add("started")
    events.add("exit", exit="wg_uk")
    first = after(events, 0)
    assert [event["kind"] for event in first] == ["started", "exit"]
    events.add("recursor")
    assert [event["kind"] for event in after(events, first[-1]["number"])] == ["recursor"]


def test_the_beginning_of_another_life_is_news(clock: list[float]) -> None:
    events = Events()
    events.add("started")
    since = after(events, 0)[-1]["number"]
    clock[0] += 2
    another = Events()
    another.add("started")
    assert [event["kind"] for event in after(another, since)] == ["started"]


def test_a_clock_that_went_back_hides_nothing(clock: list[float]) -> None:
    events = Events()
    events.add("started")
    since = after(events, 0)[-1]["number"]
    clock[0] -= 3600
    another = Events()
    another.add("started")
    assert [event["kind"] for event in after(another, since)] == ["started"]


def test_who_knows_all_waits_for_news_and_who_does_not_is_told_at_once(clock: list[float]) -> None:
    async def scene() -> None:
        events = Events()
        assert await events.after(0, wait=0.05) == []
        waiting = asyncio.create_task(events.after(0, wait=30))
        await asyncio.sleep(0)
        assert not waiting.done()
        events.add("started")
        (told,) = await asyncio.wait_for(waiting, 5)
        assert await asyncio.wait_for(events.after(0, wait=30), 5) == [told]
        assert await events.after(told["number"], wait=0.05) == []

    asyncio.run(scene())
