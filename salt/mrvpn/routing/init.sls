# The rules that ipt_server runs with. Applied alone by orch.routing when the description changed: no container is touched.
{% set view = pillar['mrvpn'] %}
{% set database = view['root'] ~ '/' ~ view['country_database']['path'] %}
include:
  - mrvpn.country

{% for entry in view['routing'] %}
{{ entry['service'] }}:
  mrvpn_ipt.current:
    - also:
      - {{ database }}
    - require:
      - file: country database
{% endfor %}
