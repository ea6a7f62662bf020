"""Random JSON documents through an encoder of our own; and what corruption can and cannot do."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.mysql import json_binary
from engine.errors import DecodeError
from tests.fixtures.mysql.json import INSERT, REMOVE, REPLACE, Value, change, document

strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.integers(-70_000, 70_000),
    st.floats(allow_nan=False, allow_infinity=False),
    strings,
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(strings, inner, max_size=5), max_leaves=20
)


@given(values, st.booleans())
@settings(max_examples=300)
def test_any_document(value: Value, large: bool) -> None:
    text = json_binary.text(document(value, large=large))
    assert json.loads(text) == value
    again = json.loads(text, object_pairs_hook=lambda pairs: [name for name, _ in pairs])
    if isinstance(value, dict):
        assert again == sorted(value, key=lambda name: (len(name.encode()), name.encode()))


@given(values, st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_a_damaged_document_is_text_or_an_error(value: Value, chooser: random.Random) -> None:
    data = document(value)
    damaged = bytearray(data)
    for _ in range(chooser.randrange(1, 4)):
        damaged[chooser.randrange(len(damaged))] = chooser.choice([0, 1, 2, 0x7F, 0x80, 0xFF, chooser.randrange(256)])
    for sample in (bytes(damaged), data[: chooser.randrange(len(data))], chooser.randbytes(chooser.randrange(60))):
        try:
            text = json_binary.text(sample)
        except DecodeError:
            continue
        json.loads(text)


def places(value: Any, at: str = "$") -> list[tuple[str, Any, Any]]:
    """Every place in the document: its path, the container and where in it."""
    found: list[tuple[str, Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        here = f"{at}[{key}]" if isinstance(value, list) else f"{at}.{json.dumps(key, ensure_ascii=False)}"
        found += [(here, value, key), *places(item, here)]
    return found


@given(values, st.randoms(use_true_random=False), scalars)
@settings(max_examples=300)
def test_partial_updates_do_as_they_say(value: Any, chooser: random.Random, new: Any) -> None:
    after = copy.deepcopy(value)
    changes = b""
    for _ in range(3):
        known = places(after)
        if not known:
            break
        path, container, key = chooser.choice(known)
        operation = chooser.choice([REPLACE, INSERT, REMOVE])
        if operation == REMOVE:
            del container[key]
        elif operation == REPLACE:
            container[key] = new
        elif isinstance(container, list):
            container.insert(key, new)
        else:
            path, fresh = path + "", "fresh!"
            path = path[: len(path) - len(json.dumps(key, ensure_ascii=False))] + json.dumps(fresh)
            if fresh in container:
                operation = REPLACE
            container[fresh] = new
        changes += change(operation, path, new)
    text = json_binary.apply_partial(document(value), changes)
    assert json.loads(str(text)) == after


@given(values, st.binary(max_size=60))
@settings(max_examples=200)
def test_damaged_changes_are_refused_or_done(value: Value, changes: bytes) -> None:
    whole = change(REPLACE, "$.a", 1) + changes
    for sample in (changes, whole, whole[: len(whole) // 2]):
        try:
            json.loads(str(json_binary.apply_partial(document(value), sample)))
        except DecodeError:
            pass
