"""Every server version: snapshot, stream, definition changes, reload and restarts, on a small database of all kinds."""

from __future__ import annotations

from pathlib import Path

from tests.support.live import Live
from tests.support.servers import Database
from tests.support.witness import Witness
from tests.support.writer import PairWriter

SETUP = """
    CREATE TABLE keyed (id int PRIMARY KEY, n numeric(10,2), s text, at timestamptz, j jsonb, l int[], u uuid);
    INSERT INTO keyed SELECT g, g + 0.5, 's' || g, '2024-01-01'::timestamptz + g * interval '1 day', '{"a": 1}',
        ARRAY[g, NULL], '00000000-0000-0000-0000-000000000001' FROM generate_series(1, 500) g;
    CREATE TABLE bag (v int, s text);
    INSERT INTO bag SELECT g % 3, 'x' FROM generate_series(1, 30) g;
    CREATE TABLE whole (v int, s text);
    ALTER TABLE whole REPLICA IDENTITY FULL;
    INSERT INTO whole SELECT g % 3, 'x' FROM generate_series(1, 30) g;
    CREATE TABLE parts (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
    CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
    CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (1000);
    INSERT INTO parts SELECT g, g FROM generate_series(1, 200) g;
    CREATE TABLE generated (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED);
    INSERT INTO generated (id, a) SELECT g, g FROM generate_series(1, 20) g;
    CREATE TABLE toast (id int PRIMARY KEY, big text, n int);
    INSERT INTO toast SELECT g, (SELECT string_agg(md5(h::text), '') FROM generate_series(1, 500) h), 0
        FROM generate_series(1, 5) g;
"""
CHANGES = (
    "INSERT INTO keyed (id, n) VALUES (1001, 1.5)",
    "UPDATE keyed SET n = n + 1, at = now() WHERE id % 7 = 0",
    "UPDATE keyed SET id = -id WHERE id BETWEEN 20 AND 25",
    "DELETE FROM keyed WHERE id > 490 AND id < 1000",
    "INSERT INTO bag VALUES (7, 'new')",
    "DELETE FROM whole WHERE ctid IN (SELECT ctid FROM whole WHERE v = 1 LIMIT 3)",
    "UPDATE whole SET v = 9 WHERE v = 2",
    "UPDATE parts SET id = 500 + id WHERE id < 10",
    "UPDATE generated SET a = a + 1 WHERE id < 5",
    "UPDATE toast SET n = n + 1",
    "BEGIN; SAVEPOINT a; DELETE FROM keyed; ROLLBACK TO a; INSERT INTO keyed (id) VALUES (2000); COMMIT",
)
DEFINITIONS = (
    "ALTER TABLE keyed ADD c int DEFAULT 5",
    "ALTER TABLE keyed RENAME s TO t",
    "ALTER TABLE whole DROP s",
    "CREATE TABLE fresh (id int PRIMARY KEY, v text)",
    "INSERT INTO fresh VALUES (1, 'x')",
    "ALTER TABLE bag RENAME TO sack",
    "ALTER TABLE parts DETACH PARTITION parts_high",
    "TRUNCATE toast",
)
LATER = (
    "UPDATE keyed SET t = 'later' WHERE id < 100",
    "INSERT INTO fresh VALUES (2, 'y')",
    "UPDATE sack SET v = 100 WHERE v = 7",
    "INSERT INTO parts_high VALUES (900, 9)",
    "DELETE FROM parts WHERE id < 30",
)


def test_every_version(postgres_any: Database, tmp_path: Path) -> None:
    postgres_any.execute(SETUP)
    with PairWriter(postgres_any, pause=0.02) as pair, Live.on(postgres_any, tmp_path) as live:
        with Witness(live.engine.url, pair.question, pause=0.01):
            live.run(*CHANGES)
            live.run(*DEFINITIONS)
            live.engine.restart(kill=True)
            live.run(*LATER)
            assert live.engine.http.post("/sync/reload", json={"table": "public.keyed"}).status_code == 202
            live.engine.terminate()
            live.run("INSERT INTO fresh VALUES (3, 'while down')", "ALTER TABLE fresh ADD w int")
            live.engine.start()
        pair.stop()
        live.wait_equal()
