# shellcheck shell=bash
# Sourced by setup: Debian packages.
# shellcheck disable=SC2154 # log is setup's

# What the host and, through its file system, the guest need: a program or file, and its package.
needed() {
    cat <<'N'
qemu-system-x86_64 qemu-system-x86
busybox busybox-static
cpio cpio
xz xz-utils
modprobe kmod
ip iproute2
rdma iproute2
sysctl procps
make make
gcc gcc
ibv_devinfo ibverbs-utils
rping rdmacm-utils
ib_write_lat perftest
/usr/lib/x86_64-linux-gnu/libibverbs/librxe-rdmav34.so ibverbs-providers
/etc/rdma/modules/rdma.conf rdma-core
N
}

# Packages whose program is not there.
missing_packages() {
    local program package
    while read -r program package; do
        case $program in
            /*) [ -e "$program" ] || echo "$package" ;;
            *) PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || echo "$package" ;;
        esac
    done < <(needed) | sort -u
}

# Installs packages, or says which are missing.
install_packages() {
    [ $# -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "missing (and no apt-get to install them): $*"
    [ "$(id -u)" = 0 ] || die "missing, and only root can install them: apt-get install $*"
    say "installing $*"
    local quiet=(-qq -o Dpkg::Use-Pty=0 --no-install-recommends)
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y "${quiet[@]}" "$@" >"$log" 2>&1 ||
        { apt-get update -qq && apt-get install -y "${quiet[@]}" "$@"; } >"$log" 2>&1 ||
        { tail -20 "$log" >&2; die "apt-get install $* failed"; }
}

# Downloads a package into the current directory and unpacks it below $2, installing nothing.
unpack_package() {
    local package=$1 into=$2
    apt-get download -qq "$package" >"$log" 2>&1 ||
        { apt-get update -qq && apt-get download -qq "$package"; } >"$log" 2>&1 ||
        { tail -20 "$log" >&2; die "cannot download $package"; }
    dpkg -x "$package"_*.deb "$into"
    rm -f "$package"_*.deb
}

# The release of Debian's current kernel, such as 6.1.0-56-amd64. Old ones leave the archive, so
# the name is asked for each time.
kernel_release() {
    local image
    image=$(apt-cache depends linux-image-amd64 2>/dev/null | awk '/Depends: linux-image-/ { print $2; exit }')
    if [ -z "$image" ] && [ "$(id -u)" = 0 ]; then
        apt-get update -qq >"$log" 2>&1 || true
        image=$(apt-cache depends linux-image-amd64 2>/dev/null | awk '/Depends: linux-image-/ { print $2; exit }')
    fi
    [ -n "$image" ] || die "apt knows no package linux-image-amd64: run apt-get update, on Debian for x86-64"
    echo "${image#linux-image-}"
}
