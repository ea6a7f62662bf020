"""Query answers as bytes: JSON, an Arrow stream, CSV; made batch by batch, never whole in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from engine.replica.reads import Answer, Form

MEDIA_TYPES = {
    Form.JSON: "application/json",
    Form.ARROW: "application/vnd.apache.arrow.stream",
    Form.CSV: "text/csv; charset=utf-8",
}

TRUNCATED = b"reflex.truncated"
"""Key of the custom metadata on the last (empty) batch of an Arrow stream that `max_rows` cut short."""

POSITION = b"reflex.position"
"""Key of an Arrow stream's schema metadata: the source position that the answer belongs to."""

_KINDS = {
    "application/json": Form.JSON,
    "application/vnd.apache.arrow.stream": Form.ARROW,
    "text/csv": Form.CSV,
    "application/*": Form.JSON,
    "text/*": Form.CSV,
    "*/*": Form.JSON,
}


@dataclass(slots=True)
class Tally:
    """What is known of an answer when its last byte is made."""

    rows: int = 0
    truncated: bool = False


def negotiate(accept: str) -> Form | None:
    """The form that an Accept header prefers; JSON when it says nothing, None when it wants none of ours."""
    if not accept.strip():
        return Form.JSON
    best: tuple[float, int, Form] | None = None
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        form = _KINDS.get(kind)
        if form is None:
            continue
        weight = (_quality(parameters), -kind.count("*"), form)
        if weight[0] > 0 and (best is None or weight[:2] > best[:2]):
            best = weight
    return None if best is None else best[2]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def encode(answer: Answer, form: Form, max_rows: int | None, tally: Tally) -> Iterator[bytes]:
    """The bytes of `answer` in `form`. `tally` counts along, and is complete when the iterator ends."""
    batches = _limited(answer.rows, max_rows, tally)
    if form is Form.JSON:
        return _json(answer, batches, tally)
    if form is Form.CSV:
        return _csv(answer, batches)
    return _arrow(answer, batches, tally)


def _limited(batches: Iterator[pa.RecordBatch], max_rows: int | None, tally: Tally) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        left = batch.num_rows if max_rows is None else max_rows - tally.rows
        if batch.num_rows > left:
            tally.truncated = True
            if left > 0:
                tally.rows += left
                yield batch.slice(0, left)
            return
        tally.rows += batch.num_rows
        if batch.num_rows:
            yield batch


def _json(answer: Answer, batches: Iterator[pa.RecordBatch], tally: Tally) -> Iterator[bytes]:
    columns = [{"name": column.name, "type": column.type} for column in answer.columns]
    head = f'{{"columns":{_dump(columns)},"position":{_dump(answer.position)},"rows":['
    yield head.encode()
    comma = ""
    for batch in batches:
        yield (comma + ",".join(batch.column(0).to_pylist())).encode()
        comma = ","
    yield f'],"rowCount":{tally.rows},"truncated":{_dump(tally.truncated)}}}'.encode()


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _csv(answer: Answer, batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    yield (",".join(_csv_name(column.name) for column in answer.columns) + "\r\n").encode()
    for batch in batches:
        yield ("\r\n".join(batch.column(0).to_pylist()) + "\r\n").encode()


def _csv_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if not name or any(c in name for c in '",\r\n') else name


class _Sink:
    """A file that Arrow writes to and that is emptied after every batch."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing to close: the parts are taken by `take`."""

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _arrow(answer: Answer, batches: Iterator[pa.RecordBatch], tally: Tally) -> Iterator[bytes]:
    sink = _Sink()
    schema = answer.schema
    if answer.position is not None:
        schema = schema.with_metadata({POSITION: answer.position.encode()})
    writer = pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema)
    yield sink.take()
    for batch in batches:
        writer.write_batch(batch)
        yield sink.take()
    if tally.truncated:
        writer.write_batch(_empty(answer.schema), custom_metadata={TRUNCATED: b"true"})
    writer.close()
    yield sink.take()


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
