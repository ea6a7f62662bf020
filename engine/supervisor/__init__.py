"""Runs one instance as a process: wires source, pipeline, replica and HTTP server, and ends them in order."""

from engine.supervisor.instance import run_instance
from engine.supervisor.preflight import ChecksFailed, effective_mode

__all__ = ["ChecksFailed", "effective_mode", "run_instance"]
