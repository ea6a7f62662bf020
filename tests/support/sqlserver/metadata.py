"""What a statement may refer to: tables, views and routines of the catalogue, and functions of the session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from tests.support.sqlserver import syntax as s
from tests.support.sqlserver import views_cdc  # noqa: F401 # its views are registered by the import
from tests.support.sqlserver.catalog import Table
from tests.support.sqlserver.catalogfunctions import FUNCTIONS
from tests.support.sqlserver.cdc import Instance
from tests.support.sqlserver.convert import Value
from tests.support.sqlserver.errors import SqlError, Unknown, invalid_object
from tests.support.sqlserver.scalars import Scope, Source
from tests.support.sqlserver.selects import Query
from tests.support.sqlserver.store import WaitFor
from tests.support.sqlserver.types import BIT, IDS, INT, SqlType
from tests.support.sqlserver.views import VIEWS

_ALL_CHANGES = "fn_cdc_get_all_changes_"
_ARROW = {"int": pa.int64(), "text": pa.string(), "binary": pa.binary(), "moment": pa.int64(), "guid": pa.binary()}


class Metadata:
    """The context of one statement of a session, at one snapshot."""

    def __init__(self, session: Any, snapshot: int) -> None:
        self.session = session
        self.database = session.database
        self.snapshot = snapshot
        self.registered: list[str] = []
        self.waits = False

    # Sources

    def table(self, compiler: Any, name: s.Name, hints: list[str]) -> tuple[Query, Table | None]:
        """A table or a view. Errors 208 and 229."""
        found = self.view(name)
        if found is not None:
            return found, None
        table = self.session.find_table(name)
        self.session.require("select", table)
        if set(hints) & {"holdlock", "serializable", "repeatableread", "tablockx", "xlock"}:
            self._lock(table, set(hints))
        elif not table.system and not set(hints) & {"nolock", "readuncommitted", "readpast"}:
            self._wait_for_writers(table)
        return self.versions(compiler, table, dirty=bool({"nolock", "readuncommitted"} & set(hints))), table

    def _wait_for_writers(self, table: Table) -> None:
        """READ COMMITTED without row versions reads no table that somebody is writing (here: not a row of it)."""
        if not self.waits or self.session.isolation != "read committed" or self.database.read_committed_snapshot:
            return
        for other in self.database.active:
            if other is not self.session.transaction and other.touched.get(table.object_id):
                raise WaitFor(other)

    def _lock(self, table: Table, hints: set[str]) -> None:
        if "tablock" not in hints or "holdlock" not in hints or hints & {"tablockx", "xlock", "repeatableread"}:
            raise Unknown("locks by hints other than TABLOCK, HOLDLOCK")
        if self.session.transaction is not None:
            self.database.share(self.session.transaction, table)

    def versions(self, compiler: Any, table: Table, *, dirty: bool = False) -> Query:
        """The rows of a table that this statement sees, with the hidden columns `rid` and `u`."""
        transaction = self.session.transaction
        if self.session.isolation == "snapshot" and transaction is not None and transaction.snapshot is None:
            transaction.snapshot = self.snapshot
        dirty = dirty or self.session.isolation == "read uncommitted"
        condition = self.database.visible(self.session.transaction, self.snapshot, dirty=dirty)
        plain = Scope([Source("", [(one.name, Value(one.stored, one.kind)) for one in table.physical])])
        items, columns = [], []
        for column in table.columns:
            stored = column.stored
            if column.computed is not None:
                stored = f"x{column.id}"
                value = compiler.convert(compiler.value(column.computed, plain), column.kind)
                items.append(f"{value.sql} AS {stored}")
            else:
                items.append(stored)
            columns.append(stored)
        sql = f"SELECT {', '.join([*items, 'rid', 'u'])} FROM {table.stored} WHERE {condition}"
        return Query(sql, columns, [one.name for one in table.columns], [one.kind for one in table.columns], [])

    def view(self, name: s.Name) -> Query | None:
        """A catalogue's view; None when there is none of this name."""
        parts = [part.lower() for part in name]
        if len(parts) == 3 and parts[0] in (self.database.name.lower(), "master"):
            parts = parts[1:]
        found = VIEWS.get(".".join(parts))
        if found is None:
            return None
        if parts[0] == "cdc":
            if self.database.cdc is None:
                return None
            if not self.session.allowed("select", "cdc", None):
                raise self.session.denied("SELECT", "cdc", name[-1])
        if parts[-1].startswith("dm_") and not self.session.allowed("view database state", None, None):
            raise SqlError(262, f"VIEW DATABASE STATE permission denied in database '{self.database.name}'.", 14)
        columns, rows = found
        return self.rows(list(columns.items()), rows(self.session))

    def rows(self, columns: list[tuple[str, SqlType]], rows: list[tuple[Any, ...]]) -> Query:
        """Rows of Python's as a source."""
        kinds = [kind for _, kind in columns]
        data = list(zip(*rows, strict=True)) if rows else [() for _ in columns]
        table = pa.table(
            {
                f"c{i}": pa.array(cells, _ARROW[kind.family])
                for i, (cells, kind) in enumerate(zip(data, kinds, strict=True))
            }
        )
        label = f"view_{self.session.spid}_{len(self.registered)}"
        self.session.cursor.register(label, table)
        self.registered.append(label)
        names = [f"c{index}" for index in range(len(kinds))]
        items = [f"CAST({name} AS {kind.storage}) AS {name}" for name, kind in zip(names, kinds, strict=True)]
        return Query(f"SELECT {', '.join(items)} FROM {label}", names, [name for name, _ in columns], kinds, [])

    def close(self) -> None:
        for label in self.registered:
            self.session.cursor.unregister(label)
        self.registered.clear()

    def routine(self, compiler: Any, name: s.Name, args: list[Value]) -> Query:
        """A table-valued function."""
        label = name[-1].lower()
        if len(name) >= 2 and name[-2].lower() == "cdc" and label.startswith(_ALL_CHANGES) and self.database.cdc:
            instance = self.database.cdc.named(label.removeprefix(_ALL_CHANGES))
            if instance is not None:
                return self._all_changes(compiler, instance, args)
        if [part.lower() for part in name] == ["sys", "dm_db_log_stats"]:
            if not self.session.allowed("view database state", None, None):
                raise SqlError(262, f"VIEW DATABASE STATE permission denied in database '{self.database.name}'.", 14)
            end = f"{self.database.last_lsn():020x}"
            text = f"{end[:8]}:{end[8:16]}:{end[16:]}"
            kind = SqlType("nvarchar", length=24)
            model = "SIMPLE" if self.database.recovery_simple else "FULL"
            columns = [("database_id", INT), ("recovery_model", kind), ("log_end_lsn", kind)]
            return self.rows(columns, [(self.database.id, model, text)])
        raise invalid_object(".".join(name))

    def _all_changes(self, compiler: Any, instance: Instance, args: list[Value]) -> Query:
        """cdc.fn_cdc_get_all_changes_…; error 313 outside of what the change table holds."""
        if len(args) != 3:
            raise SqlError(313, f"An insufficient number of arguments were supplied for {_ALL_CHANGES}{instance.name}.")
        self.session.require("select", instance.source)
        if instance.role and not self.session.is_owner and not self.session.is_member(instance.role):
            raise self.session.denied("EXECUTE", "cdc", f"{_ALL_CHANGES}{instance.name}")
        low, high = (arg.constant for arg in args[:2])
        if not isinstance(low, bytes | None) or not isinstance(high, bytes | None):
            raise Unknown("LSNs that are no constants")
        filter_option = str(args[2].constant).lower()
        end = self.maximum()
        start = instance.start_lsn.to_bytes(10, "big")
        valid = low is not None and high is not None and end is not None and start <= low <= high <= end
        if not valid or filter_option not in ("all", "all update old"):
            raise SqlError(
                313,
                "An insufficient number of arguments were supplied for the procedure or function"
                f" cdc.{_ALL_CHANGES}{instance.name}.",
                16,
                3,
            )
        source = self.versions(compiler, instance.table)
        kept = [0, *range(2, 5 + len(instance.captured))]
        old = "" if filter_option == "all update old" else " AND c4 <> 3"
        assert low is not None
        assert high is not None
        sql = f"SELECT * FROM ({source.sql}) AS v WHERE c1 BETWEEN unhex('{low.hex()}') AND unhex('{high.hex()}'){old}"
        pick = [source.columns[index] for index in kept]
        return Query(sql, pick, [source.names[i] for i in kept], [source.kinds[i] for i in kept], [])

    def mapping(self, item: str, condition: str = "true") -> Any:
        cdc = self.database.cdc
        if cdc is None:
            return None
        visible = self.database.visible(self.session.transaction, self.snapshot)
        sql = f"SELECT {item} FROM {cdc.mapping.stored} WHERE {visible} AND {condition}"
        return self.session.duck(sql)[0][0]

    def maximum(self) -> bytes | None:
        """sys.fn_cdc_get_max_lsn."""
        return self.mapping("max(c1)")

    # Functions

    def call(self, compiler: Any, name: str, args: list[Value]) -> Value:
        """A function of the session or the catalogue; error 195 for one that is not known (and recorded so)."""
        handler = FUNCTIONS.get(name)
        if handler is None:
            raise Unknown(f"the function {name}")
        kind, compute = handler
        if all(arg.known for arg in args):
            return compiler.literal(compute(self, *(arg.constant for arg in args)), kind)
        if kind == BIT or len(args) == 0:
            raise Unknown(f"{name} of what is no constant")
        return self._by_row(compiler, name, kind, compute, args)

    def _by_row(self, compiler: Any, name: str, kind: SqlType, compute: Callable[..., Any], args: list[Value]) -> Value:
        """A function of columns: what it gives for every object that there is, looked up."""
        domains: dict[str, list[Any]] = {
            "schema_name": list(self.database.schemas.values()),
            "type_name": [*_type_ids(), None],
            "object_name": [table.object_id for table in self.database.tables.values()],
            "object_schema_name": [table.object_id for table in self.database.tables.values()],
            "db_name": [one.id for one in self.session.server.databases.values()],
            "has_dbaccess": [one.name for one in self.session.server.databases.values()],
            "sys.fn_cdc_get_min_lsn": [one.name for one in self.database.cdc.instances] if self.database.cdc else [],
        }
        if name in domains:
            pairs = [(key, compute(self, key)) for key in domains[name] if key is not None]
            return self._lookup(compiler, args[0].sql, pairs, kind)
        if name == "has_perms_by_name" and args[1].known and args[2].known:
            if str(args[1].constant).upper() != "OBJECT":
                raise Unknown(f"{name} of what is no constant")
            right = str(args[2].constant).lower()
            pairs = [
                (label, int(self.session.allowed(right, table.schema, table)))
                for table in self.database.tables.values()
                for label in (f"{_quoted(table.schema)}.{_quoted(table.name)}", f"{table.schema}.{table.name}")
            ]
            return self._lookup(compiler, args[0].sql, list(dict(pairs).items()), kind)
        if name == "columnproperty" and args[2].known:
            pairs = [
                (f"{table.object_id}.{column.name}", compute(self, table.object_id, column.name, args[2].constant))
                for table in self.database.tables.values()
                for column in table.columns
            ]
            return self._lookup(compiler, f"CAST({args[0].sql} AS VARCHAR) || '.' || {args[1].sql}", pairs, kind)
        raise Unknown(f"{name} of what is no constant")

    def _lookup(self, compiler: Any, argument: str, pairs: list[tuple[Any, Any]], kind: SqlType) -> Value:
        if not pairs:
            return compiler.literal(None, kind)
        keys = SqlType("nvarchar", length=-1) if isinstance(pairs[0][0], str) else INT
        query = self.rows([("k", keys), ("v", kind)], pairs)
        return Value(f"(SELECT c1 FROM ({query.sql}) AS looked WHERE c0 = {argument} LIMIT 1)", kind)


def _quoted(name: str) -> str:
    return "[" + name.replace("]", "]]") + "]"


def _type_ids() -> list[int]:
    return list(IDS.values())
