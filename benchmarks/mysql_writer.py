"""The steady writer of the freshness benchmark on MySQL, a process of its own.

Each transaction inserts one row into `beats` and updates one of `orders`. It starts at its exact time, or at once when
the one before took too long, so that the rate holds over the whole run.
Arguments: connection (JSON), count, rate per second, file for the times of the acknowledged commits (JSON).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pymysql


def main() -> None:
    options, count, rate, path = json.loads(sys.argv[1]), *map(int, sys.argv[2:4]), sys.argv[4]
    times: list[float] = []
    with pymysql.connect(**options, ssl_disabled=True) as con, con.cursor() as cursor:
        began = time.monotonic() + 0.2
        for number in range(count):
            ahead = began + number / rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            cursor.execute("UPDATE orders SET qty = (qty + 1) %% 1000 WHERE id = %s", [1 + number % 400_000])
            cursor.execute("INSERT INTO beats VALUES (%s, 'a steady heart')", [1 + number])
            con.commit()
            times.append(time.time())
    Path(path).write_text(json.dumps(times))


main()
