# The host's own rules stand before Docker's, now and after every boot: nothing un-NATed leaves the gateway's bridge, and what
# arrives at a published port before its container does leaves no trace in the connection table.
{% set view = pillar['mrvpn'] %}
{% set script = view['root'] ~ '/bin/mrvpn-host-guard' %}
{% set unit = '/etc/systemd/system/mrvpn-host-guard.service' %}
include:
  - mrvpn.keys

mrvpn host files:
  mrvpn_tree.host_files:
    - name: {{ view['root'] }}
    - failhard: True

{{ script }}:
  mrvpn.host_guard:
    - running: True
    - failhard: True
    - require:
      - mrvpn_tree: mrvpn host files

{{ unit }}:
  file.managed:
    - source: salt://mrvpn/host/files/mrvpn-host-guard.service.j2
    - template: jinja
    - context:
        root: {{ view['root'] }}
    - mode: "0644"
    - makedirs: True

# required, not wanted: without these rules Docker does not start
/etc/systemd/system/docker.service.requires/mrvpn-host-guard.service:
  file.symlink:
    - target: {{ unit }}
    - makedirs: True
    - require:
      - file: {{ unit }}
