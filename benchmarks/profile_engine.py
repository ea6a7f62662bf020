"""Where the engine's time goes: `python -m benchmarks.profile_engine snapshot|a|b [--gil]`, with py-spy attached to the engine.

Samples come from py-spy (`pip install py-spy`; root or ptrace rights), 250 a second. Per thread it prints the functions
by their own share and by what they hold in total, and the CPU seconds that each thread used.
"""

from __future__ import annotations

import argparse
import collections
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.instance import Instance
from benchmarks.server import Server, lsn
from benchmarks.workloads import Orders

RATE = 250


class Sampler:
    """py-spy attached to one process from construction until `stop`."""

    def __init__(self, pid: int, path: Path, *, gil: bool, native: bool) -> None:
        self.path = path
        spy = Path(sys.executable).parent / "py-spy"
        command = [str(spy), "record", "--pid", str(pid), "--format", "raw", "--output", str(path), "--threads"]
        command += ["--rate", str(RATE), "--nonblocking", "--duration", "600"]
        command += ["--gil"] if gil else []
        command += ["--native"] if native else []
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        """End sampling; the file is written then."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)


def summarize(path: Path, top: int = 14) -> str:
    """Per thread: samples in seconds, own and total shares of functions."""
    own: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    total: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for line in path.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if not frames:
            continue
        own[thread][frames[-1]] += int(count)
        for frame in set(frames):
            total[thread][frame] += int(count)
    out = []
    for thread, counter in sorted(own.items(), key=lambda item: -item[1].total()):
        seconds = counter.total() / RATE
        if seconds < 0.05:
            continue
        out.append(f"\n{thread}: {seconds:.2f} s")
        out += [f"    {held / RATE:6.2f} s own    {name}" for name, held in counter.most_common(top)]
        out += [f"    {held / RATE:6.2f} s total  {name}" for name, held in total[thread].most_common(top + 6)]
    return "\n".join(out)


def cpu(pid: int) -> str:
    """User and system seconds per thread of a living process, busiest first."""
    process = psutil.Process(pid)
    threads = sorted(process.threads(), key=lambda t: -(t.user_time + t.system_time))[:10]
    return ", ".join(f"{t.id}: {t.user_time:.2f}+{t.system_time:.2f}" for t in threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["snapshot", "a", "b"])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--changes", type=int, default=300_000)
    parser.add_argument("--transactions", type=int, default=50_000)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--gil", action="store_true", help="count only threads that hold the interpreter lock")
    parser.add_argument("--native", action="store_true", help="with native frames (slower)")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="reflex-profile-"))
    samples = folder / "samples.txt"
    with Server() as server, server.connect() as con:
        orders = Orders.create(con, given.rows)
        instance = Instance(server, folder / "instance", size=given.size)
        mark = server.mark()
        try:
            instance.start()
            if given.what == "snapshot":
                sampler = Sampler(instance.pid, samples, gil=given.gil, native=given.native)
                ended = instance.wait_ready(300)
                began = server.command_time("CREATE_REPLICATION_SLOT", mark)
            else:
                instance.wait_ready(300)
                instance.visible(lsn(server.end_of_wal()))
                instance.stop()
                if given.what == "a":
                    orders.large_transactions(given.changes)
                else:
                    orders.single_rows(given.transactions)
                end = server.end_of_wal()
                mark = server.mark()
                instance.start()
                sampler = Sampler(instance.pid, samples, gil=given.gil, native=given.native)
                instance.wait_alive()
                ended = instance.visible(lsn(end))
                began = server.command_time("START_REPLICATION", mark)
            print(f"start to begin {began - instance.started_at:.2f} s, begin to end {ended - began:.2f} s")
            print(f"CPU per thread: {cpu(instance.pid)}; peak {instance.peak_mb():.0f} MB")
            sampler.stop()
            time.sleep(0.1)
            print(summarize(samples))
        finally:
            instance.stop()
            print(instance.log_tail(4000))
            print(f"samples and log: {folder}")


if __name__ == "__main__":
    main()
