"""The hook's ports over real sockets: each is served, whatever a datagram does, and all are free again at the end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ipt_server.core.answers import Answer, Judgement
from ipt_server.dns.server import Refused, VerdictServer
from ipt_server.settings import Hook

PORT, PORTS = 45310, 4
HOOK = Hook(address="127.0.0.1", port=PORT, ports=PORTS)


class Teacher:
    """Judges by the name that is asked for; `slow` waits until it may go on."""

    def __init__(self) -> None:
        self.go_on, self.settled = threading.Event(), 0

    def teach(self, answer: Answer) -> Judgement:
        if answer.names[0] == "slow":
            self.go_on.wait(5)
        elif answer.names[0] == "full":
            raise Refused("no room")
        elif answer.names[0] == "broken":
            raise RuntimeError("a mistake of ours")
        return Judgement(ttl=60)

    def settle(self) -> None:
        self.settled += 1


@pytest.fixture
def teacher() -> Teacher:
    return Teacher()


@pytest.fixture
def server(teacher: Teacher) -> Iterator[VerdictServer]:
    found = VerdictServer(HOOK, teacher)
    found.start()
    yield found
    teacher.go_on.set()
    found.stop()


def asked(name: str, port: int = PORT) -> socket.socket:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    s.connect(("127.0.0.1", port))
    s.send(f"n-1 1 10.11.0.2 {name}.\n1 60 {name}. 81.2.69.160".encode())
    return s


@pytest.mark.parametrize("port", range(PORT, PORT + PORTS))
def test_each_port_answers(server: VerdictServer, teacher: Teacher, port: int) -> None:
    for _ in range(3):
        with asked("www", port) as s:
            assert s.recv(100) == b"n-1 T 60"
    deadline = time.monotonic() + 2
    while teacher.settled < 3 and time.monotonic() < deadline:
        pass
    assert teacher.settled == 3, "what no answer waits for was not done"


def test_what_one_datagram_does_is_no_other_ones_trouble(server: VerdictServer) -> None:
    with asked("full") as s:
        assert s.recv(100) == b"n-1 F"
    with asked("broken") as s, asked("www") as after:
        assert after.recv(100) == b"n-1 T 60"
        s.settimeout(0.05)
        with pytest.raises(TimeoutError):  # the hook asks again, then fails by its policy
            s.recv(100)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"\xff" * 60_000, ("127.0.0.1", PORT))
        s.sendto(b"", ("127.0.0.1", PORT))
    with asked("www") as s:
        assert s.recv(100) == b"n-1 T 60"
    assert (server.malformed, server.refused) == (2, 1)


def test_an_answer_that_takes_long_holds_up_no_other_port(server: VerdictServer, teacher: Teacher) -> None:
    with asked("slow") as slow, asked("www", PORT + 1) as s:
        assert s.recv(100) == b"n-1 T 60"
        teacher.go_on.set()
        assert slow.recv(100) == b"n-1 T 60"


def test_the_end_lets_go_of_what_is_judged_and_of_the_ports(server: VerdictServer, teacher: Teacher) -> None:
    with asked("slow") as slow:
        ending = threading.Thread(target=server.stop)
        while not server.asked:
            pass
        ending.start()
        teacher.go_on.set()
        assert slow.recv(100) == b"n-1 T 60"
        ending.join(5)
        assert not ending.is_alive()
    again = VerdictServer(HOOK, teacher)
    again.start()
    with asked("www") as s:
        assert s.recv(100) == b"n-1 T 60"
    again.stop()
    again.stop()


def test_a_port_that_is_taken_leaves_none_bound(teacher: Teacher) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", PORT + PORTS - 1))
        server = VerdictServer(HOOK, teacher)
        with pytest.raises(OSError):
            server.start()
        server.stop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", PORT))
