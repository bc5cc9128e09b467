# What a tunnel needs before anything is deployed: its own key, and the far ends' public ones.
{% set view = pillar['mrvpn'] %}
{% set unknown = [] %}
{% for name, tunnel in view['tunnels'].items() %}
{% for peer in tunnel['peers'] %}
{% if peer['public_key'] is none %}
{% do unknown.append(name ~ ': ' ~ peer['host']) %}
{% endif %}
{% endfor %}
{% endfor %}
include:
  - mrvpn.keys

far ends:
  mrvpn_wireguard.far_ends:
    - unknown: {{ unknown | json }}
    - failhard: True
