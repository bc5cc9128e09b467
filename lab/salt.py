"""One real salt-master, a real salt-minion per Docker host and a salt-proxy, keys exchanged beforehand.

Knows: Salt's configuration files and keys. Must not know: what states do. What MRVPN asks of a master is written by its
own state `mrvpn.master`, what it asks of a minion comes from the template of `mrvpn.minion`: the lab proves both.
Beside them stands only what a machine's owner decides: addresses, workers, timers. Minion keys are never accepted
automatically.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence

import jinja2
import yaml

from lab import hosts, router, topology
from lab.deadline import until
from lab.state import LAB, REPO, RUN, Trouble, alive, descendants, processes, sh, spawn, stop
from lab.topology import ENTRY, MANAGED, MASTER, MINIONS, ROUTER, Host
from mrvpn import compiler, views

BIN = REPO / ".venv" / "bin"
DESCRIPTION = LAB / "network"  # the lab's own copy of pillar/network: checks edit it
FILES = LAB / "files"  # the file root for what is not in the repository
EXAMPLE = REPO / "pillar" / "network"


def describe(client_key: str) -> None:
    """Copies the example description and adds the phone, by its public key."""
    shutil.rmtree(DESCRIPTION, ignore_errors=True)
    shutil.copytree(EXAMPLE, DESCRIPTION)
    clients = {"phone": {"public_key": client_key, "addresses": [CLIENT4, CLIENT6]}}
    (DESCRIPTION / "clients.yaml").write_text(yaml.safe_dump({"mrvpn": {"clients": clients}}))


CLIENT4 = "10.11.0.2"
CLIENT6 = "fd6d:7276:11::2"


def _master_config() -> dict[str, object]:
    return {
        "interface": "0.0.0.0",
        "id": "master",
        "user": "root",
        "worker_threads": 4,
        "timeout": 30,
        "gather_job_timeout": 15,
        "pillar_roots": {"base": [router.PILLAR]},
        "log_level_logfile": "warning",
        "state_output": "changes",
    }


def _minion_config(host: Host) -> dict[str, object]:
    return {
        "id": host.name,
        "master": topology.MASTER.ipv4,
        "user": "root",
        "log_level_logfile": "warning",
        "mine_interval": 60,
        "master_alive_interval": 0,
        "acceptance_wait_time": 1,
        "random_startup_delay": 0,
        "recon_default": 200,
        "recon_max": 1000,
        "auth_timeout": 5,
        "auth_tries": 20,
    }


def master_settings(**more: object) -> dict[str, object]:
    """Applies the state `mrvpn.master` on the master and returns what it changed, {state id: changes}.

    A running master reads its settings when it is started again.
    """
    told = {"checkout": str(REPO), "files": str(FILES), "description": str(DESCRIPTION), "user": "root", **more}
    argv = ["--local", "--id=master", f"--file-root={REPO / 'salt'}", "--out=json", "state.apply", "mrvpn.master"]
    pillar = json.dumps({"mrvpn_master": told})
    text = hosts.run(MASTER, str(BIN / "salt-call"), *argv, f"pillar={pillar}", timeout=60)
    states = json.loads(text)["local"].values()
    return {state["__id__"]: state["changes"] for state in states if state["changes"]}


def _minion_settings() -> dict[str, str]:
    """{host: the file of the state `mrvpn.minion`} for the example network."""
    network = compiler.compile_path(EXAMPLE).network
    assert network is not None
    # as Salt renders it, blank lines and all: the state must find the file as it would write it
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string((REPO / "salt/mrvpn/minion/files/mrvpn.conf.j2").read_text())
    found = {}
    for host in network.hosts:
        view = views.view(network, host, {}, lambda _: None)
        services = [entry["service"] for entry in view["routing"] or []]
        found[host] = template.render(root=view["root"], routing=services)
    return found


def configure() -> None:
    """Writes the configuration of master and minions, and each side's keys."""
    database = REPO / ".cache" / "country" / "country.mmdb"
    target = FILES / "mrvpn" / "country" / "country.mmdb"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(database, target)
    hosts.put(MASTER, "/etc/salt/master", yaml.safe_dump(_master_config()))
    master_settings()
    settings = _minion_settings()
    keys = RUN / "keys"
    keys.mkdir(parents=True, exist_ok=True)
    keys.chmod(0o700)
    sh(str(BIN / "salt-key"), "--gen-keys=master", f"--gen-keys-dir={keys}")
    for kind in ("pem", "pub"):
        mode = "0400" if kind == "pem" else "0644"
        hosts.put(MASTER, f"/etc/salt/pki/master/master.{kind}", (keys / f"master.{kind}").read_text(), mode)
    for host in MANAGED:
        sh(str(BIN / "salt-key"), f"--gen-keys={host.name}", f"--gen-keys-dir={keys}")
        public = (keys / f"{host.name}.pub").read_text()
        hosts.put(MASTER, f"/etc/salt/pki/master/minions/{host.name}", public)
        hosts.put(host, "/etc/salt/minion", yaml.safe_dump(_minion_config(host)))
        hosts.put(host, "/etc/salt/minion.d/mrvpn.conf", settings[host.name])
        hosts.put(host, "/etc/salt/pki/minion/minion.pem", (keys / f"{host.name}.pem").read_text(), "0400")
        hosts.put(host, "/etc/salt/pki/minion/minion.pub", public)
        hosts.put(host, "/etc/salt/pki/minion/minion_master.pub", (keys / "master.pub").read_text())
    sh(str(BIN / "salt-key"), f"--gen-keys={ROUTER.name}", f"--gen-keys-dir={keys}")
    hosts.put(MASTER, f"/etc/salt/pki/master/minions/{ROUTER.name}", (keys / f"{ROUTER.name}.pub").read_text())
    router.configure_proxy(keys)
    shutil.rmtree(keys)


def start_master() -> None:
    """Starts the master; `start_minions` waits until it serves."""
    spawn("salt-master", [*hosts.enter(MASTER), str(BIN / "salt-master"), "-l", "warning"])


def stop_master() -> None:
    """Stops the master."""
    stop([pid for name, pid in processes() if name == "salt-master"])


def start_minion(host: Host) -> int:
    """Starts the host's minion and returns its PID."""
    return spawn(f"minion-{host.name}", [*hosts.enter(host), str(BIN / "salt-minion"), "-l", "warning"])


def stop_minion(host: Host) -> None:
    """Stops the host's minion, and what it has under way."""
    stop(descendants([pid for name, pid in processes() if name == f"minion-{host.name}"]))


def wait_minions(names: Sequence[str] = tuple(h.name for h in MINIONS), seconds: float = 90) -> None:
    """Waits until every named minion answers the master."""

    def answered() -> bool:
        dead = [name for name, pid in processes() if name == "salt-master" and not alive(pid)]
        if dead:
            raise Trouble("the salt-master ended: see logs/salt-master.log")
        seen = salt("-L", ",".join(names), "test.ping", timeout=10, check=False)
        return all(seen.get(name) is True for name in names)

    until(f"minions {', '.join(names)} answer", answered, seconds, every=0.5)


def salt(target: str, *argv: str, timeout: float = 120, check: bool = True) -> dict[str, object]:
    """Runs `salt TARGET ...` on the master and returns {minion: answer}; "-L" as target takes a list next."""
    command = [str(BIN / "salt"), f"--timeout={int(timeout)}", "--out=json", "--static"]
    text = hosts.run(MASTER, *command, target, *argv, check=False, timeout=timeout + 60)
    found: dict[str, object] = {}
    decoder = json.JSONDecoder()
    position = text.find("{")
    while position >= 0:
        value, end = decoder.raw_decode(text, position)
        found.update(value)
        position = text.find("{", end)
    if check and not found:
        raise Trouble(f"salt {target} {' '.join(argv)}: no minion answered: {text.strip()[-300:]}")
    return found


def run(*argv: str, timeout: float = 180) -> object:
    """Runs `salt-run ...` on the master and returns its JSON answer; Trouble where it fails."""
    done = hosts.run(MASTER, str(BIN / "salt-run"), "--out=json", *argv, timeout=timeout)
    start = min((p for p in (done.find("{"), done.find("[")) if p >= 0), default=-1)
    return json.loads(done[start:]) if start >= 0 else done.strip()


def apply(target: str = "*", *argv: str, timeout: float = 300) -> dict[str, dict[str, object]]:
    """`salt TARGET state.apply ...`: {minion: {state id: result}}; Trouble with every failed state's comment."""
    # the reactor may be applying to a host that has just come up
    answers = salt(target, "state.apply", *argv, "queue=True", timeout=timeout)
    failed = []
    for name, answer in answers.items():
        if not isinstance(answer, dict):
            failed.append(f"{name}: {answer}")
            continue
        for state in answer.values():
            if state["result"] is False:
                failed.append(f"{name}: {state['__id__']}: {state['comment']}")
    missing = [h.name for h in MINIONS if target == "*" and h.name not in answers]
    failed += [f"{name}: no answer" for name in missing]
    if failed:
        raise Trouble("state.apply failed:\n  " + "\n  ".join(failed))
    return answers  # type: ignore[return-value]


def changes(answers: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """What an apply changed: {minion: {state id: changes}}, without what changed nothing."""
    found: dict[str, dict[str, object]] = {}
    for name, states in answers.items():
        for state in states.values():
            if isinstance(state, dict) and state.get("changes"):
                found.setdefault(name, {})[state["__id__"]] = state["changes"]
    return found


def gateway_key() -> str:
    """The gateway's public key, as the entrypoint published it to the mine."""

    def fetch() -> str | None:
        answer = salt(ENTRY.name, "mrvpn.public_keys", timeout=20)
        keys = answer.get(ENTRY.name)
        return keys.get("wg-firezone") if isinstance(keys, dict) else None

    found = until("the gateway's public key", fetch, 30)
    assert found is not None
    return found


def orchestrate(name: str, **pillar: object) -> None:
    """Runs an orchestration and raises Trouble with the failed steps' comments."""
    start = time.monotonic()
    argv = ["state.orchestrate", name] + ([f"pillar={json.dumps(pillar)}"] if pillar else [])
    text = hosts.run(MASTER, str(BIN / "salt-run"), "--out=json", *argv, check=False, timeout=300)
    try:
        answer = json.loads(text[text.index("{") :])
    except ValueError:
        raise Trouble(f"orchestrate {name}: {text.strip()[-600:]}") from None
    data = answer.get("data", answer)
    states = next(iter(data.values())) if isinstance(data, dict) else data
    if not isinstance(states, dict):
        raise Trouble(f"orchestrate {name}: {states}")
    bad = [f"{s.get('__id__')}: {s.get('comment')}" for s in states.values() if not s.get("result")]
    if bad:
        raise Trouble(f"orchestrate {name} ({time.monotonic() - start:.0f} s): " + "; ".join(bad))
