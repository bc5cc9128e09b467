"""One namespace and recursor for the folder; a test that needs others makes its own, on the same ports in turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dnsrig import Recursor, Verdicts, namespace, settings


@pytest.fixture(scope="session")
def ds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The namespace with its zones; the root's DS record."""
    with namespace(tmp_path_factory.mktemp("nsd")) as found:
        yield found


@pytest.fixture(scope="session")
def recursor(ds: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recursor]:
    """The recursor, caches as the last test left them."""
    found = Recursor(tmp_path_factory.mktemp("recursor"), ds)
    found.start()
    yield found
    found.stop()


@pytest.fixture
def verdicts(recursor: Recursor, tmp_path: Path) -> Iterator[Verdicts]:
    """A daemon that knows nothing yet, and empty caches."""
    found = Verdicts(tmp_path / "daemon", recursor.run, settings(recursor.run))
    found.start()
    recursor.wipe()
    yield found
    found.stop()
