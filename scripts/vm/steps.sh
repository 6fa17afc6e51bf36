# shellcheck shell=bash
# Sourced by suite: the steps, in order. A step is a name, a limit in seconds, a command.

# shellcheck source=scripts/vm/perftest.sh
. "$(dirname "${BASH_SOURCE[0]}")/perftest.sh"

# Connection manager, SEND, READ and WRITE between the two hosts.
rping_both() {
    $RDMA_VM_SERVER_PREFIX rping -s -a "$RDMA_VM_SERVER_ADDRESS" -C 20 -V &
    local server=$!
    sleep 2
    $RDMA_VM_CLIENT_PREFIX rping -c -a "$RDMA_VM_SERVER_ADDRESS" -I "$RDMA_VM_CLIENT_ADDRESS" -C 20 -V
    # Its exit code says nothing: the client's leaving is an error to it.
    wait $server || true
}

devices() {
    rdma link && ibv_devinfo && [ "$(ibv_devinfo | grep -c PORT_ACTIVE)" = 2 ]
}

# The conformance suite with this scheme, the server on its own host.
conformance() {
    CONFORMANCE_SCHEME=$1 CONFORMANCE_LISTEN=$RDMA_VM_SERVER_ADDRESS \
        CONFORMANCE_SERVER_PREFIX=$RDMA_VM_SERVER_PREFIX \
        $RDMA_VM_CLIENT_PREFIX "$(program environment)" --ignored --test-threads 4 "${@:2}"
}
# timeout runs programs, not functions.
export programs
export -f perftest rping_both devices conformance program

in_bash() { step "$1" "$2" bash -c '"$@"' bash "${@:3}"; }

steps() {
    in_bash devices 20 devices
    in_bash rping 40 rping_both
    in_bash ib_write_lat 60 perftest ib_write_lat -s 32 -n 1000
    in_bash ib_send_lat 60 perftest ib_send_lat -s 32 -n 1000
    in_bash ib_write_bw 60 perftest ib_write_bw -s 65536 -n 300
    in_bash "conformance tcp, 2 hosts" 300 conformance tcp two_processes
}
