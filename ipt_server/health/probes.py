"""Single probes through one exit: ICMP echo, HTTP, DNS, the age of WireGuard's handshake.

Knows: sockets marked with the exit's mark, so that the exit's table and nothing else routes them. Must not know: what
follows from an answer. Every probe returns None when it was answered, else the failure in words.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import struct
import time
import urllib.parse

SO_MARK = 36
_ICMP_FILTER = 1


def _socket(address: str, kind: int, mark: int, protocol: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        s.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
    except OSError:
        s.close()
        raise
    return s


async def icmp(address: str, mark: int, timeout: float) -> str | None:
    """An echo request."""
    v6 = ":" in address
    identifier, number = os.getpid() & 0xFFFF, int.from_bytes(os.urandom(2), "big")
    try:
        with _socket(address, socket.SOCK_RAW, mark, socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP) as s:
            s.connect((address, 0))
            await _loop().sock_sendall(s, _echo(128 if v6 else 8, identifier, number))
            async with asyncio.timeout(timeout):
                while True:
                    reply = await _loop().sock_recv(s, 2048)
                    body = reply if v6 else reply[(reply[0] & 15) * 4 :]
                    if len(body) >= 8 and (body[0], *struct.unpack("!HH", body[4:8])) == (
                        129 if v6 else 0, identifier, number,
                    ):  # fmt: skip
                        return None
    except TimeoutError:
        return f"{address} does not answer a ping"
    except OSError as error:
        return f"ping {address}: {error.strerror}"


def _echo(kind: int, identifier: int, number: int) -> bytes:
    """An echo request with its checksum (IPv6's is made by the kernel)."""
    head = struct.pack("!BBHHH", kind, 0, 0, identifier, number)
    total = sum(struct.unpack(f"!{len(head) // 2}H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:2] + struct.pack("!H", ~total & 0xFFFF) + head[4:]


async def dns(address: str, mark: int, timeout: float) -> str | None:
    """The root's name servers, asked of a resolver; any answer to the question counts."""
    query = os.urandom(2) + b"\x01\x00\0\1\0\0\0\0\0\0\0\0\2\0\1"
    try:
        with _socket(address, socket.SOCK_DGRAM, mark) as s:
            s.connect((address, 53))
            await _loop().sock_sendall(s, query)
            async with asyncio.timeout(timeout):
                while (await _loop().sock_recv(s, 2048))[:2] != query[:2]:
                    pass
        return None
    except TimeoutError:
        return f"the resolver {address} does not answer"
    except OSError as error:
        return f"resolver {address}: {error.strerror}"


async def http(url: str, mark: int, timeout: float) -> str | None:
    """A HEAD request to http://ADDRESS[:PORT]/PATH; any status below 500 counts."""
    parts = urllib.parse.urlsplit(url)
    address, port = parts.hostname or "", parts.port or 80
    try:
        ipaddress.ip_address(address)
        async with asyncio.timeout(timeout):
            s = _socket(address, socket.SOCK_STREAM, mark)
            try:
                await _loop().sock_connect(s, (address, port))
                reader, writer = await asyncio.open_connection(sock=s)
            except BaseException:
                s.close()
                raise
            try:
                writer.write(f"HEAD {parts.path or '/'} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
                status = (await reader.readline()).split()
            finally:
                writer.close()
        if len(status) > 1 and status[0].startswith(b"HTTP/") and status[1].isdigit() and int(status[1]) < 500:
            return None
        return f"{url}: {b' '.join(status[:3]).decode(errors='replace') or 'no answer'}"
    except TimeoutError:
        return f"{url} does not answer"
    except (OSError, ValueError) as error:
        return f"{url}: {error}"


async def handshake(interface: str, limit: int) -> str | None:
    """The newest handshake of a WireGuard interface; one that cannot be asked (userspace, elsewhere) is not judged."""
    with contextlib.suppress(OSError):
        process = await asyncio.create_subprocess_exec(
            "wg", "show", interface, "latest-handshakes",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        output, _ = await process.communicate()
        times = [int(line.split()[1]) for line in output.decode().splitlines() if len(line.split()) == 2]
        if process.returncode == 0 and times and time.time() - max(times) > limit:
            return f"no WireGuard handshake for more than {limit} s"
    return None


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
