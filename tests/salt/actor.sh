#!/bin/sh
# Acts the image's commands in tests of containers: an interface that comes up, a process that ends on TERM, answers in the right form.
me=${0##*/}
run() {
    trap 'exit 0' TERM
    echo "$me started"
    case $me in
        mrvpn-wireguard)
            ip link del "$WG_INTERFACE" 2>/dev/null
            ip link add "$WG_INTERFACE" type veth peer name "v$WG_INTERFACE" || exit 1
            ip link set "$WG_INTERFACE" up
            ip link set "v$WG_INTERFACE" up
            ;;
        ipt-server) mkdir -p /run/ipt-server; touch /run/ipt-server/control.sock /run/ipt-server/ready ;;
    esac
    while :; do sleep 0.2; done
}
answer() {
    version=$(grep '"version"' /run/mrvpn/settings.yaml | cut -d'"' -f4)
    if grep -q REFUSE /run/mrvpn/settings.yaml; then
        echo '{"result": "refused", "generation": 1, "version": "old", "problems": ["rules[0].exit: no such exit"], "changes": {}}'
        exit 1
    fi
    echo "{\"result\": \"applied\", \"generation\": 2, \"version\": \"$version\", \"problems\": [], \"changes\": {}}"
}
case $1 in
    run) run ;;
    health) exit 0 ;;
    -c) echo "$*" $(ip -o link) >> /tmp/vtysh ;;
    reload) echo "$me" >> /tmp/reloads; [ "$me" != ipt-server ] || answer ;;
esac
