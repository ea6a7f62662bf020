"""A signal ends the instance whichever thread it reaches."""

from __future__ import annotations

import signal
import threading
import time
from queue import SimpleQueue

import pytest

from engine.status import StatusBoard
from engine.supervisor.instance import Event, signals_to, wait_for_end


@pytest.mark.timeout(30)
def test_a_signal_that_another_thread_gets_is_noticed() -> None:
    """The system may give it to any thread, and only the main thread, which sleeps, runs handlers."""
    events: SimpleQueue[Event] = SimpleQueue()

    def interrupt() -> None:
        time.sleep(0.3)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    with signals_to(events):
        thread = threading.Thread(target=interrupt, daemon=True)
        thread.start()
        assert wait_for_end(events, StatusBoard()) is None
        thread.join(5)
