# What the gateway `firezone` needs before it is deployed: its secrets, made once on this host, and its images.
{% set view = pillar['mrvpn'] %}
include:
  - mrvpn.docker
{% if view['gateway'] is not none and view['gateway']['kind'] == 'firezone' %}
  - mrvpn.host

{% set fz = view['gateway']['firezone'] %}
firezone secrets:
  firezone.credentials:
    - name: {{ view['root'] }}/{{ fz['folder'] }}
    - failhard: True

{% for image in fz['images'].values() %}
firezone image {{ image }}:
  mrvpn_docker.image:
    - name: {{ image | json }}
    - source: {{ 'preloaded' if view['image']['source'] == 'preloaded' else 'pull' }}
    - context: ""
    - failhard: True
    - require:
      - mrvpn_docker: docker engine
{% endfor %}
{% endif %}
