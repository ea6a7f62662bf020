"""Every type of types.md's PostgreSQL table, with the values at its edges, as SQL."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One column type and expressions for its values (NULL is always among them).

    `text`: some value does not fit the type's usual replica type, so that the column may be kept as text. `least`:
    the first server version that has it. `duck`: the replica's type, where the oracle should not judge alone.
    """

    name: str
    type: str
    values: tuple[str, ...]
    before: str = ""
    text: bool = False
    least: int = 12
    extension: str = ""
    duck: str = ""

    def __str__(self) -> str:
        return self.name


def _quoted(*texts: str) -> tuple[str, ...]:
    return tuple("'" + text.replace("'", "''") + "'" for text in texts)


ALL_BYTES = r"'\x" + bytes(range(256)).hex() + "'"
CONTROLS = "E'" + "".join(f"\\x{n:02x}" for n in range(1, 32)) + "\\x7f'"
TRICKY = (
    "''",
    r"E'a\tb\nc\\d\re\bf\fg\vh'",
    r"'\N'",
    "'NULL'",
    "'null'",
    r"'\.'",
    "' both ends '",
    "'ümläut ß ½ € 漢字 😀👩👩👧 ' || U&'\\202E' || 'rtl'",
    "U&'\\0301\\200B\\FEFF\\FFFF'",
    CONTROLS,
    "'\"quoted\" ''single'' `back` {brace} (paren) [bracket], comma; $dollar$ %percent'",
    "repeat('long ', 3000)",
)
INTEGERS = (
    Sample("smallint", "smallint", ("-32768", "32767", "0"), duck="SMALLINT"),
    Sample("integer", "integer", ("-2147483648", "2147483647", "0"), duck="INTEGER"),
    Sample("bigint", "bigint", ("-9223372036854775808", "9223372036854775807", "0"), duck="BIGINT"),
    Sample("oid", "oid", ("0", "4294967295"), duck="UINTEGER"),
    Sample("boolean", "boolean", ("true", "false"), duck="BOOLEAN"),
)
NUMERICS = (
    Sample(
        "numeric_12_2", "numeric(12,2)", ("9999999999.99", "-9999999999.99", "0", "-0.01", "1.5"), duck="DECIMAL(12,2)"
    ),
    Sample("numeric_4_4", "numeric(4,4)", ("0.9999", "-0.0001"), duck="DECIMAL(4,4)"),
    Sample(
        "numeric_38_10",
        "numeric(38,10)",
        ("9999999999999999999999999999.9999999999", "-9999999999999999999999999999.9999999999", "0.0000000001"),
        duck="DECIMAL(38,10)",
    ),
    Sample(
        "numeric_38_0",
        "numeric(38)",
        ("99999999999999999999999999999999999999", "-99999999999999999999999999999999999999"),
        duck="DECIMAL(38,0)",
    ),
    Sample(
        "numeric_38_38",
        "numeric(38,38)",
        ("0.99999999999999999999999999999999999999", "-0.00000000000000000000000000000000000001"),
        duck="DECIMAL(38,38)",
    ),
    Sample(
        "numeric_50_5",
        "numeric(50,5)",
        ("999999999999999999999999999999999999999999999.99999", "-1", "1.50"),
        duck="VARCHAR",
    ),
    Sample("numeric_negative_scale", "numeric(5,-2)", ("9999900", "-1234567", "49"), least=15),
    Sample("numeric_wide_scale", "numeric(3,5)", ("0.00999", "-0.00001"), least=15),
    Sample(
        "numeric_free",
        "numeric",
        ("1.10", "1.100", "-0.000", "1e100", "1e-100", "'NaN'", "12345678901234567890123456789012345678901234567890.5"),
        duck="VARCHAR",
    ),
    Sample("numeric_infinite", "numeric", ("'Infinity'", "'-Infinity'", "1e131071"), least=14, duck="VARCHAR"),
    Sample("numeric_nan", "numeric(12,2)", ("'NaN'", "1.5", "-0.01", "10"), text=True, duck="VARCHAR"),
    Sample(
        "money", "money", ("'92233720368547758.07'", "'-92233720368547758.08'", "'0'", "'-0.01'"), duck="DECIMAL(19,2)"
    ),
)
FLOATS = (
    Sample(
        "real",
        "real",
        (
            "3.4028235e38",
            "-3.4028235e38",
            "1.17549435e-38",
            "1e-45",
            "0.1",
            "'-0'",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "16777217",
        ),
        duck="FLOAT",
    ),
    Sample(
        "double",
        "double precision",
        (
            "1.7976931348623157e308",
            "-1.7976931348623157e308",
            "5e-324",
            "2.2250738585072014e-308",
            "0.1",
            "8.5e242",
            "'-0'",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "9007199254740993",
        ),
        duck="DOUBLE",
    ),
)
TIMES = (
    Sample(
        "date",
        "date",
        (
            "'2024-02-29'",
            "'0001-01-01'",
            "'0001-12-31 BC'",
            "'4713-01-01 BC'",
            "'12345-06-07'",
            "'5874897-12-31'",
            "'infinity'",
            "'-infinity'",
        ),
        duck="DATE",
    ),
    Sample(
        "timestamp",
        "timestamp",
        (
            "'2024-02-29 23:59:59.999999'",
            "'0001-01-01 00:00:00'",
            "'0001-12-31 23:59:59 BC'",
            "'4714-11-24 00:00:00 BC'",
            "'99999-12-31 23:59:59.5'",
            "'294246-12-31 23:59:59'",
            "'1999-12-31 24:00:00'",
            "'infinity'",
            "'-infinity'",
        ),
        duck="TIMESTAMP",
    ),
    Sample("timestamp_beyond", "timestamp", ("'294276-12-31 23:59:59.999999'", "'2024-01-01'"), text=True),
    Sample("timestamp_0", "timestamp(0)", ("'2024-02-29 23:59:59.7'",)),
    Sample(
        "timestamptz",
        "timestamptz",
        (
            "'2024-03-31 01:59:59.999999+00'",
            "'2024-10-27 02:30:00+02'",
            "'1883-11-18 12:03:57-04:56:02'",
            "'0001-12-31 23:59:59+00 BC'",
            "'4714-11-24 00:00:00+00 BC'",
            "'99999-12-31 23:59:59.5+00'",
            "'infinity'",
            "'-infinity'",
        ),
        duck="TIMESTAMP WITH TIME ZONE",
    ),
    Sample("time", "time", ("'00:00:00'", "'23:59:59.999999'", "'24:00:00'", "'12:34:56.7'"), duck="TIME"),
    Sample(
        "timetz",
        "timetz",
        ("'00:00:00+15:59'", "'23:59:59.999999-15:59'", "'24:00:00+00'", "'12:34:56.7+05:30'", "'01:02:03-02:30:15'"),
    ),
    Sample(
        "interval",
        "interval",
        (
            "'1 year -2 mons 3 days -04:05:06.000007'",
            "'0'",
            "'-1 day'",
            "'178000000 years'",
            "'-178000000 years'",
            "'2147483647 days'",
            "'-2147483648 days'",
            "'1 mon'",
            "'-00:00:00.000001'",
            "'2147483647:59:59'",
        ),
        duck="INTERVAL",
    ),
    Sample(
        "interval_extreme",
        "interval",
        ("'9223372036854.775807 seconds'", "'-9223372036854.775808 seconds'", "'1 day'"),
        text=True,
    ),
    Sample("interval_infinite", "interval", ("'infinity'", "'-infinity'", "'1 day'"), text=True, least=17),
)
TEXTS = (
    Sample("text", "text", TRICKY, duck="VARCHAR"),
    Sample("varchar", "varchar(20)", ("''", "'trailing   '", "'ünï😀'"), duck="VARCHAR"),
    Sample("char", "char(5)", ("''", "'ab'", "'abcde'", "' a'", "'é'"), duck="VARCHAR"),
    Sample("char_quoted", '"char"', ("'x'", "''")),
    Sample("name", "name", ("'a name'", "''")),
    Sample(
        "uuid",
        "uuid",
        (
            "'00000000-0000-0000-0000-000000000000'",
            "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
            "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
        ),
        duck="UUID",
    ),
    Sample("bytea", "bytea", ("''", ALL_BYTES, r"'\x00'", "decode(repeat('00ff', 3000), 'hex')"), duck="BLOB"),
    Sample(
        "json",
        "json",
        (
            *_quoted(
                '{"b":1, "a" :  [ 2,3 ] , "b":null}',
                "null",
                ' "text" ',
                "[]",
                "1e400",
                "12345678901234567890.12345678901234567890",
                r'"\u00e9\ud83d\ude00\\ \/"',
                "{}",
            ),
            r"E'{\n\t\"a\":\n 1}'",
        ),
        duck="JSON",
    ),
    Sample("json_nul", "json", _quoted(r'"\u0000"', r'"\ud800"'), text=True),
    Sample(
        "jsonb",
        "jsonb",
        _quoted(
            '{"b":1, "a" :  [ 2,3 ] , "b":null}',
            "null",
            '"text"',
            "[]",
            "1e400",
            "12345678901234567890.12345678901234567890",
            '{"ü": "😀", "n": 1.10}',
            "true",
        ),
        duck="JSON",
    ),
    Sample("xml", "xml", ("'<a b=\"c\">x &amp; y<!-- z --></a>'", "'plain'")),
    Sample("tsvector", "tsvector", ("'a:1A fat:2B,4C cat:5'", "''", "'''it''''s'' \\\\ :3'")),
    Sample("tsquery", "tsquery", ("'fat & (rat | cat)'", "'!a <-> b:*'")),
    Sample(
        "inet",
        "inet",
        ("'192.168.0.1'", "'192.168.0.1/24'", "'10.0.0.0/8'", "'::1'", "'2001:db8::1/64'", "'::ffff:1.2.3.4'"),
    ),
    Sample("cidr", "cidr", ("'10.0.0.0/8'", "'192.168.1.1/32'", "'::/0'", "'2001:db8::/32'")),
    Sample("macaddr", "macaddr", ("'08:00:2b:01:02:03'",)),
    Sample("macaddr8", "macaddr8", ("'08:00:2b:01:02:03:04:05'",)),
    Sample("log_position", "pg_lsn", ("'16/B374D848'", "'0/0'")),
    Sample("geometric", "polygon", ("'((0,0),(1.5,-2),(1e300,0.1))'",)),
    Sample("box", "box", ("'((1,1),(0,0))'",)),
    Sample("jsonpath", "jsonpath", ("'$.a[*] ? (@ > 2)'",)),
    Sample(
        "citext",
        "citext",
        ("'MiXed'", "''", "'ümläut'"),
        before="CREATE EXTENSION IF NOT EXISTS citext SCHEMA public",
        extension="citext",
    ),
    Sample(
        "hstore",
        "hstore",
        ("''", "'a=>1, b=>NULL'", '\'"q\\"uote"=>"c,o=>m", ""=>"", "NULL"=>"NULL"\'', "'ü=>\"😀\"'"),
        before="CREATE EXTENSION IF NOT EXISTS hstore SCHEMA public",
        extension="hstore",
        duck="MAP",
    ),
    Sample(
        "hstore_array",
        "hstore[]",
        ("ARRAY['a=>1', '', NULL]::hstore[]",),
        before="CREATE EXTENSION IF NOT EXISTS hstore SCHEMA public",
        extension="hstore",
    ),
)
BITS_AND_RANGES = (
    Sample("bit", "bit(9)", ("B'000000000'", "B'111111111'", "B'100000001'"), duck="BIT"),
    Sample("bit_1", "bit", ("B'0'", "B'1'")),
    Sample("varbit", "varbit", ("B'1'", "B'0101'", "B'111111110'", "repeat('10', 100)::varbit"), duck="BIT"),
    Sample("varbit_empty", "varbit", ("B''", "B'01'"), text=True),
    Sample("int4range", "int4range", ("'[1,5)'", "'empty'", "'(,)'", "'[3,]'", "'(,7]'")),
    Sample("numrange", "numrange", ("'[1.10,2.200)'", "'(1,2]'", "'empty'")),
    Sample("daterange", "daterange", ("'[2024-01-01,infinity)'", "'(,2024-01-01)'")),
    Sample("tstzrange", "tstzrange", ("'[2024-01-01 00:00:00+05,2024-01-02 00:00:00+00]'", "'[-infinity,infinity]'")),
    Sample(
        "textrange",
        "texts",
        ("'[a b,\"c d\")'", '\'["","("]\''),
        before="CREATE TYPE texts AS RANGE (subtype = text)",
    ),
    Sample("multirange", "int4multirange", ("'{[1,3),[5,9)}'", "'{}'"), least=14),
    Sample("tsmultirange", "tstzmultirange", ("'{[2024-01-01 00:00:00+05,2024-01-02 00:00:00+00]}'",), least=14),
)
USER_TYPES = (
    Sample(
        "enum",
        "odd",
        _quoted("plain", "", "a b", '"quoted"', "it's", "ünï😀", "com,ma", "NULL", r"back\slash"),
        before="CREATE TYPE odd AS ENUM ('plain', '', 'a b', '\"quoted\"', 'it''s', 'ünï😀', 'com,ma', 'NULL', 'back\\slash')",
    ),
    Sample("enum_array", "odd2[]", ('\'{"a b",x,NULL,""}\'',), before="CREATE TYPE odd2 AS ENUM ('x', 'a b', '')"),
    Sample(
        "domain_int",
        "posint",
        ("1", "2147483647"),
        before="CREATE DOMAIN posint AS int CHECK (value > 0)",
        duck="INTEGER",
    ),
    Sample(
        "domain_numeric",
        "price",
        ("1.10", "-99999999.99"),
        before="CREATE DOMAIN price AS numeric(10,2)",
        duck="DECIMAL(10,2)",
    ),
    Sample(
        "domain_domain",
        "price3",
        ("1.10", "12.34"),
        before="CREATE DOMAIN price2 AS numeric(10,2); CREATE DOMAIN price3 AS price2",
        duck="DECIMAL(10,2)",
    ),
    Sample("domain_text", "label", ("''", "'x'"), before="CREATE DOMAIN label AS varchar(9)", duck="VARCHAR"),
    Sample(
        "domain_enum",
        "level2",
        ("'hi gh'", "'low'"),
        before="CREATE TYPE level AS ENUM ('hi gh', 'low'); CREATE DOMAIN level2 AS level",
    ),
    Sample("domain_array", "ints", ("'{1,2,NULL}'", "'{}'"), before="CREATE DOMAIN ints AS int[]"),
    Sample("array_of_domain", "posint2[]", ("'{1,2,NULL}'",), before="CREATE DOMAIN posint2 AS int"),
    Sample(
        "domain_composite",
        "dpt",
        ("ROW(1,'x')::pt0::dpt",),
        before="CREATE TYPE pt0 AS (a int, b text); CREATE DOMAIN dpt AS pt0",
    ),
    Sample(
        "composite",
        "pt",
        (
            "ROW(1, 'x', 1.50)::pt",
            "ROW(NULL, NULL, NULL)::pt",
            "ROW(1, '', 2)::pt",
            "ROW(1, 'a,b\"c(d)e\\f g', 2)::pt",
            "ROW(-2147483648, 'NULL', -0.01)::pt",
        ),
        before="CREATE TYPE pt AS (a int, b text, c numeric(10,2))",
    ),
    Sample(
        "composite_nested",
        "outer_t",
        (
            "ROW(1, ROW('x', ARRAY['p', NULL, 'q,r']), ARRAY[ROW('y', NULL)::inner_t, NULL])::outer_t",
            "ROW(NULL, NULL, NULL)::outer_t",
        ),
        before="CREATE TYPE inner_t AS (s text, l text[]); CREATE TYPE outer_t AS (n int, i inner_t, many inner_t[])",
    ),
    Sample(
        "composite_array",
        "pt2[]",
        ("ARRAY[ROW(1, 'x\"y')::pt2, NULL, ROW(NULL, 'a,b')::pt2]", "'{}'"),
        before="CREATE TYPE pt2 AS (a int, b text)",
    ),
    Sample(
        "composite_odd_fields",
        "odd_fields",
        ("ROW(1, true, '2024-01-01', 'NaN')::odd_fields",),
        before='CREATE TYPE odd_fields AS ("a b" int, "select" bool, "q""q" date, "ü" float8)',
    ),
)
ARRAYS = (
    Sample("int_array", "int[]", ("'{}'", "'{1,NULL,-2147483648}'", "'{NULL}'", "'[0:1]={7,8}'", "'[-5:-4]={1,2}'")),
    Sample(
        "text_array",
        "text[]",
        (r"""E'{"",NULL,"NULL","a,b","c\\"d","e\\\\f","{g}"," h ","\tübr"}'""", "ARRAY[repeat('x', 9000), 'y']"),
    ),
    Sample("int_array_2d", "int[][]", ("'{{1,2},{3,NULL}}'", "'[2:3][0:0]={{5},{6}}'"), text=True),
    Sample("int_array_mixed", "int[]", ("'{1,2}'", "'{{1,2},{3,4}}'", "'{{{1}}}'", "'{}'"), text=True),
    Sample("numeric_array", "numeric(10,2)[]", ("'{1.10,-99999999.99,NULL}'",)),
    Sample("numeric_free_array", "numeric[]", ("'{1.10,NaN,1e50}'",)),
    Sample("numeric_nan_array", "numeric(10,2)[]", ("'{NaN}'", "'{1.1}'"), text=True),
    Sample("float_array", "float8[]", ("'{NaN,Infinity,-Infinity,5e-324,0.1,-0}'",)),
    Sample("bool_array", "boolean[]", ("'{t,f,NULL}'",)),
    Sample("bytea_array", "bytea[]", (r"""ARRAY['\x00ff'::bytea, ''::bytea, NULL]""",)),
    Sample("uuid_array", "uuid[]", ("'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}'",)),
    Sample("json_array", "json[]", ("""ARRAY['{"a":  1}'::json, 'null'::json, NULL]""",)),
    Sample("date_array", "date[]", ("'{2024-02-29,infinity,0001-01-01 BC,NULL}'",)),
    Sample("timestamptz_array", "timestamptz[]", ("'{\"2024-02-29 01:02:03.5+05:30\",infinity,NULL}'",)),
    Sample("interval_array", "interval[]", ('\'{"1 day -01:00:00","1 mon"}\'',)),
    Sample("time_array", "time[]", ("'{24:00:00,01:02:03.5}'",)),
    Sample("char_array", "char(3)[]", ("'{a,\"b \",NULL}'",)),
    Sample("inet_array", "inet[]", ("'{10.0.0.1,::1/64}'",)),
    Sample("box_array", "box[]", ("ARRAY['((1,1),(0,0))'::box, NULL]",), text=True),
    Sample("range_array", "int4range[]", ("ARRAY['[1,5)'::int4range, 'empty', NULL]",)),
    Sample("money_array", "money[]", ("ARRAY['1.10'::money, '-1234567.89', NULL]",)),
    Sample("bit_array", "bit(3)[]", ("ARRAY[B'101', NULL]",)),
)
SAMPLES = (*INTEGERS, *NUMERICS, *FLOATS, *TIMES, *TEXTS, *BITS_AND_RANGES, *USER_TYPES, *ARRAYS)
