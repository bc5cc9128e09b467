"""What every test may use, and the account of what was left out and why."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from lab import image

REPO = Path(__file__).parents[1]
# people's runs look for new cases; a clean clone is judged by the same ones each time
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI") == "true":
    settings.load_profile("ci")
# where tests share the machine's cores the longest files begin, so that no core is left waiting for one of them
SLOW = {"salt": 3, "kernel": 2, "image": 1, "dns": 1, "routeros": 1}
IMAGE_ROOT = Path(os.environ.get("MRVPN_IMAGE_ROOT", str(image.ROOT)))


def _why_not_root() -> str | None:
    if os.geteuid() != 0:
        return "not root: network namespaces and nftables need it"
    missing = [tool for tool in ("ip", "nft", "wg", "conntrack") if not shutil.which(tool)]
    if missing:
        return f"missing: {', '.join(missing)} (lab/setup installs them)"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is missing (a plain container?)"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what this machine cannot run, each with its reason; under CI=true that is a failure, not a skip."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: -SLOW.get(item.path.relative_to(REPO / "tests").parts[0], 0))
    reason = _why_not_root()
    if reason is None:
        return
    for item in items:
        if item.get_closest_marker("root") or item.get_closest_marker("lab") or item.get_closest_marker("image"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Builds the image before the first test that needs it; what is built of the same files is kept."""
    if item.get_closest_marker("image") and "MRVPN_IMAGE_ROOT" not in os.environ and not _built:
        _built.append(image.ensure())


_built: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists what was left out, once per reason."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    reasons: dict[str, int] = {}
    for report in skipped:
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[text] = reasons.get(text, 0) + 1
    terminalreporter.section("left out")
    for text, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count} tests: {text.removeprefix('Skipped: ')}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Under CI=true nothing may be left out."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and exitstatus == 0 and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure() -> None:
    """Salt keeps handlers that write to pytest's closed streams when the interpreter ends: they have nothing to say."""
    logging.raiseExceptions = False


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout."""
    return REPO


@pytest.fixture(scope="session")
def country_database() -> Path:
    """The real country database that lab/setup fetched."""
    path = REPO / ".cache" / "country" / "country.mmdb"
    assert path.is_file(), f"{path.relative_to(REPO)} is missing: run `make venv`"
    return path
