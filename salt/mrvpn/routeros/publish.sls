# The router's WireGuard interfaces, whose private keys it makes itself; the public ones go to the mine.
include:
  - mrvpn.guard

mrvpn interfaces:
  routeros.present:
    - pillar: mrvpn:routeros
    - paths: [/interface/wireguard]
    - require:
      - mrvpn: mrvpn guard

mrvpn_public_keys:
  routeros.published:
    - require:
      - routeros: mrvpn interfaces
