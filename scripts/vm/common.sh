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

# What the kernel in the cache, and the initramfs, were made by.
stamp() { cat "$@" | sha256sum | cut -c1-8; }
kernel_stamp() { stamp "$vm/kernel.sh"; }
initramfs_name() { echo "initramfs-$(stamp "$vm/initramfs.sh" "$vm/init")"; }

# Prepares the guest if it never was, or by another recipe.
ensure_setup() {
    local current
    current=$(readlink "$cache/current") || current=
    [[ $current = kernel-*-$(kernel_stamp) && -e $cache/current/$(initramfs_name) ]] || "$vm/setup" || exit 125
}

# The test programs besides the conformance suite: package, test, seconds, threads.
list_programs() { grep -v '^ *\(#\|$\)' "$vm/programs"; }
