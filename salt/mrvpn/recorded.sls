# Last of all: which version of the view is here now.
{% set view = pillar['mrvpn'] %}
include:
  - mrvpn.guard

view recorded:
  mrvpn_live.recorded:
    - name: {{ view['version'] | json }}
{% if view.get('os') == 'routeros' %}
    # a router keeps no notes: its proxy does
    - root: {{ (opts['cachedir'] ~ '/mrvpn') | json }}
{% endif %}
    - order: last
