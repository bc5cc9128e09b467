"""The lab's picture: which hosts there are, where they hang, what addresses they have.

Knows: names and addresses. Must not know: how a host is made.

                               internet  (router, servers of GB RU US DE, DNS 192.0.2.53)
      +---------+---------+--------+--------+---------+---------------+---------------+
      |         |         |        |        |         |               |               |
   master     entry      uk       ru       us      office          router          client
    .5         .10       .20      .30      .40      .50              .60         198.51.100.7
                                                      |               |
                                               lan0 10.77.0.1   lan0 10.78.0.1
                                                      |               |
                                           officelan 10.77.0.10   routerlan 10.78.0.10   (web servers)

`router` is a MikroTik: a simulated RouterOS whose WireGuard and OSPF rows are real in its namespace. Its proxy minion
runs on `master`.

Each host is a network namespace on a veth of its own to `internet`: 203.0.113.N/32 there, 2001:db8:0:N::/64. No
namespace has a link to the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.state import NAME

PREFIX = f"mrvpn-{NAME}-"
INTERNET = "internet"
DNS = "192.0.2.53"
ROUTER4 = "169.254.1.1"  # the same next hop on every link: only that link knows it
ROUTER6 = "fe80::1"


@dataclass(frozen=True)
class Host:
    """One machine of the lab. `docker`: has a dockerd and a salt-minion; `root`: has a root file system of its own."""

    name: str
    ipv4: str
    ipv6: str
    docker: bool = False
    root: bool = True

    @property
    def netns(self) -> str:
        """The name of its network namespace."""
        return PREFIX + self.name


def _host(name: str, number: int, *, docker: bool = False) -> Host:
    return Host(name, f"203.0.113.{number}", f"2001:db8:0:{number}::1", docker)


MASTER = _host("master", 5)
ENTRY = _host("entry", 10, docker=True)
UK = _host("uk", 20, docker=True)
RU = _host("ru", 30, docker=True)
US = _host("us", 40, docker=True)
OFFICE = _host("office", 50, docker=True)
ROUTER = Host("router", "203.0.113.60", "2001:db8:0:60::1", root=False)
CLIENT = Host("client", "198.51.100.7", "2001:db8:0:7::1")
HOSTS = (MASTER, ENTRY, UK, RU, US, OFFICE, ROUTER, CLIENT)
MANAGED = tuple(host for host in HOSTS if host.docker)
MINIONS = (*MANAGED, ROUTER)  # whom Salt knows
BY_NAME = {host.name: host for host in HOSTS}


@dataclass(frozen=True)
class Lan:
    """A LAN behind a host: the host's addresses there, and the one machine in it, a web server."""

    host: Host
    router: tuple[str, str]
    server: tuple[str, str]

    @property
    def name(self) -> str:
        """What `exec` calls its machine."""
        return f"{self.host.name}lan"

    @property
    def netns(self) -> str:
        """The name of its machine's network namespace."""
        return PREFIX + self.name


OFFICE_LAN = Lan(OFFICE, ("10.77.0.1/24", "fd77:6d72:7670:1::1/64"), ("10.77.0.10", "fd77:6d72:7670:1::10"))
ROUTER_LAN = Lan(ROUTER, ("10.78.0.1/24", "fd77:6d72:7670:2::1/64"), ("10.78.0.10", "fd77:6d72:7670:2::10"))
LANS = (OFFICE_LAN, ROUTER_LAN)
