"""What a running recursor takes over, and what it says it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dnsrig import Recursor, Verdicts, ask, records, rendered, settings, until, view

pytestmark = [pytest.mark.root, pytest.mark.image]


def test_who_may_ask_changes_while_it_runs_and_all_else_wants_a_new_one(
    ds: str, recursor: Recursor, tmp_path: Path
) -> None:
    recursor.stop()  # it has the port
    own = Recursor(tmp_path, fail="open")  # there is no daemon here
    own.start()

    def change(**changes: Any) -> int:
        (own.etc / "recursor.yml").write_text(rendered(view(fail="open") | changes)["recursor.yml"])
        return own.reload()

    try:
        assert records(ask("www.heise.de"), "A")
        assert change(allow_from=["192.0.2.0/24"]) == 0
        assert not records(ask("www.heise.de", tries=1), "A")
        assert change() == 0
        assert records(ask("www.heise.de"), "A")
        assert change(threads=3) == 3
        assert change() == 0, "it is again as it began"
        (own.etc / "hook.lua").write_text("-- another\n")
        assert own.reload() == 3
        assert own.process is not None and own.process.poll() is None
    finally:
        own.stop()
        recursor.start()


def test_a_daemon_that_is_ready_has_told_that_it_started(ds: str, tmp_path: Path) -> None:
    """However long the recursor takes to forget what it answered before."""
    control = tmp_path / "bin" / "rec_control"
    for folder in (control.parent, tmp_path / "run"):
        folder.mkdir()
    control.write_text("#!/bin/sh\nexec sleep 2\n")
    control.chmod(0o755)
    daemon = Verdicts(tmp_path / "daemon", tmp_path / "run", settings(tmp_path / "run"))
    daemon.start()
    try:
        assert [event["kind"] for event in daemon.call("GET", "/events")] == ["started"]  # type: ignore[index]
    finally:
        daemon.stop()


def test_a_recursor_that_began_anew_is_told_what_to_ask_for(recursor: Recursor, verdicts: Verdicts) -> None:
    def kinds() -> list[str]:
        return [event["kind"] for event in verdicts.call("GET", "/events")]  # type: ignore[call-overload, index]

    assert kinds() == ["started"]
    recursor.stop()
    filter_ = recursor.run / "suffix.filter"
    filter_.unlink()
    recursor.start()
    until("the daemon sees it", lambda: "recursor" in kinds())
    assert filter_.exists() and kinds().count("recursor") == 1
    assert records(ask("www.shop.ru"), "A") and "81.2.69.160" in verdicts.elements()
