"""What a value decoder says when a value is sound but its column cannot take it; no message holds the value."""

from __future__ import annotations


class Unfit(Exception):
    """The replica type cannot hold this value exactly; the message is the stated rule."""


class Reshaped(Exception):
    """A composite value has other attributes than the column's type says."""
