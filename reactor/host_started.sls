# salt/minion/<id>/start: the id is all that is taken, and only an id of the description starts anything, on that host alone.
mrvpn host started:
  runner.mrvpn_reactor.host_started:
    - args:
      - host: {{ data.get('id', '') | json }}
