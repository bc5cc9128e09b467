# salt HOST state.apply mrvpn.minion
# What the minion of a host of the description is told: its public keys go to the mine, news of exits to the master.
{% set view = pillar['mrvpn'] %}
include:
  - mrvpn.guard

/etc/salt/minion.d/mrvpn.conf:
  file.managed:
    - source: salt://mrvpn/minion/files/mrvpn.conf.j2
    - template: jinja
    - mode: "0644"
    - makedirs: True
    - context:
        root: {{ view['root'] | json }}
        routing: {{ (view['routing'] or [] if view['member'] else []) | map(attribute='service') | list | json }}

# the minion reads its settings when it starts: outside of this run, which it would end
{% if 'service.available' in salt and salt['service.available']('salt-minion') %}
minion with its settings:
  cmd.run:
    - name: sleep 5; exec salt-call --local service.restart salt-minion
    - bg: True
    - onchanges:
      - file: /etc/salt/minion.d/mrvpn.conf
{% endif %}
