"""The runtime of one replication instance: from a source's changes to an exact DuckDB replica."""

__version__ = "0.1.0"
