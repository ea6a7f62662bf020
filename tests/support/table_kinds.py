"""A database with every kind of table: identities, keys, partitions, generated columns, large values."""

from __future__ import annotations

SETUP = """
    CREATE TABLE keyed (id int PRIMARY KEY, v int, s text);
    CREATE TABLE full_keyed (id int PRIMARY KEY, v int, s text);
    ALTER TABLE full_keyed REPLICA IDENTITY FULL;
    CREATE TABLE by_index (id int, u int NOT NULL, v text);
    CREATE UNIQUE INDEX by_index_u ON by_index (u);
    ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_u;
    CREATE TABLE nothing (id int PRIMARY KEY, v int);
    ALTER TABLE nothing REPLICA IDENTITY NOTHING;
    CREATE TABLE no_key (v int, s text);
    CREATE TABLE no_key_quiet (v int, s text);
    CREATE TABLE multiset (v int, s text);
    ALTER TABLE multiset REPLICA IDENTITY FULL;
    CREATE TABLE deferrable_key (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text);
    CREATE TABLE deferred_unique (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE composite_key (a int, b text, c timestamptz, v int, PRIMARY KEY (c, a, b));
    CREATE TABLE all_key (a int, b int, PRIMARY KEY (a, b));
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE parts (id int, region text, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE parts_eu PARTITION OF parts FOR VALUES IN ('eu') PARTITION BY RANGE (id);
    CREATE TABLE parts_eu_low PARTITION OF parts_eu FOR VALUES FROM (0) TO (500);
    CREATE TABLE parts_eu_high PARTITION OF parts_eu DEFAULT;
    CREATE TABLE parts_us PARTITION OF parts FOR VALUES IN ('us');
    CREATE TABLE parts_no_key (v int, at date) PARTITION BY RANGE (at);
    CREATE TABLE parts_no_key_1 PARTITION OF parts_no_key FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    CREATE TABLE parts_no_key_2 PARTITION OF parts_no_key DEFAULT;
    CREATE TABLE generated (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED, c text);
    CREATE TABLE generated_no_key (a int, b int GENERATED ALWAYS AS (a * 2) STORED);
    CREATE TABLE toast (id int PRIMARY KEY, big text, n int);
    ALTER TABLE toast ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE toast_full (id int PRIMARY KEY, big text, n int);
    ALTER TABLE toast_full ALTER big SET STORAGE EXTERNAL;
    ALTER TABLE toast_full REPLICA IDENTITY FULL;
    CREATE TABLE toast_multiset (big text, n int);
    ALTER TABLE toast_multiset ALTER big SET STORAGE EXTERNAL;
    ALTER TABLE toast_multiset REPLICA IDENTITY FULL;
    CREATE TABLE toast_key (id text PRIMARY KEY, n int);
    CREATE TABLE no_columns ();
    CREATE TABLE empty (id int PRIMARY KEY, v int);
    CREATE TABLE secret_column (id int PRIMARY KEY, password text, v int);
    CREATE TABLE audit_log (id int PRIMARY KEY);
    CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
    CREATE VIEW a_view AS SELECT * FROM keyed;
    CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM keyed;

    INSERT INTO keyed SELECT g, g, 's' || g FROM generate_series(1, 200) g;
    INSERT INTO full_keyed SELECT * FROM keyed;
    INSERT INTO by_index SELECT g, g, 'v' FROM generate_series(1, 100) g;
    INSERT INTO nothing SELECT g, g FROM generate_series(1, 50) g;
    INSERT INTO no_key SELECT g % 7, 'x' FROM generate_series(1, 50) g;
    INSERT INTO no_key_quiet SELECT g % 7, 'x' FROM generate_series(1, 50) g;
    INSERT INTO multiset SELECT g % 5, CASE WHEN g % 2 = 0 THEN 'x' END FROM generate_series(1, 100) g;
    INSERT INTO deferrable_key SELECT g, 'v' || g FROM generate_series(1, 50) g;
    INSERT INTO deferred_unique SELECT g, g FROM generate_series(1, 50) g;
    INSERT INTO composite_key SELECT g, 'b' || g, '2024-01-01'::timestamptz + g * interval '1 hour', g FROM generate_series(1, 50) g;
    INSERT INTO all_key SELECT g, g FROM generate_series(1, 50) g;
    INSERT INTO parent SELECT g FROM generate_series(1, 50) g;
    INSERT INTO child SELECT g, 1 + g % 50 FROM generate_series(1, 100) g;
    INSERT INTO parts SELECT g, CASE WHEN g % 2 = 0 THEN 'eu' ELSE 'us' END, g FROM generate_series(1, 900) g;
    INSERT INTO parts_no_key SELECT g, '2020-06-01'::date + g * 10 FROM generate_series(1, 60) g;
    INSERT INTO generated (id, a, c) SELECT g, g, 'c' FROM generate_series(1, 50) g;
    INSERT INTO generated_no_key (a) SELECT g FROM generate_series(1, 50) g;
    INSERT INTO toast SELECT g, repeat(g::text, 9000), 0 FROM generate_series(1, 20) g;
    INSERT INTO toast_full SELECT * FROM toast;
    INSERT INTO toast_multiset SELECT big, n FROM toast;
    INSERT INTO toast_key SELECT repeat(md5(g::text), 40), g FROM generate_series(1, 20) g;
    INSERT INTO no_columns SELECT FROM generate_series(1, 3);
    INSERT INTO secret_column SELECT g, 'secret' || g, g FROM generate_series(1, 20) g;
    INSERT INTO audit_log SELECT g FROM generate_series(1, 20) g;
"""
