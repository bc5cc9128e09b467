# Keys made, public ones sent to the mine: what orch.keys runs on every host, once, and after a host was added.
{% set view = pillar['mrvpn'] %}
include:
  - mrvpn.guard
{% if view.get('os') == 'routeros' %}
  - mrvpn.routeros.publish
{% elif view['member'] %}
  - mrvpn.keys

mrvpn_public_keys:
  mrvpn.published:
    - root: {{ view['root'] }}
    - require:
      - mrvpn_wireguard: mrvpn keys
{% endif %}
