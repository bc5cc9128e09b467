"""Engine of the master: a POST with the HMAC of the secret becomes the event `mrvpn/deploy/wanted`, without any data.

Master configuration::

    engines:
      - mrvpn_webhook:
          port: 8015
          address: 0.0.0.0
          secret: /etc/salt/mrvpn/webhook.secret    # 0600; what the forge was told, 16 characters or more
          certificate: /etc/salt/mrvpn/webhook.crt  # without these two: plain HTTP, on a loopback address alone
          key: /etc/salt/mrvpn/webhook.key

Knows: HTTP. Must not know: git, the description. Nothing that is not authenticated reaches the event bus: Salt's own
webhook engine puts every request on it, of any size.
"""

import asyncio
import ipaddress
import logging
import os
import ssl
import stat
import time

import salt.utils.event

log = logging.getLogger(__name__)
TAG = "mrvpn/deploy/wanted"
TIMEOUT = 10  # seconds for a whole request


def start(port, secret, address="127.0.0.1", certificate=None, key=None):
    """
    Serves until the master ends.

    CLI Example: none; an engine is configured.
    """
    import tornado.httpserver
    import tornado.netutil
    import tornado.web

    from mrvpn_master import webhook

    context = None
    if certificate and key:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
    elif not ipaddress.ip_address(address).is_loopback:
        raise ValueError(f"mrvpn_webhook: {address} without certificate and key: plain HTTP is for loopback alone")
    held = _secret(secret, webhook.SHORTEST_SECRET)
    opts = __opts__

    class Hook(tornado.web.RequestHandler):
        def post(self):
            if not webhook.genuine(held, dict(self.request.headers), self.request.body):
                log.warning("mrvpn_webhook: a request of %s was refused", self.request.remote_ip)
                self.set_status(403)
                return
            with salt.utils.event.get_event("master", sock_dir=opts["sock_dir"], opts=opts, listen=False) as bus:
                bus.fire_event({"time": time.time()}, TAG)
            self.set_status(202)

        def write_error(self, status_code, **kwargs):
            self.finish()

    async def serve():
        server = tornado.httpserver.HTTPServer(
            tornado.web.Application([("/mrvpn", Hook)], log_function=lambda handler: None),
            ssl_options=context,
            max_body_size=webhook.MAX_BODY,
            max_header_size=16 << 10,
            body_timeout=TIMEOUT,
            idle_connection_timeout=TIMEOUT,
        )
        server.add_sockets(tornado.netutil.bind_sockets(port, address))
        await asyncio.Event().wait()

    asyncio.run(serve())


def _secret(path, shortest):
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        raise PermissionError(f"{path} is readable by others: chmod 600 it")
    with open(path, "rb") as stream:
        value = stream.read().strip()
    if len(value) < shortest:
        raise ValueError(f"{path}: the secret has fewer than {shortest} characters")
    return value
