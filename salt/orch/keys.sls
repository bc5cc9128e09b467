# salt-run state.orchestrate orch.keys      (pillar mrvpn_hosts: [...]: these alone)
# Keys are made on every host of the description, public ones travel by the mine, every host then knows its far ends.
{% set hosts = pillar.get('mrvpn_hosts') or salt['saltutil.runner']('mrvpn.hosts') %}

modules everywhere:
  salt.function:
    - name: saltutil.sync_all
    - tgt: {{ hosts | json }}
    - tgt_type: list

# a state run asks for its view anew by itself
keys made and published:
  salt.state:
    - tgt: {{ hosts | json }}
    - tgt_type: list
    - sls: mrvpn.publish
    # a host that has just come up may be applying: Salt would ask after 5 s whether the job still runs, and take 10 s
    # of silence of a busy host for an end
    - queue: True
    - timeout: 60
    - require:
      - salt: modules everywhere

views with far ends:
  salt.function:
    - name: saltutil.refresh_pillar
    - tgt: {{ hosts | json }}
    - tgt_type: list
    - kwarg:
        wait: True
    - require:
      - salt: keys made and published
