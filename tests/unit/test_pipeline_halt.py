"""What holds replication: several holders, several threads that wait, one phase."""

from __future__ import annotations

import threading

from engine.pipeline.halt import Halt, Holder
from engine.status import Phase, StatusBoard


def waiting(halt: Halt, count: int) -> list[threading.Thread]:
    threads = [threading.Thread(target=halt.wait, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def ended(threads: list[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(5)
    return not any(thread.is_alive() for thread in threads)


def test_the_phase_is_what_it_was_however_many_wait() -> None:
    board = StatusBoard()
    board.publish(phase=Phase.SNAPSHOT)
    halt = Halt(board)
    halt.wait()
    halt.add(Holder.OPERATOR)
    threads = waiting(halt, 3)
    assert board.wait(lambda s: s.phase is Phase.PAUSED and s.paused, 5)
    halt.remove(Holder.OPERATOR)
    assert ended(threads)
    assert (board.current.phase, board.current.paused) == (Phase.SNAPSHOT, False)


def test_memory_does_not_lift_a_pause_by_the_operator() -> None:
    board = StatusBoard()
    halt = Halt(board)
    halt.add(Holder.MEMORY)
    halt.add(Holder.OPERATOR)
    threads = waiting(halt, 1)
    halt.remove(Holder.MEMORY)
    threads[0].join(0.05)
    assert threads[0].is_alive()
    assert board.current.paused
    halt.clear()
    assert ended(threads)


def test_the_end_lets_everyone_go_on() -> None:
    halt = Halt(StatusBoard())
    halt.add(Holder.OPERATOR)
    threads = waiting(halt, 2)
    halt.end()
    assert ended(threads)
    halt.wait()
