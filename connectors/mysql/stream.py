"""From the receiver's inbox to change batches on time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from connectors.mysql.assembler import Assembler
from connectors.mysql.binlog import Ended, Framer, Refused
from connectors.mysql.receiver import Chunk, Receiver
from connectors.pace import Pace
from engine.changes import ChangeBatch, SchemaChange
from engine.errors import EngineError, TransientError
from engine.source import SourceOptions


def batches(
    receiver: Receiver,
    framer: Framer,
    assembler: Assembler,
    options: SourceOptions,
    refused: Callable[[Refused], EngineError],
) -> Iterator[ChangeBatch | SchemaChange]:
    """Assemble what the receiver gets until it is closed. Raises what ended it.

    `refused` says which error an error packet of the server is.
    """
    pace = Pace(options.batch_window, options.batch_bytes)
    inbox = receiver.inbox
    while True:
        chunks = inbox.take(pace.timeout(assembler), gather=pace.gather())
        if chunks is None:
            return
        if chunks:
            pace.data(chunks[0].arrived)
        while chunks:
            for run in framer.feed(_gathered(chunks, options.batch_bytes // 4)):
                if isinstance(run, Refused):
                    raise refused(run)
                if isinstance(run, Ended):
                    raise TransientError("streaming the binary log: the server ended the stream")
                for item in assembler.feed(run):
                    pace.sent(assembler)
                    yield item
        if pace.due(assembler, inbox.size):
            out = assembler.flush()
            pace.sent(assembler)
            yield from out


def _gathered(chunks: list[Chunk], most: int) -> bytes:
    """Take chunks of about `most` bytes off the front of the list.

    Framing and assembling have a cost per run of events, whatever its length; and what is made of a run is in memory
    at once.
    """
    size = count = 0
    while count < len(chunks) and size < most:
        size += len(chunks[count].data)
        count += 1
    taken = [chunk.data for chunk in chunks[:count]]
    del chunks[:count]
    return taken[0] if count == 1 else b"".join(taken)
