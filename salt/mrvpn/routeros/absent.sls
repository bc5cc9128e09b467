# A router that MRVPN leaves: every row with a comment of ours goes. Applied by hand.
{% set paths = [
  '/interface/wireguard', '/ip/address', '/ipv6/address', '/interface/wireguard/peers', '/routing/table', '/ip/route',
  '/ipv6/route', '/routing/filter/rule', '/routing/ospf/instance', '/routing/ospf/area', '/routing/ospf/interface-template',
  '/routing/bfd/configuration', '/ip/firewall/address-list', '/ipv6/firewall/address-list', '/ip/firewall/mangle',
  '/ipv6/firewall/mangle', '/ip/firewall/nat', '/ipv6/firewall/nat', '/ip/firewall/filter', '/ipv6/firewall/filter',
] %}
include:
  - mrvpn.guard

mrvpn rows:
  routeros.absent:
    - name: 'mrvpn:'
    - paths: {{ paths | json }}
    - require:
      - mrvpn: mrvpn guard
