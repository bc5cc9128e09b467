# The guard first; then what this host's view has. A minion that is not in the description passes the guard and gets nothing.
# Where the pillar holds no view at all (an ext_pillar that did not load) the guard does not compile: the apply fails.
{% set view = pillar.get('mrvpn', {'member': False}) %}
base:
  '*':
    - mrvpn.guard
{% if view.get('os') == 'routeros' %}
    - mrvpn.routeros
    - mrvpn.recorded
{% elif view['member'] %}
    - mrvpn.docker
    - mrvpn.tunnel
{% set firezone = view['gateway'] is not none and view['gateway']['kind'] == 'firezone' %}
{% if firezone %}
    - mrvpn.gateway
{% endif %}
    - mrvpn.host
{% if view['country_database'] is not none %}
    - mrvpn.country
{% endif %}
    - mrvpn.compose
{% if firezone %}
    - mrvpn.firezone
{% endif %}
{% if view['routing'] is not none %}
    - mrvpn.routing
{% endif %}
    - mrvpn.recorded
{% elif 'mrvpn_host.deployed' in salt and salt['mrvpn_host.deployed'](view.get('root', '/opt/mrvpn')) %}
    # it was taken out of the description: MRVPN leaves it, its keys stay until they are purged
    - mrvpn.absent
{% endif %}
