"""Poll reload: a source of which nothing is asked but SELECT. Every interval all of its tables are read as of one state.

A round is one transaction of the stream: it empties the tables that it has read and fills them again, so that the
replica shows all of them at the round's moment, or none. `PollSource` does this over what a backend's `Reader` gives.
"""

from connectors.poll.position import Round
from connectors.poll.reader import Found, Reader, View, polled
from connectors.poll.source import PollSource

__all__ = ["Found", "PollSource", "Reader", "Round", "View", "polled"]
