"""`python -m benchmarks [NAME ...]`: measure the engine beside its peers, print ratios, write JSON."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from benchmarks import freshness, machine, memory, mysql, mysql_more, poll, report, snapshot, streaming
from benchmarks.peers import environment
from benchmarks.run import Benchmark, Options, Run
from benchmarks.server import Server

BENCHMARKS: dict[str, Benchmark] = {
    "snapshot": snapshot.measure,
    "streaming": streaming.measure,
    "freshness": freshness.measure,
    "memory": memory.measure,
    "poll": poll.measure,
    "mysql": mysql.measure,
    "mysql-freshness": mysql_more.freshness,
    "mysql-memory": mysql_more.memory,
}


def arguments() -> argparse.Namespace:
    usual = Options()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    for field in dataclasses.fields(Options):
        if isinstance(getattr(usual, field.name), int) and not isinstance(getattr(usual, field.name), bool):
            flag = f"--{field.name.replace('_', '-')}"
            parser.add_argument(flag, type=int, default=getattr(usual, field.name), help="default %(default)s")
    parser.add_argument("--size", default=usual.size, help="the engine's instance_size (default %(default)s)")
    parser.add_argument(
        "--mysql", default=usual.mysql, help="the server of `mysql` (default %(default)s, or mariadb-11.8)"
    )
    parser.add_argument("--quick", action="store_true", help="a twentieth of every size, one pass: does it work at all")
    parser.add_argument("--no-engine", dest="engine", action="store_false", help="only the peers")
    parser.add_argument("--no-extension", dest="extension", action="store_false", help="without DuckDB's extension")
    parser.add_argument("--debezium", action="store_true", help="Debezium, too (needs Java 17; takes a minute more)")
    parser.add_argument("--keep", action="store_true", help="keep the working folder (logs, replicas) and say where")
    given = parser.parse_args()
    unknown = set(given.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    return given


def options_of(given: argparse.Namespace) -> Options:
    options = Options(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Options)})
    if not given.quick:
        return options
    return dataclasses.replace(
        options,
        passes=1,
        rows=options.rows // 20,
        changes=options.changes // 20,
        transactions=options.transactions // 20,
        seconds=max(2, options.seconds // 6),
        memory_rows=options.memory_rows // 20,
        memory_changes=options.memory_changes // 20,
    )


def main() -> int:
    given = arguments()
    options = options_of(given)
    folder = Path(tempfile.mkdtemp(prefix="reflex-bench-"))
    results: list[report.Result] = []
    failed = False

    def say(text: str) -> None:
        print(f"  .. {text}", file=sys.stderr, flush=True)

    try:
        peers = environment.versions(environment.python(), ["connectorx", "psycopg2-binary"])
        if options.extension:
            carrier = environment.versions(environment.python("extension"), ["duckdb-extension-postgres-scanner"])
            peers |= {"DuckDB postgres extension": carrier["duckdb-extension-postgres-scanner"]}
        if options.debezium:
            peers |= environment.versions(environment.python("debezium"), ["pydbzengine"])
        about: dict[str, object] = {}
        for name in given.names or BENCHMARKS:
            with Server() as server:
                if not about:
                    about = machine.describe(server.version(), peers)
                    print(machine.line(about), flush=True)
                try:
                    results.append(BENCHMARKS[name](Run(options, server, folder / name, say)))
                except Exception:
                    failed = True
                    traceback.print_exc()
                    continue
            print(report.show(results[-1]), flush=True)
        if results:
            print(f"\nwritten to {report.save(about, dataclasses.asdict(options), results)}")
    finally:
        if given.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
