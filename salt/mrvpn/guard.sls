# Nothing of MRVPN is applied before this has passed.
mrvpn guard:
  mrvpn.guard:
    - name: {{ pillar['mrvpn']['version'] }}
    - order: first
    - failhard: True
