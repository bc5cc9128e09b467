# The country database that ipt_server compiles its maps from; where the master has it is the view's.
{% set view = pillar['mrvpn'] %}
{% set database = view['country_database'] %}
include:
  - mrvpn.guard

country database:
  file.managed:
    - name: {{ view['root'] }}/{{ database['path'] }}
    - source: {{ database['source'] }}
    - mode: "0644"
    - makedirs: True
    - failhard: True
