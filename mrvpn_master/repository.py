"""git, as a change or a deployment needs it: what is dirty, a commit in place, a commit on any branch, fetch and push.

Knows: git. Must not know: descriptions, Salt. A commit on another branch is made in an index of its own: no
file of a work tree is touched for it.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import git

from mrvpn_master import Trouble

QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=10"}
NETWORK_TIMEOUT = 60  # seconds
# how git says that the branch is not what the push stands on: found at once, or when the remote came to write it
OTHERS_CAME = ("[rejected]", "non-fast-forward", "stale info", "cannot lock ref", "failed to update ref")


class Rejected(Trouble):
    """The remote has commits that this one does not stand on."""


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except git.GitCommandError as error:
        lines = [line for line in (str(error.stderr) or str(error.stdout)).splitlines() if line.strip()]
        told = "; ".join(line.strip(" '") for line in lines[-4:])[-600:] or f"exit code {error.status}"
        if any(sign in str(error.stderr) for sign in OTHERS_CAME):
            raise Rejected(f"{what}: {told}") from None
        raise Trouble(f"{what}: {told}") from None


class Repository:
    """A git repository, bare or with a work tree."""

    def __init__(self, repo: git.Repo) -> None:
        self.git = repo
        repo.git.update_environment(**QUIET)

    @classmethod
    def around(cls, path: Path) -> Repository | None:
        """The repository whose work tree holds a path; None where there is none."""
        try:
            return cls(git.Repo(path, search_parent_directories=True))
        except (git.InvalidGitRepositoryError, git.NoSuchPathError):
            return None

    @classmethod
    def mirror(cls, folder: Path, url: str) -> Repository:
        """The bare repository at a folder, made where it is missing, with `url` as its origin."""
        with _told(f"{folder} cannot be made a repository"):
            if not (folder / "HEAD").exists():
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                git.Repo.init(folder, bare=True)
            repo = cls(git.Repo(folder))
            if "origin" not in [remote.name for remote in repo.git.remotes]:
                repo.git.create_remote("origin", url)
            elif next(repo.git.remote("origin").urls) != url:
                repo.git.remote("origin").set_url(url)
        return repo

    # --- the work tree

    def dirty(self, path: Path) -> list[str]:
        """What below a path is changed but not committed, as `git status --short` says it."""
        with _told("git status"):
            out: str = self.git.git.status("--porcelain", "--untracked-files=all", "--", str(path))
        return out.splitlines()

    def commit(self, files: list[Path], message: str) -> str:
        """Commits these files of the work tree, and nothing else that is staged; the commit's id."""
        names = [str(file) for file in files]
        with _told("git commit"):
            self.git.git.add("--", *names)
            try:
                self.git.git.commit("--only", "-q", "-m", message, "--", *names, env=self._identity())
            except git.GitCommandError:
                with contextlib.suppress(git.GitCommandError):
                    self.git.git.reset("-q", "--", *names)
                raise
        return self.head()

    def head(self, revision: str = "HEAD") -> str:
        """The commit that a revision names."""
        with _told(f"there is no commit {revision}"):
            return str(self.git.git.rev_parse("--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"))

    def has(self, revision: str) -> bool:
        """Whether a revision names a commit."""
        try:
            self.head(revision)
        except Trouble:
            return False
        return True

    def parents(self, commit: str) -> list[str]:
        """The commits that a commit stands on."""
        with self._objects():
            return [parent.hexsha for parent in self.git.commit(commit).parents]

    def subject(self, commit: str) -> str:
        """The first line of a commit's message."""
        with self._objects():
            return str(self.git.commit(commit).summary)

    def prefix(self, folder: Path) -> str:
        """A folder's path inside the repository, empty for its top."""
        root = Path(str(self.git.working_tree_dir)).resolve()
        found = str(folder.resolve().relative_to(root))
        return "" if found == "." else found

    # --- any branch

    def texts(self, commit: str, folder: str) -> dict[str, str]:
        """The *.yaml of a folder in a commit."""
        with self._objects(), contextlib.suppress(KeyError):
            tree = self.git.commit(commit).tree
            tree = tree / folder if folder else tree
            blobs = [
                blob for blob in tree.blobs if str(blob.name).endswith(".yaml") and blob.mode in (0o100644, 0o100755)
            ]
            return {str(blob.name): blob.data_stream.read().decode() for blob in blobs}
        raise Trouble(f"commit {commit[:12]} has no folder {folder}")

    def commit_on(self, base: str, folder: str, texts: Mapping[str, str | None], message: str) -> str:
        """A commit on top of `base` with these texts (None: gone) in a folder; no branch moves, no file is touched."""
        with tempfile.TemporaryDirectory(prefix="mrvpn-index-") as name, _told("git commit"):
            env = {"GIT_INDEX_FILE": str(Path(name) / "index"), **self._identity()}
            command = self.git.git
            command.read_tree(base, env=env)
            for file, text in texts.items():
                path = f"{folder}/{file}" if folder else file
                if text is None:
                    command.update_index("--force-remove", "--", path, env=env)
                    continue
                blob = command.hash_object("-w", "--stdin", istream=_stream(Path(name), text))
                command.update_index("--add", "--cacheinfo", f"100644,{blob},{path}", env=env)
            tree = command.write_tree(env=env)
            return str(command.commit_tree(tree, *self._signing(), "-p", base, "-m", message, env=env))

    def branch(self, name: str, commit: str) -> None:
        """A new branch at a commit; Trouble where one of that name is there."""
        if self.has(f"refs/heads/{name}"):
            raise Trouble(f"branch {name} is there already: choose another name")
        with _told(f"branch {name}"):
            self.git.git.check_ref_format("--branch", name)
            self.git.git.branch("--no-track", name, commit)

    # --- the remote

    @property
    def has_origin(self) -> bool:
        """Whether there is a remote to push to."""
        return any(remote.name == "origin" for remote in self.git.remotes)

    def fetch(self, branch: str) -> str:
        """Fetches a branch of the origin; its commit."""
        ref = f"refs/remotes/origin/{branch}"
        with _told(f"origin cannot be fetched; what runs stays as it is (branch {branch})"):
            self.git.git.fetch("--quiet", "--no-tags", "origin", f"+refs/heads/{branch}:{ref}",
                               kill_after_timeout=NETWORK_TIMEOUT)  # fmt: skip
        return self.head(ref)

    def push(self, commit: str, branch: str) -> None:
        """Pushes a commit to a branch of the origin; Rejected where it does not stand on what is there."""
        with _told(f"origin refused the push to {branch}"):
            self.git.git.push("--quiet", "origin", f"{commit}:refs/heads/{branch}", kill_after_timeout=NETWORK_TIMEOUT)

    def verify(self, commit: str, signers: str | None) -> None:
        """Trouble unless a commit carries a good signature: of the master's GPG keys, or of an allowed_signers file."""
        options = [] if signers is None else ["-c", "gpg.format=ssh", "-c", f"gpg.ssh.allowedSignersFile={signers}"]
        try:
            self.git.git.execute(["git", *options, "verify-commit", "--raw", commit])
        except git.GitCommandError as error:
            lines = str(error.stderr).strip().splitlines()
            told = lines[-1].strip(" '") if lines else ""
            raise Trouble(
                f"commit {commit[:12]} carries no signature that is trusted here{f' ({told})' if told else ''}"
            ) from None

    def export(self, commit: str, folder: Path) -> None:
        """The tree of a commit as files; links that lead out of it are refused."""
        import tarfile

        with _told(f"git archive {commit[:12]}"):
            data = self.git.git.archive("--format=tar", commit, stdout_as_string=False)
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, OSError) as error:
            raise Trouble(f"the tree of {commit[:12]} cannot be laid out: {error}") from None

    def log(self, folder: str, count: int) -> list[dict[str, str]]:
        """The last commits that touched a folder, newest first: commit, time (ISO 8601), author, subject."""
        form = "%H%x1f%cI%x1f%an%x1f%s"
        with _told("git log"):
            out: str = self.git.git.log(f"-{int(count)}", f"--format={form}", "--", folder or ".")
        keys = ("commit", "time", "author", "subject")
        return [dict(zip(keys, line.split("\x1f"), strict=True)) for line in out.splitlines()]

    @contextlib.contextmanager
    def _objects(self) -> Iterator[None]:
        """Reading objects; the processes of git that GitPython keeps for it end with the block."""
        try:
            yield
        finally:
            self.git.git.clear_cache()

    def _signing(self) -> list[str]:
        """`git commit-tree` signs only when told: as `git commit` would here."""
        with contextlib.suppress(git.GitCommandError):
            return ["-S"] if self.git.git.config("--type=bool", "--get", "commit.gpgsign") == "true" else []
        return []

    def _identity(self) -> dict[str, str]:
        """Who commits, where git was not told: the one who called sudo, on this machine."""
        with contextlib.suppress(git.GitCommandError):
            self.git.git.config("--get", "user.email")
            return {}
        who = os.environ.get("SUDO_USER") or os.environ.get("USER") or "mrvpn"
        found: dict[str, str] = {}
        for role in ("AUTHOR", "COMMITTER"):
            found |= {f"GIT_{role}_NAME": who, f"GIT_{role}_EMAIL": f"{who}@{socket.gethostname()}"}
        return found


def _stream(folder: Path, text: str) -> io.BufferedReader:
    file = folder / "blob"
    file.write_bytes(text.encode())
    return file.open("rb")
