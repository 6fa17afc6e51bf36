# shellcheck shell=bash
# Sourced by figures: the raw program and echo of rpc-benches between the two hosts.
# shellcheck disable=SC2154,SC2086,SC2034 # RDMA_VM_* are the guest's, prefixes are words, failed is figures'

say_ours() { sed "s/^/$RDMA_VM_NET: /"; }

raw() {
    timeout 60 $RDMA_VM_CLIENT_PREFIX "$RDMA_VM_BENCHES/rdma-raw" client --addr "$RDMA_VM_SERVER_ADDRESS:7498" \
        --local "$RDMA_VM_CLIENT_ADDRESS" "$@" | say_ours
}

# echo_case TRANSPORT RUNTIME OPTIONS...: one server, one client, one line.
echo_case() {
    local fifo=$TMPDIR/echo.$1.$2 server
    mkfifo "$fifo"
    $RDMA_VM_SERVER_PREFIX "$RDMA_VM_BENCHES/echo" server --transport "$1" --rt "$2" \
        --addr "$RDMA_VM_SERVER_ADDRESS:7499" <"$fifo" >/dev/null &
    server=$!
    exec 9>"$fifo"
    sleep 2
    RDMA_RPC_LOCAL_ADDRESS=$RDMA_VM_CLIENT_ADDRESS timeout 60 $RDMA_VM_CLIENT_PREFIX "$RDMA_VM_BENCHES/echo" client \
        --transport "$1" --rt "$2" --addr "$RDMA_VM_SERVER_ADDRESS:7499" --server-pid "$server" "${@:3}" |
        say_ours || failed=1
    exec 9>&-
    wait "$server" || true
    rm "$fifo"
}

$RDMA_VM_SERVER_PREFIX "$RDMA_VM_BENCHES/rdma-raw" server --addr "$RDMA_VM_SERVER_ADDRESS:7498" >/dev/null 2>&1 &
raw_server=$!
sleep 1
for _ in 1 2 3; do
    raw --mode lat --secs 3
    echo_case rdma spin --case lat-32 --payload 32 --outstanding 1 --secs 3
done
raw --mode lat --progress event --secs 3
echo_case rdma-event st --case lat-32 --payload 32 --outstanding 1 --secs 3
echo_case tcp st --case lat-32 --payload 32 --outstanding 1 --secs 3
raw --mode write --payload 1048576 --window 8 --secs 4
raw --mode read --payload 1048576 --window 8 --secs 4
raw --mode read --payload 131072 --window 8 --secs 4
echo_case rdma st --case bw-1m --payload 1048576 --outstanding 4 --secs 6
echo_case rdma st --case thr-o64 --payload 32 --outstanding 64 --secs 3
kill "$raw_server"
