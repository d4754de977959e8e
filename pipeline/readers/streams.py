"""How large the image in a compressed stream is, as its header says: before it is decoded."""

from __future__ import annotations

import struct

from pipeline.geometry import Shape

__all__ = ["check_stream", "jpeg2000_shape", "stream_shape"]

_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Markers that begin a frame of JPEG, and of JPEG-LS."""

_JPEG2000 = b"\xff\x4f\xff\x51"


def check_stream(data: bytes, most: Shape) -> None:
    """Raise `ValueError` where a stream says that its image has more pixels than ``most``.

    A decoder takes gigabytes, and minutes, for what a few bytes say.
    """
    said = stream_shape(data)
    if said is not None and said[0] * said[1] > most[0] * most[1]:
        raise ValueError(
            f"a tile says that it is {said[1]} x {said[0]} px, where {most[1]} x {most[0]} are"
        )


def stream_shape(data: bytes) -> Shape | None:
    """Give the (rows, columns) that a stream of JPEG, JPEG-LS or JPEG 2000 says it has.

    None where it is none of these, or says nothing. ISO 10918-1, B.2; ISO 14495-1, C.2.
    """
    if data[:4] == _JPEG2000:
        return jpeg2000_shape(data)[:2]
    at = 2 if data[:2] == b"\xff\xd8" else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _FRAMES:
            rows, columns = struct.unpack_from(">2H", data, at + 5)
            return (rows, columns)
        at += 1 if marker == 0xFF else 2 + length  # a marker may be filled up in front
    return None


def jpeg2000_shape(data: bytes) -> tuple[int, int, int]:
    """Read a codestream's SIZ marker (ISO 15444-1, A.5.1); a JP2 box may come before it.

    Gives rows, columns and components; none of each where there is no such marker.
    """
    at = data.find(_JPEG2000, 0, 4096)
    if at < 0 or len(data) < at + 42:
        return (0, 0, 0)
    width, height, left, top = (
        int.from_bytes(data[at + i : at + i + 4], "big") for i in (8, 12, 16, 20)
    )
    return (height - top, width - left, int.from_bytes(data[at + 40 : at + 42], "big"))
