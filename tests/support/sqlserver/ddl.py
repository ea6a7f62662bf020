"""CREATE, ALTER, DROP and sp_rename: changes of the catalogue, with their traces in CDC."""

from __future__ import annotations

from typing import Any

from tests.support.sqlserver import cdc
from tests.support.sqlserver import syntax as s
from tests.support.sqlserver.catalog import Column, Index, Table
from tests.support.sqlserver.convert import Parameters, Value, convert, key
from tests.support.sqlserver.errors import SqlError, invalid_column
from tests.support.sqlserver.scalars import Scope, Source
from tests.support.sqlserver.store import LIVE, WaitFor
from tests.support.sqlserver.types import SqlType


def create_table(session: Any, node: s.Statement) -> None:
    """CREATE TABLE. Errors 2714 (there is one), 2760 (no such schema), 2705 (a column twice)."""
    database = session.database
    schema, name = session.split(node.name)
    schemas = {database.fold(one): one for one in database.schemas}
    if database.fold(schema) not in schemas or schema.lower() in ("sys", "information_schema"):
        raise SqlError(2760, f'The specified schema name "{schema}" either does not exist or may not be used.')
    if database.find(schema, name) is not None:
        raise SqlError(2714, f"There is already an object named '{name}' in the database.", 16, 6)
    table = Table(database.next_object(), schemas[database.fold(schema)], name, [], created=database.clock())
    for definition in node.columns:
        _new_column(session, table, definition)
    for constraint in node.constraints:
        _constraint(session, table, constraint, check=False)
    database.create_physical(table)
    database.tables[table.object_id] = table
    session.undo(lambda: database.tables.pop(table.object_id, None))
    _altered(session, table)


def _new_column(session: Any, table: Table, definition: s.ColumnDefinition) -> Column:
    if table.column(definition.name) is not None:
        raise SqlError(2705, f"Column name '{definition.name}' in table '{table.name}' is specified more than once.")
    kind = definition.kind
    if definition.computed is not None:
        scope = Scope([Source("", [(one.name, Value(one.stored, one.kind)) for one in table.physical])])
        kind = session.compiler(session.database.committed).value(definition.computed, scope).kind
    assert kind is not None
    nullable = definition.nullable is not False and not definition.identity and kind.name != "rowversion"
    column = Column(
        table.next_column,
        definition.name,
        kind,
        nullable,
        definition.default,
        definition.computed,
        definition.computed_text,
        definition.persisted,
        definition.identity,
        f"c{table.next_column}",
    )
    table.next_column += 1
    table.columns.append(column)
    return column


def _constraint(session: Any, table: Table, constraint: s.Constraint, *, check: bool) -> None:
    columns = []
    for name in constraint.columns:
        column = table.column(name)
        if column is None:
            raise SqlError(1911, f"Column name '{name}' does not exist in the target table or view.")
        columns.append(column)
    primary = constraint.kind.startswith("primary")
    if primary:
        if table.primary_key is not None:
            raise SqlError(1779, f"Table '{table.name}' already has a primary key defined on it.", 16, 0)
        for column in columns:
            if check and column.nullable:
                raise SqlError(
                    8111, f"Cannot define PRIMARY KEY constraint on nullable column in table '{table.name}'."
                )
            column.nullable = False
    clustered = primary and "nonclustered" not in constraint.kind and not any(one.clustered for one in table.indexes)
    number = session.database.next_object()
    label = constraint.name or f"{'PK' if primary else 'UQ'}__{table.name}__{number:016X}"
    add_index(
        session,
        table,
        Index(0, label, [one.id for one in columns], True, primary, clustered, True, object_id=number),
        check=check,
    )


def add_index(session: Any, table: Table, index: Index, *, check: bool = True) -> None:
    """Errors 1913 (a name twice), 1902 (a second clustered one), 1505 (duplicates)."""
    if any(one.name.lower() == index.name.lower() for one in table.indexes):
        raise SqlError(1913, f"The operation failed because an index with name '{index.name}' already exists.")
    if index.clustered and any(one.clustered for one in table.indexes):
        raise SqlError(1902, f"Cannot create more than one clustered index on table '{table.name}'.")
    columns = [table.by_id(number) for number in index.columns]
    if check and index.unique and not index.filtered and all(column.computed is None for column in columns):
        keys = ", ".join(key(Value(column.stored, column.kind)) for column in columns)
        if session.duck(f"SELECT 1 FROM {table.stored} WHERE u = {LIVE} GROUP BY {keys} HAVING count(*) > 1 LIMIT 1"):
            raise SqlError(1505, "The CREATE UNIQUE INDEX statement terminated because a duplicate key was found.")
    index.id = 1 if index.clustered else table.next_index
    table.next_index += 0 if index.clustered else 1
    table.indexes.append(index)
    session.undo(lambda: table.indexes.remove(index))


def create_index(session: Any, node: s.Statement) -> None:
    table = session.table_to_alter(node.table)
    columns = []
    for name in node.columns:
        column = table.column(name)
        if column is None:
            raise SqlError(1911, f"Column name '{name}' does not exist in the target table or view.")
        columns.append(column.id)
    index = Index(0, node.name, columns, node.unique, False, node.clustered, filtered=node.where is not None)
    add_index(session, table, index)
    _altered(session, table)


def alter_table(session: Any, node: s.Statement) -> None:
    """ADD, DROP COLUMN, ALTER COLUMN, DROP CONSTRAINT; a table under CDC gets its entry in cdc.ddl_history."""
    table = session.table_to_alter(node.table)
    _require_lock(session, table)
    required = False
    if node.verb == "add":
        for definition in node.columns:
            _add_column(session, table, definition)
        for constraint in node.constraints:
            _constraint(session, table, constraint, check=True)
    elif node.verb == "drop column":
        for name in node.names:
            _drop_column(session, table, name)
    elif node.verb == "alter column":
        required = _alter_column(session, table, node.column)
    else:
        index = next((one for one in table.indexes if one.name.lower() == node.name.lower() and one.constraint), None)
        if index is None:
            raise SqlError(3728, f"'{node.name}' is not a constraint.")
        table.indexes.remove(index)
        session.undo(lambda: table.indexes.append(index))
    _altered(session, table)
    state = session.database.cdc
    if state is not None and state.of(table):
        session.transaction.ddl.append((table, session.text, required))


def _altered(session: Any, table: Table) -> None:
    """Definitions have no versions: a SNAPSHOT transaction that began before must not read the table (error 3961)."""
    session.transaction.touched.setdefault(table.object_id, 0)
    table.altered_at = session.database.committed + 1


def _require_lock(session: Any, table: Table) -> None:
    """A schema lock waits for who writes the table."""
    for other in session.database.active:
        if other is not session.transaction and table.object_id in other.touched:
            raise WaitFor(other)


def _add_column(session: Any, table: Table, definition: s.ColumnDefinition) -> None:
    database = session.database
    column = _new_column(session, table, definition)
    session.undo(lambda: table.columns.remove(column))
    if column.computed is not None:
        return
    database.add_physical(table, column)
    filled = column.default is not None and not column.nullable
    if filled or column.identity:
        compiler = session.compiler(database.committed)
        if column.identity:
            seed, step = column.identity
            numbered = (
                f"(SELECT rid, row_number() OVER (ORDER BY rid) - 1 AS n FROM {table.stored} WHERE u = {LIVE}) AS o"
            )
            session.duck(
                f"UPDATE {table.stored} SET {column.stored} = {seed} + n * {step} FROM {numbered}"
                f" WHERE o.rid = {table.stored}.rid"
            )
            table.next_identity = seed + step * session.count_rows(table)
            return
        value = compiler.convert(compiler.value(column.default, Scope()), column.kind, assign=True)
        session.duck(f"UPDATE {table.stored} SET {column.stored} = {value.sql}", compiler.parameters.used(value.sql))
    elif not column.nullable and column.kind.name != "rowversion" and session.count_rows(table):
        table.columns.remove(column)
        raise SqlError(4901, "ALTER TABLE only allows columns to be added that can contain nulls, or have a DEFAULT.")


def _drop_column(session: Any, table: Table, name: str) -> None:
    column = table.column(name)
    if column is None:
        raise SqlError(
            4924, f"ALTER TABLE DROP COLUMN failed because column '{name}' does not exist in '{table.name}'."
        )
    if any(column.id in index.columns for index in table.indexes):
        raise SqlError(5074, f"The object is dependent on column '{name}'.")
    place = table.columns.index(column)
    table.columns.remove(column)
    column.dropped_at = session.database.committed

    def undo() -> None:
        column.dropped_at = None
        table.columns.insert(place, column)

    session.undo(undo)


def _alter_column(session: Any, table: Table, definition: s.ColumnDefinition) -> bool:
    column = table.column(definition.name)
    if column is None:
        raise SqlError(4924, f"ALTER TABLE ALTER COLUMN failed because column '{definition.name}' does not exist.")
    kind = definition.kind
    assert kind is not None
    if column.computed is not None or column.kind.name == "rowversion":
        raise SqlError(4928, f"Cannot alter column '{column.name}' because it is 'COMPUTED' or 'timestamp'.")
    if definition.nullable is False and session.duck(
        f"SELECT 1 FROM {table.stored} WHERE u = {LIVE} AND {column.stored} IS NULL LIMIT 1"
    ):
        raise SqlError(515, f"Cannot insert the value NULL into column '{column.name}'; it does not allow nulls.")
    before = (column.kind, column.stored, column.nullable)
    changed = kind != column.kind
    if changed:
        _convert_column(session, table, column, kind)
        state = session.database.cdc
        for instance in state.of(table) if state else []:
            for ordinal, captured in enumerate(instance.captured, start=1):
                if captured is column:
                    _convert_column(session, instance.table, instance.change_column(ordinal), kind)
    column.nullable = definition.nullable is not False

    def undo() -> None:
        column.kind, column.stored, column.nullable = before

    session.undo(undo)
    return changed


def _convert_column(session: Any, table: Table, column: Column, kind: SqlType) -> None:
    parameters = Parameters()
    value = convert(Value(column.stored, column.kind), kind, parameters, assign=True)
    stored = f"c{column.id}v{session.database.next_object()}"
    session.duck(f"ALTER TABLE {table.stored} ADD COLUMN {stored} {kind.storage}")
    session.duck(f"UPDATE {table.stored} SET {stored} = {value.sql}")
    column.kind, column.stored = kind, stored


def drop_tables(session: Any, node: s.Statement) -> None:
    """DROP TABLE; a table's capture instances go with it."""
    database = session.database
    for name in node.names:
        table = session.lookup_name(name)
        if table is None:
            if node.if_exists:
                continue
            raise SqlError(3701, f"Cannot drop the table '{name[-1]}', because it does not exist.", 11, 5)
        if not session.allowed("alter", table.schema, table):
            raise SqlError(3701, f"Cannot drop the table '{name[-1]}', because you do not have permission.", 14, 20)
        _require_lock(session, table)
        state = database.cdc
        for instance in list(state.of(table)) if state else []:
            cdc.remove(database, instance)
            session.undo(lambda instance=instance: _restore_instance(database, instance))
        cdc.drop_table(database, table)
        session.undo(lambda table=table: _restore(database, table))


def _restore(database: Any, table: Table) -> None:
    table.dropped = False
    database.tables[table.object_id] = table


def _restore_instance(database: Any, instance: Any) -> None:
    database.cdc.instances.append(instance)
    _restore(database, instance.table)


def truncate(session: Any, node: s.Statement) -> None:
    """TRUNCATE TABLE; error 4711 under CDC."""
    table = session.table_to_alter(node.table)
    _require_lock(session, table)
    state = session.database.cdc
    if state is not None and state.of(table):
        raise SqlError(4711, f"Cannot truncate table '{table.name}' because it is enabled for Change Data Capture.")
    number = session.transaction.numbers[-1]
    session.duck(f"UPDATE {table.stored} SET u = {number} WHERE u = {LIVE}")
    _altered(session, table)
    table.next_identity = None


def rename(session: Any, old: str, new: str, kind: str | None) -> None:
    """sp_rename of a table, a column or an index; error 15225 for what there is not, 4928 for a captured column."""
    if kind is None or kind.upper() == "OBJECT":
        table = session.lookup(old)
        if table is None:
            raise SqlError(15225, f"No item by the name of '{old}' could be found in the current database.", 11)
        if session.database.find(table.schema, new) not in (None, table):
            raise SqlError(15335, f"Error: The new name '{new}' is already in use as a OBJECT name.", 11)
        before, table.name = table.name, new
        session.undo(lambda: setattr(table, "name", before))
        return
    parts = session.parse_name(old)
    table = session.lookup_name(parts[:-1])
    if table is None:
        raise SqlError(15225, f"No item by the name of '{old}' could be found in the current database.", 11)
    if kind.upper() == "INDEX":
        index = next((one for one in table.indexes if one.name.lower() == parts[-1].lower()), None)
        if index is None:
            raise SqlError(15225, f"No item by the name of '{old}' could be found in the current database.", 11)
        index.name = new
        return
    column = table.column(parts[-1])
    if column is None:
        raise invalid_column(parts[-1])
    if session.database.cdc is not None and session.database.cdc.of(table):
        raise SqlError(4928, f"Cannot alter column '{column.name}' because it is 'REPLICATED'.")
    if table.column(new) is not None:
        raise SqlError(15335, f"Error: The new name '{new}' is already in use as a COLUMN name.", 11)
    before, column.name = column.name, new
    session.undo(lambda: setattr(column, "name", before))
