"""The quick start, its command blocks in their order, on machines that hold nothing of MRVPN: a master, an entrypoint,
an exit, a phone, one more exit, and at last a master that is lost and restored by operations.md; `make soak` goes on
with what the operator does day by day. They are the lab's own machines made anew; it is no use to others after it.

A block below `<!-- on: HOST, HOST -->` is run line by line there. What the page says in words is done here: addresses
are looked at, public keys compared, lines added to the description. What a lab cannot have is stood in for: packages
are installed already, a repository has a path for an address, init is us, and the image of MRVPN lies on each host.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest
import yaml

from lab import client, docker, hosts, image, salt
from lab.checks.destinations import leaves_by
from lab.deadline import until
from lab.internet import SITES
from lab.state import REPO, RUN, processes, spawn, stop
from lab.topology import CLIENT, DNS, ENTRY, MASTER, OFFICE, UK, US, Host

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("lab"),
    pytest.mark.skipif(os.environ.get("MRVPN_LAB_KEEP") == "1", reason="MRVPN_LAB_KEEP=1: the lab stays as it is"),
]
BLOCK = re.compile(r"^<!-- on: ([\w, ]+) -->\n```sh\n(.*?)^```$", re.M | re.S)
PAGE = (REPO / "docs" / "quickstart.md").read_text()


def _of_operations(mark: str) -> list[str]:
    """The lines of the blocks below this mark, in their order."""
    page = (REPO / "docs" / "operations.md").read_text()
    found = re.findall(rf"^<!-- {mark} -->\n```sh\n(.*?)^```$", page, re.M | re.S)
    return [line for text in found for line in text.splitlines()]


# the pages' ids, and the machines at their addresses
HOSTS = {"master": MASTER, "entry": ENTRY, "uk": UK, "de": OFFICE, "paris": US}
ORIGIN, HOME = str(RUN / "network.git"), "/root"  # the forge is none of the machines
FINGERPRINT = "openssl pkey -pubin -in /etc/salt/pki/master/minions_pre/uk -outform DER | sha256sum"
AGAIN = {"salt-run mrvpn.apply", "salt-run mrvpn.status", "salt-run mrvpn.deploy apply=True"}
ROOM = {"image": {"source": "preloaded"}, "dns": {"upstream": [DNS], "dnssec": "off"}}


@pytest.fixture
def bare() -> Iterator[None]:
    """Machines as their owner gets them: Docker, Salt's programs, git; no minion runs."""
    stop([pid for name, pid in processes() if name.startswith(("minion-", "proxy", "salt-master"))])
    for host in (MASTER, ENTRY, UK, OFFICE, US, CLIENT):
        if host.docker:
            hosts.run(host, "sh", "-c", "docker ps -aq | xargs -r docker rm --force", check=False)
            docker.halt(host)
        anew(host)
    for host in (ENTRY, UK, OFFICE, US):
        docker.start(host)
        docker.load(host, image.ensure())
    shutil.rmtree(ORIGIN, ignore_errors=True)
    hosts.run(MASTER, "git", "init", "-q", "--bare", "--initial-branch=main", ORIGIN)
    know_addresses()
    run(MASTER, f"cp {REPO}/.cache/country/country.mmdb {HOME}/country.mmdb")
    yield


def anew(host: Host) -> None:
    """A machine as it is bought."""
    hosts.remove(host)
    hosts.link(host)
    hosts.make_root(host)


def know_addresses() -> None:
    """On the master: who commits, and where the pages' repositories are."""
    for key, value in (
        ("user.name", "ann"),
        ("user.email", "ann@example.net"),
        (f"url.{ORIGIN}.insteadOf", "git@git.example.net:ops/network.git"),
        (f"url.{REPO}.insteadOf", "https://github.com/OWNER/mrvpn"),
        ("safe.directory", "*"),
    ):
        run(MASTER, f"git config --global {key} '{value}'")


def run(host: Host, line: str, stdin: str = "y\n") -> str:
    """What a line of a shell prints on a host."""
    if service := re.fullmatch(r"systemctl restart (salt-\w+)", line):
        return restart(host, service[1])
    if re.match(r"(salt-)?pip install ", line):
        return hosts.run(host, str(salt.BIN / "python"), "-c", "import mrvpn, salt, segno, librouteros, ruamel.yaml")
    environment = [f"PATH={salt.BIN}:/usr/sbin:/usr/bin:/sbin:/bin", f"HOME={HOME}"]
    command = [*hosts.enter(host), "env", *environment, "bash", "-c", f"cd {HOME} && {line}"]
    began = time.monotonic()
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{line}: exit code {done.returncode}: {done.stdout[-3000:]}{done.stderr[-2000:]}"
    print(f"$ {line}  # {time.monotonic() - began:.1f} s\n{done.stdout[-1500:]}")
    return done.stdout


def again(host: Host, line: str) -> str:
    """The same for what may be said twice, as its own words advise where a host was still busy with its first apply."""
    told = until(line, lambda: run(host, line) or "nothing", 120, every=5)
    assert told is not None
    return told


def restart(host: Host, service: str) -> str:
    """What an init system does with this service."""
    name = service if service == "salt-master" else f"minion-{host.name}"
    stop([pid for known, pid in processes() if known == name])
    spawn(name, [*hosts.enter(host), "env", f"HOME={HOME}", str(salt.BIN / service), "-l", "warning"])
    return ""


def blocks() -> Iterator[tuple[list[str], list[str]]]:
    """Each block's hosts and lines."""
    for ids, text in BLOCK.findall(PAGE):
        yield [name.strip() for name in ids.split(",")], text.splitlines()


def start(names: list[str], lines: list[str]) -> None:
    """Step 3 on hosts: each with its own id."""
    for name in names:
        run(HOSTS[name], "mkdir -p /etc/salt/minion.d")  # as the package has it
        for line in lines[:-1]:
            run(HOSTS[name], line.replace("id: uk", f"id: {name}"))
        until(f"the key of {name} waits", lambda n=name: n in run(MASTER, "salt-key --list=unaccepted"), 60)  # type: ignore[misc]
        shown = run(HOSTS[name], lines[-1])
        assert shown == run(MASTER, FINGERPRINT.replace("uk", name)), "the fingerprint that the host shows"


def answer(*names: str) -> None:
    """Waits until these minions answer."""
    ping = f"salt --static --out=json -L {','.join(names)} test.ping"
    until(f"{names} answer", lambda: json.loads(run(MASTER, ping)) == dict.fromkeys(names, True), 90)


def described(file: str, more: dict[str, object]) -> None:
    """Adds to a file of the description, as an editor would."""
    path = f"{HOME}/network/network/{file}"
    text = run(MASTER, f"cat {path}") + "\n"
    known = yaml.safe_load(text)
    known["mrvpn"] |= more
    run(MASTER, f"cat > {path}", stdin=yaml.safe_dump(known))


def push() -> None:
    """The change of the description goes the way of every change."""
    run(MASTER, "git -C network commit -qam change && git -C network push -q git@git.example.net:ops/network.git main")


def test_from_bare_machines_to_a_phone_and_one_more_exit(bare: None) -> None:
    told = ""
    given = {lines[0]: (names, lines) for names, lines in blocks()}
    assert {"pip install mrvpn", "salt-run mrvpn.apply"} <= given.keys() and FINGERPRINT in PAGE, (
        "the page's own blocks"
    )
    for names, lines in given.values():
        if lines[0].startswith("git -C network init"):
            addresses = yaml.safe_load(run(MASTER, "cat network/network/hosts.yaml"))["mrvpn"]["hosts"]
            assert {name: one["endpoint"] for name, one in addresses.items()} == {
                name: HOSTS[name].ipv4 for name in ("entry", "uk")
            }
            described("gateway.yaml", ROOM)
        if lines[0].startswith("printf 'master:"):
            start(names, lines)
            continue
        if lines[0].startswith("salt-run mrvpn.deploy apply"):
            phone(told)
        if lines[0].startswith("salt-run mrvpn.add_exit"):
            operate(lines[0], given[next(first for first in given if first.startswith("printf 'master:"))][1])
            continue
        for line in lines:
            for name in names:
                if line == "salt-run mrvpn.apply":
                    answer("entry", "uk")
                told = run(HOSTS[name], line) if line not in AGAIN else again(HOSTS[name], line)
        if lines[0].startswith("salt-run mrvpn.deploy apply"):
            connect()
            until("GB leaves by uk", lambda: not leaves_by(UK, SITES["GB"]), 30)
            assert leaves_by(ENTRY, SITES["DE"]) == []
        if "mrvpn.explain" in lines[0]:
            assert "wg_uk" in told, told


def operate(added: str, hello: list[str]) -> None:
    """The quick start's last line, within the day's work of operations.md. `hello`: what makes a host known."""
    lines = _of_operations("after the quick start")
    assert added in lines and "salt-run mrvpn.rollback" in lines
    if "MRVPN_SOAK" not in os.environ:  # two minutes more
        lines = [added]
    known = set()
    for line in lines:
        new = re.match(r"salt-run mrvpn.add_(?:exit|host) (\w+)", line)
        if new and new[1] not in known:
            known.add(new[1])
            start([new[1]], hello)
            run(MASTER, f"salt-key -a {new[1]}")
            answer(new[1])
        run(MASTER, line)
        if line == added:
            assert leaves_by(OFFICE, SITES["DE"]) == [], "by the exit that was added"
            assert leaves_by(UK, SITES["GB"]) == []
            second = json.loads(run(MASTER, "salt --static --out=json '*' state.apply"))
            changed = {name: [s["__id__"] for s in states.values() if s["changes"]] for name, states in second.items()}
            assert changed == {"entry": [], "uk": [], "de": []}
        if "mrvpn.remove_exit" in line:
            until("its rules went to uk", lambda: not leaves_by(UK, SITES["DE"]), 30)
    if lines[-1] == "salt-run mrvpn.rollback":  # of the description and the rules: hosts follow at their next apply
        run(MASTER, "salt-run mrvpn.apply")
    restore()


def restore() -> None:
    """The master is lost, and a new one goes on from the backup of the old."""
    backup, lines = _of_operations("backup: master"), _of_operations("restore: master")
    for line in backup:
        run(MASTER, line)
    kept = RUN / "mrvpn.tar.gz"
    run(MASTER, f"cp mrvpn.tar.gz {kept}")
    before = json.loads(run(MASTER, "salt-run --out=json mrvpn.history"))
    stop([pid for name, pid in processes() if name == "salt-master"])
    anew(MASTER)
    assert leaves_by(UK, SITES["GB"]) == [], "without a master"
    know_addresses()
    run(MASTER, f"cp {kept} mrvpn.tar.gz")
    kept.unlink()
    for line in lines:
        if line == "salt-run state.orchestrate orch.keys":
            answer("entry", "uk")
        (again if line in AGAIN else run)(MASTER, line)
    assert json.loads(run(MASTER, "salt-run --out=json mrvpn.history")) == before
    # minions that come back are applied to by the reactor
    states = json.loads(run(MASTER, "salt --static --out=json -L entry,uk state.apply queue=True"))
    assert {name: [s["__id__"] for s in found.values() if s["changes"]] for name, found in states.items()} == {
        "entry": [],
        "uk": [],
    }


def phone(told: str) -> None:
    """What the gateway printed: the lines for the description, the configuration for the phone."""
    found = dict(re.findall(r"(PrivateKey|PublicKey|Address|Endpoint) = (.*\S)", told))
    (RUN / "phone").mkdir(exist_ok=True, mode=0o700)
    (RUN / "phone" / "told.json").write_text(json.dumps(found))
    (public,) = re.findall(r"public_key:\s+([\w+/]{43}=)", told)
    addresses = [part.strip().split("/")[0] for part in found["Address"].split(",")]
    described("gateway.yaml", {"clients": {"phone": {"public_key": public, "addresses": addresses}}})
    push()


def connect() -> None:
    """The phone with the configuration that the gateway printed."""
    found = json.loads((RUN / "phone" / "told.json").read_text())
    key = RUN / "phone" / "key"
    key.touch(mode=0o600)
    key.write_text(found["PrivateKey"] + "\n")
    ipv4, ipv6 = (part.strip().split("/")[0] for part in found["Address"].split(","))
    assert found["Endpoint"] == f"{ENTRY.ipv4}:{client.PORT}"
    client.connect(found["PublicKey"], client.Phone(CLIENT, key, ipv4, ipv6))
    until("the phone is connected", client.connected, 20)
