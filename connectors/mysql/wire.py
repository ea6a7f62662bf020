"""A bounds-checked cursor over one event's body, for what comes rarely enough to be parsed value by value.

Numbers of the binary log are little-endian. Source: MySQL source documentation, "Protocol Basics: Integer Types"
(dev.mysql.com).
"""

from __future__ import annotations

import struct

from engine.errors import DecodeError


class Cursor:
    """Reads forward through `data`; every read that would pass its end raises DecodeError naming `what`."""

    __slots__ = ("at", "data", "what")

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.at, self.what = data, 0, what

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.at

    def short(self) -> DecodeError:
        """The error for a body that ends too early."""
        return DecodeError(f"{self.what} ends too early")

    def malformed(self) -> DecodeError:
        """The error for a body whose content contradicts itself."""
        return DecodeError(f"{self.what} is malformed")

    def take(self, layout: str) -> tuple[int, ...]:
        """Read a struct of numbers."""
        end = self.at + struct.calcsize(layout)
        if end > len(self.data):
            raise self.short()
        values = struct.unpack_from(layout, self.data, self.at)
        self.at = end
        return values

    def raw(self, length: int) -> bytes:
        """Read `length` bytes."""
        end = self.at + length
        if end > len(self.data):
            raise self.short()
        value = self.data[self.at : end]
        self.at = end
        return value

    def number(self, length: int) -> int:
        """Read an unsigned number of `length` bytes."""
        return int.from_bytes(self.raw(length), "little")

    def lenenc(self) -> int:
        """Read a length-encoded integer (one byte below 251, or a marker and 2, 3 or 8 bytes)."""
        first = self.number(1)
        if first < 251:
            return first
        if first == 252:
            return self.number(2)
        if first == 253:
            return self.number(3)
        if first == 254:
            return self.number(8)
        raise self.malformed()

    def text(self, length: int) -> str:
        """Read `length` bytes of UTF-8."""
        raw = self.raw(length)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise DecodeError(f"a name in {self.what} is not UTF-8") from None

    def zero(self) -> None:
        """Read the zero byte behind a name."""
        if self.number(1):
            raise self.malformed()

    def until_zero(self) -> bytes:
        """Read bytes up to a zero byte, which is read too."""
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise self.short()
        value = self.data[self.at : end]
        self.at = end + 1
        return value

    def rest(self) -> bytes:
        """Read all that is left."""
        value = self.data[self.at :]
        self.at = len(self.data)
        return value

    def finish(self) -> None:
        """Verify that nothing is left."""
        if self.left:
            raise DecodeError(f"{self.what} is longer than its content")
