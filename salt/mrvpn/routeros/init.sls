# A RouterOS host, through its proxy minion: every row that MRVPN owns there, in one transaction. What left the description leaves the
# router. The rows stay in the pillar: a preshared key must not stand in a rendered SLS, which Salt logs.
include:
  - mrvpn.guard

router:
  routeros.managed:
    - pillar: mrvpn:routeros
    - require:
      - mrvpn: mrvpn guard
