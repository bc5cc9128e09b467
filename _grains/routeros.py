"""Grains of a router: `routeros: {version, board, architecture, identity}`.

Knows: the proxy's function. Must not know: how it asks.
"""

import salt.utils.proxy

__proxyenabled__ = ["routeros"]


def __virtual__():
    return bool(salt.utils.proxy.is_proxytype(__opts__, "routeros"))


def facts(proxy=None):
    """
    Version, board, architecture and identity of the router; none where it is away.
    """
    if not proxy or "routeros.grains" not in proxy:
        return {}
    found = proxy["routeros.grains"]()
    return {"routeros": found} if found else {}
