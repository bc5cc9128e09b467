# salt-run state.orchestrate orch.routing
# The description changed: the entrypoint's rules are reloaded in place, and what it runs with now is told by an event.
{% set hosts = salt['saltutil.runner']('mrvpn.hosts', kwarg={'role': 'entrypoint'}) %}

# a state run asks for its view anew by itself
rules:
  salt.state:
    - tgt: {{ hosts | json }}
    - tgt_type: list
    - sls: mrvpn.routing
    # a host that has just come up may be applying: Salt would ask after 5 s whether the job still runs, and take 10 s
    # of silence of a busy host for an end
    - queue: True
    - timeout: 60

applied:
  salt.runner:
    - name: mrvpn_reactor.applied
    - require:
      - salt: rules

# what a minion is asked outside of state runs is answered by the view that it holds
views:
  salt.function:
    - name: saltutil.refresh_pillar
    - tgt: {{ hosts | json }}
    - tgt_type: list
    - require:
      - salt: applied
