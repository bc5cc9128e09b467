# salt HOST state.apply mrvpn.rebuild
# Security updates: images are made anew aside while everything runs, compared, and taken over only where they differ. Of our own
# image only the containers move whose command runs on what differs, one after another, each looked at before the next; a gateway or
# tunnel that owns a namespace only where its own packages changed. Versions themselves are raised in mrvpn/views/images.py.
{% set view = pillar['mrvpn'] %}
include:
  - mrvpn.compose

{% if view['member'] %}
{% set images = [] %}
{% if view['gateway'] is not none and view['gateway']['kind'] == 'firezone' %}
{% set images = view['gateway']['firezone']['images'].values() | list %}
{% endif %}
fresh {{ view['image']['name'] }}:
  mrvpn_docker.rebuilt:
    - image: {{ view['image']['name'] | json }}
    - source: {{ view['image']['source'] }}
    - context: {{ view['root'] }}/build
    - failhard: True
    - require:
      - mrvpn_docker: {{ view['image']['name'] }}
    - require_in:
      - mrvpn_compose: mrvpn project

{% for image in images %}
fresh {{ image }}:
  mrvpn_docker.rebuilt:
    - image: {{ image | json }}
    - source: {{ 'preloaded' if view['image']['source'] == 'preloaded' else 'pull' }}
    - context: ""
    - failhard: True
    - require:
      - mrvpn_docker: docker engine
    - require_in:
      - mrvpn_compose: mrvpn project
{% endfor %}
{% endif %}
