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

# after the mine has it: the master looks there, and tells the far ends of a key that is another than before
{% if opts['file_client'] != 'local' %}
mrvpn/host/keys:
  event.send:
    - onchanges:
      - mrvpn_wireguard: mrvpn keys
    - require:
      - mrvpn: mrvpn_public_keys
{% endif %}
{% endif %}
