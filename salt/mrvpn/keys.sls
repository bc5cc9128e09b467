# Private keys, made on this host where they are missing.
{% set view = pillar['mrvpn'] %}
{% set keys = {} %}
{% for name, tunnel in view['tunnels'].items() %}
{% do keys.update({tunnel['interface']: 'wg_tunnels/' ~ name ~ '/private.key'}) %}
{% endfor %}
{% if view['gateway'] is not none %}
{% do keys.update({view['gateway']['interface']: 'firezone/private.key'}) %}
{% endif %}
include:
  - mrvpn.guard

mrvpn keys:
  mrvpn_wireguard.keys:
    - name: {{ view['root'] }}
    - keys: {{ keys | json }}
    - failhard: True
