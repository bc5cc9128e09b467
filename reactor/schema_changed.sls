# mrvpn/schema/changed carries nothing that is trusted: it only starts a re-check. Many at once become two runs at most.
mrvpn schema changed:
  runner.mrvpn_reactor.schema_changed:
    - args: {}
