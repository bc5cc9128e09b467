"""What Docker on this host says, and the checks that it can carry MRVPN.

Knows: the Engine's API on its socket, the compose plugin, daemon.json. Must not know: how they are installed
(mrvpn_engine), what runs in the containers, the description, the pillar. Reads go over the socket: two milliseconds
each, where the client takes fifty.
"""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import urllib.parse
from pathlib import Path

from salt.exceptions import CommandExecutionError

PROJECT = "mrvpn"
# the client's folders of plugins, in its order
PLUGINS = [f"/usr/{where}/docker/cli-plugins" for where in ("local/lib", "local/libexec", "lib", "libexec")]
# the name that Compose gives a container until the one whose place it takes is gone
TEMPORARY = re.compile(r"[0-9a-f]{12}_(.+)")


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
    # the plugin itself where the client would look for it: the client takes three times as long to ask it
    plugins = (f"{folder}/docker-compose" for folder in (os.path.expanduser("~/.docker/cli-plugins"), *PLUGINS))
    plugin = next((path for path in plugins if os.access(path, os.X_OK)), None)
    command = [plugin] if plugin and shutil.which("docker") else ["docker", "compose"]
    try:
        done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True)
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


def too_old(min_engine, min_compose=None):
    """
    What is older than MRVPN needs, as sentences; an empty list when nothing is. Without ``min_compose`` Compose is not
    asked, which takes longer than all the rest.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.too_old 20.10 2.20
    """
    found = []
    pairs = [("Engine", version(), min_engine)]
    if min_compose is not None:
        pairs.append(("Compose", compose_version(), min_compose))
    for what, have, need in pairs:
        if _parts(have) < _parts(need):
            found.append(f"Docker {what} {have} is older than {need}")
    return found


def _listed(project):
    wanted = urllib.parse.quote(json.dumps({"label": [f"com.docker.compose.project={project}"]}))
    listed = _get(f"/containers/json?all=1&filters={wanted}")
    return [short for short in listed if short["Labels"].get("com.docker.compose.oneoff") != "True"]


def _strays(listed):
    names = {short["Names"][0].lstrip("/"): short["Id"] for short in listed if short["Names"]}
    found, taken = {}, set(names)
    for name, id_ in names.items():  # the newest first
        temporary = TEMPORARY.fullmatch(name)
        if temporary:
            found[name] = {"id": id_, "of": temporary[1], "alone": temporary[1] not in taken}
            taken.add(temporary[1])
    return found


def strays(project=PROJECT):
    """
    Containers that a `docker compose up` left under a temporary name when it was killed, ``{name: {"id", "of",
    "alone"}}``: whose place they were to take, and whether nobody has that place now.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.strays
    """
    return _strays(_listed(project))


def settle_strays(project=PROJECT):
    """
    Gives a stray the name that it was to have where that is free, takes it away where it is not; returns ``strays``.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.settle_strays
    """
    found = strays(project)
    for stray in found.values():
        if stray["alone"]:
            command("rename", stray["id"], stray["of"])
        else:
            command("rm", "--force", stray["id"])
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
    found = {}
    listed = _listed(project)
    superfluous = {stray["id"] for stray in _strays(listed).values() if not stray["alone"]}
    for short in listed:
        if short["Id"] in superfluous:
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
        command("stop", "--time", "5", *containers)
        command("rm", "--force", *containers)
    for network in networks:
        command("network", "rm", network)
    for volume in volumes:
        command("volume", "rm", volume)
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


def pull(name):
    """
    Pulls an image.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.pull mrvpn:0.1.0
    """
    command("pull", "--quiet", name)
    return True


def labels(name):
    """
    The labels of an image, by name or id; empty where there is no such image.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.labels mrvpn:0.1.0
    """
    found = _get(f"/images/{urllib.parse.quote(name, safe='/:')}/json")
    return ((found or {}).get("Config") or {}).get("Labels") or {}


def command(*arguments, stdin=None, timeout=1800):
    """
    Runs ``docker ARGUMENTS``; an error has its last lines. Returns what it printed.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.command tag mrvpn:0.1.0 mrvpn:kept
    """
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout, input=stdin)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise CommandExecutionError(f"docker {arguments[0]}: " + "\n".join(lines[-8:]))
    return done.stdout


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
        _replace(file, json.dumps({**have, **values}, indent=2) + "\n")
    return changes


def _replace(file, text):
    """Writes a file by a rename; it keeps the mode it has."""
    new = file.with_name(file.name + ".mrvpn-next")
    new.touch(mode=0o600)
    new.write_text(text)
    new.chmod(file.stat().st_mode & 0o777 if file.exists() else 0o644)
    os.replace(new, file)


def daemon_text(path="/etc/docker/daemon.json"):
    """
    What stands in daemon.json; None where there is none.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.daemon_text
    """
    file = Path(path)
    return file.read_text() if file.exists() else None


def daemon_restore(noted, text=None, path="/etc/docker/daemon.json", write=False):
    """
    Which keys of daemon.json go back to what they were, ``{key: {"old", "new"}}``; with ``write`` they do. ``noted``:
    what was changed, ``{key: {"old", "new"}}``; a key that somebody has changed since stays.

    text
        the file of then, which comes back byte for byte where it says what would be left

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.daemon_restore '{"ip6tables": {"old": null, "new": true}}'
    """
    file = Path(path)
    try:
        have = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    ours = {key: change for key, change in noted.items() if have.get(key) == change["new"] != change["old"]}
    if ours and write:
        kept = {key: value for key, value in have.items() if key not in ours}
        kept |= {key: change["old"] for key, change in ours.items() if change["old"] is not None}
        if text is None and not kept:
            file.unlink()
        else:
            same = text is not None and (json.loads(text) if text.strip() else {}) == kept
            _replace(file, text if same else json.dumps(kept, indent=2) + "\n")
    return {key: {"old": change["new"], "new": change["old"]} for key, change in ours.items()}


def unused(leaving=(), pattern="mrvpn:*"):
    """
    Names of images like ``pattern`` that no container uses but those that are leaving (ids).

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_docker.unused
    """
    used = {short["ImageID"] for short in _get("/containers/json?all=1") if short["Id"] not in leaving}
    wanted = urllib.parse.quote(json.dumps({"reference": [pattern]}))
    images = [image for image in _get(f"/images/json?filters={wanted}") if image["Id"] not in used]
    return sorted(tag for image in images for tag in image["RepoTags"] or [])


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
