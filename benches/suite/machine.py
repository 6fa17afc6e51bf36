"""The machine: what it is, and whether it is quiet."""

import datetime
import os
import platform
import re
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")


def busy_seconds():
    """Seconds of CPU that everybody has used."""
    with open("/proc/stat") as stat:
        fields = stat.readline().split()
    return sum(int(field) for field in fields[1:4]) / TICKS


def wait_until_quiet(most_cores, seconds, span=0.25):
    """Waits until others use no more than this; what they used last, in cores."""
    end = time.monotonic() + seconds
    while True:
        before, began = busy_seconds(), time.monotonic()
        time.sleep(span)
        cores = (busy_seconds() - before) / (time.monotonic() - began)
        if cores <= most_cores or time.monotonic() > end:
            return cores


def two_cpus():
    """Two CPUs to measure on that are not two threads of one core, and keeps to them from now on:
    what is started inherits it."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("bench: a client and a server need a CPU each; there is one")
    near, far = allowed[0], allowed[1]
    try:
        with open(f"/sys/devices/system/cpu/cpu{near}/topology/thread_siblings_list") as siblings:
            same = set()
            for part in siblings.read().strip().split(","):
                first, _, last = part.partition("-")
                same.update(range(int(first), int(last or first) + 1))
        far = next((cpu for cpu in allowed if cpu not in same), far)
    except (OSError, ValueError):
        pass
    os.sched_setaffinity(0, {near, far})
    return [near, far]


def output(*words, cwd=None):
    try:
        return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              universal_newlines=True, cwd=cwd, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def describe(root, settings):
    """What a reader has to know to judge the figures."""
    with open("/proc/cpuinfo") as cpuinfo:
        text = cpuinfo.read()
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.M)
    with open("/proc/meminfo") as meminfo:
        kib = int(re.search(r"MemTotal:\s*(\d+)", meminfo.read()).group(1))
    changed = output("git", "status", "--porcelain", "--untracked-files=no", cwd=root)
    return {
        "machine": {
            "cpu": model.group(1) if model else platform.machine(),
            "cores": os.cpu_count(),
            "virtual": "hypervisor" in text,
            "memory_gib": round(kib / (1 << 20), 1),
            "kernel": platform.release(),
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            "rustc": output("rustc", "--version"),
            "commit": output("git", "rev-parse", "--short=12", "HEAD", cwd=root)
            + (" with changes" if changed else ""),
            "ucx": ucx_version(),
        },
        "settings": settings,
    }


def ucx_version():
    found = re.search(r"Version (\S+)", output("ucx_info", "-v"))
    return found.group(1) if found else ""
