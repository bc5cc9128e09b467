# What Firezone itself is told, once it runs: its administrator, then its configuration.
{% set view = pillar['mrvpn'] %}
include:
  - mrvpn.compose

{% if view['gateway'] is not none and view['gateway']['kind'] == 'firezone' %}
{% set fz = view['gateway']['firezone'] %}
firezone administrator:
  firezone.admin:
    - name: {{ fz['admin']['email'] | json }}
    - require:
      - mrvpn_compose: mrvpn project

firezone configuration:
  firezone.configuration:
    - require:
      - firezone: firezone administrator
{% endif %}
