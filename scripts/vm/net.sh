# shellcheck shell=bash
# Sourced in the guest by net-*: what both networks share.

# The commands of the network, for the command that is run.
install_commands() {
    mkdir -p /run/bin
    cp /run/rdma-vm/loss /run/bin/rdma-vm-loss
    chmod +x /run/bin/rdma-vm-loss
}

# wait_for_address INTERFACE [PREFIX...]: waits until the interface has a link-local address that
# is ready for use: an RDMA device that is made earlier gets its entry of the GID table late, or in
# another place.
wait_for_address() {
    local tries=0
    until "${@:2}" ip -6 -o address show dev "$1" scope link -tentative | grep -q fe80; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { echo "rdma-vm: $1 has no link-local address after 30 s" >&2; return 1; }
        sleep 0.1
    done
}

# Waits until every port is active.
wait_for_ports() {
    local tries=0
    until [ "$(cat /sys/class/infiniband/*/ports/1/state 2>/dev/null | grep -c ACTIVE)" = 2 ]; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { echo "rdma-vm: ports not active after 30 s" >&2; rdma link >&2; return 1; }
        sleep 0.1
    done
}
