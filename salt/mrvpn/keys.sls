# Private keys, made on this host where they are missing.
{% set view = pillar['mrvpn'] %}
{% set keys = {} %}
{% for name, tunnel in view['tunnels'].items() %}
{% do keys.update({tunnel['interface']: 'wg_tunnels/' ~ name ~ '/private.key'}) %}
{% endfor %}
{% if view['gateway'] is not none %}
{% if view['gateway']['kind'] == 'firezone' %}
{# where Firezone itself looks for it, and makes it when it is missing #}
{% do keys.update({view['gateway']['interface']: view['gateway']['firezone']['folder'] ~ '/firezone/private_key'}) %}
{% else %}
{% do keys.update({view['gateway']['interface']: 'firezone/private.key'}) %}
{% endif %}
{% endif %}
include:
  - mrvpn.guard

mrvpn keys:
  mrvpn_wireguard.keys:
    - name: {{ view['root'] }}
    - keys: {{ keys | json }}
    - failhard: True
