# shellcheck shell=bash
# Sourced by run: QEMU, what it prints, and when to end it.
# shellcheck disable=SC2154 # run, kernel, work, timeout are run's

# Nobody waits for a guest that stays silent this long; a loaded host may well stop one for a minute.
boot_seconds=120
silent_seconds=180

# -fsdev and -device of a shared folder: tag, path, further options.
share() {
    machine+=(-fsdev "local,id=$1,path=$2,security_model=none,multidevs=remap$3"
        -device "virtio-9p-pci,fsdev=$1,mount_tag=$1")
}

start_qemu() {
    # Without the last two words the kernel distrusts the emulated counter and reads a timer of the board's for
    # the time, at 0.7 us each; machines with RDMA have a counter it trusts.
    local machine=(-accel "${RDMA_VM_ACCEL:-tcg,thread=multi,tb-size=256}" -machine q35 -cpu max -smp 2
        -m "${RDMA_VM_MEMORY_MB:-2048}" -nodefaults -display none -no-reboot -serial "file:$run/console"
        -kernel "$kernel/vmlinux" -initrd "$kernel/$(initramfs_name)"
        -append "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr tsc=reliable clocksource=tsc")
    share host / ,readonly=on
    share run "$run" ""
    share kernel "$kernel" ,readonly=on
    [ -z "$work" ] || share work "$work" ""
    # However this script ends, its guest ends with it. No lock of ours is to outlive us in it.
    setpriv --pdeathsig KILL qemu-system-x86_64 "${machine[@]}" </dev/null >"$run/qemu.log" 2>&1 7<&- 8<&- &
    qemu=$!
}

# Ends the guest when its time is over or it shows no life; why is left in the file `ended`.
watch_guest() {
    local alive now begin=$SECONDS
    # As long as the run lives: once it is gone, the guest is, and its number may be another's.
    while sleep 1 && kill -0 $$ 2>/dev/null; do
        if ((SECONDS - begin >= timeout)); then
            echo "124 not done after $timeout s (--timeout): the guest was ended" >"$run/ended"
        elif [ ! -e "$run/alive" ]; then
            ((SECONDS - begin < boot_seconds)) || echo "125 the guest did not start in $boot_seconds s" >"$run/ended"
        else
            now=$(date +%s)
            alive=$(stat -c %Y "$run/alive" 2>/dev/null || echo "$now")
            ((now - alive < silent_seconds)) || echo "125 no sign of life of the guest for $silent_seconds s" >"$run/ended"
        fi
        if [ -s "$run/ended" ]; then
            kill -9 "$qemu"
            return
        fi
    done
}

# Boots, passes on what is printed, exits with the command's code.
boot() {
    local code message watching
    start_qemu
    watch_guest >/dev/null 2>&1 7<&- 8<&- &
    watching=$!
    local printers=()
    tail -c +1 -s 0.1 -f --pid="$qemu" "$run/stdout" 2>/dev/null 7<&- 8<&- &
    printers+=($!)
    tail -c +1 -s 0.1 -f --pid="$qemu" "$run/stderr" >&2 2>/dev/null 7<&- 8<&- &
    printers+=($!)
    wait "$qemu" 2>/dev/null
    local qemu_code=$?
    qemu=
    kill "$watching" 2>/dev/null
    wait "${printers[@]}"
    if [ -s "$run/complaints" ]; then
        say "the guest's kernel complained:"
        head -20 "$run/complaints" >&2
    fi
    if [ -s "$run/code" ]; then
        exit "$(cat "$run/code")"
    fi
    if [ -s "$run/ended" ]; then
        read -r code message <"$run/ended"
    else
        code=125 message="the guest died without an exit code (QEMU: $qemu_code)"
    fi
    say "$message; the end of its console:"
    tail -15 "$run/console" >&2
    cat "$run/qemu.log" >&2
    exit "$code"
}
