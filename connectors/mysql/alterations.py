"""The clauses of ALTER TABLE: which other tables they name, and whether they leave every value as it is.

Source: MySQL Reference Manual, "ALTER TABLE Statement" and "ALTER TABLE Partition Operations" (dev.mysql.com); MariaDB
Knowledge Base, "ALTER TABLE" (mariadb.com/kb).
"""

from __future__ import annotations

from connectors.mysql.sqltext import Cut, Token, Words
from engine.schema import TableId

_KEEPING = frozenset((
    *("ENGINE", "COMMENT", "AUTO_INCREMENT", "ROW_FORMAT", "ALGORITHM", "LOCK", "FORCE", "ENABLE", "DISABLE"),
    *("KEY_BLOCK_SIZE", "STATS_PERSISTENT", "STATS_AUTO_RECALC", "STATS_SAMPLE_PAGES", "COMPRESSION", "ENCRYPTION"),
    *("ANALYZE", "CHECK", "OPTIMIZE", "REBUILD", "REORGANIZE", "COALESCE", "REMOVE", "WITHOUT", "MAX_ROWS"),
    *("MIN_ROWS", "AVG_ROW_LENGTH", "CHECKSUM", "DELAY_KEY_WRITE", "PACK_KEYS", "DEFAULT", "CHARACTER", "CHARSET"),
    *("COLLATE", "NOWAIT", "SECONDARY_LOAD", "SECONDARY_UNLOAD", "SECONDARY_ENGINE", "PAGE_CHECKSUM", "ENCRYPTED"),
))  # fmt: skip
_KEEPING_ENGINES = frozenset(("INNODB", "MYISAM", "ARIA", "ROCKSDB"))
"""Unlike BLACKHOLE, say."""
_KEYS = frozenset((
    *("INDEX", "KEY", "UNIQUE", "FULLTEXT", "SPATIAL", "VECTOR", "PRIMARY", "CONSTRAINT", "FOREIGN", "CHECK"),
    "PARTITION",
))  # fmt: skip


def clauses(words: Words) -> list[Words]:
    """The parts of ALTER TABLE between commas outside of parentheses."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in words.all[words.at :]:
        if token.cut is Cut.SIGN and token.text in "()":
            depth += 1 if token.text == "(" else -1
        if token.cut is Cut.SIGN and token.text == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return [Words(clause, words.schema) for clause in parts if clause]


def others(clause: Words) -> list[TableId] | None:
    """The other tables that a clause names: its new name, or a table exchanged with a partition. None: cannot tell."""
    found = []
    for at in range(len(clause.all)):
        clause.at = at
        if clause.skip("RENAME") and clause.word() not in {"COLUMN", "INDEX", "KEY", "CONSTRAINT"}:
            _ = clause.skip("TO") or clause.skip("AS") or clause.skip("=")
        elif not any(clause.skip(first, "TABLE") for first in ("WITH", "TO", "CONVERT")):
            continue
        table = clause.table()
        if table is None:
            return None
        found.append(table)
    return found


def keeps_rows(clause: Words) -> bool:
    """Whether a clause of ALTER TABLE is known to leave every value as it is."""
    clause.at = 0
    # The options of a table need no commas between them: one word that is not known spoils the clause.
    verb, what = clause.word(), clause.word(1)
    if verb == "RENAME":
        return what != "COLUMN"
    if verb == "ADD":
        # A new primary key makes its columns NOT NULL: a server that is not strict puts values for NULL.
        return what in _KEYS and "PRIMARY" not in {token.word for token in clause.all}
    if verb == "DROP":
        return what in _KEYS and what != "PARTITION"
    if verb == "ALTER":
        return what in {"INDEX", "CHECK", "CONSTRAINT"}
    if verb == "PARTITION":
        return what == "BY"
    if verb == "ENGINE" and (clause.word(1) if what != "=" else clause.word(2)) not in _KEEPING_ENGINES:
        return False
    return verb in _KEEPING and not any(
        token.word
        in {"TRUNCATE", "DROP", "EXCHANGE", "IMPORT", "DISCARD", "CONVERT", "MODIFY", "CHANGE", "ADD", "ENGINE"}
        for token in clause.all[1:]
    )
