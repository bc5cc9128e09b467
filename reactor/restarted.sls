# mrvpn/host/restarted: nothing of it is believed: the entrypoint is brought to its rules, which changes nothing where it has them.
mrvpn something began anew:
  runner.mrvpn_reactor.schema_changed:
    - args: {}
