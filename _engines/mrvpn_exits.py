"""Engine of the entrypoint's minion: when an exit goes down or comes back, the master is told that there is news.

Minion configuration::

    engines:
      - mrvpn_exits: {service: firezone_ipt}

Knows: `ipt-server events` in the daemon's container, which waits for news. Must not know: what an exit is, what the
master does. The event `mrvpn/host/exits` carries no data: the master asks. Failover never waits for it.
"""

import json
import logging
import subprocess
import time

log = logging.getLogger(__name__)
TAG = "mrvpn/host/exits"
WAIT = 30  # seconds for which the daemon holds a question open
PAUSE = 5  # seconds after it did not answer


def start(service="firezone_ipt", command=None):
    """
    Asks until the minion ends.

    CLI Example: none; an engine is configured.
    """
    since = 0
    while True:
        events = _after(command or ["docker", "exec", service, "ipt-server"], since)
        if events is None:
            time.sleep(PAUSE)
            continue
        if events:
            since = events[-1]["number"]
            if any(event.get("kind") == "exit" for event in events):
                __salt__["event.send"](TAG, {})


def _after(command, since):
    """The daemon's events after a number; None when it does not answer."""
    asked = [*command, "events", "--json", "--since", str(since), "--wait", str(WAIT)]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=WAIT + 30)
        return list(json.loads(done.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        log.debug("mrvpn_exits: %s", error)
        return None
