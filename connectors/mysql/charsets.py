"""The character sets of MySQL and MariaDB: from a column's bytes to the text that the server itself would send.

A byte sequence that the server stores but has no Unicode character for comes as it sends it, ``?``. Source of the
mappings: what the servers print for every code (a test asks them all again), written here as Python's codec of the
same set with the places where the servers differ. UTF-8 and single-byte sets cost no Python object per value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors import columnar
from engine.errors import DecodeError

_BY_COLLATION: Mapping[str, tuple[range, ...]] = {
    "utf8mb4": (range(45, 47), range(224, 248), range(255, 512), range(608, 640), range(2304, 2560)),
    "utf8mb3": (range(33, 34), range(76, 77), range(83, 84), range(192, 224), range(576, 608), range(2048, 2304)),
    "latin1": (range(5, 6), range(8, 9), range(15, 16), range(31, 32), range(47, 50), range(94, 95)),
    "ucs2": (range(35, 36), range(90, 91), range(128, 160), range(640, 672), range(2560, 2816)),
    "utf16": (range(54, 56), range(101, 128), range(672, 704), range(2816, 3072)),
    "utf16le": (range(56, 57), range(62, 63)),
    "utf32": (range(60, 62), range(160, 192), range(736, 768), range(3072, 3328)),
    "gb18030": (range(248, 251),),
    **{
        name: tuple(range(i, i + 1) for i in ids)
        for name, ids in {
            "big5": (1, 84),
            "latin2": (2, 9, 21, 27, 77),
            "dec8": (3, 69),
            "cp850": (4, 80),
            "hp8": (6, 72),
            "koi8r": (7, 74),
            "swe7": (10, 82),
            "ascii": (11, 65),
            "ujis": (12, 91),
            "sjis": (13, 88),
            "cp1251": (14, 23, 50, 51, 52),
            "hebrew": (16, 71),
            "tis620": (18, 89),
            "euckr": (19, 85),
            "latin7": (20, 41, 42, 79),
            "koi8u": (22, 75),
            "gb2312": (24, 86),
            "greek": (25, 70),
            "cp1250": (26, 34, 44, 66, 99),
            "gbk": (28, 87),
            "cp1257": (29, 58, 59),
            "latin5": (30, 78),
            "armscii8": (32, 64),
            "cp866": (36, 68),
            "keybcs2": (37, 73),
            "macce": (38, 43),
            "macroman": (39, 53),
            "cp852": (40, 81),
            "cp1256": (57, 67),
            "binary": (63,),
            "geostd8": (92, 93),
            "cp932": (95, 96),
            "eucjpms": (97, 98),
        }.items()
    },
}
"""Collation numbers. MariaDB's NOPAD collations are those of 1 to 255 plus 1024."""
_NOPAD = 1024

_SINGLE: Mapping[str, tuple[str, str, Mapping[int, str]]] = {
    "latin1": ("cp1252", "", {code: chr(code) for code in (0x81, 0x8D, 0x8F, 0x90, 0x9D)}),
    "latin2": ("iso8859-2", "", {}),
    "latin5": ("iso8859-9", "", {}),
    "latin7": ("iso8859-13", "", {}),
    "greek": ("iso8859-7", "", {0xA1: "\u02bd", 0xA2: "\u02bc", 0xA4: "?", 0xA5: "?", 0xAA: "?"}),
    "hebrew": ("iso8859-8", "", {0xAF: "\u203e"}),
    "koi8r": ("koi8-r", "", {}),
    "koi8u": ("koi8-u", "", {0x95: "\u2022"}),
    "cp850": ("cp850", "", {}),
    "cp852": ("cp852", "", {}),
    "cp866": ("cp866", "", {0xFC: "\u207f", 0xFD: "\xb2"}),
    "cp1250": ("cp1250", "", {}),
    "cp1251": ("cp1251", "", {}),
    "cp1256": ("cp1256", "", dict.fromkeys((0x8A, 0x8F, 0x98, 0x9A, 0x9F, 0xAA, 0xC0, 0xFF), "?")),
    "cp1257": ("cp1257", "", {}),
    "macroman": ("mac-roman", "", {}),
    "macce": ("mac-latin2", "", {}),
    "hp8": ("hp-roman8", "", {}),
    "tis620": ("tis-620", "", dict.fromkeys((0xA0, *range(0xDB, 0xDF), *range(0xFC, 0x100)), "\ufffd")),
    "ascii": ("ascii", "", {}),
    "swe7": ("ascii", "", dict(zip(b"@[\\]^`{|}~\x7f", "ÉÄÖÅÜéäöåü?", strict=True))),
    "dec8": (
        "latin-1",
        "",
        {
            **dict.fromkeys((0xA4, 0xA6, 0xAC, 0xAD, 0xAE, 0xAF, 0xB4, 0xB8, 0xBE, 0xD0, 0xDE, 0xF0, 0xFE, 0xFF), "?"),
            0xA8: "¤",
            0xD7: "Œ",
            0xDD: "Ÿ",
            0xF7: "œ",
            0xFD: "ÿ",
        },
    ),
    "armscii8": (
        "latin-1",
        "❁§։)(»«—.՝,-՟…՜՛՞ԱաԲբԳգԴդԵեԶզԷէԸըԹթԺժԻիԼլԽխԾծԿկՀհՁձՂղՃճՄմՅյՆնՇշՈոՉչՊպՋջՌռՍսՎվՏտՐրՑցՒւՓփՔքՕօՖֆ’'",
        {},
    ),
    "geostd8": (
        "latin-1",
        "აბგდევზჱთიკლმნჲოპჟრსტჳუფქღყშჩცძწჭხჴჯჰჵ???????????????????????№??",
        dict(zip(range(0x80, 0xA0), "€?‚?„…†‡?‰?‹?????‘’“”•–—???›????", strict=True)),
    ),
    "keybcs2": (
        "latin-1",
        "ČüéďäĎŤčěĚĹÍľĺÄÁÉžŽôöÓůÚýÖÜŠĽÝŘťáíóúňŇŮÔšřŕŔ¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\xa0",
        {},
    ),
}
"""Single-byte sets: Python's codec, the characters of the highest codes (as many as are given), and exceptions."""


def of_collation(number: int) -> str:
    """The character set of a collation, by its number in the protocol. Raises DecodeError for one not known here."""
    name = _collations().get(number)
    if name is None:
        raise DecodeError(f"collation {number} is not known")
    return name


@cache
def _collations() -> dict[int, str]:
    known = {i: name for name, ranges in _BY_COLLATION.items() for numbers in ranges for i in numbers}
    return known | {i + _NOPAD: name for i, name in known.items() if i < 256}


def decode(character_set: str, values: pa.Array) -> pa.Array:
    """Decode a binary array to strings. Raises DecodeError for an unknown set, or bytes that are no text in it."""
    name = "utf8mb3" if character_set == "utf8" else character_set
    try:
        if name in _UTF8:
            return _as_text(values)
        if name in _SINGLE:
            return _single(name, values)
        if name in _MULTIPLE:
            return _multiple(name, values)
        if name in _WIDE:
            return _per_distinct(values, lambda value: value.decode(_WIDE[name]))
    except (UnicodeError, pa.ArrowInvalid):
        # the original error is dropped on purpose: it quotes the value
        raise DecodeError(f"a value is no text of character set {name}") from None
    raise DecodeError(f"character set {name} is not known")


_UTF8 = frozenset({"utf8mb4", "utf8mb3"})
_WIDE = {"ucs2": "utf-16-be", "utf16": "utf-16-be", "utf16le": "utf-16-le", "utf32": "utf-32-be"}


def _as_text(values: pa.Array) -> pa.Array:
    return values.cast(pa.large_string() if pa.types.is_large_binary(values.type) else pa.string())


def _data(values: pa.Array) -> tuple[npt.NDArray[np.uint8], columnar.Offsets]:
    """The bytes of all values behind one another, and where each begins (and the last ends) in them."""
    width = np.int64 if pa.types.is_large_binary(values.type) else np.int32
    _, offsets, data = values.buffers()
    if offsets is None or not len(values):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    bounds = np.frombuffer(offsets, width)[values.offset : values.offset + len(values) + 1].astype(np.int64)
    stored = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return stored[bounds[0] : bounds[-1]], bounds - bounds[0]


def _is_ascii(data: npt.NDArray[np.uint8]) -> bool:
    return not len(data) or int(data.max()) < 0x80


class _Table(NamedTuple):
    """UTF-8 of each byte: three bytes of room, and how many of them count."""

    bytes: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int64]
    plain_ascii: bool


@cache
def _table(name: str) -> _Table:
    codec, top, exceptions = _SINGLE[name]
    characters = [bytes([code]).decode(codec, "replace").replace("\ufffd", "?") for code in range(256)]
    characters[256 - len(top) :] = top
    for code, character in exceptions.items():
        characters[code] = character
    room, lengths = np.zeros((256, 3), np.uint8), np.zeros(256, np.int64)
    for code, character in enumerate(characters):
        encoded = character.encode()
        room[code, : len(encoded)] = list(encoded)
        lengths[code] = len(encoded)
    return _Table(room, lengths, characters[:128] == [chr(i) for i in range(128)])


def _single(name: str, values: pa.Array) -> pa.Array:
    table = _table(name)
    data, bounds = _data(values)
    if table.plain_ascii and _is_ascii(data):
        return _as_text(values)
    lengths = table.lengths[data]
    ends = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    out = table.bytes[data][np.arange(3) < lengths[:, None]]
    offsets = ends[bounds]
    large = offsets[-1] >= 1 << 31
    null = None if not values.null_count else columnar.bitmap(values.is_valid().to_numpy(zero_copy_only=False))
    return pa.Array.from_buffers(
        pa.large_string() if large else pa.string(),
        len(values),
        [null, pa.py_buffer(offsets if large else offsets.astype(np.int32)), pa.py_buffer(out)],
    )


def _per_distinct(values: pa.Array, decoded: Callable[[bytes], str]) -> pa.Array:
    encoded = values.dictionary_encode()
    texts = pa.array([decoded(value) for value in encoded.dictionary.to_pylist()], pa.string())
    return texts.take(encoded.indices)


def _multiple(name: str, values: pa.Array) -> pa.Array:
    if _is_ascii(_data(values)[0]):
        return _as_text(values)
    known = _MULTIPLE[name]

    def decoded(value: bytes) -> str:
        if not any(sequence in value for sequence in known.doubtful):
            try:
                return value.decode(known.codec)
            except UnicodeDecodeError:
                pass
        return _walked(known, value)

    return _per_distinct(values, decoded)


class _Multiple(NamedTuple):
    """A set of characters of several bytes: Python's codec, where the server differs (`doubtful`: those that the
    codec takes for something else), how long a character is, and the server's own of the rest."""

    codec: str
    exceptions: Mapping[bytes, str]
    doubtful: tuple[bytes, ...]
    length: Callable[[bytes, int], int]
    other: Callable[[bytes], str]


def _walked(known: _Multiple, value: bytes) -> str:
    """Decode character by character. Raises UnicodeError for half a character."""
    out, at = [], 0
    while at < len(value):
        end = at + known.length(value, at)
        if end > len(value):
            raise UnicodeError
        character = value[at:end]
        exception = known.exceptions.get(character)
        if exception is None:
            try:
                exception = character.decode(known.codec)
            except UnicodeDecodeError:
                exception = known.other(character)
        out.append(exception)
        at = end
    return "".join(out)


def _two(value: bytes, at: int) -> int:
    return 1 if value[at] < 0x80 else 2


def _shift(value: bytes, at: int) -> int:
    return 1 if value[at] < 0x80 or 0xA1 <= value[at] <= 0xDF else 2


def _euc(value: bytes, at: int) -> int:
    return 1 if value[at] < 0x80 else 3 if value[at] == 0x8F else 2


def _gb18030(value: bytes, at: int) -> int:
    if value[at] < 0x80:
        return 1
    return 4 if at + 1 < len(value) and 0x30 <= value[at + 1] <= 0x39 else 2


def _unmapped(_: bytes) -> str:
    return "?"


def _user_defined(character: bytes) -> str:
    """The private rows of EUC code sets 1 and 3."""
    row, cell = character[-2] - 0xF5, character[-1] - 0xA1
    if row < 0 or not 0 <= cell < 94:
        return "?"
    return chr((0xE3AC if len(character) == 3 else 0xE000) + 94 * row + cell)


_IBM = (
    "ⅰⅱⅲⅳⅴⅵⅶⅷⅸⅹⅠⅡⅢⅣⅤⅥⅦⅧⅨⅩ＇＂㈱№℡炻仼僴凬匇匤﨎咊坙﨏\ufa10增寬峵嵓﨑德悅愠敎昻晥\ufa12\uf929栁﨓﨔橫櫢淸淲瀨\ufa15\ufa16甁皂皞\ufa17礰\ufa18"
    "\ufa19\ufa1a\ufa1b竧\ufa1c\ufa1d綠緖\ufa1e荢﨟薰\ufa20﨡蠇\ufa22譿賴赶﨣﨤\ufa25郞\ufa26鄕﨧﨨閒\uf9dc﨩霻靍靑\ufa2a\ufa2b"
    "\ufa2c馞髙魲\ufa2d黑"
)
_IBM_ROWS = [bytes([0x8F, row, cell]) for row in (0xF3, 0xF4) for cell in range(0xA1, 0xFF)][82:]
_EUCJPMS = dict(zip(_IBM_ROWS, _IBM, strict=True))


def _microsoft(character: bytes) -> str:
    """The row that Microsoft added to code set 1, by way of its Shift_JIS."""
    if len(character) == 2 and 0xA1 <= character[0] < 0xF5:
        row, cell = character[0] - 0xA0, character[1] - 0xA0
        high = (row + 1) // 2 + (0x80 if row <= 62 else 0xC0)
        low = cell + (0x9E if row % 2 == 0 else 0x3F if cell < 64 else 0x40)
        try:
            return bytes([high, low]).decode("cp932")
        except (UnicodeDecodeError, ValueError):
            return "?"
    return _user_defined(character) if len(character) > 1 else "?"


def _differing(pairs: Mapping[str, str]) -> tuple[Mapping[bytes, str], tuple[bytes, ...]]:
    known = {bytes.fromhex(code): character for code, character in pairs.items()}
    return known, tuple(known)


_BIG5 = dict.fromkeys(("a15a", "a1c3", "a1c5", "a1fe", "a240", "a2cc", "a2ce"), "\ufffd")
_ETEN = dict(zip((bytes([0xF9, c]) for c in range(0xD6, 0xDD)), "碁銹裏墻恒粧嫺", strict=True))
_MS = {
    "8fa2b7": "\uff5e",
    "8fa2c3": "\uffe4",
    "a1c1": "\uff5e",
    "a1c2": "\u2225",
    "a1dd": "\uff0d",
    "a1f1": "\uffe0",
    "a1f2": "\uffe1",
    "a2cc": "\uffe2",
}

_MULTIPLE: Mapping[str, _Multiple] = {
    "sjis": _Multiple("shift_jis", *_differing({"815f": "\\"}), _shift, _unmapped),
    "cp932": _Multiple("cp932", {}, (), _shift, _unmapped),
    "ujis": _Multiple("euc_jp", *_differing({"a1c0": "\\"}), _euc, _user_defined),
    "eucjpms": _Multiple("euc_jp", {**_differing(_MS)[0], **_EUCJPMS}, _differing(_MS)[1], _euc, _microsoft),
    "gbk": _Multiple("gbk", {}, (), _two, _unmapped),
    "gb2312": _Multiple("gb2312", {}, (), _two, _unmapped),
    "gb18030": _Multiple("gb18030", *_differing({"a8bc": "\u1e3f"}), _gb18030, _unmapped),
    "big5": _Multiple("big5", {**_differing(_BIG5)[0], **_ETEN}, _differing(_BIG5)[1], _two, _unmapped),
    "euckr": _Multiple("cp949", {}, (), _two, _unmapped),
}
CHARACTER_SETS = frozenset({*_UTF8, *_SINGLE, *_MULTIPLE, *_WIDE})
"""Every character set that `decode` knows."""
