"""Telling a running Caddy that its file changed.

Knows: its container. Must not know: what the file says, the description, the pillar.
"""

from salt.exceptions import CommandExecutionError

CONTAINER = "mrvpn-caddy"


def reload(service):
    """
    Lets Caddy take its changed file over; connections go on, a file that it refuses changes nothing.

    CLI Example:

    .. code-block:: bash

        salt entry mrvpn_caddy.reload caddy
    """
    done = __salt__["mrvpn_docker.exec_in"](CONTAINER, "caddy", "reload", "--config", "/etc/caddy/Caddyfile")
    if done["code"]:
        raise CommandExecutionError(f"{service}: caddy reload: {(done['err'] or done['out']).strip()[-500:]}")
    return True
