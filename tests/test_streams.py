"""What compressed streams say of their size, held against what encoders were given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest

from pipeline.readers.streams import check_stream, stream_shape

PIXELS = np.zeros((60, 100, 3), np.uint8)

ENCODERS: dict[str, Callable[..., Any]] = {
    "JPEG": imagecodecs.jpeg8_encode,
    "JPEG-LS": imagecodecs.jpegls_encode,
    "JPEG 2000": lambda pixels: bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k")),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_stream_says_its_rows_and_columns(name: str) -> None:
    data = bytes(ENCODERS[name](PIXELS))
    assert stream_shape(data) == (60, 100)
    check_stream(data, (100, 60))
    with pytest.raises(ValueError, match="it is 100 x 60 px, where 59 x 100 are"):
        check_stream(data, (100, 59))


def test_a_marker_may_be_filled_up() -> None:
    data = bytes(imagecodecs.jpeg8_encode(PIXELS))
    assert stream_shape(data[:2] + b"\xff\xff" + data[2:]) == (60, 100)


NOTHING = [
    *(b"", b"\xff", b"\xff\xd8", bytes(999)),
    b"\xff\xd8\xff\xff\xff",
    b"\xff\xd8" + bytes(99),
    b"\xff\xd8\xff\xda" + bytes(99),
]


@pytest.mark.parametrize("data", NOTHING)
def test_what_is_no_such_stream_says_nothing(data: bytes) -> None:
    assert stream_shape(data) is None
    check_stream(data, (1, 1))
