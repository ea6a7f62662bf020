"""The steady writer of the freshness benchmark, a process of its own.

Each transaction, one statement, inserts one row into `beats` and updates one of `orders`. It starts at its exact time, or at once when
the one before took too long, so that the rate holds over the whole run.
Arguments: URL, first id, count, rate per second, file for the times of the acknowledged commits (JSON).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psycopg

STATEMENT = """
    WITH updated AS (UPDATE orders SET qty = (qty + 1) %% 1000 WHERE id = %s)
    INSERT INTO beats VALUES (%s, %s)
"""


def main() -> None:
    url, first, count, rate, path = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
    times: list[float] = []
    with psycopg.connect(url, autocommit=True) as con, con.cursor() as cursor:
        began = time.monotonic() + 0.2
        for number in range(count):
            ahead = began + number / rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            cursor.execute(STATEMENT, (1 + number % 400_000, first + number, "a steady heart"), prepare=True)
            times.append(time.time())
    Path(path).write_text(json.dumps(times))


main()
