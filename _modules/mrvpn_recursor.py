"""Telling a running recursor that its files changed.

Knows: its container. Must not know: what its configuration says, the description, the pillar.
"""

import logging
import subprocess

from salt.exceptions import CommandExecutionError

log = logging.getLogger(__name__)

ANEW = 3  # what `mrvpn-recursor reload` ends with where a running recursor cannot take over what changed


def reload(service):
    """
    Has the recursor take over who may ask (a new tunnel's hosts, say) while it runs; starts it anew for anything else,
    after which clients ask again within a second.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn_recursor.reload firezone_pdns
    """
    done = __salt__["mrvpn_docker.exec_in"](service, "mrvpn-recursor", "reload")
    if done["code"] == 0:
        return True
    # not there, not answering, or of another image: a new life reads all of it
    if done["code"] != ANEW:
        log.warning("%s: mrvpn-recursor reload: %s", service, (done["err"] or done["out"]).strip()[-300:])
    done = subprocess.run(["docker", "restart", "--time", "3", service], capture_output=True, text=True)
    if done.returncode:
        raise CommandExecutionError(f"{service}: docker restart: {done.stderr.strip()[-500:]}")
    return True
