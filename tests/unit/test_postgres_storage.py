"""Two looks at a table: whether rows may have changed in between without a row in the stream."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.failures import sqlstate_error, stream_error
from connectors.postgres.identity import IndexKey, Marking, identity_of
from connectors.postgres.storage import Labels, Leaf, Storage, difference
from engine.errors import EngineError, PreconditionError, ResyncRequired, TransientError
from engine.schema import Identity

BASE = Storage(file=10, attributes={1: "700", 2: "700", 3: "705"}, published="1.2/3.4")
PARTED = Storage(attributes={1: "700"}, leaves={"20": Leaf(20, "700"), "21": Leaf(21, "700.701")})
text = st.text("0123456789", min_size=1, max_size=9)
storages = st.builds(
    Storage,
    file=st.integers(0, 1 << 32),
    leaves=st.dictionaries(text, st.builds(Leaf, st.integers(0, 99), text), max_size=4),
    attributes=st.dictionaries(st.integers(1, 1600), text, max_size=20),
    labels=st.dictionaries(text, st.builds(Labels, st.integers(0, 9), st.integers(0, 9), text), max_size=3),
    published=st.none() | text,
    touched=st.none() | text,
)


@given(storages)
def test_text_and_back(storage: Storage) -> None:
    assert Storage.parse(storage.to_text()) == storage
    assert difference(storage, storage, storage.attributes, {}) == ""


@pytest.mark.parametrize("junk", [None, "", "{", "[]", "4711", '{"leaves":{"a":{"x":1}}}', '{"attributes":{"1":"x"}}'])
def test_what_is_no_storage_is_none(junk: str | None) -> None:
    assert Storage.parse(junk) is None


@pytest.mark.parametrize(
    ("new", "harmless"),
    [
        (replace(BASE, file=11), True),
        (replace(BASE, attributes={**BASE.attributes, 2: "800"}), True),
        (replace(BASE, file=11, attributes={**BASE.attributes, 2: "800"}), False),
        (replace(BASE, published="1.2/9.9"), False),
        (replace(BASE, published=None), False),
        (replace(BASE, touched="5@x"), True),
    ],
)
def test_a_plain_table(new: Storage, harmless: bool) -> None:
    assert (difference(BASE, new, [1, 2, 3], {}) == "") is harmless


def test_a_rewrite_with_an_added_column() -> None:
    assert difference(BASE, replace(BASE, file=11), [1, 2, 3], {}, added=True)
    assert not difference(BASE, BASE, [1, 2, 3], {}, added=True)


@pytest.mark.parametrize(
    ("leaves", "harmless"),
    [
        ({**PARTED.leaves, "22": Leaf(22, "800", empty=True)}, True),
        ({**PARTED.leaves, "22": Leaf(22, "800")}, False),
        ({"20": Leaf(20, "700")}, False),
        ({**PARTED.leaves, "20": Leaf(99, "700")}, False),
        ({**PARTED.leaves, "20": Leaf(20, "800")}, False),
    ],
)
def test_a_partitioned_table(leaves: dict[str, Leaf], harmless: bool) -> None:
    assert (difference(PARTED, replace(PARTED, leaves=leaves), [1], {}) == "") is harmless


def test_enum_labels() -> None:
    then, renamed = [(5, "a"), (7, "b")], [(5, "a"), (7, "c")]
    old = Storage(file=1, labels={"9": Labels.of(then)})
    assert not difference(old, old, [], {"9": [*then, (8, "new")]})
    assert difference(old, old, [], {"9": renamed})


def test_attributes_of_a_composite_type() -> None:
    old = Storage(file=1, composites={"9": "1,2"})
    assert Storage.parse(old.to_text()) == old
    assert difference(old, Storage(file=1, composites={"9": "1,3"}), [], {})
    assert not difference(old, Storage(file=1, composites={"9": "1,2", "8": "1"}), [], {})
    assert not difference(Storage(file=1), old, [], {})


def test_a_primary_key_that_was_replaced() -> None:
    old = Storage(file=1, primary=5)
    assert Storage.parse(old.to_text()) == old
    assert difference(old, Storage(file=1, primary=6), [], {})
    assert not difference(old, old, [], {})


KEY, CODE = IndexKey(("id",), primary=True, replica=False), IndexKey(("code",), primary=False, replica=True)


@pytest.mark.parametrize(
    ("table", "leaves", "expected"),
    [
        (Marking("d", (KEY,)), [], (Identity.KEY, ("id",), True)),
        (Marking("d"), [], (Identity.INSERTS, (), False)),
        (Marking("n", (KEY,)), [], (Identity.INSERTS, (), False)),
        (Marking("i", (KEY, CODE)), [], (Identity.KEY, ("code",), True)),
        (Marking("i", (KEY,)), [], (Identity.INSERTS, (), False)),
        (Marking("f", (KEY,)), [], (Identity.KEY, ("id",), True)),
        (Marking("f"), [], (Identity.ROW, (), True)),
        (Marking("d", (KEY,)), [Marking("d", (KEY,)), Marking("f")], (Identity.KEY, ("id",), True)),
        (Marking("d", (KEY,)), [Marking("d", (KEY,)), Marking("n", (KEY,))], (Identity.INSERTS, (), False)),
        (Marking("f", (KEY,)), [Marking("d", (KEY,))], (Identity.INSERTS, (), False)),
        (Marking("d"), [Marking("d", (KEY,))], (Identity.INSERTS, (), False)),
    ],
)
def test_identity(table: Marking, leaves: list[Marking], expected: object) -> None:
    assert tuple(identity_of(table, leaves)) == expected
    assert identity_of(table, leaves, incomplete=True).identity is Identity.RELOAD


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08006", TransientError),
        ("57P01", TransientError),
        ("57P03", TransientError),
        ("53300", TransientError),
        ("55P03", TransientError),
        ("42501", PreconditionError),
        ("28P01", PreconditionError),
        ("55006", PreconditionError),
        ("53400", PreconditionError),
        (None, TransientError),
    ],
)
def test_errors_by_sqlstate(state: str | None, kind: type[EngineError]) -> None:
    assert type(sqlstate_error(state, "words", "doing")) in (kind, *kind.__subclasses__())


def test_a_message_that_may_quote_a_value_is_not_passed_on() -> None:
    assert "4242" not in str(sqlstate_error("22P02", 'invalid input syntax: "4242"', "doing"))
    assert isinstance(stream_error("58P01", "gone", "s"), ResyncRequired)
    assert isinstance(stream_error("42704", "gone", "s"), ResyncRequired)
    assert isinstance(stream_error("57P01", "ended", "s"), TransientError)
