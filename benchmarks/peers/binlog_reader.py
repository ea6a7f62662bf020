"""Peer: python-mysql-replication reads a binary log from a place to another, and counts the rows that it decodes."""

import json
import sys
import time
from pathlib import Path


def peak_mb() -> float:
    """This process's peak resident set in MB (its own, not what it inherited from whoever spawned it)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    options = json.loads(sys.argv[1])
    from pymysqlreplication import BinLogStreamReader
    from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

    began = time.time()
    stream = BinLogStreamReader(
        connection_settings=options["connection"],
        server_id=99,
        log_file=options["file"],
        log_pos=options["offset"],
        resume_stream=True,
        blocking=False,
        only_events=[DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent],
        only_schemas=["shop"],
    )
    rows = 0
    for event in stream:
        rows += len(event.rows)
        if rows >= options["rows"]:
            break
    ended = time.time()
    stream.close()
    print(json.dumps({"rows": rows, "seconds": ended - began, "peak_mb": peak_mb(), "cpu_s": time.process_time()}))


main()
