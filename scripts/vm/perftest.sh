# shellcheck shell=bash
# Sourced in the guest: perftest PROGRAM OPTIONS... runs a program of perftest between the two
# hosts and prints what the client says. On iWARP it connects by rdma_cm; on Soft-RoCE it needs the
# index of the IPv4 GID, which is 1 there.
perftest_once() {
    local test=$1 how=(-x 1) server
    shift
    [ "$RDMA_VM_NET" = rxe ] || how=(-R)
    $RDMA_VM_SERVER_PREFIX "$test" -d "$RDMA_VM_SERVER_DEVICE" "${how[@]}" "$@" >"$TMPDIR/server" 2>&1 &
    server=$!
    sleep 2
    if $RDMA_VM_CLIENT_PREFIX "$test" -d "$RDMA_VM_CLIENT_DEVICE" "${how[@]}" "$@" "$RDMA_VM_SERVER_ADDRESS"; then
        wait $server
    else
        kill $server 2>/dev/null
        cat "$TMPDIR/server"
        return 1
    fi
}

# perftest measures the processor's clock first, and gives up where emulation is too uneven for it;
# then it is asked again.
perftest() {
    local tries code
    for tries in 1 2 3 4; do
        perftest_once "$@" >"$TMPDIR/client" 2>&1
        code=$?
        cat "$TMPDIR/client"
        [ $code != 0 ] && grep -q "Can't produce a report" "$TMPDIR/client" || return $code
        echo "attempt $tries: no figures"
    done
    return $code
}
