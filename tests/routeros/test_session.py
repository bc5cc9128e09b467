"""The proxy's session: TLS, login, lost answers, forks; the proxy's functions without Salt around them."""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from mrvpn.routeros.errors import Away, Lost, Trapped
from tests.simulators.routeros import Fault, Router, Simulator
from tests.simulators.routeros.certs import Authority

Make = Callable[..., Any]


@pytest.fixture
def session(proxy_module: ModuleType, settings: Make, serve: Make) -> Make:
    def make(router: Router | None = None, **more: Any) -> Any:
        made = proxy_module.Session(settings(serve(router or Router()), **more))
        return made

    return make


def test_values_stay_text_and_utf8_comes_through(session: Make) -> None:
    router = Router()
    it = session(router)
    ident = it.call("/interface/wireguard/add", {"name": "w1", "listen-port": "00", "comment": 'yes "так"'})[-1]["ret"]
    (row,) = it.call("/interface/wireguard/print", {".proplist": ".id,comment,disabled,mtu", "?name": "w1"})
    assert row == {".id": ident, "comment": 'yes "так"', "disabled": "false", "mtu": "1420"}
    assert it.call("/ip/route/print") == []


@pytest.mark.parametrize("version", ["7.12.2", "7.24.4"])
def test_nothing_found(session: Make, version: str) -> None:
    assert session(Router(version=version)).call("/ip/route/print") == []


def test_wrong_password(session: Make) -> None:
    with pytest.raises(Away, match=r"router 127\.0\.0\.1 port \d+: login of salt refused: invalid user name") as told:
        session(password="hunter2-secret").call("/system/identity/print")
    assert "hunter2" not in str(told.value)


def test_a_foreign_certificate(session: Make, tmp_path: Any) -> None:
    with pytest.raises(Away, match="its certificate is not accepted: unable to get local issuer"):
        session(tls={"ca": str(Authority(tmp_path, "other").file)}).call("/system/identity/print")


def test_an_expired_certificate(proxy_module: ModuleType, settings: Make, serve: Make, authority: Authority) -> None:
    simulator = serve(Router(), authority.issue("expired", (-30, -1)))
    with pytest.raises(Away, match="its certificate is not accepted: certificate has expired"):
        proxy_module.Session(settings(simulator)).call("/system/identity/print")


def test_another_name(session: Make, authority: Authority) -> None:
    tls = {"ca": str(authority.file)}
    assert session(tls={**tls, "name": "router.test"}).call("/system/identity/print")
    with pytest.raises(Away, match="Hostname mismatch"):
        session(tls={**tls, "name": "other.test"}).call("/system/identity/print")


def test_a_pinned_fingerprint(session: Make, pair: Any) -> None:
    der = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
    digest = hashlib.sha256(der).hexdigest()
    shown = ":".join(digest[i : i + 2] for i in range(0, 64, 2)).upper()
    assert session(tls={"fingerprint": shown}).call("/system/identity/print")
    with pytest.raises(Away, match=f"its certificate has the fingerprint {digest}, another one is pinned"):
        session(tls={"fingerprint": "00" * 32}).call("/system/identity/print")


def test_no_certificate_no_tls(proxy_module: ModuleType, settings: Make, serve: Make, authority: Authority) -> None:
    simulator = serve(Router(), None)
    wanted = {**settings(simulator), "plain": False, "tls": {"ca": str(authority.file)}, "timeout": 1}
    with pytest.raises(Away, match=r"no TLS|does not answer"):
        proxy_module.Session(wanted).call("/system/identity/print")


def test_over_ipv6(proxy_module: ModuleType, settings: Make, pair: Any) -> None:
    """The certificate has another name than the address that is dialled: `tls.name` tells it."""
    with Simulator(Router(), pair, host="::1") as simulator:
        wanted = settings(simulator, host="::1")
        wanted["tls"]["name"] = "router.test"
        it = proxy_module.Session(wanted)
        assert it.call("/system/identity/print") == [{"name": "MikroTik"}]
        assert (it.feet().local, it.feet().remote) == ("::1", "::1")
        it.close()


def test_a_router_that_is_away_and_comes_back(proxy_module: ModuleType, settings: Make, serve: Make) -> None:
    simulator = serve(Router())
    it = proxy_module.Session(settings(simulator))
    assert it.call("/system/identity/print")
    simulator.stop()
    with pytest.raises(Away, match=r"does not answer: Connection refused"):
        it.call("/system/identity/print")
    simulator.start()
    assert it.call("/system/identity/print")


def test_a_late_answer_is_never_taken_for_the_next(session: Make) -> None:
    router = Router()
    it = session(router, timeout=0.3)
    router.faults.append(Fault("late", "/ip/address/add", seconds=0.8))
    words = {"address": "192.0.2.1/24", "interface": "bridge"}
    with pytest.raises(Lost, match="/ip/address/add: no answer in time"):
        it.call("/ip/address/add", words)
    assert it.call("/system/identity/print") == [{"name": "MikroTik"}]


def test_a_print_is_asked_again_a_write_is_not(session: Make) -> None:
    router = Router()
    it = session(router)
    it.call("/system/identity/print")
    router.faults.append(Fault("cut_before", "/ip/address/print"))
    assert it.call("/ip/address/print")
    router.faults.append(Fault("cut_after", "/interface/wireguard/add"))
    with pytest.raises(Lost):
        it.call("/interface/wireguard/add", {"name": "w1"})
    assert len(router.find("/interface/wireguard")) == 1


@pytest.mark.parametrize(
    ("kind", "error", "told"),
    [
        ("trap", Trapped, "out of memory"),
        ("trap_bare", Trapped, "refused without a word"),
        ("double_trap", Trapped, "out of memory; and another"),
        ("fatal", Lost, "the router ended the session: out of memory"),
        ("fatal_bare", Lost, "the router ended the session: without a word"),
        ("unknown", Lost, "the router answered '!what', which nobody knows"),
        ("cut_mid", Lost, "/interface/wireguard/add: "),
    ],
)
def test_each_fault_is_one_of_our_errors(session: Make, kind: Any, error: type[Exception], told: str) -> None:
    router = Router()
    it = session(router)
    router.faults.append(Fault(kind, "/interface/wireguard/add"))
    with pytest.raises(error, match=told.replace("(", "\\(")):
        it.call("/interface/wireguard/add", {"name": "w1"})
    assert it.call("/system/identity/print")


def test_a_fork_has_a_session_of_its_own(proxy_module: ModuleType, settings: Make, serve: Make) -> None:
    simulator = serve(Router())
    proxy_module.__opts__ = {"id": "router", "proxy": settings(simulator)}
    assert proxy_module.ping()
    before = simulator.connections
    child = os.fork()
    if not child:
        os._exit(0 if proxy_module.call("/system/identity/print") == [{"name": "MikroTik"}] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert simulator.connections == before + 1
    assert proxy_module.ping() and simulator.connections == before + 1
    proxy_module.shutdown({})


def test_away_is_one_line_and_dialling_backs_off(
    proxy_module: ModuleType, settings: Make, serve: Make, caplog: pytest.LogCaptureFixture
) -> None:
    simulator: Simulator = serve(Router())
    proxy_module.__opts__ = {"id": "away", "proxy": settings(simulator)}
    simulator.stop()
    caplog.set_level(logging.DEBUG)
    assert proxy_module.init(proxy_module.__opts__) is True and proxy_module.initialized()
    assert proxy_module.ping() is False and proxy_module.grains() == {}
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    told = len(caplog.records)
    assert proxy_module.alive(proxy_module.__opts__) is False  # too early to dial again: not even a line
    assert len(caplog.records) == told
    assert "s3cret" not in caplog.text


def test_no_word_of_a_sentence_is_logged(session: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    session().call("/interface/wireguard/add", {"name": "w1"})
    assert "s3cret" not in caplog.text and "wireguard" not in caplog.text


def test_settings_that_lack_something(proxy_module: ModuleType) -> None:
    opts = {"id": "router", "proxy": {"proxytype": "routeros", "host": "192.0.2.1"}}
    with pytest.raises(ValueError, match=r"the pillar lacks proxy\.username, proxy\.password"):
        proxy_module.init(opts)
