"""INSERT, UPDATE and DELETE: new versions of rows, with the constraints' and the locks' errors."""

from __future__ import annotations

from typing import Any

from tests.support.sqlserver import syntax as s
from tests.support.sqlserver.catalog import Column, Index, Table
from tests.support.sqlserver.convert import Value, key
from tests.support.sqlserver.errors import SqlError, Unknown, invalid_column
from tests.support.sqlserver.scalars import Scope, Source
from tests.support.sqlserver.selects import Compiler, Query
from tests.support.sqlserver.store import LIVE, WaitFor
from tests.support.sqlserver.types import common


class Modification:
    """One statement's change of one table. The rows are gathered in the temporary table `work` first."""

    def __init__(self, session: Any, table: Table) -> None:
        self.session = session
        self.database = session.database
        self.cursor = session.cursor
        self.table = table
        self.transaction = session.transaction
        self.number = self.transaction.numbers[-1]
        if not self.transaction.first_lsn:
            self.transaction.first_lsn = self.database.advance_lsn()
        self.statement = self.database.next_statement()
        self.count = 0

    def _execute(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return self.session.duck(sql, parameters)

    def _touch(self) -> None:
        touched = self.transaction.touched
        touched[self.table.object_id] = touched.get(self.table.object_id, 0) + self.count
        self.database.spend(2 * self.count)

    # INSERT

    def insert(self, node: s.Insert, compiler: Compiler) -> None:
        """Add rows. Errors 213, 110 (count of values), 515 (NULL), 544 and 545 (identity), 2627 and 2601 (duplicates)."""
        columns = self._insert_columns(node.columns)
        if node.source is None:
            source = "SELECT 1 AS nothing"
            given: dict[int, str] = {}
        else:
            query = self._insert_source(node.source, columns, compiler, listed=node.columns is not None)
            if len(query.kinds) != len(columns):
                raise SqlError(213, "Column name or number of supplied values does not match table definition.")
            source = query.sql
            given = {
                column.id: compiler.convert(Value(f"q.{name}", kind), column.kind, assign=True).sql
                for column, name, kind in zip(columns, query.columns, query.kinds, strict=True)
            }
        identity = self.table.identity
        switched = self.session.identity_insert == self.table.object_id
        if identity and (identity.id in given) != switched:
            if switched:
                raise SqlError(
                    545, f"Explicit value must be specified for identity column in table '{self.table.name}'."
                )
            raise SqlError(
                544, "Cannot insert explicit value for identity column in table when IDENTITY_INSERT is OFF."
            )
        items = [
            f"{given.get(column.id) or self._default(column, compiler)} AS n{column.id}" for column in self.physical
        ]
        parameters = compiler.parameters
        sql = (
            f"CREATE OR REPLACE TEMP TABLE work AS SELECT row_number() OVER () AS place, {', '.join(items)}"
            f" FROM ({source}) AS q"
        )
        self._execute(sql, parameters.used(sql))
        self.count = self._execute("SELECT count(*) FROM work")[0][0]
        self._number_rows(identity, given)
        self._require_values()
        self._require_unique(self.table.indexes, new="place")
        self._write_new("rid")

    @property
    def physical(self) -> list[Column]:
        return self.table.physical

    def _insert_columns(self, names: list[str] | None) -> list[Column]:
        if names is None:
            skipped = self.session.identity_insert == self.table.object_id
            return [
                column
                for column in self.physical
                if (skipped or not column.identity) and column.kind.name != "rowversion"
            ]
        columns = []
        for name in names:
            column = self.table.column(name)
            if column is None:
                raise invalid_column(name)
            if column.computed is not None:
                raise SqlError(271, f'The column "{column.name}" cannot be modified because it is a computed column.')
            if column.kind.name == "rowversion":
                raise SqlError(273, "Cannot insert an explicit value into a timestamp column.")
            columns.append(column)
        return columns

    def _insert_source(self, source: Any, columns: list[Column], compiler: Compiler, *, listed: bool) -> Query:
        if not isinstance(source, list):
            return compiler.query(source)
        rows = []
        for row in source:
            if len(row) != len(columns) and not listed:
                raise SqlError(213, "Column name or number of supplied values does not match table definition.")
            if len(row) != len(columns):
                few = len(row) < len(columns)
                raise SqlError(109 if few else 110, "The INSERT has fewer or more columns than values.", 15)
            rows.append(
                [
                    self._default_value(column, compiler) if cell is None else compiler.value(cell, Scope())
                    for cell, column in zip(row, columns, strict=True)
                ]
            )
        kinds = []
        for index in range(len(columns)):
            kind = rows[0][index].kind
            for row in rows[1:]:
                kind = common(kind, row[index].kind)
            kinds.append(columns[index].kind if kind.family == "null" else kind)
        text = ", ".join(
            "(" + ", ".join(compiler.convert(cell, kind).sql for cell, kind in zip(row, kinds, strict=True)) + ")"
            for row in rows
        )
        names = [f"k{index}" for index in range(len(kinds))]
        return Query(f"SELECT * FROM (VALUES {text}) AS v({', '.join(names)})", names, names, kinds, [])

    def _default_value(self, column: Column, compiler: Compiler) -> Value:
        if column.default is None:
            return compiler.literal(None, column.kind)
        return compiler.value(column.default, Scope())

    def _default(self, column: Column, compiler: Compiler) -> str:
        if column.identity or column.kind.name == "rowversion":
            return f"CAST(NULL AS {column.kind.storage})"
        return compiler.convert(self._default_value(column, compiler), column.kind, assign=True).sql

    def _number_rows(self, identity: Column | None, given: dict[int, str]) -> None:
        self._execute("ALTER TABLE work ADD COLUMN rid BIGINT")
        first = self.database.next_rows(self.count)
        self._execute(f"UPDATE work SET rid = place + {first - 1}")
        if identity and identity.identity:
            seed, step = identity.identity
            following = self.table.next_identity if self.table.next_identity is not None else seed
            if identity.id not in given:
                self._execute(f"UPDATE work SET n{identity.id} = {following} + (place - 1) * {step}")
                self.table.next_identity = following + step * self.count
                if self.count:
                    self.session.identity = self.table.next_identity - step
            elif self.count:
                highest = self._execute(f"SELECT max(n{identity.id}) FROM work")[0][0]
                self.table.next_identity = max(following, int(highest) + step)
                self.session.identity = int(highest)
        self._number_versions()

    def _number_versions(self) -> None:
        for column in self.physical:
            if column.kind.name == "rowversion":
                first = self.database.next_versions(self.count)
                value = f"unhex(printf('%016X', row_number + {first - 1}))"
                numbered = "(SELECT rid, row_number() OVER (ORDER BY rid) AS row_number FROM work) AS numbered"
                self._execute(f"UPDATE work SET n{column.id} = {value} FROM {numbered} WHERE work.rid = numbered.rid")

    # UPDATE and DELETE

    def update(self, node: s.Update, compiler: Compiler) -> None:
        """Replace rows. A row that several source rows match takes one of them."""
        scope, source, label = self._target(node, compiler)
        assigned: dict[int, str] = {}
        for name, value in node.assignments:
            column = self.table.column(name)
            if column is None:
                raise invalid_column(name)
            if column.computed is not None:
                raise SqlError(271, f'The column "{column.name}" cannot be modified because it is a computed column.')
            if column.identity:
                raise SqlError(8102, f"Cannot update identity column '{column.name}'.")
            if column.kind.name == "rowversion":
                raise SqlError(272, "Cannot update a timestamp column.")
            found = self._default_value(column, compiler) if value is None else compiler.value(value, scope)
            assigned[column.id] = compiler.convert(found, column.kind, assign=True).sql
        items = [f"{label}.{column.stored} AS o{column.id}" for column in self.physical]
        items += [f"{assigned.get(column.id, f'{label}.{column.stored}')} AS n{column.id}" for column in self.physical]
        self._gather(node, scope, source, label, items, compiler)
        self._number_versions()
        self._require_values()
        changed = [index for index in self.table.indexes if set(index.columns) & set(assigned)]
        self._require_unique(changed, new="rid")
        self._end_old()
        self._write_new("rid")

    def delete(self, node: s.Delete, compiler: Compiler) -> None:
        """End rows."""
        scope, source, label = self._target(node, compiler)
        items = [f"{label}.{column.stored} AS o{column.id}" for column in self.physical]
        self._gather(node, scope, source, label, items, compiler)
        self._end_old()
        self._touch()

    def _target(self, node: s.Update | s.Delete, compiler: Compiler) -> tuple[Scope, str, str]:
        scope = Scope()
        source = compiler.source(node.source or s.Table(node.table), scope)
        wanted = node.table[-1].lower()
        found = [item for item in scope.sources if item.table is self.table and item.alias.lower() == wanted]
        found = found or [item for item in scope.sources if item.table is self.table]
        if not found:
            raise Unknown("a modification of a table that its FROM does not name")
        label = found[0].columns[0][1].sql.partition(".")[0]
        return scope, source, label

    def _gather(self, node: Any, scope: Scope, source: str, label: str, items: list[str], compiler: Compiler) -> None:
        where = f" WHERE {compiler.predicate(node.where, scope)}" if node.where is not None else ""
        limit = f" LIMIT {compiler.value(node.top, Scope()).sql}" if node.top is not None else ""
        once = f" QUALIFY row_number() OVER (PARTITION BY {label}.rid) = 1" if node.source is not None else ""
        sql = (
            f"CREATE OR REPLACE TEMP TABLE work AS SELECT {label}.rid AS rid, {label}.u AS ended,"
            f" {', '.join(items)} FROM {source}{where}{once}{limit}"
        )
        self._execute(sql, compiler.parameters.used(sql))
        self.count, locked, newest = self._execute(
            f"SELECT count(*), min(ended) FILTER (ended < 0), max(ended) FILTER (ended >= 0 AND ended < {LIVE}) FROM work"
        )[0]
        if newest is not None:
            raise SqlError(3960, "Snapshot isolation transaction aborted due to update conflict.", 16, 2)
        if locked is not None:
            raise WaitFor(self.database.owner(locked))

    def _end_old(self) -> None:
        self._execute(
            f"UPDATE {self.table.stored} SET u = {self.number}, uw = {self.statement}"
            f" WHERE u = {LIVE} AND rid IN (SELECT rid FROM work)"
        )

    def _write_new(self, row: str) -> None:
        names = ", ".join(column.stored for column in self.physical)
        values = ", ".join(f"n{column.id}" for column in self.physical)
        self._execute(
            f"INSERT INTO {self.table.stored} ({names}, rid, f, u, fw, uw)"
            f" SELECT {values}, {row}, {self.number}, {LIVE}, {self.statement}, 0 FROM work"
        )
        self._touch()

    # Constraints

    def _require_values(self) -> None:
        required = [column for column in self.physical if not column.nullable]
        if not required:
            return
        counts = ", ".join(f"count(*) FILTER (n{column.id} IS NULL)" for column in required)
        for column, count in zip(required, self._execute(f"SELECT {counts} FROM work")[0], strict=True):
            if count:
                raise SqlError(
                    515, f"Cannot insert the value NULL into column '{column.name}'; it does not allow nulls."
                )

    def _require_unique(self, indexes: list[Index], new: str) -> None:
        for index in indexes:
            if not index.unique or index.filtered:
                continue
            columns = [self.table.by_id(number) for number in index.columns]
            if any(column.computed is not None for column in columns):
                continue
            theirs = [key(Value(f"t.{column.stored}", column.kind)) for column in columns]
            mine = [key(Value(f"work.n{column.id}", column.kind)) for column in columns]
            if self._execute(f"SELECT 1 FROM work GROUP BY {', '.join(mine)} HAVING count(*) > 1 LIMIT 1"):
                raise self._duplicate(index)
            same = " AND ".join(f"{one} IS NOT DISTINCT FROM {two}" for one, two in zip(theirs, mine, strict=True))
            own = ", ".join(map(str, self.transaction.numbers))
            others = "" if new == "place" else " AND t.rid NOT IN (SELECT rid FROM work)"
            found = self._execute(
                f"SELECT min(t.u), min(t.f), count(*) FROM {self.table.stored} AS t JOIN work ON {same}"
                f" WHERE (t.u = {LIVE} OR (t.u < 0 AND t.u NOT IN ({own}))){others}"
            )[0]
            if not found[2]:
                continue
            ended, began, _ = found
            if ended < 0:
                raise WaitFor(self.database.owner(ended))
            if began < 0 and began not in self.transaction.numbers:
                raise WaitFor(self.database.owner(began))
            raise self._duplicate(index)

    def _duplicate(self, index: Index) -> SqlError:
        if index.constraint:
            return SqlError(2627, f"Violation of constraint '{index.name}'. Cannot insert duplicate key.", 14)
        return SqlError(2601, f"Cannot insert duplicate key row with unique index '{index.name}'.", 14)

    # OUTPUT

    def output(self, items: list[s.Item], compiler: Compiler) -> Query:
        """What OUTPUT returns: the rows as they were and are."""
        have = {row[0] for row in self._execute("SELECT column_name FROM (DESCRIBE work)")}
        sources = []
        for alias, mark in (("inserted", "n"), ("deleted", "o")):
            columns = [
                (column.name, Value(f"work.{mark}{column.id}", column.kind))
                for column in self.physical
                if f"{mark}{column.id}" in have
            ]
            if columns:
                sources.append(Source(alias, columns))
        values, names, variables = compiler._items(items, Scope(sources))
        labels = [f"k{index}" for index in range(len(values))]
        shown = ", ".join(f"{value.sql} AS {name}" for value, name in zip(values, labels, strict=True))
        kinds = [value.kind for value in values]
        return Query(f"SELECT {shown} FROM work ORDER BY rid", labels, names, kinds, variables)
