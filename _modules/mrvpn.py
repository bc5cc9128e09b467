"""What this host publishes to the mine: its public keys.

Knows: where mrvpn_wireguard keeps keys. Must not know: the pillar, the description.
"""


def public_keys(root="/opt/mrvpn"):
    """
    The public keys of this host's tunnels and gateway, ``{interface: base64 key}``; the mine's `mrvpn_public_keys`.

    CLI Example:

    .. code-block:: bash

        salt '*' mrvpn.public_keys
    """
    return __salt__["mrvpn_wireguard.public_keys"](root)
