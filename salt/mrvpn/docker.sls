# Docker is there and new enough; the image is there (where it is not, nothing was changed); Docker is set up for IPv6; the kernel
# forwards where the host itself is a router.
{% set view = pillar['mrvpn'] %}
include:
  - mrvpn.guard

this host:
  mrvpn.fits:
    - failhard: True

docker engine:
  mrvpn_docker.engine:
    - min_engine: "{{ view['docker']['min_engine'] }}"
    - min_compose: "{{ view['docker']['min_compose'] }}"
    - manage: {{ view['docker']['manage'] }}
    - source: {{ view['docker'].get('source', 'distribution') }}
    - failhard: True

{% if view['image']['source'] == 'build' %}
{{ view['root'] }}/build:
  file.recurse:
    - source: salt://mrvpn/build
    - clean: True
    - require_in:
      - mrvpn_docker: {{ view['image']['name'] }}
{% endif %}

{{ view['image']['name'] }}:
  mrvpn_docker.image:
    - source: {{ view['image']['source'] }}
    - context: {{ view['root'] }}/build
    - failhard: True
    - require:
      - mrvpn_docker: docker engine

/etc/docker/daemon.json:
  mrvpn_docker.daemon_config:
    - root: {{ view['root'] }}
    - values:
        experimental: true
        ip6tables: true
        userland-proxy: false
    - require:
      - mrvpn_docker: docker engine

/etc/sysctl.d/60-mrvpn.conf:
  mrvpn.sysctls:
    - root: {{ view['root'] }}
    - values:
        net.ipv4.ip_forward: "1"
{% if view['lan'] %}
        net.ipv6.conf.all.forwarding: "1"
{% endif %}
{% if view['host_guard'] is not none and view['host_guard']['reserved_ports'] is not none %}
        net.ipv4.ip_local_reserved_ports: "{{ view['host_guard']['reserved_ports'] | join('-') }}"
{% endif %}
