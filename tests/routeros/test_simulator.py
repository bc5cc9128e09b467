"""The simulator on the wire, by three clients: bare sentences, librouteros, RouterOS-api."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import librouteros
import pytest
import routeros_api
from librouteros.exceptions import LibRouterosError, MultiTrapError, TrapError

from tests.simulators.routeros import Fault, Router, Simulator, Unverified, User
from tests.simulators.routeros.certs import Authority
from tests.simulators.routeros.wire import encode

WG, TABLE, FILTER = "/interface/wireguard", "/routing/table", "/ip/firewall/filter"


class Bare:
    """A client that knows nothing: words out, sentences in."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def read(self) -> list[str]:
        words = []
        while True:
            first = self._exactly(1)[0]
            more = 0 if first < 0x80 else 1 if first < 0xC0 else 2 if first < 0xE0 else 3
            mask = {0: 0, 1: 0x80, 2: 0xC0, 3: 0xE0}[more]
            length = int.from_bytes(bytes([first ^ mask]) + self._exactly(more), "big")
            if not length:
                return words
            words.append(self._exactly(length).decode())

    def ask(self, *words: str) -> list[list[str]]:
        self.socket.sendall(encode(words))
        found = []
        while not found or found[-1][0] not in ("!done", "!fatal"):
            found.append(self.read())
        return found

    def login(self) -> Bare:
        assert self.ask("/login", "=name=salt", "=password=s3cret") == [["!done"]]
        return self


@pytest.fixture
def simulator(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    with Simulator(Router(version=getattr(request, "param", "7.24.4"))) as it:
        yield it


def test_login(simulator: Simulator) -> None:
    wrong = Bare(simulator.port).ask("/login", "=name=salt", "=password=bad")
    assert wrong == [["!trap", "=message=invalid user name or password (6)"], ["!done"]]
    assert Bare(simulator.port).ask("/ip/address/print")[0][0] == "!fatal"
    assert Bare(simulator.port).ask("/login") == [["!done", "=ret=" + "0" * 32]]
    client = Bare(simulator.port).login()
    assert client.ask("/quit") == [["!fatal", "session terminated on request"]]
    with pytest.raises(EOFError):
        client.read()


def test_without_the_api_policy_the_login_fails() -> None:
    user = User(policies=frozenset({"read", "write"}))
    with Simulator(Router(users=(user,))) as simulator:
        assert Bare(simulator.port).ask("/login", "=name=salt", "=password=s3cret")[0][0] == "!trap"


@pytest.mark.parametrize(
    ("simulator", "empty"),
    [("7.12.2", False), ("7.17", False), ("7.18.2", True), ("7.24", True)],
    indirect=["simulator"],
)
def test_nothing_found_by_version(simulator: Simulator, empty: bool) -> None:
    client = Bare(simulator.port).login()
    answer = client.ask("/ip/route/print", "=.proplist=.id", "?=comment=nope", ".tag=5")
    assert answer == ([["!empty", ".tag=5"]] if empty else []) + [["!done", ".tag=5"]]
    rows = client.ask("/interface/print", "=.proplist=comment")
    assert rows == [["!re"], ["!re"], ["!done"]]


def test_strict_about_every_word(simulator: Simulator) -> None:
    client = Bare(simulator.port).login()

    def trapped(*words: str) -> str:
        answer = client.ask(*words)
        assert answer[-1] == ["!done"] and len(answer) == 2, answer
        return next(word for word in answer[0] if word.startswith("=message=")).removeprefix("=message=")

    assert trapped("/nope/print") == "no such command"
    assert trapped(f"{WG}/add", "=nmae=w1") == "unknown parameter nmae"
    assert trapped(f"{WG}/add", "=name=w1", "=running=true") == "unknown parameter running"
    assert trapped("/ip/address/add", "=address=192.0.2.1") == "missing value(s) of argument(s) interface"
    assert (
        trapped("/ip/address/add", "=address=192.0.2.1", "=interface=asdf")
        == "input does not match any value of interface"
    )
    assert trapped("/ip/address/remove", "=.id=") == "missing value(s) of argument(s) numbers"
    assert trapped("/ip/address/remove", "=.id=*99") == "no such item"
    assert trapped(f"{WG}/add", "=name=w1", "=private-key=short") == "invalid value for argument private-key"
    assert trapped(f"{WG}/add", "=name=ether1") == "failure: already have interface with such name"
    assert trapped("/ip/address/move", "=numbers=*1") == "no such command"
    assert simulator.router.writes == 0


@pytest.mark.parametrize(
    ("simulator", "field", "known"),
    [("7.16", "responder", False), ("7.17", "responder", True), ("7.16", "is-responder", True),
     ("7.17", "is-responder", False)],
    indirect=["simulator"],
)  # fmt: skip
def test_fields_come_and_go(simulator: Simulator, field: str, known: bool) -> None:
    simulator.router.seed(WG, name="w1")
    words = [f"{WG}/peers/add", "=interface=w1", "=allowed-address=10.0.0.0/8", f"={field}=yes"]
    assert (Bare(simulator.port).login().ask(*words)[0][0] == "!done") is known


def test_flags_durations_lists_ports(simulator: Simulator) -> None:
    router = simulator.router
    client = Bare(simulator.port).login()
    ident = router.seed(TABLE, name="vpn", fib="yes")
    assert ident == "*401"
    client.ask(f"{TABLE}/set", f"=.id={ident}", "=fib=no")
    assert router.find(TABLE, name="vpn")[0]["fib"] == ""
    client.ask(f"{TABLE}/set", f"=.id={ident}", "=!fib=")
    assert "fib" not in router.find(TABLE, name="vpn")[0]
    router.seed(WG, name="w1", listen_port="13231")
    client.ask(
        f"{WG}/peers/add", "=interface=w1", "=allowed-address=10.0.0.0/8, 224.0.0.0/4", "=persistent-keepalive=93"
    )
    (peer,) = router.find(f"{WG}/peers")
    assert (peer["allowed-address"], peer["persistent-keepalive"]) == ("10.0.0.0/8,224.0.0.0/4", "1m33s")
    assert client.ask(f"{WG}/add", "=name=w2", "=listen-port=13231")[0][0] == "!done"
    (second,) = router.find(WG, name="w2")
    assert (second["disabled"], second[".about"]) == ("true", "Listen port already used")
    client.ask("/ip/firewall/mangle/add", "=chain=forward", "=protocol=tcp", "=tcp-flags=fin,syn")
    assert router.find("/ip/firewall/mangle")[0]["tcp-flags"] == "syn,fin"


@pytest.mark.parametrize(("simulator", "shown"), [("7.18", None), ("7.19", "true")], indirect=["simulator"])
def test_passthrough_is_shown_by_version(simulator: Simulator, shown: str | None) -> None:
    simulator.router.seed("/ip/firewall/mangle", chain="forward", action="accept")
    assert simulator.router.find("/ip/firewall/mangle")[0].get("passthrough") == shown


@pytest.mark.parametrize(("simulator", "rows"), [("7.18", 1), ("7.19", 2)], indirect=["simulator"])
def test_live_connections_among_the_services(simulator: Simulator, rows: int) -> None:
    answer = Bare(simulator.port).login().ask("/ip/service/print", "?=name=api-ssl")
    assert len([sentence for sentence in answer if sentence[0] == "!re"]) == rows


def test_order(simulator: Simulator) -> None:
    router = simulator.router
    client = Bare(simulator.port).login()
    last = router.find(FILTER, action="drop")[0]
    new = client.ask(f"{FILTER}/add", "=chain=input", "=action=accept", f"=place-before={last['.id']}")[0][1]
    ids = [row[".id"] for row in router.find(FILTER)]
    assert ids[-2:] == [new.removeprefix("=ret="), last[".id"]]
    client.ask(f"{FILTER}/move", f"=numbers={last['.id']}", f"=destination={ids[-2]}")
    assert [row[".id"] for row in router.find(FILTER)][-2:] == [last[".id"], ids[-2]]


def test_masks_and_policies() -> None:
    reader = User("eye", "s3cret", frozenset({"read", "api"}))
    with Simulator(Router(users=(User(), reader))) as simulator:
        simulator.router.seed(WG, name="w1")
        (row,) = librouteros.connect("127.0.0.1", "salt", "s3cret", port=simulator.port).path("interface", "wireguard")
        assert row["private-key"] == "*****"
        eye = librouteros.connect("127.0.0.1", "eye", "s3cret", port=simulator.port)
        with pytest.raises(TrapError, match="not enough permissions"):
            eye.path("interface", "wireguard").add(name="w2")
        with pytest.raises(TrapError, match="not enough permissions"):
            tuple(eye("/tool/ping", address="10.0.0.1"))


def test_safe_mode(simulator: Simulator) -> None:
    router = simulator.router
    before = router.snapshot()
    one, other = Bare(simulator.port).login(), Bare(simulator.port).login()
    assert one.ask("/safe-mode/take") == [["!done"]]
    assert other.ask("/safe-mode/take")[0][0] == "!trap"
    other.ask(f"{WG}/add", "=name=w1")
    assert one.ask("/safe-mode/unroll") == [["!done"]]
    assert router.snapshot() == before
    one.ask("/safe-mode/take")
    one.ask(f"{WG}/add", "=name=w2")
    one.socket.close()
    while other.ask("/safe-mode/print")[0] != ["!re", "=enabled=false"]:
        pass
    assert router.snapshot() == before
    other.ask("/safe-mode/take")
    other.ask(f"{WG}/add", "=name=w3")
    other.ask("/safe-mode/release")
    assert router.find(WG)[0]["name"] == "w3"


@pytest.mark.parametrize("simulator", ["7.17"], indirect=True)
def test_no_safe_mode_before_7_18(simulator: Simulator) -> None:
    assert "=message=no such command" in Bare(simulator.port).login().ask("/safe-mode/take")[0]


def test_a_script_by_the_scheduler(simulator: Simulator) -> None:
    client = Bare(simulator.port).login()
    event = ':foreach i in=[/ip address find interface=bridge] do={ /ip address set $i comment="so \\"it\\" is" }'
    client.ask("/system/scheduler/add", "=name=x", "=interval=1s", f"=on-event={event}")
    while simulator.router.find("/ip/address")[0]["comment"] != 'so "it" is':
        client.ask("/system/identity/print")


def test_execute_answers_errors_as_text(simulator: Simulator) -> None:
    client = Bare(simulator.port).login()
    good = client.ask("/execute", '=script=/interface list add name=x; :put "fine"', "=as-string=")
    assert good == [["!done", "=ret=fine"]]
    bad = client.ask("/execute", '=script=/interface lst add name=x; :put "fine"', "=as-string=")
    assert bad == [["!done", "=ret=bad command name lst (line 1 column 1)"]]


FAULTS = [
    ("trap", TrapError),
    ("trap_bare", TypeError),
    ("double_trap", MultiTrapError),
    ("fatal", LibRouterosError),
    ("fatal_bare", IndexError),
    ("cut_before", LibRouterosError),
    ("cut_after", LibRouterosError),
    ("cut_mid", LibRouterosError),
    ("late", TimeoutError),
]


@pytest.mark.parametrize(("kind", "error"), FAULTS)
def test_faults_as_librouteros_sees_them(simulator: Simulator, kind: str, error: type[Exception]) -> None:
    api = librouteros.connect("127.0.0.1", "salt", "s3cret", port=simulator.port, timeout=0.3)
    simulator.router.faults.append(Fault(kind, f"{WG}/add", seconds=1))  # type: ignore[arg-type]
    with pytest.raises(error):
        api.path("interface", "wireguard").add(name="w1")
    executed = bool(simulator.router.find(WG))
    assert executed is (kind in ("cut_after", "cut_mid", "late"))


def test_after_a_late_answer_librouteros_reads_the_old_one(simulator: Simulator) -> None:
    api = librouteros.connect("127.0.0.1", "salt", "s3cret", port=simulator.port, timeout=0.3)
    simulator.router.faults.append(Fault("late", "/system/identity/print", seconds=0.6))
    with pytest.raises(TimeoutError):
        tuple(api("/system/identity/print"))
    api.protocol.transport.sock.settimeout(10)
    assert tuple(api("/system/resource/print")) == ({"name": "MikroTik"},)


def test_the_second_client_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with Simulator(Router(), authority.issue("router")) as simulator:
        context = ssl.create_default_context(cafile=str(authority.file))
        pool = routeros_api.RouterOsApiPool(
            "127.0.0.1", "salt", "s3cret", simulator.port, plaintext_login=True, use_ssl=True, ssl_context=context
        )
        resource = pool.get_api().get_resource(WG)
        resource.add(name="w1", comment="так")
        (row,) = resource.get(name="w1")
        resource.set(id=row["id"], mtu="1280")
        assert resource.get(name="w1")[0]["mtu"] == "1280"
        resource.remove(id=row["id"])
        assert resource.get() == []
        pool.disconnect()
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(
                socket.create_connection(("127.0.0.1", simulator.port)), server_hostname="127.0.0.1"
            )


@pytest.mark.parametrize("length", [127, 128, 255, 256, 16383, 16384, 70000])
def test_long_words(simulator: Simulator, length: int) -> None:
    text = "я" * (length // 2) + "x" * (length % 2)
    api = librouteros.connect("127.0.0.1", "salt", "s3cret", port=simulator.port, encoding="utf-8")
    api.path("interface", "wireguard").add(name="w1", comment=text)
    assert next(iter(api.path("interface", "wireguard")))["comment"] == text


@pytest.mark.parametrize("orphans", ["keep", "cascade", "trap"])
def test_what_points_at_a_removed_interface(orphans: str) -> None:
    router = Router(unverified=Unverified(orphans=orphans))  # type: ignore[arg-type]
    with Simulator(router) as simulator:
        ident = router.seed(WG, name="w1")
        router.seed("/ip/address", address="10.9.0.1/24", interface="w1")
        answer = Bare(simulator.port).login().ask(f"{WG}/remove", f"=.id={ident}")
        assert (answer[0][0] == "!trap") is (orphans == "trap")
        left = router.find("/ip/address", interface="w1")
        assert bool(left) is (orphans != "cascade")
        assert orphans != "keep" or left[0]["invalid"] == "true"


def test_as_a_program(tmp_path: Path) -> None:
    """Two routers over TLS, a fault by a line of JSON, the counter of writes."""
    command = [
        sys.executable,
        "-m",
        "tests.simulators.routeros",
        "--count",
        "2",
        "--version",
        "7.17",
        "--tls",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None and program.stdout is not None

        def tell(line: dict[str, object]) -> object:
            assert program.stdin is not None and program.stdout is not None
            program.stdin.write(json.dumps(line) + "\n")
            program.stdin.flush()
            return json.loads(program.stdout.readline())

        port = json.loads(program.stdout.readline())["ports"][1]
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        api = librouteros.connect(
            "127.0.0.1",
            "salt",
            "s3cret",
            port=port,
            ssl_wrapper=lambda s: context.wrap_socket(s, server_hostname="127.0.0.1"),
        )
        assert tell({"router": 1, "kind": "trap", "match": f"{WG}/add"}) == {"faults": 1}
        with pytest.raises(TrapError, match="out of memory"):
            api.path("interface", "wireguard").add(name="w1")
        api.path("interface", "wireguard").add(name="w1")
        assert tell({"router": 1, "writes": 0}) == {"writes": 1, "prints": {}}
        assert tell({"router": 1, "show": WG})[0]["name"] == "w1"  # type: ignore[index]
        program.stdin.close()
        assert program.wait(20) == 0


def test_as_a_program_that_is_commanded_on_a_socket(tmp_path: Path) -> None:
    """As the lab runs it: the password in the environment, commands for the owner alone, an end by SIGTERM."""
    control = tmp_path / "control"
    command = [sys.executable, "-m", "tests.simulators.routeros", "--control", str(control), "--identity", "office"]
    command += ["--address", "10.78.0.1/24=bridge", "--address", "fd77::1/64=bridge"]
    environment = {**os.environ, "MRVPN_ROUTEROS_PASSWORD": "not-on-the-command-line"}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment) as program:
        assert program.stdout is not None
        port = json.loads(program.stdout.readline())["ports"][0]
        assert control.stat().st_mode & 0o077 == 0
        assert b"not-on-the-command-line" not in Path(f"/proc/{program.pid}/cmdline").read_bytes()
        api = librouteros.connect("127.0.0.1", "salt", "not-on-the-command-line", port=port)
        assert next(iter(api.path("system", "identity")))["name"] == "office"
        for _ in range(2):  # one client after another
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(control))
                with client.makefile("rw") as lines:
                    for path, address in (("/ip/address", "10.78.0.1/24"), ("/ipv6/address", "fd77::1/64")):
                        print(json.dumps({"show": path}), file=lines, flush=True)
                        assert address in {row["address"] for row in json.loads(lines.readline())}
        program.terminate()
        assert program.wait(20) == 0
