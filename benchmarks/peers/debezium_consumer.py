"""Peer: Debezium embedded (pydbzengine), its JSON events counted, or applied to a DuckDB table by delete and insert.

The handler is what a careful user would write: the last image per key of each batch, one Arrow table, one DuckDB
transaction. Batches are four times larger than Debezium's default, which favours it. `settings` say where the source is.
"""

import json
import sys
import threading
import time
from pathlib import Path

TYPES = {
    "id": "BIGINT",
    "customer_id": "INTEGER",
    "status": "VARCHAR",
    "amount": "DECIMAL(12,2)",
    "created_at": "TIMESTAMP",
    "note": "VARCHAR",
    "qty": "SMALLINT",
    "flag": "BOOLEAN",
}
OPTIONS = json.loads(sys.argv[1])


def peak_mb() -> float:
    """This process's peak resident set in MB, the Java machine included: it runs inside."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


POSTGRES = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "database.dbname": "shop",
    "plugin.name": "pgoutput",
    "slot.drop.on.stop": "false",
    "publication.autocreate.mode": "disabled",
    "table.include.list": "public.orders",
}
MYSQL = {
    "connector.class": "io.debezium.connector.mysql.MySqlConnector",
    "database.server.id": "98",
    "database.include.list": "shop",
    "table.include.list": "shop.orders",
    "database.ssl.mode": "disabled",
    "include.schema.changes": "false",
    "schema.history.internal": "io.debezium.storage.file.history.FileSchemaHistory",
}
MYSQL_TYPES = {"flag": "TINYINT"}


def properties(folder: str) -> dict[str, str]:
    """Debezium's settings; what it remembers from run to run is in `folder`."""
    found = {
        "name": "bench",
        "topic.prefix": "bench",
        "snapshot.mode": "no_data",
        "tombstones.on.delete": "false",
        "decimal.handling.mode": "string",
        "time.precision.mode": "adaptive_time_microseconds",
        "max.batch.size": "8192",
        "max.queue.size": "32768",
        "poll.interval.ms": "50",
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": f"{folder}/offsets.dat",
        "offset.flush.interval.ms": "1000",
        "key.converter.schemas.enable": "false",
        "value.converter.schemas.enable": "false",
        "converter.schemas.enable": "false",
    }
    if OPTIONS["source"] == "mysql":
        found |= {**MYSQL, "schema.history.internal.file.filename": f"{folder}/history.dat"}
    else:
        found |= POSTGRES
    return found | OPTIONS["settings"]


class Applier:
    """Applies batches of (key, row or None) to one DuckDB table."""

    def __init__(self, path: str) -> None:
        import duckdb
        import pyarrow as pa

        self.arrow = pa
        self.con = duckdb.connect(path)
        types = TYPES | MYSQL_TYPES if OPTIONS["source"] == "mysql" else TYPES
        columns = ", ".join(f"{name} {kind}" for name, kind in types.items())
        self.con.execute(f"CREATE TABLE IF NOT EXISTS orders ({columns})")
        # A datetime without fractions comes in milliseconds, a timestamp of PostgreSQL in microseconds.
        unit = 1000 if OPTIONS["source"] == "mysql" else 1
        convert = {"created_at": f"make_timestamp(created_at * {unit})"}
        self.select = ", ".join(f"CAST({convert.get(name, name)} AS {kind})" for name, kind in types.items())

    def apply(self, last: dict) -> None:
        keys = self.arrow.table({"id": list(last)})
        images = [row for row in last.values() if row is not None]
        self.con.execute("BEGIN")
        self.con.register("keys", keys)
        self.con.execute("DELETE FROM orders USING keys WHERE orders.id = keys.id")
        if images:
            self.con.register("images", self.arrow.table({name: [row[name] for row in images] for name in TYPES}))
            self.con.execute(f"INSERT INTO orders SELECT {self.select} FROM images")
        self.con.execute("COMMIT")


def main() -> None:
    from pydbzengine import BasePythonChangeHandler, DebeziumJsonEngine

    done = threading.Event()
    applier = Applier(OPTIONS["path"]) if OPTIONS.get("path") else None

    class Handler(BasePythonChangeHandler):
        events = 0
        first = last = 0.0

        def handleJsonBatch(self, records: list) -> None:  # noqa: N802 - the library's name
            self.first = self.first or time.time()
            images: dict = {}
            for record in records:
                value = record.value()
                if value is None:
                    continue
                if applier is None:
                    self.events += 1
                    continue
                change = json.loads(str(value))
                change = change.get("payload", change)
                if change["op"] not in "cud":
                    continue
                self.events += 1
                image = change["after"] or change["before"]
                key = image["id"]
                images.pop(key, None)
                images[key] = None if change["op"] == "d" else image
            if applier is not None and images:
                applier.apply(images)
            self.last = time.time()
            if self.events >= OPTIONS["events"]:
                done.set()

    handler = Handler()
    engine = DebeziumJsonEngine(properties=properties(OPTIONS["folder"]), handler=handler)
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    while not done.wait(1.0):
        if not thread.is_alive():
            raise SystemExit("Debezium ended before it had delivered everything")
    rows = applier.con.execute("SELECT count(*) FROM orders").fetchall()[0][0] if applier else None
    print(
        json.dumps(
            {
                "first": handler.first,
                "ended": handler.last,
                "events": handler.events,
                "rows": rows,
                "peak_mb": peak_mb(),
                "cpu_s": time.process_time(),
            }
        ),
        flush=True,
    )
    engine.close()
    thread.join(30)


main()
