"""PostgreSQL types and what they are in the replica. The one table that snapshot and stream share.

The rule per type is in the project's type table; where the replica's type is a representation rather than the same
type, `ReplicaType.rule` states it. What no rule names arrives as the server's own text (VARCHAR).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

TYPES_QUERY = """
SELECT t.oid::int8, n.nspname, t.typname, t.typtype::text,
       CASE WHEN e.oid IS NOT NULL THEN e.oid::int8 END,
       t.typbasetype::int8, t.typtypmod, t.typndims::int4, t.typdelim::text,
       (SELECT x.extname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid
        WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid AND d.objsubid = 0
          AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'),
       (SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped),
       (SELECT pg_catalog.array_agg(ARRAY[a.atttypid::int8, a.atttypmod, a.attndims, a.attnum] ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
LEFT JOIN pg_catalog.pg_class c ON c.oid = CASE WHEN e.oid IS NULL THEN t.typrelid ELSE e.typrelid END
WHERE c.oid IS NULL OR c.relkind = 'c'
   OR EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.atttypid = t.oid AND a.attnum > 0)
   OR EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.atttypid = t.typarray AND a.attnum > 0)
"""
"""Every type that a column can have, for PostgreSQL 12 to 18 (`TypeCatalog.from_rows` reads the rows). Only tables
whose row type is used as a column's type are included as composite types."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a composite type. `number` is its attnum, which no later attribute gets."""

    name: str
    type_oid: int
    typmod: int
    dimensions: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class PgType:
    """A row of pg_type, with what belongs to it.

    `kind` is typtype (``b`` base, ``c`` composite, ``d`` domain, ``e`` enum, ``p`` pseudo, ``r`` range,
    ``m`` multirange); `element` the element type's oid when this is a true array type (not just subscriptable).
    """

    oid: int
    schema: str
    name: str
    kind: str = "b"
    element: int | None = None
    base: int = 0
    base_typmod: int = -1
    base_dimensions: int = 0
    delimiter: str = ","
    extension: str | None = None
    attributes: tuple[Attribute, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplicaType:
    """A column's type in the replica as DuckDB SQL text, and the stated rule if it is a representation."""

    type: str
    rule: str | None = None


TEXT_RULE = "the server's text"
_SAME = {
    "bool": "BOOLEAN",
    "int2": "SMALLINT",
    "int4": "INTEGER",
    "int8": "BIGINT",
    "oid": "UINTEGER",
    "float4": "FLOAT",
    "float8": "DOUBLE",
    "text": "VARCHAR",
    "varchar": "VARCHAR",
    "bpchar": "VARCHAR",
    "name": "VARCHAR",
    "uuid": "UUID",
    "bytea": "BLOB",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMPTZ",
    "interval": "INTERVAL",
    "json": "JSON",
    "jsonb": "JSON",
    "bit": "BIT",
    "varbit": "BIT",
}
_STATED = {
    "money": ReplicaType("DECIMAL(19,2)", "money as the number of its C locale"),
    "timetz": ReplicaType("VARCHAR", TEXT_RULE),
}
_EXTENSIONS = {
    ("citext", "citext"): ReplicaType("VARCHAR", "text; compares case-sensitively here"),
    ("hstore", "hstore"): ReplicaType("MAP(VARCHAR, VARCHAR)"),
    ("vector", "vector"): ReplicaType("FLOAT[]"),
    ("vector", "halfvec"): ReplicaType("FLOAT[]"),
    ("postgis", "geometry"): ReplicaType("BLOB", "EWKB"),
    ("postgis", "geography"): ReplicaType("BLOB", "EWKB"),
}
_MAX_PRECISION = 38
_MAX_DEPTH = 16


def numeric_typmod(typmod: int) -> tuple[int, int] | None:
    """Precision and scale of a numeric typmod, None for an unbounded numeric. The scale may be negative (15+)."""
    if typmod < 4:
        return None
    packed = typmod - 4
    return packed >> 16 & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024


def quoted(identifier: str) -> str:
    """An identifier in double quotes, for PostgreSQL and DuckDB alike."""
    return '"' + identifier.replace('"', '""') + '"'


@dataclass(frozen=True)
class TypeCatalog:
    """The server's types by oid, and the replica type of a column of any of them."""

    types: Mapping[int, PgType] = field(default_factory=dict)

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[Any]]) -> Self:
        """Read the rows of `TYPES_QUERY` (psycopg's default Python types)."""
        found = {}
        for oid, schema, name, kind, element, base, typmod, ndims, delimiter, extension, names, attributes in rows:
            parts = tuple(Attribute(n, *a) for n, a in zip(names or (), attributes or (), strict=True))
            found[oid] = PgType(oid, schema, name, kind, element, base, typmod, ndims, delimiter, extension, parts)
        return cls(found)

    def replica_type(
        self, type_oid: int, typmod: int = -1, dimensions: int = 0, *, as_text: bool = False
    ) -> ReplicaType:
        """The replica type of a column with this type, typmod (atttypmod) and declared dimensions (attndims).

        `as_text`: the column holds values that its type's own replica type cannot.
        """
        natural = self._replica(type_oid, typmod, dimensions, 0)
        if as_text and natural.type != "VARCHAR":
            return ReplicaType("VARCHAR", f"{TEXT_RULE}: it held a value that {natural.type} cannot")
        return natural

    def enums(self, columns: Iterable[int]) -> set[str]:
        """The enum types (their oids as text) that values of these types are made of."""
        return {str(t.oid) for t in self._parts(columns) if t.kind == "e"}

    def composites(self, columns: Iterable[int]) -> dict[str, str]:
        """Of each composite type that values of these types are made of (its oid as text): its attributes' attnums."""
        found = (t for t in self._parts(columns) if t.kind == "c")
        return {str(t.oid): ",".join(str(a.number) for a in t.attributes) for t in found}

    def _parts(self, columns: Iterable[int]) -> list[PgType]:
        found: dict[int, PgType] = {}
        todo = list(columns)
        while todo:
            kind = self.types.get(todo.pop())
            if kind is not None and kind.oid not in found:
                found[kind.oid] = kind
                todo += [kind.element or 0, kind.base, *(a.type_oid for a in kind.attributes)]
        return list(found.values())

    def _replica(self, oid: int, typmod: int, dimensions: int, depth: int) -> ReplicaType:
        found = self.types.get(oid)
        if found is None or depth > _MAX_DEPTH:
            return ReplicaType("VARCHAR", TEXT_RULE)
        if found.kind == "d":
            inner = found.base_typmod if typmod < 0 else typmod
            return self._replica(found.base, inner, found.base_dimensions, depth + 1)
        if found.kind == "e":
            return ReplicaType("VARCHAR", "the label")
        if found.kind == "c":
            return self._composite(found, depth)
        if found.element is not None:
            return self._array(found, typmod, dimensions, depth)
        if found.kind != "b":
            return ReplicaType("VARCHAR", TEXT_RULE)
        if found.schema != "pg_catalog":
            return _EXTENSIONS.get((found.extension or "", found.name), ReplicaType("VARCHAR", TEXT_RULE))
        if found.name == "numeric":
            return _numeric(typmod)
        if found.name in _SAME:
            return ReplicaType(_SAME[found.name])
        return _STATED.get(found.name, ReplicaType("VARCHAR", TEXT_RULE))

    def _array(self, found: PgType, typmod: int, dimensions: int, depth: int) -> ReplicaType:
        assert found.element is not None
        element = self._replica(found.element, typmod, 0, depth + 1)
        if found.delimiter != "," or element.type.endswith("]"):
            # box[] is separated by semicolons; elements that are lists themselves (vector, a domain over an array)
            # are quoted inside the text, unlike a further dimension
            return ReplicaType("VARCHAR", TEXT_RULE)
        rule = "array bounds are dropped" + (f"; elements: {element.rule}" if element.rule else "")
        return ReplicaType(element.type + "[]" * max(1, dimensions), rule)

    def _composite(self, found: PgType, depth: int) -> ReplicaType:
        names = {a.name.casefold() for a in found.attributes}
        if not found.attributes or len(names) < len(found.attributes):
            return ReplicaType("VARCHAR", TEXT_RULE)
        parts, rules = [], []
        for attribute in found.attributes:
            part = self._replica(attribute.type_oid, attribute.typmod, attribute.dimensions, depth + 1)
            parts.append(f"{quoted(attribute.name)} {part.type}")
            rules += [f"{attribute.name}: {part.rule}"] if part.rule else []
        return ReplicaType(f"STRUCT({', '.join(parts)})", "; ".join(rules) or None)


def _numeric(typmod: int) -> ReplicaType:
    bounds = numeric_typmod(typmod)
    if bounds is None:
        return ReplicaType("VARCHAR", "exact text, since numeric without a precision has no bounds")
    precision, scale = bounds
    if precision > _MAX_PRECISION or not 0 <= scale <= precision:
        return ReplicaType("VARCHAR", f"exact text, since DECIMAL cannot be numeric({precision},{scale})")
    return ReplicaType(f"DECIMAL({precision},{scale})")
