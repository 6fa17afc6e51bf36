# shellcheck shell=bash
# Sourced by suite: the steps, in order. A step is a name, a limit in seconds, a command.
# shellcheck disable=SC2154 # vm, programs are suite's

# shellcheck source=scripts/vm/perftest.sh
. "$(dirname "${BASH_SOURCE[0]}")/perftest.sh"

# Emulation makes everything slower; waiting for things may take this much longer.
export CONFORMANCE_TIME_FACTOR=16

# What the tests are told of the two hosts. On siw one process is on one host: `alone` means that
# its connections run from that host's device to itself.
hosts() {
    export CONFORMANCE_LISTEN=$RDMA_VM_SERVER_ADDRESS CONFORMANCE_LOCAL=$RDMA_VM_CLIENT_ADDRESS
    export CONFORMANCE_SERVER_PREFIX=$RDMA_VM_SERVER_PREFIX
    export CONFORMANCE_DEVICES="$RDMA_VM_CLIENT_DEVICE $RDMA_VM_SERVER_DEVICE"
    export RDMA_RPC_TEST_LOCAL=$RDMA_VM_CLIENT_ADDRESS RDMA_RPC_TEST_PEER=$RDMA_VM_SERVER_ADDRESS
    [ "$RDMA_VM_NET" = siw ] || return 0
    export RDMA_RPC_TEST_LOCAL_NETNS=/run/netns/a RDMA_RPC_TEST_PEER_NETNS=/run/netns/b
    [ "${1:-}" != alone ] || export CONFORMANCE_LISTEN=$RDMA_VM_CLIENT_ADDRESS CONFORMANCE_SERVER_PREFIX='' \
        CONFORMANCE_DEVICES="$RDMA_VM_CLIENT_DEVICE $RDMA_VM_CLIENT_DEVICE"
}

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

# tests NAME THREADS FILTERS...: a test program on the client's host.
tests() {
    $RDMA_VM_CLIENT_PREFIX "$(program "$1")" --ignored --test-threads "$2" "${@:3}"
}

# The conformance suite over RDMA, server and client on hosts of their own.
conformance() {
    hosts
    CONFORMANCE_SCHEME=rdma tests environment 4 two_processes::
}

# The same, server and client in one process.
conformance_one_process() {
    hosts alone
    CONFORMANCE_SCHEME=rdma tests environment 4 one_process::
}

# Some of it over TCP: is the network at fault, or RDMA?
conformance_tcp() {
    hosts
    unset CONFORMANCE_DEVICES
    CONFORMANCE_SCHEME=tcp tests environment 4 --exact \
        two_processes::{empty_unary,large_unary,ping_pong,streams_of_every_size,reconnect,killed_server}
}

# The examples as people start them, each server and client on hosts of their own.
examples() {
    local name server code=0 where=$RDMA_VM_SERVER_ADDRESS:7400
    printf '[rdma]\ndevice = "%s"\n' "$RDMA_VM_SERVER_DEVICE" >"$TMPDIR/server.toml"
    printf '[rdma]\ndevice = "%s"\n' "$RDMA_VM_CLIENT_DEVICE" >"$TMPDIR/client.toml"
    for name in greeter route-guide kv; do
        RDMA_RPC_CONFIG=$TMPDIR/server.toml $RDMA_VM_SERVER_PREFIX "$(program $name)" server --listen "$where" &
        server=$!
        sleep 2
        RDMA_RPC_CONFIG=$TMPDIR/client.toml RDMA_RPC_LOCAL_ADDRESS=$RDMA_VM_CLIENT_ADDRESS $RDMA_VM_CLIENT_PREFIX \
            "$(program $name)" client --target "rdma://$where" >"$TMPDIR/$name.out" 2>&1 || code=1
        cat "$TMPDIR/$name.out"
        grep -q rdma "$TMPDIR/$name.out" || code=1
        kill -INT $server
        wait $server || code=1
    done
    return $code
}

# What exercises each mechanism of the ring, while one packet of a hundred is lost in each direction.
conformance_loss() {
    local code=0
    hosts
    rdma-vm-loss 1
    CONFORMANCE_SCHEME=rdma tests environment 4 --exact \
        two_processes::{large_unary,ping_pong,every_threshold,streams_of_every_size,short_messages_together,rpc_soak} \
        two_processes::{slow_duplex_both_ways,thousand_cancelled_calls,graceful_shutdown,reconnect} || code=$?
    rdma-vm-loss 0
    return $code
}

# A program of the list `programs`.
listed() {
    hosts
    CONFORMANCE_SCHEME=rdma tests "$@"
}

# timeout runs programs, not functions.
export programs
export -f perftest perftest_once rping_both devices program hosts tests listed
export -f examples conformance conformance_one_process conformance_tcp conformance_loss

in_bash() { step "$1" "$2" bash -c '"$@"' bash "${@:3}"; }

steps() {
    local test limit threads
    in_bash devices 20 devices
    in_bash rping 40 rping_both
    in_bash ib_write_lat 90 perftest ib_write_lat -s 32 -n 1000
    in_bash ib_send_lat 90 perftest ib_send_lat -s 32 -n 1000
    in_bash ib_write_bw 90 perftest ib_write_bw -s 65536 -n 300
    in_bash "conformance tcp, some" 120 conformance_tcp
    in_bash "examples over rdma" 120 examples
    in_bash "conformance, 2 hosts" 900 conformance
    in_bash "conformance, 1 process" 900 conformance_one_process
    in_bash "conformance, 1 % loss, some" 600 conformance_loss
    while read -r _ test limit threads; do
        in_bash "$test" "$limit" listed "$test" "$threads"
    done < <(list_programs)
}
