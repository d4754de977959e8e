"""Messages of Protocol Buffers, which ONNX files are, field by field.

The format is at https://protobuf.dev/programming-guides/encoding; what a field means is said by
onnx.proto. Whatever the bytes are, the end is an error or the message's.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["fields", "parts", "varints"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_BITS = 64


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Give number and value of the fields of a message, but of those of four or eight bytes.

    A value is a number, or the bytes of a text, of packed numbers or of a message. Raises
    `ValueError` where it is no message.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == _BYTES:
            length, at = _varint(message, at)
            if length > len(message) - at:
                raise ValueError("a field goes on beyond its end")
            yield tag >> 3, message[at : at + length]
            at += length
        elif wire == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"a field is of an unknown kind, {wire}")
    if at > len(message):
        raise ValueError("a field goes on beyond its end")


def parts(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Give those of the `fields` that are bytes."""
    return ((number, value) for number, value in fields(message) if not isinstance(value, int))


def varints(packed: memoryview) -> Iterator[int]:
    """Give numbers that are packed together."""
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Give a number that is written seven bits a byte, least first, and where it ends."""
    value = 0
    for shift in range(0, _MOST_BITS + 6, 7):
        if at >= len(message):
            raise ValueError("a number is cut off")
        value |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:
            return value, at
    raise ValueError("a number does not end")
