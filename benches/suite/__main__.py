"""Measures, keeps results, writes tables and draws pictures. Started by scripts/bench."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time

import cases
import machine
import pictures
import table
from results import Results
from run import Runner, say

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
UCX = [("ucp_am_lat", 32), ("ucp_am_lat", 4096), ("ucp_am_lat", 1 << 20), ("ucp_am_bw", 1 << 20)]
# Programs in benches/peers.
PEERS = ("tonic-peer", "tarpc-peer", "ruapc-peer", "volo-peer", "raw")
UCX_TRANSPORTS = ["posix,cma,self", "tcp"]


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(
        "Measures our echo beside those of tonic, tarpc, ruapc and volo, and what the machine can do; writes "
        "results.jsonl, results.md and the pictures into the folder --out."))
    parser.add_argument("--quick", action="store_true", help="0.5 s, one repetition, no waiting")
    parser.add_argument("--only", metavar="REGEX", default="",
                        help="matched on SYSTEM/CASE, such as shm-busy/lat-32; --list shows all")
    parser.add_argument("--list", action="store_true", help="say what would run, and end")
    parser.add_argument("--reps", type=int, help="repetitions (3)")
    parser.add_argument("--secs", type=float, help="seconds a case is measured (2)")
    parser.add_argument("--warmup", type=float, default=0.4, help="seconds before (0.4)")
    parser.add_argument("--unpinned", action="store_true",
                        help="only what polls all the time is pinned, client and server to a CPU "
                             "each; by default everything is")
    parser.add_argument("--noise", type=float, default=0.15,
                        help="cores others may use before a case is tried again (0.15)")
    parser.add_argument("--quiet-wait", type=float, help="seconds to wait for quiet (120)")
    parser.add_argument("--out", metavar="DIR", help="default: bench in cargo's target folder")
    parser.add_argument("--no-build", action="store_true", help="measure what was built before")
    parser.add_argument("--from", dest="results", metavar="FILE",
                        help="measure nothing: tables and pictures from these results")
    parser.add_argument("--publish", action="store_true",
                        help="put the pictures and medians into docs/, the tables into "
                             "benches/README.md")
    options = parser.parse_args()
    if options.secs is None:
        options.secs = 0.5 if options.quick else 2.0
    if options.reps is None:
        options.reps = 1 if options.quick else 3
    if options.quiet_wait is None:
        options.quiet_wait = 0.5 if options.quick else 120.0
    return options


def build(target):
    """The programs, by name."""
    def cargo(folder, target, *packages):
        words = ["cargo", "build", "--release", "--locked"]
        for package in packages:
            words += ["-p", package]
        environment = dict(os.environ, CARGO_TARGET_DIR=target)
        if subprocess.run(words, cwd=folder, env=environment).returncode:
            sys.exit(f"bench: {' '.join(words)} failed in {folder}")

    say("building")
    cargo(ROOT, target, "rpc-benches")
    # One at a time: what one needs of a shared crate must not change another.
    for program in PEERS:
        cargo(os.path.join(ROOT, "benches/peers"), os.path.join(target, "peers"), program)


def programs(target):
    found = {"echo": os.path.join(target, "release/echo")}
    for name in PEERS:
        found[name] = os.path.join(target, "peers/release", name)
    for path in found.values():
        if not os.path.exists(path):
            sys.exit(f"bench: {path} is not there; run without --no-build")
    return found


def measure(options, target, path):
    wanted = [(f"{system.key}/{case.name}", system, case) for system, case in cases.jobs()]
    ucx = [(f"ucx-{tls.split(',')[0]}/{test}-{size}", tls, test, size)
           for tls in UCX_TRANSPORTS for test, size in UCX]
    wanted = [job for job in wanted + ucx if re.search(options.only, job[0])]
    if options.list:
        print("\n".join(job[0] for job in wanted))
        sys.exit()
    if not wanted:
        sys.exit(f"bench: --only {options.only!r} leaves nothing; --list shows what there is")
    if not shutil.which("ucx_perftest"):
        say("bench: ucx_perftest (Debian: ucx-utils) is not installed: UCX's rows are left out")
        wanted = [job for job in wanted if len(job) == 3]
    if not options.no_build:
        build(target)
    options.cpus = machine.two_cpus()
    runner = Runner(programs(target), options)
    settings = {name: getattr(options, name)
                for name in ("reps", "secs", "warmup", "unpinned", "cpus", "noise", "only")}
    minutes = len(wanted) * options.reps * (options.secs + options.warmup + 0.6) / 60
    say(f"{len(wanted)} cases x {options.reps}: about {minutes:.0f} minutes on a quiet machine")
    began = time.monotonic()
    with open(path, "w") as out:
        out.write(json.dumps(machine.describe(ROOT, settings)) + "\n")
        # All cases, then all again, so that a machine that drifts does so for everybody.
        for rep in range(1, options.reps + 1):
            for number, (name, *job) in enumerate(wanted, 1):
                one = runner.case if len(job) == 2 else runner.ucx
                row = runner.quiet(lambda one=one, job=job: one(*job, rep))
                out.write(json.dumps(row) + "\n")
                out.flush()
                say(f"[{time.monotonic() - began:5.0f} s] {rep}/{options.reps} "
                    f"{number}/{len(wanted)} {name}: {shown(row)}")


def shown(row):
    if "error" in row:
        return "FAILED: " + " ".join(row["error"].split())
    figures = [f"{key} {row[key]}" for key in ("ops_per_s", "p50_us", "cpu_us") if key in row]
    if "ops_per_s" not in row:
        figures.append(f"cpu_cores {row.get('cpu_cores')}")
    return ", ".join(figures) + (f"  [others: {row['other_cpu_cores']}]" if row["noisy"] else "")


def main():
    options = arguments()
    target = os.path.abspath(os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target"))
    out = os.path.abspath(options.out or os.path.join(target, "bench"))
    path = options.results or os.path.join(out, "results.jsonl")
    if not options.results:
        if not options.list:
            os.makedirs(out, exist_ok=True)
        measure(options, target, path)
    os.makedirs(out, exist_ok=True)
    results = Results(path)
    with open(os.path.join(out, "results.md"), "w") as file:
        file.write(table.tables(results))
    say(f"{path}, {out}/results.md")
    folders = [out] + ([os.path.join(ROOT, "docs")] if options.publish else [])
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
        for picture in pictures.draw_all(results, folder):
            say(picture)
    if options.publish:
        results.write_medians(os.path.join(ROOT, "docs/figures.jsonl"))
        table.put_between_marks(os.path.join(ROOT, "benches/README.md"), table.tables(results))


try:
    main()
except KeyboardInterrupt:
    sys.exit("bench: interrupted; what was measured is in results.jsonl")
