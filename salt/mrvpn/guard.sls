# Nothing of MRVPN is applied before this has passed.
{% if 'mrvpn' not in pillar %}
{{ raise("no view in this minion's pillar: the master's ext_pillar `mrvpn` did not load, its log says why. Nothing is applied.") }}
{% endif %}
mrvpn guard:
  mrvpn.guard:
    - name: {{ pillar['mrvpn']['version'] | json }}
    - order: first
    - failhard: True
