"""An emulator of SQL Server for tests, where no real one can be had: TDS 7.4 on loopback, T-SQL, change data capture.

A client logs in as to the real one (`packets`, `tokens`, `server`). Its batches are parsed by a parser of T-SQL
(`lexer`, `expressions`, `queries`, `statements`, `definitions`, `syntax`): T-SQL separates statements by nothing,
which general translators do not read. Queries are compiled with SQL Server's types and rules (`selects`, `scalars`,
`convert`, `functions`, `metadata`, `catalogfunctions`) to DuckDB, which stores and computes only: it has SQL Server's
decimals and integers, it streams results, and it is there. SQLite has neither. DuckDB's own transactions read one
state for as long as they last, which is neither READ COMMITTED nor waits for a lock; so row versions are the
emulator's own (`store`): each says from which commit until which it holds. Snapshot isolation, locks on rows,
rollback, savepoints and the log of changes are all made of that.

Change data capture (`cdc`, `capture`) reads that log as Microsoft documents it: LSNs grow with every change and
commit; an update is a row 3 and a row 4, one that changes the clustered primary key a 1 and a 2; text, ntext and image
are NULL in rows 1 and 3, (max) and xml in rows 3 and 4 unless they changed, computed columns always; the mask has a
bit per ordinal.

What is not known raises `Unknown` (error 40517) and is kept in `Emulator.unknown`: the fixture fails the test.
Simplified, knowingly: a READ COMMITTED reader without row versions waits for who writes the table, not for a row of
it, and then sees one state; definitions are seen by others before their commit; DISTINCT, UNION and COUNT compare text
by its bytes; text has the default collation's order up to case and trailing spaces; messages are shorter than SQL
Server's.
"""

from tests.support.sqlserver.server import Emulator

__all__ = ["Emulator"]
