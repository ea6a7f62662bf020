"""Peer: DuckDB's own postgres extension copies one table into a DuckDB file (ATTACH and CREATE TABLE AS)."""

import importlib.util
import json
import sys
import time
from pathlib import Path


def peak_mb() -> float:
    """This process's peak resident set in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    began = time.time()
    options = json.loads(sys.argv[1])
    import duckdb

    carrier = importlib.util.find_spec("duckdb_extension_postgres_scanner")
    assert carrier is not None
    assert carrier.origin is not None
    (extension,) = Path(carrier.origin).parent.rglob("*.duckdb_extension")
    con = duckdb.connect(options["path"])
    con.execute(f"LOAD '{extension}'")
    con.execute(f"ATTACH '{options['dsn']}' AS source (TYPE postgres, READ_ONLY)")
    con.execute(f"CREATE TABLE orders AS SELECT * FROM source.public.{options['table']}")
    rows = con.execute("SELECT count(*) FROM orders").fetchall()[0][0]
    types = {name: kind for name, kind, *_ in con.execute("DESCRIBE orders").fetchall()}
    con.close()
    print(
        json.dumps(
            {
                "rows": rows,
                "types": types,
                "inner_s": time.time() - began,
                "peak_mb": peak_mb(),
                "cpu_s": time.process_time(),
            }
        )
    )


main()
