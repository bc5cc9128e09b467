"""A deployment repository to begin with: description, settings of master and minions, a workflow for pull requests.

Knows: the files beside it. Must not know: where they are written, who else reads them. Nothing of it is a secret.
"""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, StrictUndefined

# where each goes; a name here is a template beside this module
FILES = {
    "network/hosts.yaml": "hosts.yaml",
    "network/tunnels.yaml": "tunnels.yaml",
    "network/routing.yaml": "routing.yaml",
    "network/gateway.yaml": "gateway.yaml",
    "salt/master.d/mrvpn.conf": "master.yaml",
    "salt/minion.d/mrvpn.conf": "minion.yaml",
    ".github/workflows/network.yml": "workflow.yaml",
    ".gitignore": "gitignore",
    "README.md": "readme.md",
}


def files(entrypoint: str = "entry", exit_: str = "uk") -> dict[str, str]:
    """The files of a new repository by their path; the hosts' ids are the minion ids of the first two hosts."""
    # GitHub's own expressions are ${{ ... }}: these templates use other marks
    jinja = Environment(
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
    )
    folder = resources.files(__name__)
    return {
        target: jinja.from_string((folder / f"{name}.j2").read_text(encoding="utf-8")).render(
            entrypoint=entrypoint, exit=exit_
        )
        for target, name in FILES.items()
    }
