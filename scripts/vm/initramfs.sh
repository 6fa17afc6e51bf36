# shellcheck shell=bash
# Sourced by setup: what mounts the host's file system and goes on there.
# shellcheck disable=SC2154 # release is setup's

# pack_initramfs FILE: in the kernel's directory. FILE appears whole or not at all.
pack_initramfs() {
    local n=0 file
    rm -rf root modules
    mkdir -p root/{bin,proc,sys,dev,modules,host,tmpfs,new}
    cp "$(command -v busybox)" root/bin/busybox
    ldd root/bin/busybox >/dev/null 2>&1 && die "busybox is not static: install busybox-static"
    ln -s busybox root/bin/sh
    for module in virtio_pci 9pnet_virtio 9p overlay; do
        modprobe -d kernel -S "$release" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >modules
    while read -r file; do
        n=$((n + 1))
        cp "$file" "root/modules/$(printf %02d $n)-$(basename "$file")"
    done <modules
    cp "$vm/init" root/init
    chmod +x root/init
    (cd root && find . | cpio -o -H newc --quiet | gzip -1) >"$1.new"
    rm -rf root modules
    mv "$1.new" "$1"
}
