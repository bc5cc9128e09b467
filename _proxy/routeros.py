"""The session of a proxy minion to its RouterOS router: API over TLS, one login per process, one wrapper around
librouteros.

Proxy pillar::

    proxy:
      proxytype: routeros
      host: 192.0.2.1          # name or address, IPv6 too
      username: salt
      password: ...
      tls: {ca: /etc/salt/mrvpn/router-ca.pem, name: router.example}   # or {fingerprint: <SHA-256 of the certificate>}
      # port: 8729, timeout: 10
      # plain: true            # the API without TLS on port 8728: the password goes in clear

Knows: sockets, TLS, librouteros and its quirks, when to dial again. Must not know: paths, rows, states, what is
written.
"""

import contextlib
import hashlib
import logging
import os
import ssl
import threading
import time
from pathlib import Path

import salt.loader.context

try:
    import librouteros
    from librouteros.api import Api
    from librouteros.exceptions import LibRouterosError

    from mrvpn.routeros.errors import Away, Lost, RouterError, Trapped
    from mrvpn.routeros.feet import Feet

    MISSING = None
except ImportError as error:
    MISSING = str(error)
    Api = object

__proxyenabled__ = ["routeros"]
__virtualname__ = "routeros"
log = logging.getLogger(__name__)

# librouteros logs every word at level debug, the password of the login among them
logging.getLogger("librouteros").disabled = True

PORT, PLAIN_PORT = 8729, 8728
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
_sessions = {}  # (process, minion id) -> Session: jobs are forked, and a socket that two processes read is of no use


def __virtual__():
    if MISSING:
        return False, f"the proxy of a router needs librouteros and the package mrvpn: {MISSING}"
    return __virtualname__


class _Api(Api):
    """librouteros's sentences without its casts: values stay the text that was on the wire."""

    def sentence(self):
        """The next sentence: reply word, attributes, bare words."""
        words = []
        while not words:
            words = list(iter(self.protocol.readWord, ""))
        attributes, bare = {}, []
        for word in words[1:]:
            if word.startswith("="):
                name, _, value = word[1:].partition("=")
                attributes[name] = value
            else:
                bare.append(word)
        return words[0], attributes, bare

    def ask(self, command, words):
        """All rows of the answer; `ret` of !done is a last row."""
        self.protocol.writeSentence(command, *words)
        rows, traps = [], []
        while True:
            reply, attributes, bare = self.sentence()
            if reply == "!re":
                rows.append(attributes)
            elif reply == "!trap":
                traps.append(attributes.get("message", "refused without a word"))
            elif reply == "!done":
                break
            elif reply == "!fatal":
                raise Lost(f"the router ended the session: {' '.join(bare) or 'without a word'}")
            elif reply != "!empty":
                raise Lost(f"the router answered {reply!r}, which nobody knows")
        if traps:
            raise Trapped("; ".join(traps))
        return [*rows, attributes] if attributes else rows


def _line(error):
    """An error of whatever kind as one line."""
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return " ".join(text.split())


class Session:
    """A login, made when it is needed and made again when it broke. All methods raise RouterError only."""

    def __init__(self, settings):
        self.settings = settings
        self._api = None
        self._socket = None
        self._lock = threading.RLock()

    # -- connecting

    def _address(self):
        plain = bool(self.settings.get("plain"))
        return self.settings["host"], int(self.settings.get("port") or (PLAIN_PORT if plain else PORT))

    def _context(self):
        tls = self.settings.get("tls") or {}
        context = ssl.create_default_context()
        if tls.get("fingerprint"):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        elif tls.get("ca"):
            pem = tls["ca"] if "-----BEGIN" in tls["ca"] else Path(tls["ca"]).read_text(encoding="ascii")
            context = ssl.create_default_context(cadata=pem)
        return context

    def _wrap(self, raw):
        """TLS around the socket; the certificate is verified by CA and name, or by its fingerprint."""
        tls = self.settings.get("tls") or {}
        try:
            wrapped = self._context().wrap_socket(raw, server_hostname=tls.get("name") or self.settings["host"])
        except ssl.SSLCertVerificationError as error:
            raise Away(f"its certificate is not accepted: {error.verify_message}") from None
        except ssl.SSLError as error:
            told = _line(error.reason or error)
            raise Away(f"no TLS ({told}): does /ip service api-ssl have a certificate?") from None
        if tls.get("fingerprint"):
            have = hashlib.sha256(wrapped.getpeercert(binary_form=True)).hexdigest()
            if have != tls["fingerprint"].replace(":", "").lower():
                wrapped.close()
                raise Away(f"its certificate has the fingerprint {have}, another one is pinned")
        return wrapped

    def _connect(self):
        host, port = self._address()
        where = f"{host} port {port}"
        sockets = []

        def keep(raw):
            # librouteros leaks the socket where wrapping fails
            sockets.append(raw)
            sockets.append(raw if self.settings.get("plain") else self._wrap(raw))
            return sockets[-1]

        try:
            api = librouteros.connect(
                host, "", "", port=port, timeout=float(self.settings.get("timeout") or 10), subclass=_Api,
                encoding="utf-8", ssl_wrapper=keep, login_method=lambda *_: None,
            )  # fmt: skip
            try:
                challenge = api.ask(
                    "/login", [f"={n}={self.settings[k]}" for n, k in (("name", "username"), ("password",) * 2)]
                )
            except Trapped as error:
                raise Away(f"login of {self.settings['username']} refused: {error}") from None
            if challenge:
                raise Away("it asks for the login of RouterOS before 6.43: too old")
        except RouterError as error:
            _close(sockets)
            raise Away(f"router {where}: {error}") from None
        except (OSError, LibRouterosError, ValueError, IndexError) as error:
            _close(sockets)
            raise Away(f"router {where} does not answer: {_line(error)}") from None
        self._socket, self._api = sockets[-1], api

    def close(self):
        """Ends the session; the next call makes a new one."""
        with self._lock:
            if self._api is not None:
                with contextlib.suppress(OSError):
                    self._api.close()
            self._api = self._socket = None

    # -- asking

    def call(self, command, words=None):
        """The rows of the answer as text; ``ret`` of !done is a last row. A key that begins with ``?`` is a query.

        After a timeout or a break nobody knows what was done, and a late answer would be taken for the next one: the
        session is closed and Lost raised. Only a print is asked again, on a new session.
        """
        sent = [
            f"{name}={value}" if name.startswith("?") else f"={name}={value}" for name, value in (words or {}).items()
        ]
        with self._lock:
            for last in (False, True):
                fresh = self._api is None
                if fresh:
                    self._connect()
                try:
                    return self._api.ask(command, sent)
                except Trapped:
                    raise
                except (OSError, LibRouterosError, Lost, ValueError, IndexError, TypeError) as error:
                    self.close()
                    if last or fresh or not command.endswith("/print"):
                        kind = "no answer in time" if isinstance(error, TimeoutError) else _line(error)
                        raise Lost(f"{command}: {kind}") from None
        raise AssertionError

    @contextlib.contextmanager
    def fresh(self):
        """Another login beside this one, closed at the end."""
        other = Session(self.settings)
        try:
            yield other
        finally:
            other.close()

    def feet(self):
        """Both addresses of the session, for what must not be cut."""
        with self._lock:
            if self._socket is None:
                self._connect()
            return Feet(self._socket.getpeername()[0], self._socket.getsockname()[0])


def _close(sockets):
    for one in sockets:
        with contextlib.suppress(OSError):
            one.close()


# -- what Salt calls ---------------------------------------------------------------------------------------------------


def _wait(entry):
    """Whether it is too early to dial again: each failure doubles the pause, up to a minute."""
    return time.monotonic() < entry.get("not_before", 0)


def _opts():
    """
    The options of the minion that asks. Under a deltaproxy its sub-proxies share this module, and ``__opts__`` is the
    last one's: the loader that runs the call knows whose it is.
    """
    found = getattr(salt.loader.context.loader_ctxvar.get(None), "opts", None) or {}
    return found if found.get("proxy") and found.get("id") else __opts__


def _entry():
    opts = _opts()
    return _sessions.setdefault((os.getpid(), opts["id"]), {"session": Session(opts["proxy"])})


def session():
    """
    The session of this process.
    """
    return _entry()["session"]


def call(command, words=None):
    """
    The rows of one command's answer.
    """
    return session().call(command, words)


def init(opts):
    """
    Checks the settings; a router that is away does not keep the proxy from starting.
    """
    settings = opts["proxy"]
    missing = [name for name in ("host", "username", "password") if not settings.get(name)]
    if missing:
        raise ValueError(f"proxy of {opts['id']}: the pillar lacks proxy.{', proxy.'.join(missing)}")
    alive(opts)
    return True


def initialized():
    """
    True: the session is made when it is needed.
    """
    return True


def alive(opts):
    """
    Whether the router answers; Salt asks every minute (proxy_keep_alive_interval).
    """
    entry = _entry()
    if _wait(entry):
        return False
    try:
        entry["session"].call("/system/identity/print")
    except RouterError as error:
        entry["delay"] = min(2 * entry.get("delay", FIRST_DELAY / 2), LONGEST_DELAY)
        entry["not_before"] = time.monotonic() + entry["delay"]
        log.error("%s: %s", _opts()["id"], error)
        return False
    entry.pop("delay", None)
    entry.pop("not_before", None)
    return True


def ping():
    """
    What ``test.ping`` answers: whether the router answers now.
    """
    try:
        call("/system/identity/print")
    except RouterError as error:
        log.error("%s: %s", _opts()["id"], error)
        return False
    return True


def grains():
    """
    Version, board, architecture and identity; empty where the router is away.
    """
    try:
        resource = (call("/system/resource/print") or [{}])[0]
        identity = (call("/system/identity/print") or [{}])[0]
    except RouterError as error:
        log.error("%s: %s", _opts()["id"], error)
        return {}
    names = {"version": "version", "board": "board-name", "architecture": "architecture-name"}
    return {"identity": identity.get("name"), **{grain: resource.get(field) for grain, field in names.items()}}


def grains_refresh():
    """
    The grains, asked again.
    """
    return grains()


def shutdown(opts):
    """
    Ends the session of this process.
    """
    session().close()
