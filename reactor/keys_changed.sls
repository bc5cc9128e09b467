# mrvpn/host/keys: whoever sent it, only the mine of a host of the description is looked at, under its own id.
mrvpn keys changed:
  runner.mrvpn_reactor.keys_changed:
    - args:
      - host: {{ data.get('id', '') | json }}
