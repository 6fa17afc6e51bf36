"""Runs cases: a server and a client process for each, and whatever ucx_perftest offers."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time

import machine

# Beyond warm-up and measurement: a thousand handshakes, or the last 64 MiB echoes.
PATIENCE_SECS = 60
TRIES = 3


def stop(process):
    """A server ends when its standard input closes."""
    process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


class Runner:
    def __init__(self, programs, options):
        self.programs = programs  # name -> path
        self.options = options
        self.folder = tempfile.TemporaryDirectory(prefix="rpc-bench-")
        self.port = 20000 + os.getpid() % 5000
        self.ucx_counts = {}

    def next_port(self):
        self.port = self.port + 1 if self.port < 29000 else 20000
        return self.port

    def address(self, transport):
        port = self.next_port()
        if transport.startswith(("unix", "eventfd", "memory", "vm-", "shmipc")):
            return f"{self.folder.name}/{port}"
        return f"127.0.0.1:{port}"

    def quiet(self, measure):
        """Measures when nobody else is busy, and again if somebody was: the calmest try."""
        best = None
        for attempt in range(TRIES):
            wait = self.options.quiet_wait if attempt == 0 else self.options.quiet_wait / 6
            before = machine.wait_until_quiet(self.options.noise, wait)
            row = measure()
            noise = row.get("other_cpu_cores", 0)
            row.update(before_cores=round(before, 3), attempt=attempt)
            row["noisy"] = noise > self.options.noise
            row["other_cpu_cores"] = noise
            if "error" in row:
                return best or row
            if best is None or noise < best["other_cpu_cores"]:
                best = row
            if not row["noisy"]:
                break
        return best

    def case(self, system, case, rep):
        name = dict(system=system.key, case=case.name, rep=rep)
        try:
            return dict(self.pair(system, case, rep), **name)
        except (OSError, ValueError, subprocess.TimeoutExpired) as problem:
            return dict(name, error=str(problem)[-300:])

    def pair(self, system, case, rep):
        address = self.address(system.transport)
        rt = "st-pin" if system.rt == "st" and not self.options.unpinned else system.rt
        ends = ["--transport", system.transport, "--rt", rt, "--addr", address]
        program = self.programs[system.program]
        with tempfile.TemporaryFile("w+") as errors:
            server = subprocess.Popen([program, "server"] + ends, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=errors, universal_newlines=True)
            try:
                ready = server.stdout.readline().split()
                if ready[:1] != ["READY"]:
                    raise ValueError("the server did not start: " + tail(errors))
                secs, warmup = self.options.secs, self.options.warmup
                client = subprocess.run(
                    [program, "client"] + ends + [
                        "--case", case.name, "--mode", case.mode, "--payload", str(case.payload),
                        "--conns", str(case.conns), "--outstanding", str(case.outstanding),
                        "--secs", str(secs), "--warmup", str(warmup), "--server-pid", ready[1],
                        "--rep", str(rep), *system.more],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                    universal_newlines=True, timeout=secs + warmup + PATIENCE_SECS)
                if client.returncode:
                    raise ValueError(f"the client failed: {tail(errors)}")
                return json.loads(client.stdout)
            finally:
                stop(server)

    def ucx(self, transports, test, size, rep):
        """One row of ucx_perftest. It prints half of a round trip; ours hold whole ones."""
        row = dict(peer="ucx", version=machine.ucx_version(), transport=transports, rt="spin",
                   system=f"ucx-{transports.split(',')[0]}", case=f"{test}-{size}", payload=size,
                   conns=1, outstanding=1, rep=rep)
        latency = test.endswith("_lat")
        key = (transports, test, size)
        if key not in self.ucx_counts:
            trial, problem = self.ucx_once(transports, test, size, 1000 if size < 65536 else 50)
            if trial is None:
                return dict(row, error=problem)
            per_call_us = max(2 * trial[3] if latency else trial[3], 0.02)
            self.ucx_counts[key] = int(max(100, self.options.secs * 1e6 / per_call_us))
        before, began, own = machine.busy_seconds(), time.monotonic(), children_seconds()
        figures, problem = self.ucx_once(transports, test, size, self.ucx_counts[key],
                                         ["-R", "50"] if latency else [])
        if figures is None:
            return dict(row, error=problem)
        elapsed = time.monotonic() - began
        others = machine.busy_seconds() - before - (children_seconds() - own)
        row.update(secs=round(elapsed, 2), ops=int(figures[0]),
                   other_cpu_cores=round(max(0.0, others / elapsed), 3))
        # iterations; percentile, average and overall latency; average and overall MB/s; messages/s
        if latency:
            row.update(p50_us=round(2 * figures[1], 4), ops_per_s=round(5e5 / figures[3], 1))
        else:
            row.update(gb_per_s=round(figures[5] * (1 << 20) / 1e9, 4), ops_per_s=figures[7])
        return row

    def ucx_once(self, transports, test, size, count, extra=()):
        environment = dict(os.environ, UCX_TLS=transports, UCX_LOG_LEVEL="error",
                           UCX_WARN_UNUSED_ENV_VARS="n")
        port = str(self.next_port())
        near, far = self.options.cpus
        server = subprocess.Popen(["ucx_perftest", "-p", port, "-c", str(far)], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        try:
            time.sleep(0.3)
            client = subprocess.run(
                ["ucx_perftest", "127.0.0.1", "-p", port, "-c", str(near), "-t", test, "-s", str(size),
                 "-n", str(count), "-w", str(max(10, min(count // 10, 10000))), "-f", "-v", *extra],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                universal_newlines=True, timeout=PATIENCE_SECS, env=environment)
            lines = [line for line in client.stdout.splitlines() if re.match(r"\s*\d", line)]
            if client.returncode or not lines:
                return None, client.stdout[-200:]
            return [float(field) for field in lines[-1].split(",")], ""
        except subprocess.TimeoutExpired:
            return None, "ucx_perftest timed out"
        finally:
            stop(server)


def children_seconds():
    times = os.times()
    return times.children_user + times.children_system


def tail(errors):
    errors.seek(0)
    return errors.read().strip()[-300:] or "without a word"


def say(text):
    print(text, file=sys.stderr, flush=True)
