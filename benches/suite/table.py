"""Tables in Markdown: every system's figures, and ours beside others'."""

from cases import FAIR, FROM_MAIN, JOINED, SCENE_SYSTEMS, SCENES, SYSTEMS, WIDE, jobs, scene, thr

MARKS = ("<!-- figures: begin -->", "<!-- figures: end -->")


def three(value):
    """Three digits."""
    for limit, unit in ((1e6, " M"), (1e3, " k")):
        if value >= limit * 0.9995:
            return three(value / limit) + unit
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}"


def micros(value):
    return three(value / 1000) + " ms" if value >= 999.5 else three(value) + " us"


def rate(value):
    return three(value) + "/s"


def gigabytes(value):
    return f"{value:.2f} GB/s"


def cores(value):
    return f"{value:.3f}"


# case, figure, how it is written, whether less is better
FIGURES = {
    "p50": ("p50_us", micros, True), "ops": ("ops_per_s", rate, False),
    "cpu": ("cpu_us", micros, True), "gb": ("gb_per_s", gigabytes, False),
    "idle": ("cpu_cores", cores, True), "tail": ("p99_us", micros, True), "both": ("p50_us", micros, True),
}
TABLES = [
    ("One call at a time: median latency, and CPU of both ends per call",
     [("32 B", "lat-32", "p50"), ("4 KiB", "lat-4k", "p50"), ("1 MiB", "lat-1m", "p50"),
      ("CPU, 32 B", "lat-32", "cpu"), ("CPU, 1 MiB", "lat-1m", "cpu"),
      ("idle, cores", "idle", "idle")]),
    ("32-byte calls a second (thr-c*-o*), and CPU of both ends per call",
     [("1 connection, 64 open", "thr-c1-o64", "ops"), ("CPU", "thr-c1-o64", "cpu"),
      ("1, 1024", "thr-c1-o1024", "ops"), ("CPU", "thr-c1-o1024", "cpu"),
      ("8, 64", "thr-c8-o64", "ops"), ("8, 1024", "thr-c8-o1024", "ops")]),
    ("1 MiB calls with 4 open (bytes each way), and one server stream of 32-byte messages",
     [("bw-1m", "bw-1m", "gb"), ("CPU per call", "bw-1m", "cpu"),
      ("stream-32", "stream-32", "ops"), ("CPU per message", "stream-32", "cpu")]),
    ("Who waits longest: the 99th of a hundred 32-byte calls, and how many medians that is",
     [(f"{calls} open on {conns}", thr(conns, calls).name, "tail") for conns, calls in FAIR]),
]
JOINED_TABLE = ("32-byte calls awaited together by `#[tokio::main]`, two workers: calls a second",
                [(f"{calls} at a time" + (f" on {conns} connections" if conns > 1 else ""), thr(conns, calls).name, "ops")
                 for conns, calls in JOINED])

SCENES_TITLE = ("What programs do around calls of 32 B: the median of each, and the 99th of a hundred. One thread at "
                "each end; a client's main function beside two workers, and a server of one thread; two workers at "
                "each end")

UCX_SHM = "ucx-posix"
# Ours, theirs, case, figure; `None` for theirs' case: the same.
BESIDE = [
    ("shm-busy", UCX_SHM, "lat-32", "p50", "ucp_am_lat-32"),
    ("shm-busy", "raw-memory", "lat-32", "p50", None),
    ("shm-busy", "tonic-tcp", "lat-32", "p50", None),
    ("shm-busy", UCX_SHM, "lat-4k", "p50", "ucp_am_lat-4096"),
    ("shm-busy", "tonic-tcp", "thr-c1-o64", "ops", None),
    ("shm-busy", "tonic-tcp", "thr-c1-o64", "cpu", None),
    ("shm-adaptive", "tonic-tcp", "thr-c1-o64", "ops", None),
    ("shm-adaptive", "tonic-tcp", "thr-c1-o64", "cpu", None),
    ("shm-busy", "tonic-tcp", "thr-c1-o1024", "ops", None),
    ("shm-busy", UCX_SHM, "lat-1m", "p50", "ucp_am_lat-1048576"),
    ("shm-busy", "tonic-tcp-wide", "lat-1m", "p50", None),
    ("shm-busy", "volo-shm", "lat-1m", "p50", None),
    ("shm-busy", "shm-busy-heap", "lat-1m", "p50", None),
    ("shm-busy", "raw-vm-readv", "bw-1m", "gb", "lat-1m"),
    ("shm-busy", "volo-shm", "bw-1m", "gb", None),
    ("shm-busy", "shm-busy-heap", "bw-1m", "gb", None),
    ("shm-busy", "tonic-unix", "stream-32", "ops", None),
    ("shm-event", "raw-eventfd", "lat-32", "p50", None),
    ("tcp", "raw-tcp", "lat-32", "p50", None),
    ("tcp-event", "raw-tcp", "lat-32", "p50", None),
    ("tcp", "tonic-tcp", "lat-32", "p50", None),
    ("tcp", "tarpc-tcp", "lat-32", "p50", None),
    ("tcp", "ruapc-tcp", "lat-32", "p50", None),
    ("tcp", "raw-tcp-batch", "thr-c1-o64", "ops", None),
    ("tcp-event", "raw-tcp-batch", "thr-c1-o64", "ops", None),
    ("tcp", "tonic-tcp", "thr-c1-o64", "ops", None),
    ("tcp", "tonic-tcp", "thr-c1-o64", "cpu", None),
    ("tcp", "tarpc-tcp", "thr-c1-o64", "ops", None),
    ("tcp", "ruapc-tcp", "thr-c1-o64", "ops", None),
    ("tcp", "tarpc-tcp", "thr-c1-o1024", "ops", None),
    ("tcp", "ruapc-tcp", "thr-c1-o1024", "ops", None),
    ("tcp", "tarpc-tcp", "thr-c8-o1024", "ops", None),
    ("tcp", "ruapc-tcp", "thr-c8-o1024", "ops", None),
    ("tcp", "raw-tcp", "lat-1m", "p50", None),
    ("tcp", "raw-tcp-blocking", "lat-1m", "p50", None),
    ("tcp", "tonic-tcp-wide", "lat-1m", "p50", None),
    ("tcp", "tonic-tcp-wide", "bw-1m", "gb", None),
    ("tcp", "tonic-tcp", "stream-32", "ops", None),
]
WHAT = {"p50": "median latency", "ops": "rate", "cpu": "CPU per call", "gb": "bytes each way"}


def names():
    texts = {system.key: system.text for system, _ in jobs()}
    texts[UCX_SHM] = "UCX active messages, shm"
    return texts


def grid(title, head, lines, rule="---:"):
    text = [f"**{title}**", "", "| | " + " | ".join(head) + " |",
            "|---|" + f"{rule}|" * len(head)]
    return "\n".join(text + ["| " + " | ".join(line) + " |" for line in lines]) + "\n"


def written(results, system, case, kind):
    figure, write, _ = FIGURES[kind]
    value = results.get(system, case, figure)
    if value is None:
        return "failed" if (system, case) in results.errors else ""
    text = write(value)
    if kind == "tail":
        text += f" = {three(value / results.get(system, case, 'p50_us'))} x"
    if kind == "both":
        text += ", " + micros(results.get(system, case, "p99_us"))
    return text + (" *" if results.noisy(system, case) else "")


def ratio(results, ours, theirs, case, kind, their_case):
    """A line of the comparison, or None where one of the two was not measured."""
    figure, _, less_is_better = FIGURES[kind]
    near, far = results.get(ours, case, figure), results.get(theirs, their_case or case, figure)
    if not near or not far:
        return None
    times = near / far
    text = names()
    return [f"{case}, {WHAT[kind]}", text[ours], written(results, ours, case, kind),
            text[theirs], written(results, theirs, their_case or case, kind),
            f"{three(times) if times >= 0.995 else '1/' + three(1 / times)}",
            "better" if (times < 1) == less_is_better else "worse"]


def scenes(results):
    """A line for each scene, with all systems of all runtimes; nothing where none was measured."""
    columns = [(runtime, system) for runtime, systems in SCENE_SYSTEMS.items() for system in systems]
    lines = []
    for mode, (_, _, text) in SCENES.items():
        cells = [written(results, system.key, scene(mode).name, "both") for _, system in columns]
        if any(cells):
            lines.append([text] + cells)
    heads = [f"{runtime}: {system.text.split(',')[0]}" for runtime, system in columns]
    return [grid(SCENES_TITLE, heads, lines)] if lines else []


def machine(results):
    about = results.about.get("machine", {})
    settings = results.about.get("settings", {})
    virtual = "virtual machine" if about.get("virtual") else "machine"
    versions = sorted({f"{row['peer']} {row['version']}" for row in results.rows.values()
                       if row["peer"] not in ("rdma-rpc", "raw")})
    pinned = ("only those that poll all the time, others where the kernel puts them"
              if settings.get("unpinned") else "the client on one, the server on the other")
    return (f"{about.get('date')}, commit {about.get('commit')}, on a {virtual} with "
            f"{about.get('cores')} cores of {about.get('cpu')}, {about.get('memory_gib')} GiB, "
            f"Linux {about.get('kernel')}, {about.get('rustc')}. {settings.get('reps')} "
            f"repetition(s) of {settings.get('secs')} s after {settings.get('warmup')} s of "
            f"warm-up; medians. Everything runs on CPUs {settings.get('cpus')}, one tokio thread "
            f"at each end, pinned: {pinned}. Beside: {', '.join(versions)}. `*`: others used more than "
            f"{settings.get('noise')} of a core in every repetition.")


def tables(results):
    parts = [machine(results) + "\n"]
    shown = SYSTEMS + [WIDE]
    for systems, (title, columns) in [(shown, table) for table in TABLES] + [(FROM_MAIN, JOINED_TABLE)]:
        lines = []
        for system in systems:
            cells = [written(results, system.key, case, kind) for _, case, kind in columns]
            if any(cells):
                lines.append([system.text] + cells)
        if lines:
            parts.append(grid(title, [head for head, _, _ in columns], lines))
    parts += scenes(results)
    lines = [line for line in (ratio(results, *pair) for pair in BESIDE) if line]
    if lines:
        parts.append(grid("Ours beside others and beside what the machine can do",
                          ["ours", "", "beside", "", "ratio", "ours is"], lines, "---"))
    if not any(system.startswith("ucx") for system, _ in results.rows):
        parts.append("UCX (`ucx_perftest`) was not installed; its rows are left out.\n")
    for (system, case), problem in sorted(results.errors.items()):
        if (system, case) not in results.rows:
            problem = " ".join(problem.split())
            parts.append(f"Not measured: {system} {case}: {problem}\n")
    return "\n".join(parts)


def put_between_marks(path, text):
    """Puts generated text where a document has a place for it."""
    with open(path) as file:
        before, rest = file.read().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    with open(path, "w") as file:
        file.write(f"{before}{MARKS[0]}\n\n{text}\n{MARKS[1]}{after}")
