# What the host itself runs of MRVPN, now and at every boot: its rules before Docker's (nothing un-NATed leaves the gateway's bridge,
# and what arrives at a published port before its container does leaves no trace in the connection table), and after Docker the
# containers that it gave up.
{% set view = pillar['mrvpn'] %}
{% set units = '/etc/systemd/system' %}
include:
  - mrvpn.keys

mrvpn host files:
  mrvpn_tree.host_files:
    - name: {{ view['root'] }}
    - failhard: True

{% if view['host_guard'] is none %}
no host guard:
  mrvpn.no_host_guard: []
{% else %}
{{ view['root'] }}/bin/mrvpn-host-guard:
  mrvpn.host_guard:
    - running: True
    - failhard: True
    - require:
      - mrvpn_tree: mrvpn host files

{{ units }}/mrvpn-host-guard.service:
  file.managed:
    - source: salt://mrvpn/host/files/mrvpn-host-guard.service.j2
    - template: jinja
    - context:
        root: {{ view['root'] }}
    - mode: "0644"
    - makedirs: True

# required, not wanted: without these rules Docker does not start
{{ units }}/docker.service.requires/mrvpn-host-guard.service:
  file.symlink:
    - target: {{ units }}/mrvpn-host-guard.service
    - makedirs: True
    - require:
      - file: {{ units }}/mrvpn-host-guard.service
{% endif %}

{{ units }}/mrvpn-containers.service:
  file.managed:
    - source: salt://mrvpn/host/files/mrvpn-containers.service.j2
    - template: jinja
    - context:
        root: {{ view['root'] }}
    - mode: "0644"
    - makedirs: True

{{ units }}/docker.service.wants/mrvpn-containers.service:
  file.symlink:
    - target: {{ units }}/mrvpn-containers.service
    - makedirs: True
    - require:
      - file: {{ units }}/mrvpn-containers.service
