"""Peer: connectorx reads one PostgreSQL table as an Arrow stream into a DuckDB file."""

import json
import sys
import time
from pathlib import Path


def peak_mb() -> float:
    """This process's peak resident set in MB (its own, not what it inherited from whoever spawned it)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    began = time.time()
    options = json.loads(sys.argv[1])
    import connectorx as cx
    import duckdb

    columns = ", ".join(options["columns"])
    reader = cx.read_sql(
        options["url"],
        f"SELECT {columns} FROM {options['table']}",
        return_type="arrow_stream",
        batch_size=options["batch_size"],
    )
    con = duckdb.connect(options["path"])
    con.register("reader", reader)
    con.execute("CREATE TABLE orders AS SELECT * FROM reader")
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
