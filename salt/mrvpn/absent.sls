# salt HOST state.apply mrvpn.absent
# Takes MRVPN off this host. Keys, secrets and volumes stay, unless pillar='{mrvpn_absent: {purge: true}}' says otherwise.
{% set view = pillar['mrvpn'] %}
include:
  - mrvpn.guard

mrvpn off this host:
  mrvpn.absent:
    - name: {{ view['root'] }}
    - purge: {{ pillar.get('mrvpn_absent', {}).get('purge', False) }}
