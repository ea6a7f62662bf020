"""No value is rounded, cut or confused on its way out of the replica, whatever it is."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
import struct
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import EngineError
from engine.replica.reads import Form, ReplicaReads
from tests.support.serving import serving

EXACT = (1 << 53) - 1
HUGE = (1 << 127) - 1

text = st.text(st.characters(exclude_categories=["Cs"]))
finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaReads]:
    with serving(tmp_path_factory.mktemp("replica")) as served:
        yield served.reads


def rows(reads: ReplicaReads, sql: str, params: list[Any], form: Form) -> list[str]:
    with reads.session() as session:
        return [r for batch in session.query(sql, params, form).rows for r in batch.column(0).to_pylist()]


def as_json(reads: ReplicaReads, sql: str, *params: Any) -> Any:
    [row] = rows(reads, f"SELECT {sql}", list(params), Form.JSON)
    return json.loads(row)[0]


def as_arrow(reads: ReplicaReads, sql: str, *params: Any) -> pa.Array:
    with reads.session() as session:
        [batch] = list(session.query(f"SELECT {sql}", list(params), Form.ARROW).rows)
        return batch.column(0)


def shown(value: int) -> int | str:
    return value if abs(value) <= EXACT else str(value)


@relaxed
@given(
    st.integers(-HUGE, HUGE)
    | st.integers(-EXACT - 3, EXACT + 3)
    | st.sampled_from([EXACT, EXACT + 1, -EXACT, -EXACT - 1])
)
def test_integers(reads: ReplicaReads, value: int) -> None:
    assert as_json(reads, "$1::VARCHAR::HUGEINT", str(value)) == shown(value)
    assert as_json(reads, "[$1::VARCHAR::HUGEINT]", str(value)) == [shown(value)]
    assert as_json(reads, "$1::VARCHAR::BIGNUM", str(value)) == shown(value)
    if -(1 << 63) <= value < 1 << 63:
        assert as_json(reads, "$1::VARCHAR::BIGINT", str(value)) == shown(value)
    if 0 <= value < 1 << 64:
        assert as_json(reads, "$1::VARCHAR::UBIGINT", str(value)) == shown(value)
    if abs(value) < 10**38:
        assert as_arrow(reads, "$1::VARCHAR::HUGEINT", str(value)).to_pylist() == [value]
    else:
        with pytest.raises(EngineError):
            as_arrow(reads, "$1::VARCHAR::HUGEINT", str(value))


@relaxed
@given(st.integers(0, (1 << 128) - 1))
def test_unsigned_huge_integers(reads: ReplicaReads, value: int) -> None:
    assert as_json(reads, "$1::VARCHAR::UHUGEINT", str(value)) == shown(value)
    if value < 10**38:
        assert as_arrow(reads, "$1::VARCHAR::UHUGEINT", str(value)).to_pylist() == [value]


@relaxed
@given(st.decimals(allow_nan=False, allow_infinity=False, places=10).filter(lambda d: abs(d) < 10**28))
def test_decimals(reads: ReplicaReads, value: Decimal) -> None:
    # A fixed point has no negative zero.
    wanted = format(abs(value) if value == 0 else value, "f")
    assert as_json(reads, "$1::VARCHAR::DECIMAL(38, 10)", str(value)) == wanted
    assert as_json(reads, "{'a': $1::VARCHAR::DECIMAL(38, 10)}", str(value)) == {"a": wanted}
    assert as_arrow(reads, "$1::VARCHAR::DECIMAL(38, 10)", str(value)).to_pylist() == [value]


def same_double(got: Any, value: float) -> bool:
    if math.isfinite(value):
        return (
            type(got) in (int, float)
            and float(got) == value
            and math.copysign(1, got or 0.0) == math.copysign(1, value or 0.0)
        )
    return got == ("NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity")


@relaxed
@given(st.floats())
def test_doubles(reads: ReplicaReads, value: float) -> None:
    got = as_json(reads, "$1::DOUBLE", value)
    assert same_double(got, value)
    if value == 0:
        assert math.copysign(1, got) == math.copysign(1, value)
    assert same_double(as_json(reads, "[$1::DOUBLE]", value)[0], value)
    [line] = rows(reads, "SELECT $1::DOUBLE", [value], Form.CSV)
    assert struct.pack("d", float(line)) == struct.pack("d", value) or math.isnan(value)


@relaxed
@given(finite32)
def test_floats_read_back_as_themselves(reads: ReplicaReads, value: float) -> None:
    got = as_json(reads, "$1::DOUBLE::FLOAT", value)
    assert struct.unpack("f", struct.pack("f", got))[0] == value
    [line] = rows(reads, "SELECT $1::DOUBLE::FLOAT", [value], Form.CSV)
    assert struct.unpack("f", struct.pack("f", float(line)))[0] == value


def test_floats_are_short(reads: ReplicaReads) -> None:
    assert as_json(reads, "0.1::FLOAT") == 0.1
    assert as_json(reads, "16777216::FLOAT") == 16777216
    assert as_json(reads, "3.4028235e38::FLOAT") == 3.4028235e38


@relaxed
@given(text)
def test_text(reads: ReplicaReads, value: str) -> None:
    assert as_json(reads, "$1::VARCHAR", value) == value
    assert as_json(reads, "{'a': [$1::VARCHAR]}", value) == {"a": [value]}
    assert as_json(reads, "map([$1::VARCHAR], [1])", value) == {value: 1}
    assert as_arrow(reads, "$1::VARCHAR", value).to_pylist() == [value]


@relaxed
@given(text)
def test_column_names(reads: ReplicaReads, name: str) -> None:
    if not name or "\0" in name:
        return
    quoted = '"' + name.replace('"', '""') + '"'
    for form in Form:
        with reads.session() as session:
            answer = session.query(f"SELECT 1::HUGEINT AS {quoted}, 2 AS {quoted}", None, form)
            assert [c.name for c in answer.columns] == [name, name]
            if form is Form.ARROW:
                assert answer.schema.names == [name, name]


@relaxed
@given(st.binary())
def test_blobs(reads: ReplicaReads, value: bytes) -> None:
    assert base64.b64decode(as_json(reads, "$1::BLOB", value), validate=True) == value
    assert base64.b64decode(as_json(reads, "[$1::BLOB]", value)[0], validate=True) == value
    assert as_arrow(reads, "$1::BLOB", value).to_pylist() == [value]


@relaxed
@given(st.datetimes())
def test_timestamps(reads: ReplicaReads, value: dt.datetime) -> None:
    assert dt.datetime.fromisoformat(as_json(reads, "$1::TIMESTAMP", value)) == value
    assert as_arrow(reads, "$1::TIMESTAMP", value).to_pylist() == [value]


@relaxed
@given(st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29)), st.integers(-14 * 60, 14 * 60))
def test_instants(reads: ReplicaReads, value: dt.datetime, minutes: int) -> None:
    zoned = value.replace(tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))
    got = as_json(reads, "$1::VARCHAR::TIMESTAMPTZ", zoned.isoformat())
    assert got.endswith("Z")
    assert dt.datetime.fromisoformat(got) == zoned


@relaxed
@given(st.dates(), st.times())
def test_dates_and_times(reads: ReplicaReads, day: dt.date, time: dt.time) -> None:
    assert dt.date.fromisoformat(as_json(reads, "$1::DATE", day)) == day
    assert dt.time.fromisoformat(as_json(reads, "$1::TIME", time)) == time


nested = st.recursive(
    st.none() | st.integers(-(1 << 63), (1 << 63) - 1), lambda inner: st.lists(inner, max_size=3), max_leaves=6
).filter(lambda v: isinstance(v, list))


@relaxed
@given(st.lists(st.none() | st.lists(st.none() | st.integers(-(1 << 63), (1 << 63) - 1), max_size=4), max_size=4))
def test_lists(reads: ReplicaReads, value: list[list[int | None] | None]) -> None:
    wanted = [None if inner is None else [None if i is None else shown(i) for i in inner] for inner in value]
    assert as_json(reads, "$1::BIGINT[][]", value) == wanted
    assert as_json(reads, "{'a': $1::BIGINT[][], 'b': NULL::STRUCT(c INTEGER)}", value) == {"a": wanted, "b": None}
    assert as_arrow(reads, "$1::HUGEINT[][]", value).to_pylist() == [value]


def parse_csv(line: str) -> list[str | None]:
    """One record by RFC 4180, telling an empty field (NULL) from an empty string in quotes."""
    fields: list[str | None] = []
    at = 0
    while True:
        if line[at : at + 1] == '"':
            end, value = at + 1, []
            while line[end] != '"' or line[end + 1 : end + 2] == '"':
                step = 2 if line[end] == '"' else 1
                value.append(line[end])
                end += step
            fields.append("".join(value))
            at = end + 1
        else:
            end = line.find(",", at)
            end = len(line) if end < 0 else end
            fields.append(line[at:end] or None)
            at = end
        if at >= len(line):
            return fields
        assert line[at] == ","
        at += 1


@relaxed
@given(st.lists(st.none() | text, min_size=1, max_size=5))
def test_csv_tells_null_from_empty(reads: ReplicaReads, values: list[str | None]) -> None:
    columns = ", ".join(f"${i}::VARCHAR" for i in range(1, len(values) + 1))
    [line] = rows(reads, f"SELECT {columns}", list(values), Form.CSV)
    assert parse_csv(line) == values
    if all(v is None or not set(v) & set('",\r\n') for v in values if v != ""):
        assert '"' not in line or "" in values


EVERY_TYPE = {
    "bit": ["0010001001011100010101011010111", "10101", None],
    "bignum": None,
    "hugeint": [str(-HUGE - 1), str(HUGE), None],
    "uhugeint": [0, str((1 << 128) - 1), None],
    "ubigint": [0, str((1 << 64) - 1), None],
    "date": ["5877642-06-25 (BC)", "5881580-07-10", None],
    "time": ["00:00:00", "24:00:00", None],
    "timestamp": ["290309-12-22 (BC)T00:00:00", "294247-01-10T04:00:54.775806", None],
    "timestamp_ns": ["1677-09-22T00:00:00", "2262-04-11T23:47:16.854775806", None],
    "time_tz": ["00:00:00+15:59:59", "24:00:00-15:59:59", None],
    "timestamp_tz": ["290309-12-22 (BC)T00:00:00Z", "294247-01-10T04:00:54.775806Z", None],
    "float": [-3.4028235e38, 3.4028235e38, None],
    "double": [-1.7976931348623157e308, 1.7976931348623157e308, None],
    "dec38_10": ["-9999999999999999999999999999.9999999999", "9999999999999999999999999999.9999999999", None],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", None],
    "interval": ["00:00:00", "83 years 3 months 999 days 00:16:39.999999", None],
    "varchar": ["🦆🦆🦆🦆🦆🦆", "goo\0se", None],
    "blob": [base64.b64encode(b"thisisalongblob\x00withnullbytes").decode(), "AAAAYQ==", None],
    "small_enum": ["DUCK_DUCK_ENUM", "GOOSE", None],
    "double_array": [[], [42, "NaN", "Infinity", "-Infinity", None, -42], None],
    "date_array": [[], ["1970-01-01", "infinity", "-infinity", None, "2022-05-12"], None],
    "timestamp_array": [[], ["1970-01-01T00:00:00", "infinity", "-infinity", None, "2022-05-12T16:23:45"], None],
    "timestamptz_array": [[], ["1970-01-01T00:00:00Z", "infinity", "-infinity", None, "2022-05-12T23:23:45Z"], None],
    "nested_int_array": [[], [[], [42, 999, None, None, -42], None, [], [42, 999, None, None, -42]], None],
    "struct": [{"a": None, "b": None}, {"a": 42, "b": "🦆🦆🦆🦆🦆🦆"}, None],
    "array_of_structs": [[], [{"a": None, "b": None}, {"a": 42, "b": "🦆🦆🦆🦆🦆🦆"}, None], None],
    "map": [{}, {"key1": "🦆🦆🦆🦆🦆🦆", "key2": "goose"}, None],
    "union": [{"tag": "name", "value": "Frank"}, {"tag": "age", "value": 5}, None],
    "fixed_int_array": [[None, 2, 3], [4, 5, 6], None],
    "fixed_nested_varchar_array": [
        [["a", None, "c"], None, ["a", None, "c"]],
        [["d", "e", "f"], ["a", None, "c"], ["d", "e", "f"]],
        None,
    ],
    "tuple": [[None, None], [42, "🦆🦆🦆🦆🦆🦆"], None],
}


def test_every_type_of_duckdb_has_a_form(reads: ReplicaReads) -> None:
    """`test_all_types` gives each type's smallest and largest value and NULL; a new type must not break an answer."""
    with reads.session() as session:
        answer = session.query("FROM test_all_types()", None, Form.JSON)
        got = [json.loads(row) for batch in answer.rows for row in batch.column(0).to_pylist()]
    by_name = {column.name: [row[i] for row in got] for i, column in enumerate(answer.columns)}
    assert len(by_name) > 50
    assert all(values[2] is None for values in by_name.values())
    assert {name: by_name[name] for name, values in EVERY_TYPE.items() if values} == {
        name: values for name, values in EVERY_TYPE.items() if values
    }
    assert int(by_name["bignum"][1]) > 10**300
    for name in by_name:
        for form in (Form.CSV, Form.ARROW):
            limit = " LIMIT 0" if name in ("hugeint", "uhugeint") and form is Form.ARROW else ""
            with reads.session() as session:
                assert list(session.query(f'SELECT "{name}" FROM test_all_types(){limit}', None, form).rows) is not None


def test_arrow_has_no_type_that_only_duckdb_reads(reads: ReplicaReads) -> None:
    names = "bit, bignum, time_tz, uuid, [bit] AS l, {'a': uuid, 'b': 1} AS s, map([1], [time_tz]) AS m, (bit, 1) AS t"
    with reads.session() as session:
        schema = session.query(f"SELECT {names} FROM test_all_types()", None, Form.ARROW).schema
    assert schema.types[:4] == [pa.string()] * 4
    assert schema.field("l").type.value_type == pa.string()
    assert schema.field("s").type.field("a").type == pa.string()
    assert schema.field("s").type.field("b").type == pa.int32()
    assert schema.field("m").type.item_type == pa.string()
    assert schema.field("t").type.field(0).type == pa.string()


PIECES = (
    "SELECT FROM _reflex . meta ( ) ; , * ' \" -- /* */ 1 'x' $$ $1 WITH x AS INSERT INTO DELETE orders VALUES read_text "
    "glob arrow_scan EXPLAIN ANALYZE PIVOT ON USING count DESCRIBE nextval query BEGIN SET ü"
)
words = st.sampled_from([*PIECES.split(), "\0", "\n"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(words, max_size=12))
def test_any_text_ends_with_rows_or_an_error_of_ours(reads: ReplicaReads, pieces: list[str]) -> None:
    sql = " ".join(pieces)
    try:
        rows(reads, sql, [], Form.JSON)
    except EngineError as error:
        assert error.word in ("query_refused", "query_error")  # noqa: PT017 - either outcome is fine
