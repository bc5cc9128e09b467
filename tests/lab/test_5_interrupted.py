"""Applies that cannot go through: killed at random moments, two at once, no image, no disk, files spoiled by hand.

Traffic of the tunnels that stay runs through all of it and is counted. MRVPN_SOAK=20 kills twenty applies, not three.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import hosts, image, salt, traffic
from lab.checks.apply import containers, recreated
from lab.checks.destinations import countries, leaves_by
from lab.client import GATEWAY4
from lab.deadline import until
from lab.internet import SITES
from lab.state import descendants
from lab.topology import ENTRY, MASTER, UK, US, Host

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800), pytest.mark.usefixtures("lab", "description")]
KILLS = int(os.environ.get("MRVPN_SOAK", "3"))
SEED = int(os.environ.get("MRVPN_SEED", str(time.time_ns() % 100_000)))
ROOT = "/opt/mrvpn"
AFTERWARDS = 2.5  # seconds of pings more: what a change does late counts too
# one tunnel more between two hosts, known to the recursor too, whose container is recreated for that
MORE = {
    "zz_more.yaml": (
        "mrvpn:\n  tunnels:\n    wg_more:\n      subnet: [10.9.40.0/24, 'fd6d:7276:40::/64']\n      hosts:\n"
        "        us: {allowed_nets: ['10.9.41.0/24']}\n"
        "        entry: {expose: 55830, compose_service: firezone}\n"
    )
}
SERVICES = "[wg-firezone, wg_office, wg_router]"


@contextlib.contextmanager
def _nothing_lost(*addresses: str) -> Iterator[None]:
    """Pings from the phone while the body runs; none may be lost."""
    with contextlib.ExitStack() as stack:
        pings = [stack.enter_context(traffic.pinging(address)) for address in (GATEWAY4, *addresses)]
        yield
        time.sleep(AFTERWARDS)
    told = ", ".join(f"{p.lost} of {p.sent} to {a}" for p, a in zip(pings, (GATEWAY4, *addresses), strict=True))
    print(f"pings lost: {told}")
    assert all(p.sent > 10 for p in pings) and sum(p.lost for p in pings) == 0, told


def _edit(name: str, old: str, new: str) -> None:
    path = salt.DESCRIPTION / name
    text = path.read_text()
    assert old in text, f"{old!r} is not in {name}"
    path.write_text(text.replace(old, new))


def _names(host: Host) -> set[str]:
    return set(hosts.run(host, "docker", "ps", "-a", "--format", "{{.Names}}").split())


def _failed(answer: Any) -> dict[str, str]:
    """{state: comment} of what failed in one host's answer."""
    assert isinstance(answer, dict), answer
    return {state["__id__"]: str(state["comment"]) for state in answer.values() if state["result"] is False}


def _clear(comment: str) -> None:
    assert "Traceback" not in comment, comment
    assert len(comment.splitlines()) <= 3, comment


# -- killed ------------------------------------------------------------------------------------------------------------


def _with_more() -> None:
    for name, text in MORE.items():
        (salt.DESCRIPTION / name).write_text(text)
    _edit("gateway.yaml", SERVICES, SERVICES.replace("]", ", wg_more]"))


def _without_more() -> None:
    for name in MORE:
        (salt.DESCRIPTION / name).unlink()
    _edit("gateway.yaml", SERVICES.replace("]", ", wg_more]"), SERVICES)


def _call(host: Host) -> subprocess.Popen[bytes]:
    """`salt-call state.apply` on the host, in a session of its own."""
    command = [*hosts.enter(host), str(salt.BIN / "salt-call"), "--out=quiet", "state.apply"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def _kill(process: subprocess.Popen[bytes]) -> bool:
    """Kills an apply and all that it started, at once; whether it was still running."""
    running = process.poll() is None
    for pid in descendants([process.pid]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    return running


def test_an_apply_killed_at_any_moment_is_made_good_by_the_next() -> None:
    plain = _names(ENTRY)
    _with_more()
    salt.orchestrate("orch.keys")
    start = time.monotonic()
    assert _call(ENTRY).wait() == 0
    whole = time.monotonic() - start
    dice = random.Random(SEED)
    killed = []
    with _nothing_lost(SITES["GB"].ipv4, SITES["US"].ipv6):
        kept = {name: told for name, told in containers().items() if name.startswith(f"{ENTRY.name}/")}
        kept = {name: told for name, told in kept.items() if not name.endswith(("wg_more", "firezone_pdns"))}
        for number in range(KILLS):
            more = number % 2 == 1
            (_with_more if more else _without_more)()
            call = _call(ENTRY)
            after = dice.uniform(0.3, 1.0) * whole
            time.sleep(after)
            if _kill(call):
                killed.append(f"{after:.1f}")
            answer = salt.apply(ENTRY.name)
            assert _names(ENTRY) == (plain | {"wg_more"} if more else plain), f"killed after {after:.1f} s, seed {SEED}"
            links = hosts.run(ENTRY, "docker", "exec", "firezone", "ip", "link")
            assert ("wg_more" in links) is more
            again = salt.changes(salt.apply(ENTRY.name))
            assert again == {}, f"killed after {after:.1f} s, seed {SEED}: {again} after {salt.changes(answer)}"
        now = containers()
        assert {name: now.get(name) for name in kept} == kept, "gateway and tunnels ran through all of it"
        countries()
    print(
        f"{KILLS} applies of {whole:.1f} s, {len(killed)} killed under way (seed {SEED}): after {', '.join(killed)} s"
    )
    assert killed, "none was still running: the moments are wrong"
    if "zz_more.yaml" in {path.name for path in salt.DESCRIPTION.iterdir()}:
        _without_more()
    salt.apply()  # the master may have brought the other end along


def test_a_tunnel_of_two_living_ends_goes_and_no_other_loses_its_way() -> None:
    """Of an interface that vanishes at once FRR made a router without links, for five seconds, in IPv6."""
    _with_more()
    salt.orchestrate("orch.keys")
    salt.apply()
    neighbours = ("docker", "exec", "firezone_frr", "vtysh", "-c", "show ipv6 ospf6 neighbor")
    until("OSPFv3 over wg_more", lambda: re.search("Full/.*wg_more", hosts.run(ENTRY, *neighbours)), 60)
    with _nothing_lost(SITES["GB"].ipv4, SITES["GB"].ipv6, SITES["US"].ipv6):
        _without_more()
        salt.apply(ENTRY.name)
        time.sleep(2)
    salt.apply()  # the other hosts, too


def test_a_first_apply_killed_is_made_good_by_the_next() -> None:
    names = _names(US)
    dice = random.Random(SEED)
    with _nothing_lost(SITES["GB"].ipv4):
        for _ in range(max(1, KILLS // 3)):
            salt.apply(US.name, "mrvpn.absent")
            assert _names(US) == set()
            call = _call(US)
            after = dice.uniform(1.5, 8.0)
            time.sleep(after)
            print(f"killed after {after:.1f} s (seed {SEED}): {_kill(call)}")
            salt.apply(US.name)
            assert _names(US) == names
            assert salt.changes(salt.apply(US.name)) == {}
            until("the US leaves by us", lambda: leaves_by(US, SITES["US"]) == [], 30)


# -- two at once -------------------------------------------------------------------------------------------------------


def _salt(*argv: str) -> subprocess.Popen[str]:
    command = [*hosts.enter(MASTER), str(salt.BIN / "salt"), "--out=json", "--static", ENTRY.name, "state.apply", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize("queued", [False, True], ids=["refused", "queued"])
def test_two_applies_at_once(queued: bool) -> None:
    import json

    _edit("tunnels.yaml", "us: {expose: 55824, allowed_nets: [", "us: {expose: 55824, allowed_nets: [10.9.42.0/24, ")
    before = containers()
    with _nothing_lost(SITES["GB"].ipv4, SITES["US"].ipv4):
        both = [_salt(*(["queue=True"] if queued else [])) for _ in range(2)]
        answers = [json.loads(process.communicate(timeout=180)[0])[ENTRY.name] for process in both]
    done = [answer for answer in answers if isinstance(answer, dict)]
    refused = [answer for answer in answers if not isinstance(answer, dict)]
    assert [_failed(answer) for answer in done] == [{}] * len(done)
    assert len(done) == (2 if queued else 1), answers
    assert all("is running as PID" in str(answer) for answer in refused)
    changed = [bool(salt.changes({ENTRY.name: answer})) for answer in done]
    assert sorted(changed) == [False, True][2 - len(done) :], "one brought it, a second found nothing to do"
    accepts = hosts.run(ENTRY, "docker", "exec", "firezone_frr", "vtysh", "-c", "show running-config")
    assert "10.9.42.0/24" in accepts
    assert recreated(before) == []


# -- no image, no disk, spoiled files ----------------------------------------------------------------------------------


def test_a_missing_image_stops_the_apply_and_nothing_else() -> None:
    name = image.name()
    told = hosts.run(UK, "docker", "image", "inspect", "-f", "{{.Id}}", name).strip()
    before = containers()
    try:
        with _nothing_lost(SITES["GB"].ipv4):
            hosts.run(UK, "docker", "rmi", "--force", name)
            failed = _failed(salt.salt(UK.name, "state.apply")[UK.name])
            assert failed.keys() == {name} and "docker load" in failed[name]
            _clear(failed[name])
    finally:
        hosts.run(UK, "docker", "tag", told, name)
    assert recreated(before) == []
    assert salt.changes(salt.apply(UK.name)) == {}


@contextlib.contextmanager
def _small_disk(host: Host) -> Iterator[Path]:
    """MRVPN's root on a file system of a megabyte, its keys kept; yields the file that fills it to the last byte."""
    salt.apply(host.name, "mrvpn.absent")
    hosts.run(
        host, "sh", "-ec", f"cp -a {ROOT} /tmp/kept; mount -t tmpfs -o size=1m small {ROOT}; cp -a /tmp/kept/. {ROOT}"
    )
    try:
        yield Path(ROOT) / "filler"
    finally:
        salt.apply(host.name, "mrvpn.absent")
        hosts.run(host, "sh", "-c", f"rm -f {ROOT}/filler; umount {ROOT}; rm -rf /tmp/kept")
        salt.apply(host.name)


def _fill(host: Host, filler: Path) -> None:
    hosts.run(host, "dd", "if=/dev/zero", f"of={filler}", "bs=4k", check=False)
    probe = f"dd if=/dev/zero of={ROOT}/probe bs=1 count=1 2>&1; rm -f {ROOT}/probe"
    assert "No space left" in hosts.run(host, "sh", "-c", probe)


def test_a_full_disk_fails_the_apply_with_one_sentence_and_what_runs_goes_on() -> None:
    names = _names(US)
    with _nothing_lost(SITES["GB"].ipv4), _small_disk(US) as filler:
        _fill(US, filler)
        failed = _failed(salt.salt(US.name, "state.apply")[US.name])
        assert len(failed) >= 1, "an apply onto a full disk cannot succeed"
        for comment in failed.values():
            assert "No space left on device" in comment or "requisite" in comment.lower(), failed
            _clear(comment)
        assert _names(US) == set()
        hosts.run(US, "rm", str(filler))
        salt.apply(US.name)
        assert _names(US) == names
        until("the US leaves by us", lambda: leaves_by(US, SITES["US"]) == [], 30)

        # full while it runs: the old configuration stays, the tunnel's traffic too
        with _nothing_lost(SITES["US"].ipv4):
            _fill(US, filler)
            _edit("tunnels.yaml", "mtu: 1400", "mtu: 1390")
            failed = _failed(salt.salt(US.name, "state.apply")[US.name])
            assert "No space left on device" in " ".join(failed.values()), failed
            for comment in failed.values():
                _clear(comment)
            assert "mtu 1400" in hosts.run(US, "docker", "exec", "wg_us", "ip", "link", "show", "wg_us")
            assert (
                hosts.run(US, "sh", "-c", f"cat {ROOT}/wg_tunnels/wg_us/live/interface.conf").count("MTU = 1400") == 1
            )
            hosts.run(US, "rm", str(filler))
            salt.apply(US.name)
            assert "mtu 1390" in hosts.run(US, "docker", "exec", "wg_us", "ip", "link", "show", "wg_us")
            assert salt.changes(salt.apply(US.name)) == {}


def test_a_file_spoiled_by_hand_is_found_shown_and_replaced() -> None:
    path = f"{ROOT}/wg_tunnels/wg_uk/docker-compose.yml"
    before = containers()
    with _nothing_lost(SITES["GB"].ipv4):
        hosts.run(ENTRY, "sh", "-c", f"echo 'services: [this is no compose file' > {path}")
        foretold = salt.changes(salt.salt(ENTRY.name, "state.apply", "test=True"))[ENTRY.name]  # type: ignore[arg-type]
        shown = str(foretold["mrvpn project"])
        assert "-services: [this is no compose file" in shown and "+services:" in shown
        assert "no compose file" in hosts.run(ENTRY, "cat", path), "a test changes nothing"
        done = salt.changes(salt.apply(ENTRY.name))[ENTRY.name]
        assert done == foretold
        assert salt.changes(salt.apply(ENTRY.name)) == {}
    assert recreated(before) == []
