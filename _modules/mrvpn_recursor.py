"""Telling a running recursor that its files changed.

Knows: its container. Must not know: what its configuration says, the description, the pillar.
"""

import subprocess

from salt.exceptions import CommandExecutionError


def reload(service):
    """
    Starts the recursor anew: not all of its settings can be taken over by a running one. Clients ask again within a
    second.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_recursor.reload firezone_pdns
    """
    done = subprocess.run(["docker", "restart", "--time", "3", service], capture_output=True, text=True)
    if done.returncode:
        raise CommandExecutionError(f"{service}: docker restart: {done.stderr.strip()[-500:]}")
    return True
