"""What Docker on this host says, and the checks that it can carry MRVPN.

Knows: the Engine's API on its socket, the compose plugin, daemon.json. Must not know: how they are installed
(mrvpn_engine), what runs in the containers, the description, the pillar. Reads go over the socket: two milliseconds
each, where the client takes fifty.
"""

import hashlib
import http.client
import json
import os
import re
import socket
import subprocess
import urllib.parse
from pathlib import Path

from salt.exceptions import CommandExecutionError

PROJECT = "mrvpn"


class _Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("docker", timeout=120)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _socket():
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not host.startswith("unix://"):
        raise CommandExecutionError(f"DOCKER_HOST is {host}: only unix:// sockets are supported")
    return host.removeprefix("unix://")


def _get(path):
    connection = _Connection(_socket())
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    except OSError as error:
        raise CommandExecutionError(
            f"Docker does not answer on {_socket()}: {error.strerror or error}; start it"
        ) from None
    finally:
        connection.close()
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise CommandExecutionError(f"Docker answered {answer.status} to {path}: {body[:200].decode(errors='replace')}")
    return json.loads(body)


def version():
    """
    The Engine's version as text, e.g. ``28.1.1``; an error when it does not answer.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.version
    """
    return _get("/version")["Version"]


def compose_version():
    """
    The version of the compose plugin as text; an error naming the package when there is none.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.compose_version
    """
    try:
        done = subprocess.run(["docker", "compose", "version", "--short"], capture_output=True, text=True)
    except FileNotFoundError:
        raise CommandExecutionError("the docker client is missing: install docker.io or docker-ce-cli") from None
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout)
    if done.returncode or not found:
        raise CommandExecutionError(
            "Docker Compose v2 is missing: install docker-compose (Debian 13) or docker-compose-v2"
        )
    return found.group()


def _parts(text):
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def too_old(min_engine, min_compose):
    """
    What is older than MRVPN needs, as sentences; an empty list when nothing is.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.too_old 20.10 2.20
    """
    found = []
    for what, have, need in (("Engine", version(), min_engine), ("Compose", compose_version(), min_compose)):
        if _parts(have) < _parts(need):
            found.append(f"Docker {what} {have} is older than {need}")
    return found


def containers(project=PROJECT):
    """
    The project's containers by service: id, name, image, running, started, pid, hash (compose's), network_mode,
    namespace.

    ``namespace`` is the inode of the container's network namespace (None where it does not run): containers that
    should share one are told apart from those left behind in an old one.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.containers
    """
    wanted = urllib.parse.quote(json.dumps({"label": [f"com.docker.compose.project={project}"]}))
    found = {}
    for short in _get(f"/containers/json?all=1&filters={wanted}"):
        if short["Labels"].get("com.docker.compose.oneoff") == "True":
            continue
        full = _get(f"/containers/{short['Id']}/json")
        if full is None:  # gone in between
            continue
        state = full["State"]
        found[short["Labels"]["com.docker.compose.service"]] = {
            "id": full["Id"],
            "name": full["Name"].lstrip("/"),
            "image": full["Image"],
            "running": state["Running"] and not state["Restarting"],
            "started": state["StartedAt"],
            "pid": state["Pid"],
            "health": state.get("Health", {}).get("Status"),
            "hash": short["Labels"].get("com.docker.compose.config-hash"),
            "network_mode": full["HostConfig"]["NetworkMode"],
            "namespace": _namespace(state["Pid"]),
        }
    return found


def _namespace(pid):
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino if pid else None
    except OSError:
        return None


def networks(project=PROJECT):
    """
    The names of the project's networks.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.networks
    """
    wanted = urllib.parse.quote(json.dumps({"label": [f"com.docker.compose.project={project}"]}))
    return sorted(network["Name"] for network in _get(f"/networks?filters={wanted}"))


def volumes(project=PROJECT):
    """
    The names of the project's volumes.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.volumes
    """
    wanted = urllib.parse.quote(json.dumps({"label": [f"com.docker.compose.project={project}"]}))
    return sorted(volume["Name"] for volume in _get(f"/volumes?filters={wanted}")["Volumes"] or [])


def take_away(containers, networks=(), volumes=()):
    """
    Stops and removes containers (by id or name), then networks and volumes by name.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.take_away '[wg_uk]'
    """
    if containers:
        _docker("stop", "--time", "5", *containers)
        _docker("rm", "--force", *containers)
    for network in networks:
        _docker("network", "rm", network)
    for volume in volumes:
        _docker("volume", "rm", volume)
    return True


def running():
    """
    How many containers run on this Engine.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.running
    """
    return len(_get("/containers/json"))


def image(name):
    """
    The id of the image of that name, or None where the Engine has none.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.image mrvpn:0.1.0
    """
    found = _get(f"/images/{urllib.parse.quote(name, safe='/:')}/json")
    return found["Id"] if found else None


def _docker(*arguments, timeout=1800):
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise CommandExecutionError(f"docker {arguments[0]}: " + "\n".join(lines[-8:]))


def pull(name):
    """
    Pulls an image.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.pull mrvpn:0.1.0
    """
    _docker("pull", "--quiet", name)
    return True


def build(name, context):
    """
    Builds the image from ``<context>/image/Dockerfile``.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.build mrvpn:0.1.0 /opt/mrvpn/build
    """
    _docker("build", "--quiet", "--tag", name, "--file", f"{context}/image/Dockerfile", context)
    return True


def _content(context):
    """One hash over what an image is built from: paths and bytes, compiled Python left out."""
    digest = hashlib.sha256()
    for path in sorted(Path(context).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(context)}\0{path.stat().st_mode & 0o111:o}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _parts_of(name):
    """What an image consists of, ``{package: version}`` and its sources' hash; nothing where there is no such image."""
    found = _get(f"/images/{urllib.parse.quote(name, safe='/:')}/json")
    if found is None:
        return {}
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "dpkg-query", name, "--show"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise CommandExecutionError(f"{name}: dpkg-query: {done.stderr.strip()[-300:]}")
    parts = dict(line.split("\t") for line in done.stdout.splitlines() if "\t" in line)
    sources = ((found.get("Config") or {}).get("Labels") or {}).get("mrvpn.sources")
    return parts | ({"MRVPN": sources[:16]} if sources else {})


def rebuild(name, context, pull=True):
    """
    Builds the image anew from today's packages and returns what differs, ``{package: {"old", "new"}}``; where nothing
    does the image of before stays, and with it every container.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.rebuild mrvpn:0.1.0 /opt/mrvpn/build
    """
    aside = f"{name}-next"
    fresh = ["--pull"] if pull else []
    label = f"mrvpn.sources={_content(context)}"
    dockerfile = f"{context}/image/Dockerfile"
    _docker("build", "--quiet", "--no-cache", *fresh, "--label", label, "--tag", aside, "--file", dockerfile, context)
    old, new = _parts_of(name), _parts_of(aside)
    changes = {
        part: {"old": old.get(part, ""), "new": new.get(part, "")}
        for part in sorted(old.keys() | new.keys())
        if old.get(part) != new.get(part)
    }
    if changes:
        _docker("tag", aside, name)
    _docker("rmi", aside)
    return changes


def refresh(name):
    """
    Pulls an image again and returns ``{"image": {"old", "new"}}`` where its tag leads to another one now.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.refresh caddy:2
    """
    old = image(name)
    pull(name)
    new = image(name)
    return {} if old == new else {"image": {"old": old, "new": new}}


def exec_in(container, *command, timeout=60, env_file=None):
    """
    Runs a command in a running container: ``{"code", "out", "err"}``; ``env_file`` brings variables that no command
    line may show.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.exec_in wg_uk wg show
    """
    try:
        options = ["--env-file", env_file] if env_file else []
        done = subprocess.run(
            ["docker", "exec", *options, container, *command], capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise CommandExecutionError(f"{container}: {' '.join(command)} did not end within {timeout} s") from None
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}


def daemon_config(values, path="/etc/docker/daemon.json", write=False):
    """
    What must change in daemon.json for these keys, ``{key: {"old", "new"}}``; with ``write`` it is merged in, all
    else kept.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.daemon_config '{"ip6tables": true}'
    """
    file = Path(path)
    try:
        text = file.read_text() if file.exists() else ""
        have = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise CommandExecutionError(f"{path} is no JSON ({error}): mend it by hand") from None
    if not isinstance(have, dict):
        raise CommandExecutionError(f"{path} must hold a JSON object")
    changes = {key: {"old": have.get(key), "new": value} for key, value in values.items() if have.get(key) != value}
    if changes and write:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(file.name + ".mrvpn-next")
        new.write_text(json.dumps({**have, **values}, indent=2) + "\n")
        os.replace(new, file)
    return changes


def restart():
    """
    Restarts the Engine where an init system runs it and returns True; False where there is none to ask.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.restart
    """
    if not Path("/run/systemd/system").is_dir():
        return False
    done = subprocess.run(["systemctl", "restart", "docker"], capture_output=True, text=True)
    if done.returncode:
        raise CommandExecutionError(f"systemctl restart docker: {done.stderr.strip()[-500:]}")
    return True
