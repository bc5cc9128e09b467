"""The files below MRVPN's root: rendered from a view, compared, put in place together, the old ones kept for one
rollback.

Knows: the list salt://mrvpn/files.jsonl.j2 (mrvpn/render.py reads the same one on the master's side), Jinja2, file
modes. Must not know: Docker, what a file means, the pillar. Never returns the text of a file that others may not
read.

`<root>/.mrvpn/` (0700) holds `manifest.json` (the files we wrote: only those are ever removed), `next/` and
`previous/`.
"""

import contextlib
import difflib
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import jinja2
from salt.exceptions import CommandExecutionError

LIST = "mrvpn/files.jsonl.j2"
DIFF_LINES = 60
FRESH = 20  # seconds for which a rendering serves again: several states of one run ask for the same


def _source(name):
    cached = __salt__["cp.cache_file"](f"salt://{name}", saltenv=__opts__.get("saltenv") or "base")
    if not cached:
        return None
    return Path(cached).read_text()


def _compiled():
    """The folder of compiled templates, each known by its text: compiling takes ten times as long as rendering."""
    folder = Path(__opts__["cachedir"]) / "mrvpn" / "templates"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _environment():
    # the same options as mrvpn/render.py
    jinja = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        bytecode_cache=jinja2.FileSystemBytecodeCache(str(_compiled())),
    )
    # what is undefined says its name, in JSON too
    jinja.policies["json.dumps_kwargs"] = {"sort_keys": True, "default": str}
    return jinja


def render(view):
    """
    The host's files in the order of the list: ``{"target", "text", "mode", "kind", "service", "reload"}`` each.

    Holds preshared keys in ``text``: for other modules, not for the command line.
    """
    made_of = json.dumps(view, sort_keys=True, default=str)
    known = __context__.get("mrvpn_tree.rendered")
    if known is None or known[0] != made_of or time.monotonic() - known[1] > FRESH:
        known = __context__["mrvpn_tree.rendered"] = (made_of, time.monotonic(), _render(view))
    return [dict(file) for file in known[2]]


def _render(view):
    jinja = _environment()
    files = []
    source = LIST
    try:
        for line in jinja.get_template(LIST).render(view=view).splitlines():
            if line.strip():
                source = LIST
                entry = json.loads(line)
                source = entry["source"]
                text = jinja.get_template(source).render(entry["with"])
                files.append(
                    {key: entry[key] for key in ("target", "mode", "kind", "service", "reload")} | {"text": text}
                )
    except jinja2.TemplateNotFound as error:
        raise CommandExecutionError(f"salt://{error.name} is missing: is the states' folder complete?") from None
    except jinja2.UndefinedError as error:
        raise CommandExecutionError(
            f"salt://{source}: {error.message}; the view and the states are of different versions"
        ) from None
    return files


def live_hash(files, service):
    """One hash of a service's live files, by path and text; None where it has none."""
    digest = hashlib.sha256()
    own = [file for file in files if file["service"] == service and file["kind"] == "live"]
    for file in sorted(own, key=lambda file: file["target"]):
        digest.update(f"{file['target']}\0{file['text']}\0".encode())
    return digest.hexdigest() if own else None


def _private(root):
    folder = Path(root) / ".mrvpn"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    return folder


def _manifest(root):
    try:
        return json.loads((Path(root) / ".mrvpn" / "manifest.json").read_text())
    except FileNotFoundError:
        return []
    except ValueError:
        return []


def _is_secret(mode):
    return mode is not None and not int(mode, 8) & 0o077


def _show(old, new, target):
    lines = list(
        difflib.unified_diff(old.splitlines(), new.splitlines(), f"old/{target}", f"new/{target}", lineterm="", n=1)
    )
    if len(lines) > DIFF_LINES:
        lines = [*lines[:DIFF_LINES], f"... {len(lines) - DIFF_LINES} lines more"]
    return "\n".join(lines)


def diff(root, files, whole=True):
    """
    What differs on disk, ``{path: what}``: a diff, or ``created``, ``changed`` (not shown: it holds keys), ``mode``,
    ``removed``.

    ``whole``: the list is all of the host's files, so that what we wrote earlier and is not among them is removed.
    """
    changes = {}
    for file in files:
        path = Path(root) / file["target"]
        try:
            old = path.read_text()
        except FileNotFoundError:
            changes[file["target"]] = "created"
            continue
        except (IsADirectoryError, UnicodeDecodeError):
            raise CommandExecutionError(f"{path} is not the text file that belongs there: move it away") from None
        if old != file["text"]:
            secret = _is_secret(file["mode"])
            changes[file["target"]] = (
                "changed (not shown: it holds keys)" if secret else _show(old, file["text"], file["target"])
            )
        elif file["mode"] is not None and path.stat().st_mode & 0o7777 != int(file["mode"], 8):
            changes[file["target"]] = f"mode {path.stat().st_mode & 0o7777:04o} -> {file['mode']}"
    if whole:
        wanted = {file["target"] for file in files}
        changes.update({target: "removed" for target in _manifest(root) if target not in wanted})
    return changes


def _write(path, text, mode):
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, int(mode or "0644", 8))
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
    path.chmod(int(mode or "0644", 8))


def stage(folder, files):
    """Writes the files below ``folder`` (made 0700): the next tree, for the check before it is put in place."""
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(parents=True, mode=0o700)
    for file in files:
        _write(Path(folder) / file["target"], file["text"], file["mode"])


def put(root, files, changes):
    """
    Puts the files that differ in place, each by a rename, keeps what they replace in ``.mrvpn/previous``.

    Where that fails (a full disk) the files of before stand. Folders and keys of what is described no more stay until
    ``tidy``: containers have them mounted, and the files may have to come back.
    """
    base = Path(root)
    differing = [file for file in files if file["target"] in changes]
    known = _manifest(root)
    wanted = [file["target"] for file in files]
    try:
        private = _private(root)
        staging = private / "next"
        _prepare(base, private, differing, changes, sorted({*known, *wanted}))
    except OSError as error:
        shutil.rmtree(base / ".mrvpn" / "next", ignore_errors=True)
        raise CommandExecutionError(f"{_told(error, base)}; no file was changed") from None
    try:
        for file in differing:
            os.replace(staging / file["target"], base / file["target"])
        for target, what in changes.items():
            if what == "removed":
                (base / target).unlink(missing_ok=True)
    except OSError as error:
        put_back(root, changes)
        raise CommandExecutionError(f"{_told(error, base)}; the files of before were put back") from None
    shutil.rmtree(staging)


def tidy(root, files):
    """
    Takes away what is left of what is described no more, keys with it: after ``put``, when nothing runs with it.
    """
    base, wanted, known = Path(root), {file["target"] for file in files}, _manifest(root)
    _prune(base, wanted, known)
    for target in set(known) - wanted:
        _remove(base, target)
    _remember(_private(root), sorted(wanted))


def _told(error, base):
    return f"{error.filename or base}: {error.strerror}"


def _prepare(base, private, differing, changes, known):
    """All that needs room on the disk, before anything moves."""
    previous = private / "previous"
    stage(private / "next", differing)
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir(mode=0o700)
    for target in changes:
        if (base / target).exists():
            (previous / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(base / target, previous / target)
    # a run that is killed from here on must leave no file that nobody knows
    _remember(private, known)
    for file in differing:
        (base / file["target"]).parent.mkdir(parents=True, exist_ok=True)


def put_back(root, changes):
    """Brings back what the last ``put`` replaced: the way out when Docker refuses the new tree."""
    base, previous = Path(root), Path(root) / ".mrvpn" / "previous"
    for target in changes:
        if (previous / target).exists():
            (base / target).parent.mkdir(parents=True, exist_ok=True)
            os.replace(previous / target, base / target)  # needs no room on the disk
        else:
            _remove(base, target)
    with contextlib.suppress(OSError):  # on a full disk: what is not there is taken for removed once more
        _remember(_private(root), [target for target in _manifest(root) if (base / target).exists()])


def _remember(private, targets):
    new = private / "manifest.json.next"
    new.write_text(json.dumps(targets, indent=0) + "\n")
    os.replace(new, private / "manifest.json")


def _remove(base, target):
    path = base / target
    path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == base or (folder.is_dir() and any(folder.iterdir())):
            break
        if folder.is_dir():
            folder.rmdir()


def _prune(base, wanted, known):
    """Takes away the folders of tunnels that are in the description no more, their keys with them."""
    keep = {target.split("/")[1] for target in wanted if target.startswith("wg_tunnels/")}
    for name in {target.split("/")[1] for target in known if target.startswith("wg_tunnels/")} - keep:
        shutil.rmtree(base / "wg_tunnels" / name, ignore_errors=True)
    tunnels = base / "wg_tunnels"
    if tunnels.is_dir() and not any(tunnels.iterdir()):
        tunnels.rmdir()
