"""``reflex-engine demo``: an embedded PostgreSQL, steady writes, and the engine on it."""

from engine.demo.session import run_demo

__all__ = ["run_demo"]
