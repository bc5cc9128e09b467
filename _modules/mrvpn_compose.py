"""The compose project of MRVPN on this host: what would change and why, and bringing it about without needless
recreates.

Knows: `docker compose`, container ids, compose's config hashes, which container shares whose namespace. Must not
know: what the services do, the description, the pillar. Files come from mrvpn_tree, containers from mrvpn_docker.

`<root>/.mrvpn/applied.json` remembers per service the container we left running, compose's hash of its definition and
the hash of the live files it has taken over. Compose's own label cannot tell for services that join a namespace:
there the hash covers the id of the container joined. Lost, it costs one needless reload.
"""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import yaml
from salt.exceptions import CommandExecutionError

PROJECT = "mrvpn"
MAIN = "docker-compose.yml"
HEALTHY_WITHIN = 60  # seconds
LAST_LINES = 8
INTERFACE = re.compile(r"^interface (\S+)", re.MULTILINE)  # of FRR's configuration
NEW_IMAGE = "its image changed"


def _compose(root, *arguments, files=None, timeout=600):
    command = ["docker", "compose", "--project-name", PROJECT, "--project-directory", root]
    for file in files or [f"{root}/{MAIN}"]:
        command += ["--file", str(file)]
    try:
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "COMPOSE_ANSI": "never"},
        )
    except subprocess.TimeoutExpired:
        raise CommandExecutionError(f"docker compose {arguments[0]} did not end within {timeout} s") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise CommandExecutionError(f"docker compose {arguments[0]}: " + "\n".join(lines[-LAST_LINES:]))
    return done.stdout


def _record_path(root):
    return Path(root) / ".mrvpn" / "applied.json"


def _record(root):
    try:
        record = json.loads(_record_path(root).read_text())
        return {"hashes": dict(record["hashes"]), "services": dict(record["services"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {"hashes": {}, "services": {}}


def _remember(root, record):
    path = _record_path(root)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_suffix(".next")
    new.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(new, path)


def _compose_files(files):
    return [file for file in files if file["kind"] == "compose"]


def _hashes(root, files, record):
    """Compose's hash of each service of these files; checks them on the way. Asked again only when a file changed."""
    tree = _compose_files(files)
    if not tree:
        return {}
    key = hashlib.sha256("\0".join(file["target"] + "\0" + file["text"] for file in tree).encode()).hexdigest()
    if record["hashes"].get("key") != key:
        with tempfile.TemporaryDirectory(prefix="mrvpn-") as folder:
            __salt__["mrvpn_tree.stage"](folder, tree)
            paths = [Path(folder) / file["target"] for file in tree if file["target"] != MAIN]
            out = _compose(root, "config", "--hash", "*", files=paths, timeout=60)
        record["hashes"] = {"key": key, "of": dict(line.split() for line in out.splitlines() if line.strip())}
    return record["hashes"]["of"]


def _images(files):
    """The image that each service should run: ``{"name", "id", "command"}``; id None where this host has none of it."""
    ids, found = {}, {}
    for file in _compose_files(files):
        for service, definition in (yaml.safe_load(file["text"]).get("services") or {}).items():
            name = definition.get("image")
            if name:
                if name not in ids:
                    ids[name] = __salt__["mrvpn_docker.image"](name)
                command = (definition.get("command") or [None])[0]
                found[service] = {"name": name, "id": ids[name], "command": command}
    return found


def _runs(container, image):
    """Whether a container runs the image it should: ``same``, ``as good`` (what differs is not its), ``another``."""
    if container["image"] == image["id"]:
        return "same"
    as_good = __salt__["mrvpn_image.as_good"](image["command"], container["image"], image["id"] or "")
    return "as good" if as_good else "another"


def _joined(container, have):
    """The service whose namespace this container joined; "" when that container is gone; None when it has its own."""
    mode = container["network_mode"]
    if not mode.startswith("container:"):
        return None
    return next((name for name, other in have.items() if other["id"] == mode.removeprefix("container:")), "")


def _why(service, wanted, have, images, record):
    """What must happen to one service's container, as (verb, reason), or None."""
    container = have.get(service)
    if container is None:
        return "created", "not there yet"
    known = record["services"].get(service, {})
    have_hash = known.get("config") if known.get("id") == container["id"] else container["hash"]
    if have_hash != wanted:
        return "recreated", "its definition changed"
    if _runs(container, images[service]) == "another":
        return "recreated", NEW_IMAGE
    if not container["running"]:
        return "started", "it did not run"
    return None


def _containers_plan(hashes, have, images, record):
    plan = {"created": {}, "recreated": {}, "started": {}, "moved": {}, "removed": {}}
    for service, wanted in hashes.items():
        found = _why(service, wanted, have, images, record)
        if found:
            plan[found[0]][service] = found[1]
    for service in have.keys() - hashes.keys():
        plan["removed"][service] = "the description has it no more"
    for service, container in have.items():
        owner = _joined(container, have)
        if owner is None or service not in hashes or service in plan["recreated"]:
            continue
        if owner == "" or owner in plan["recreated"]:
            plan["started"].pop(service, None)
            plan["recreated"][service] = f"it joins the namespace of {owner or 'a container that is gone'}"
        elif owner in plan["started"] or (container["running"] and container["namespace"] != have[owner]["namespace"]):
            plan["started"].pop(service, None)
            plan["moved"][service] = f"left behind in an old namespace of {owner}"
    return {verb: dict(sorted(found.items())) for verb, found in plan.items() if found}


def _reloads(files, plan, record):
    """Services whose live files differ from what their running container took over, ``{service: reload}``."""
    fresh = {service for verb in ("created", "recreated", "started", "moved") for service in plan.get(verb, {})}
    found = {}
    for file in files:
        service = file["service"]
        if file["kind"] != "live" or file["reload"] == "ipt" or service in fresh or service in found:
            continue
        if record["services"].get(service, {}).get("live") != __salt__["mrvpn_tree.live_hash"](files, service):
            found[service] = file["reload"]
    return dict(sorted(found.items()))


def _changes(root, files):
    """What this module writes: all but the host's own files, which stand before, and the daemon's settings, which
    mrvpn_ipt puts in place with the daemon's consent.
    """
    hosts = {file["target"] for file in files if file["kind"] == "host"}
    daemons = {file["target"] for file in files if file["reload"] == "ipt"}
    changes = __salt__["mrvpn_tree.diff"](root, files)
    return {
        target: what
        for target, what in changes.items()
        if target not in hosts and (target not in daemons or what == "created")
    }


def _mended(strays):
    words = {True: "takes its name", False: "taken away"}
    return {name: f"left by an interrupted run: {words[stray['alone']]}" for name, stray in sorted(strays.items())}


def plan(view):
    """
    What a deployment would change: ``{"files": {path: what}, "created"|"recreated"|"started"|"moved"|"removed"|
    "mended": {service: why}, "reloaded": {service: how}}``; empty when nothing would. Checks the compose tree with
    ``docker compose config``.
    """
    root = view["root"]
    files = __salt__["mrvpn_tree.render"](view)
    record = _record(root)
    found = {}
    strays = __salt__["mrvpn_docker.strays"](PROJECT)
    if strays:
        found["mended"] = _mended(strays)
    changes = _changes(root, files)
    if changes:
        found["files"] = changes
    hashes = _hashes(root, files, record)
    have = __salt__["mrvpn_docker.containers"](PROJECT)
    containers = _containers_plan(hashes, have, _images(files), record)
    found.update(containers)
    reloads = _reloads(files, containers, record)
    if reloads:
        found["reloaded"] = reloads
    return found


def deploy(view):
    """
    Brings files and containers to the view and returns what was done, in the shape of ``plan``.

    Order: check the next tree, put it in place, let OSPF leave tunnels that go, ``up`` where a container must change,
    reload what else reads its files live. Where Docker refuses the new tree the old one is put back and an error
    raised.
    """
    root = view["root"]
    files = __salt__["mrvpn_tree.render"](view)
    record = _record(root)
    hashes = _hashes(root, files, record)  # raises before anything is touched
    strays = __salt__["mrvpn_docker.settle_strays"](PROJECT)
    before = __salt__["mrvpn_docker.containers"](PROJECT)
    images = _images(files)
    containers = _containers_plan(hashes, before, images, record)
    done = {"mended": _mended(strays)} if strays else {}
    changes = _changes(root, files)
    leaving = _leaving(root, files, containers)
    if changes:
        __salt__["mrvpn_tree.put"](root, files, changes)
        done["files"] = changes
    if containers:
        kept = any(_runs(before[service], images[service]) == "as good" for service in before.keys() & images.keys())
        try:
            for service, interfaces in leaving.items():
                __salt__["mrvpn_frr.leave"](service, interfaces)
            for service in _one_by_one(containers, before):
                _renew(root, service, before[service]["image"], images[service]["name"])
            _up(root, hashes, containers, before, kept)
        except CommandExecutionError as error:
            _back(root, changes, kept)
            for service in leaving:
                with contextlib.suppress(CommandExecutionError):  # the first error is the one to tell
                    __salt__["mrvpn_frr.reload"](service)
            _note_back(record, before, _one_by_one(containers, before), bool(changes))
            _remember(root, record)
            raise CommandExecutionError(f"{error}\nthe configuration of before was put back") from None
    if changes:
        __salt__["mrvpn_tree.tidy"](root, files)
    after = __salt__["mrvpn_docker.containers"](PROJECT) if containers else before
    observed = _observed(before, after, containers)
    done.update(observed)
    for service in observed.get("removed", {}):
        if before[service]["network_mode"] == "host":
            __salt__["mrvpn_host.tunnel_off"](service)
    fresh = {service for verb, services in observed.items() if verb != "removed" for service in services}
    _note(record, files, hashes, after, fresh)
    try:
        reloads = _reloads(files, observed, record)
        for service, how in reloads.items():
            __salt__[f"mrvpn_{how}.reload"](service)
            record["services"].setdefault(service, {})["live"] = __salt__["mrvpn_tree.live_hash"](files, service)
            done.setdefault("reloaded", {})[service] = how
    finally:
        _remember(root, record)
    _settle(hashes, after)
    return done


def _leaving(root, files, plan):
    """The interfaces that OSPF will speak over no more, ``{FRR's service: [interface]}``, where tunnels go."""
    if "removed" not in plan:
        return {}
    anew = {service for verb in ("created", "recreated", "started", "moved") for service in plan.get(verb, {})}
    found = {}
    for file in files:
        path = Path(root) / file["target"]
        if path.name == "frr.conf" and path.exists() and file["service"] not in anew:
            gone = set(INTERFACE.findall(path.read_text())) - set(INTERFACE.findall(file["text"]))
            if gone:
                found[file["service"]] = sorted(gone)
    return found


def _one_by_one(containers, have):
    """Services that only get a newer image and whose namespace's owner stays: the others go on while one is away."""
    recreated = containers.get("recreated", {})
    shares = {s: "host" if c["network_mode"] == "host" else _joined(c, have) for s, c in have.items()}
    newer = [service for service, why in recreated.items() if why == NEW_IMAGE and shares[service]]
    return [service for service in newer if shares[service] not in recreated]


def _renew(root, service, old, name):
    """Makes a service's container anew and looks that it is well; with what it had before where it is not."""
    again = ("up", "--detach", "--no-deps", "--force-recreate", service)
    try:
        _compose(root, *again)
        _settle([service])
    except CommandExecutionError as error:
        new = __salt__["mrvpn_docker.image"](name)
        __salt__["mrvpn_docker.command"]("tag", new, f"{name}-refused")
        __salt__["mrvpn_docker.command"]("tag", old, name)
        _compose(root, *again)
        raise CommandExecutionError(
            f"{error}\n{service} runs with the image of before again, which is {name}; the newer one is {name}-refused"
        ) from None


def _up(root, hashes, containers, have, kept):
    """``kept``: containers of an older image stay that Compose, which compares ids alone, would recreate."""
    moved = sorted(containers.get("moved", {}))
    removed = [have[service]["id"] for service in containers.get("removed", {})]
    if not hashes:
        # nothing of ours is left in the description: there is no file to `up` any more
        __salt__["mrvpn_docker.take_away"](removed, __salt__["mrvpn_docker.networks"](PROJECT))
        return
    now = __salt__["mrvpn_docker.containers"](PROJECT)
    changed = {service for verb in ("created", "recreated", "started") for service in containers.get(verb, {})}
    # what was made anew one by one is there already
    todo = sorted(service for service in changed if now.get(service, {}).get("id") == have.get(service, {}).get("id"))
    if kept:
        __salt__["mrvpn_docker.take_away"](removed)
        owners = [service for service in todo if service not in have or _joined(have[service], have) is None]
        for services in (owners, [service for service in todo if service not in owners]):
            if services:
                _compose(root, "up", "--detach", "--no-deps", "--quiet-pull", *services)
                _settle(services)
    elif todo or removed:
        _compose(root, "up", "--detach", "--remove-orphans", "--quiet-pull")
    if moved:
        _compose(root, "up", "--detach", "--no-deps", "--force-recreate", *moved)


def _back(root, changes, kept):
    __salt__["mrvpn_tree.put_back"](root, changes)
    if (Path(root) / MAIN).exists():
        with contextlib.suppress(CommandExecutionError):  # the first error is the one to tell
            _compose(root, "up", "--detach", "--remove-orphans", *(["--no-recreate"] if kept else []))


def _settle(services, have=None):
    """
    Waits until these services are healthy; raises with the last lines of the log of what is not. ``have``: the
    containers as they were looked at just now.
    """
    deadline = time.monotonic() + HEALTHY_WITHIN
    while True:
        have = have or __salt__["mrvpn_docker.containers"](PROJECT)
        waiting = {
            service: have[service]
            for service in have.keys() & set(services)
            if not (have[service]["running"] and have[service]["health"] in (None, "healthy"))
        }
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise CommandExecutionError("\n".join(_complaint(service, c) for service, c in sorted(waiting.items())))
        time.sleep(0.25)
        have = None


def _complaint(service, container):
    done = subprocess.run(["docker", "logs", "--tail", "5", container["name"]], capture_output=True, text=True)
    last = (done.stdout + done.stderr).strip() or "it logged nothing"
    return f"{service}: {container['health'] or 'not running'} for {HEALTHY_WITHIN} s; its last lines:\n{last}"


def _touched(old, new):
    return old is None or old["id"] != new["id"] or old["started"] != new["started"]


def _observed(before, after, expected):
    """What did happen, from the containers before and after; the reasons are the plan's where it foresaw them."""
    reasons = {service: why for services in expected.values() for service, why in services.items()}
    done = {}
    for service, container in after.items():
        old = before.get(service)
        if not _touched(old, container):
            continue
        verb = "created" if old is None else "recreated" if old["id"] != container["id"] else "started"
        if service in expected.get("moved", {}):
            verb = "moved"
        done.setdefault(verb, {})[service] = reasons.get(service, "compose found a reason")
    for service in before.keys() - after.keys():
        done.setdefault("removed", {})[service] = reasons.get(service, "compose found a reason")
    return {verb: dict(sorted(services.items())) for verb, services in done.items()}


def _note(record, files, hashes, after, fresh):
    services = {}
    for service, container in after.items():
        if service not in hashes:
            continue
        known = record["services"].get(service, {})
        live = known.get("live")
        if service in fresh and not any(f["service"] == service and f["reload"] == "ipt" for f in files):
            live = __salt__["mrvpn_tree.live_hash"](files, service)
        services[service] = {**known, "id": container["id"], "config": hashes[service], "live": live}
    record["services"] = services


def _note_back(record, before, services, files):
    """
    After a failure: containers that were made anew from the definition of before are known by their new ids.

    ``files``: some have changed and were put back; nobody knows which of them a container had read.
    """
    have = __salt__["mrvpn_docker.containers"](PROJECT)
    for service in services:
        known = record["services"].get(service, {})
        if service in have and known.get("id") == before[service]["id"]:
            known["id"] = have[service]["id"]
            known["live"] = None if files else known["live"]


def taken_over(root, service, live=None):
    """
    Which live files (their hash) a service's container took over, None when unknown; with ``live`` that is noted first.

    The hash counts only for the container it was noted for.
    """
    record = _record(root)
    container = __salt__["mrvpn_docker.containers"](PROJECT).get(service)
    if container is None:
        return None
    seen = f"{container['id']} {container['started']} {live}"
    known = record["services"].setdefault(service, {})
    if live is not None:
        known["seen"] = seen
        _remember(root, record)
    noted = (known.get("seen") or "").split(" ")
    return noted[2] if len(noted) == 3 and noted[:2] == [container["id"], container["started"]] else None
