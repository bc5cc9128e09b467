# salt-call --local --file-root=/srv/mrvpn/salt state.apply mrvpn.master pillar='{"mrvpn_master": {...}}'
# The master's settings for MRVPN, in one file of its own. What is not named has the value that the documentation shows.
{% set given = pillar.get('mrvpn_master', {}) %}
{% set checkout = given.get('checkout', '/srv/mrvpn') %}
{% set repository = given.get('repository') %}
{% set store = given.get('store', '/var/lib/mrvpn') %}
{% set folder = given.get('folder', 'network') %}
{% set files = given.get('files', '/srv/mrvpn-files') %}
{% set description = store ~ '/current/' ~ folder if repository else given.get('description', '/srv/network/network') %}
{# Salt's own packages run the master as `salt`: secrets and deployments are that user's #}
{% set user = given.get('user') or ('salt' if salt['user.info']('salt') else 'root') %}
/etc/salt/master.d/mrvpn.conf:
  file.managed:
    - source: salt://mrvpn/master/files/mrvpn.conf.j2
    - template: jinja
    - user: {{ user }}
    - mode: "0640"
    - makedirs: True
    - context:
        checkout: {{ checkout | json }}
        files: {{ files | json }}
        description: {{ description | json }}
        secrets: {{ given.get('secrets', '/etc/salt/mrvpn/secrets.yaml') | json }}
        deploy: {{ ({'repository': repository, 'branch': given.get('branch', 'main'), 'folder': folder, 'store': store,
                     'signed': given.get('signed', False), 'share': given.get('share', 0.25),
                     'apply': given.get('apply', False)} if repository else none) | json }}
        webhook: {{ given.get('webhook') | json }}
        poll: {{ given.get('poll') | json }}

# what hosts are given and no repository holds, such as the country database: below it, mrvpn/country/country.mmdb
{{ files }}:
  file.directory:
    - user: {{ user }}
    - makedirs: True

/etc/salt/mrvpn:
  file.directory:
    - user: {{ user }}
    - mode: "0700"

# made once; what stands there stays
{{ given.get('secrets', '/etc/salt/mrvpn/secrets.yaml') }}:
  file.managed:
    - contents: "psk_root: {{ salt['random.get_str'](48, punctuation=False) }}"
    - replace: False
    - show_changes: False
    - user: {{ user }}
    - mode: "0600"
    - require:
      - file: /etc/salt/mrvpn

{% if repository %}
{{ store }}:
  file.directory:
    - user: {{ user }}
    - mode: "0700"
    - makedirs: True
{% endif %}

# the master reads its settings when it starts; where no init system runs it, restart it by hand
{% if 'service.available' in salt and salt['service.available']('salt-master') %}
salt-master:
  service.running:
    - watch:
      - file: /etc/salt/master.d/mrvpn.conf
{% endif %}
