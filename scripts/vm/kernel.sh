# shellcheck shell=bash
# Sourced by setup: what the guest boots. Each function works in the current directory. The kernel
# is made again when this file changes, the initramfs when initramfs.sh or init does.
# shellcheck disable=SC2154 # release and log are setup's

# Debian's kernel. Uncompressed, it boots by PVH, which saves seconds of emulation.
unpack_kernel() {
    unpack_package "linux-image-$release" kernel
    depmod -b kernel "$release"
    local start
    start=$(LC_ALL=C grep -m1 -obUaP '\xfd7zXZ\x00' "kernel/boot/vmlinuz-$release" | head -1 | cut -d: -f1)
    [ -n "$start" ] || die "the kernel image is not compressed by xz"
    xz -dc --single-stream < <(tail -c +$((start + 1)) "kernel/boot/vmlinuz-$release") >vmlinux ||
        die "cannot decompress the kernel image"
    rm -rf kernel/boot kernel/usr
}

# Soft-iWARP is not in Debian's kernel: the one module is built from the kernel's own source.
build_siw() {
    local series
    series=$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")
    [ -d "/usr/src/linux-headers-$release" ] || install_packages "linux-headers-$release"
    mkdir siw
    unpack_package "linux-source-$series" source
    tar -xf "source/usr/src/linux-source-$series.tar.xz" -C siw --strip-components=5 \
        "linux-source-$series/drivers/infiniband/sw/siw"
    rm -rf source
    make -s -C "/usr/src/linux-headers-$release" M="$PWD/siw" CONFIG_RDMA_SIW=m modules >"$log" 2>&1 ||
        { tail -20 "$log" >&2; die "siw.ko does not build"; }
    strip -g siw/siw.ko
    mv siw/siw.ko siw.ko
    rm -rf siw
}
