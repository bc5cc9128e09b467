# Files and containers, in one step that knows what changes before anything runs.
{% set view = pillar['mrvpn'] %}
include:
  - mrvpn.docker
  - mrvpn.tunnel
  - mrvpn.host
{% if view['gateway'] is not none and view['gateway']['kind'] == 'firezone' %}
  - mrvpn.gateway
{% endif %}

mrvpn project:
  mrvpn_compose.deployed:
    - name: {{ view['root'] }}
    - failhard: True
    - require:
      - mrvpn_docker: {{ view['image']['name'] }}
      - mrvpn_wireguard: far ends
