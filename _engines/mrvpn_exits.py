"""Engine of the entrypoint's minion: the master is told that there is news of exits, or that something began anew.

Minion configuration::

    engines:
      - mrvpn_exits: {service: firezone_ipt}

Knows: `ipt-server events` in the daemon's container, which waits for news. Must not know: what an exit is, what the
master does. The events carry no data: the master asks. `mrvpn/host/exits`: an exit went down or came back; failover
never waits for it. `mrvpn/host/restarted`: the recursor, or the daemon with the gateway whose namespace it shares.
"""

import json
import logging
import subprocess
import time

log = logging.getLogger(__name__)
TAGS = {"exit": "mrvpn/host/exits", "recursor": "mrvpn/host/restarted", "started": "mrvpn/host/restarted"}
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
            for tag in sorted({TAGS[event["kind"]] for event in events if event.get("kind") in TAGS}):
                __salt__["event.send"](tag, {})


def _after(command, since):
    """The daemon's events after a number; None when it does not answer."""
    asked = [*command, "events", "--json", "--since", str(since), "--wait", str(WAIT)]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=WAIT + 30)
        return list(json.loads(done.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        log.debug("mrvpn_exits: %s", error)
        return None
