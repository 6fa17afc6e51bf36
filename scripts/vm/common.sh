# shellcheck shell=bash
# Sourced by the commands: where things are, and how to give up.

# shellcheck disable=SC2034 # used by those who source this
vm=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
cache=${RDMA_VM_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/rdma-rpc-vm}

say() { printf 'rdma-vm: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 125
}

# The device kinds in the arguments of `test` and `bench`; both when there are none.
check_kind() {
    case $1 in
        rxe | siw) ;;
        *) say "unknown kind of device $1: rxe or siw"; exit 2 ;;
    esac
}
