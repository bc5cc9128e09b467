# mrvpn/host/exits: nothing of it is believed: the entrypoint is asked which exits are up.
mrvpn exits changed:
  runner.mrvpn_reactor.exits_changed:
    - args: {}
