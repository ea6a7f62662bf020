"""The pipeline: keeps one replica equal to one source, through snapshots, catch-up, streaming, errors and restarts.

It is a loop of sessions. A session plans from durable state, loads what must be loaded, and streams until something
asks for a new plan: an error, a schema change that needs a reload, a command. Whatever happens, the next session starts
from what the replica holds durably, so there is one way to recover and it is the way to start.
"""

from engine.pipeline.pipeline import Pipeline, PipelineSettings

__all__ = ["Pipeline", "PipelineSettings"]
