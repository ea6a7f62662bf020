"""Numpy gathers from a run of row images into Arrow arrays: the hot path of the binary decoders.

A decoder collects many rows as one buffer and a vector of offsets, and walks the columns once: every column is a few
operations over all rows. No function here makes a Python object per value, and none looks behind the buffer's end:
an offset outside of it raises IndexError (callers check offsets against their message's end first, and turn what is
left into a typed error). Offsets are int64 vectors and never negative.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Offsets = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_INT32_LIMIT = (1 << 31) - 1


class Raw:
    """A buffer of row images with gathers of fixed-width big-endian (network order) values at arbitrary offsets."""

    __slots__ = ("_views", "buffer", "size", "u8")

    def __init__(self, data: bytes) -> None:
        self.buffer = pa.py_buffer(data)
        self.size = len(data)
        self.u8: npt.NDArray[np.uint8] = np.frombuffer(data, np.uint8)
        self._views: dict[str, npt.NDArray[np.generic]] = {}

    def at(self, dtype: str, offsets: Offsets) -> npt.NDArray[np.generic]:
        """Gather values of `dtype` (byte order included, like ``>i4``) starting at `offsets`, in that byte order.

        The buffer is seen as an array whose elements overlap (stride 1), so one fancy index does it.
        """
        view = self._views.get(dtype)
        if view is None:
            width = np.dtype(dtype).itemsize
            if self.size < width:
                if len(offsets):
                    raise IndexError("offset behind the end of the buffer")
                return np.empty(0, dtype)
            view = np.ndarray((self.size - width + 1,), dtype, self.buffer, strides=(1,))
            self._views[dtype] = view
        return view[offsets]

    def i16(self, offsets: Offsets) -> Offsets:
        """Signed 16-bit values, widened."""
        return self.at(">i2", offsets).astype(np.int64)

    def i32(self, offsets: Offsets) -> Offsets:
        """Signed 32-bit values, widened."""
        return self.at(">i4", offsets).astype(np.int64)

    def i64(self, offsets: Offsets) -> Offsets:
        """Signed 64-bit values."""
        return self.at(">i8", offsets).astype(np.int64)

    def u64(self, offsets: Offsets) -> npt.NDArray[np.uint64]:
        """Unsigned 64-bit values."""
        return self.at(">u8", offsets).astype(np.uint64)

    def binary(self, starts: Offsets, lengths: Offsets, valid: Mask | None = None) -> pa.Array:
        """Variable-length values as a binary array (large_binary for 2 GiB and more); NULL where not `valid`.

        The bytes are copied by Arrow's take over an array laid on this very buffer, in which gaps and values
        alternate. That needs offsets that do not decrease; values in another order, or the same value twice, take a
        detour through the sorted distinct ones. Equal starts must mean equal lengths (of valid values).
        """
        ends = starts + lengths
        if len(starts) == 0:
            return pa.array([], pa.binary())
        if lengths.min() < 0 or ends.max() > self.size or starts.min() < 0:
            raise IndexError("value outside of the buffer")
        if bool((starts[1:] >= ends[:-1]).all()):
            picks = np.arange(1, 2 * len(starts), 2)
        else:
            keys = np.where(valid, starts, -1) if valid is not None else starts
            _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
            starts, ends = starts[first], ends[first]
            if valid is not None and not valid[first[0]]:
                starts[0] = ends[0] = 0
            picks = 2 * inverse.reshape(-1) + 1
        offsets = np.empty(2 * len(starts) + 1, np.int64)
        offsets[0] = 0
        offsets[1::2] = starts
        offsets[2::2] = ends
        if bool((offsets[1:] < offsets[:-1]).any()):
            raise IndexError("values overlap")
        small = self.size <= _INT32_LIMIT
        spans = pa.Array.from_buffers(
            pa.binary() if small else pa.large_binary(),
            len(offsets) - 1,
            [None, pa.py_buffer(offsets.astype(np.int32) if small else offsets), self.buffer],
        )
        taken = spans.take(pa.array(picks))
        return with_validity(taken, valid)


def bitmap(valid: Mask) -> pa.Buffer:
    """An Arrow validity bitmap (least significant bit first)."""
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


def with_validity(array: pa.Array, valid: Mask | None) -> pa.Array:
    """The same flat array with another validity: NULL where not `valid`. None: every value counts."""
    if valid is None or bool(valid.all()):
        return array
    buffers = array.buffers()
    return pa.Array.from_buffers(array.type, len(array), [bitmap(valid), *buffers[1:]], offset=array.offset)


def fixed(values: npt.NDArray[np.generic], arrow_type: pa.DataType, valid: Mask | None = None) -> pa.Array:
    """Wrap native-order fixed-width values as an Arrow array of `arrow_type` (same width), NULL where not `valid`."""
    data = np.ascontiguousarray(values)
    if data.dtype.byteorder == ">":
        data = data.astype(data.dtype.newbyteorder("="))
    null = None if valid is None or bool(valid.all()) else bitmap(valid)
    return pa.Array.from_buffers(arrow_type, len(values), [null, pa.py_buffer(data)])


def booleans(values: Mask, valid: Mask | None = None) -> pa.BooleanArray:
    """Wrap a boolean vector as an Arrow array, NULL where not `valid`."""
    null = None if valid is None or bool(valid.all()) else bitmap(valid)
    array: pa.BooleanArray = pa.Array.from_buffers(pa.bool_(), len(values), [null, bitmap(values)])
    return array


def valid_mask(array: pa.Array) -> Mask | None:
    """The validity of an array as a boolean vector, None when it holds no NULL."""
    if array.null_count == 0:
        return None
    mask: Mask = array.is_valid().to_numpy(zero_copy_only=False)
    return mask
