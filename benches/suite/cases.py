"""What is measured: the cases, and who takes part in which."""

from collections import namedtuple

KIB, MIB = 1 << 10, 1 << 20

Case = namedtuple("Case", "name mode payload conns outstanding")
# `key` names it in results and on the command line; `text` is for people; `rt` see benches/README.md;
# `more` is what else its client is told.
System = namedtuple("System", "key text program transport rt more", defaults=((),))

SYSTEMS = [
    System("shm-busy", "shm, busy", "echo", "shm", "spin"),
    System("shm-adaptive", "shm, adaptive", "echo", "shm", "st"),
    System("shm-event", "shm, events", "echo", "shm-event", "st"),
    System("tcp", "tcp, adaptive", "echo", "tcp", "st"),
    System("tcp-event", "tcp, events", "echo", "tcp-event", "st"),
    System("unix", "unix, adaptive", "echo", "unix", "st"),
    System("tonic-tcp", "tonic, tcp", "tonic-peer", "tcp", "st"),
    System("tonic-unix", "tonic, unix", "tonic-peer", "unix", "st"),
    System("tarpc-tcp", "tarpc, tcp", "tarpc-peer", "tcp", "st"),
    System("ruapc-tcp", "ruapc, tcp", "ruapc-peer", "tcp", "st"),
    System("volo-shm", "volo, shm", "volo-peer", "shmipc-eventfd", "st"),
]
# As `#[tokio::main]` has it: two workers at the client, and calls from neither; the server as of `st`.
FROM_MAIN = [
    System("shm-main", "shm, adaptive", "echo", "shm", "main"),
    System("tcp-main", "tcp, adaptive", "echo", "tcp", "main"),
    System("tonic-main", "tonic, tcp", "tonic-peer", "tcp", "main"),
    System("tarpc-main", "tarpc, tcp", "tarpc-peer", "tcp", "main"),
]
# Two workers at each end, and calls from tasks.
WORKERS = [
    System("shm-mt", "shm, adaptive", "echo", "shm", "mt"),
    System("tcp-mt", "tcp, adaptive", "echo", "tcp", "mt"),
    System("tonic-mt", "tonic, tcp", "tonic-peer", "tcp", "mt"),
]
# Where programs run.
SCENE_SYSTEMS = {
    "one thread": [system for system in SYSTEMS if system.key in ("shm-adaptive", "tcp", "tonic-tcp")],
    "from `main`": [system for system in FROM_MAIN if system.program != "tarpc-peer"],
    "two workers": WORKERS,
}
# Settings that suit long messages, and only they are measured with them.
WIDE = System("tonic-tcp-wide", "tonic, tcp, wide windows", "tonic-peer", "tcp-wide", "st")
# The payload where the allocator puts it, and not in a `BulkBuffer`.
HEAP = System("shm-busy-heap", "shm, busy, from the heap", "echo", "shm", "spin", ("--memory", "heap"))
RAW_TCP = System("raw-tcp", "raw tcp (tokio)", "raw", "tcp", "st")

OUTSTANDING = [1, 4, 16, 64, 256, 1024, 4096, 10000]
CONNECTIONS = [1, 8, 64, 256, 1000]
PAYLOADS = [0, 32, 256, KIB, 4 * KIB, 16 * KIB, 32 * KIB, 64 * KIB, 128 * KIB, 256 * KIB,
            MIB, 4 * MIB, 16 * MIB, 64 * MIB]
# Connections and calls open in all: who calls again first must not keep the others waiting.
FAIR = [(1, 2), (1, 8), (8, 8), (64, 64), (1000, 64)]
# Connections and calls awaited together.
JOINED = [(1, 1), (1, 2), (1, 8), (1, 64), (8, 64)]
# What programs do around calls, by its `--mode`: connections, how many of it at a time, and what it is.
SCENES = {
    "deadline": (1, 1, "a call with a deadline and three entries of metadata"),
    "timeout": (1, 1, "a call in `tokio::time::timeout`"),
    "spawning-handler": (1, 1, "a call whose handler spawns a task and awaits it"),
    "fan-out": (8, 1, "a call on each of 8 connections, joined"),
    "hedged": (2, 1, "the same call on 2 connections, the slower one dropped"),
    "spawned": (1, 64, "64 calls, each in a task that is spawned for it"),
    "actor": (1, 1, "a call by a task that is asked through a channel"),
    "subscribed": (1, 1, "a call beside a stream on which nothing comes"),
    "paced": (1, 1, "a call each 200 us"),
    "chat": (1, 1, "a message there and back on a bidirectional stream that a channel feeds"),
    "chats": (1, 64, "64 of these, joined"),
    "upload": (1, 1, "a client's stream of 1,000 messages that another task makes"),
}
STREAMED = [32, 256, KIB, 4 * KIB, 64 * KIB]


def size(count):
    """1024 -> 1k, 1048576 -> 1m: as case names have it."""
    if count and count % MIB == 0:
        return f"{count // MIB}m"
    return f"{count // KIB}k" if count and count % KIB == 0 else str(count)


def lat(payload):
    return Case(f"lat-{size(payload)}", "unary", payload, 1, 1)


def thr(conns, outstanding):
    if (conns, outstanding) == (1, 1):
        return lat(32)
    return Case(f"thr-c{conns}-o{outstanding}", "unary", 32, conns, outstanding)


def stream(payload):
    return Case(f"stream-{size(payload)}", "stream", payload, 1, 1)


def scene(mode):
    conns, outstanding, _ = SCENES[mode]
    return Case(mode, mode, 32, conns, outstanding)


BW = Case("bw-1m", "unary", MIB, 1, 4)
IDLE = Case("idle", "idle", 32, 1, 1)

# Those of the table.
MAIN = [lat(32), lat(4 * KIB), lat(MIB), thr(1, 64), thr(1, 1024), thr(8, 64), thr(8, 1024), BW,
        stream(32)]
# Those that only the pictures need.
CURVES = ([thr(1, n) for n in OUTSTANDING] + [thr(n, n) for n in CONNECTIONS]
          + [thr(n, 1024) for n in CONNECTIONS] + [thr(*pair) for pair in FAIR]
          + [lat(n) for n in PAYLOADS]
          + [stream(n) for n in STREAMED] + [IDLE])


def unique(cases):
    return list(dict.fromkeys(cases))


def takes_part(system, case):
    """Whether a system can do what a case asks."""
    if system.program in ("tarpc-peer", "ruapc-peer", "volo-peer") and case.mode == "stream":
        return False
    if system.program == "ruapc-peer":
        return case.payload < 64 * MIB  # "msg is too long"
    if system.program == "volo-peer":
        # A connection has 128 MiB, in which 16 MiB find no place and 10,000 calls neither.
        return case.conns <= 8 and case.payload <= 4 * MIB and case.outstanding <= 4096
    return True


def jobs():
    """Everything there is to measure, as (system, case)."""
    pairs = []
    for case in unique(MAIN + CURVES):
        for system in SYSTEMS:
            if takes_part(system, case):
                pairs.append((system, case))
    pairs += [(WIDE, case) for case in (lat(MIB), BW, stream(32))]
    pairs += [(HEAP, case) for case in (lat(64 * KIB), lat(256 * KIB), lat(MIB), lat(4 * MIB), BW)]
    pairs += [(system, thr(*case)) for system in FROM_MAIN for case in JOINED]
    pairs += [(system, scene(mode)) for mode in SCENES
              for runtime in SCENE_SYSTEMS.values() for system in runtime]
    pairs += [(RAW_TCP, lat(payload)) for payload in PAYLOADS if payload]
    pairs += [
        (System("raw-tcp-blocking", "raw tcp, blocking", "raw", "tcp-blocking", "st"), lat(MIB)),
        (System("raw-tcp-batch", "raw tcp, one batch", "raw", "tcp-batch", "st"), thr(1, 64)),
        (System("raw-eventfd", "eventfd", "raw", "eventfd", "st"), lat(32)),
        (System("raw-memory", "shared page, polled", "raw", "memory", "spin"), lat(32)),
        (System("raw-vm-readv", "process_vm_readv", "raw", "vm-readv", "st"), lat(MIB)),
    ]
    return pairs
