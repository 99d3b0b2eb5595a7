"""Protocol buffers: the few fields of BuildKit's API that fleet looks at or sends, by their numbers.

The encoding is fixed for good (protobuf.dev, "Encoding"). The official runtime takes 60 ms to import, a fifth of what
`fleet build` may add to a build; docs/decisions/0004-libraries.md.
"""

from __future__ import annotations

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

Fields = dict[int, list[int | bytes]]
"""Field number -> values in their order: numbers, or the bytes of a text, a nested message or a fixed-size number."""


def fields(message: bytes) -> Fields:
    """The fields of one message; raises ValueError when it is torn."""
    found: Fields = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: int | bytes
        match tag & 7:
            case kind if kind == _VARINT:
                value, at = _varint(message, at)
            case kind if kind in {_FIXED64, _LENGTH, _FIXED32}:
                size, at = _varint(message, at) if kind == _LENGTH else ({_FIXED64: 8, _FIXED32: 4}[kind], at)
                value, at = message[at : at + size], at + size
            case kind:
                raise ValueError(f"wire type {kind} is not in use")
        if at > len(message):
            raise ValueError("the message is torn")
        found.setdefault(tag >> 3, []).append(value)
    return found


def messages(found: Fields, number: int) -> list[Fields]:
    """The nested messages of a repeated field."""
    return [fields(value) for value in found.get(number, ()) if isinstance(value, bytes)]


def text(found: Fields, number: int) -> str:
    """A text field, the last one given; empty when there is none."""
    value = found.get(number, [b""])[-1]
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def number(found: Fields, field: int) -> int:
    """A non-negative number, the last one given; 0 when there is none."""
    value = found.get(field, [0])[-1]
    return value if isinstance(value, int) else 0


def encoded(*given: tuple[int, bytes | str | int]) -> bytes:
    """A message of these fields: texts, nested messages, switches and non-negative numbers."""
    parts = []
    for field, value in given:
        if isinstance(value, int):
            parts.append(_written(field << 3 | _VARINT) + _written(value))
        else:
            content = value.encode() if isinstance(value, str) else value
            parts.append(_written(field << 3 | _LENGTH) + _written(len(content)) + content)
    return b"".join(parts)


def _written(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*digits, value))


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("the message is torn")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
