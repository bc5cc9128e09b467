# mrvpn/deploy/wanted: no ref is taken from it: the configured branch is fetched and checked.
mrvpn deploy wanted:
  runner.mrvpn_reactor.deploy_wanted:
    - args: {}
