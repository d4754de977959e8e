"""An ICC profile whose every colour numpy can compute."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

D50 = np.array([0.96420288, 1.0, 0.82490540])
"""The white of a profile's XYZ."""

SRGB_TO_XYZ = np.array(
    [
        [0.43606567, 0.38514709, 0.14307785],
        [0.22248840, 0.71687317, 0.06060791],
        [0.01391602, 0.09707642, 0.71409607],
    ]
)
"""Linear sRGB -> XYZ adapted to D50 (ICC's own sRGB profiles)."""

SCANNER = np.array([[0.55, 0.30, 0.114], [0.28, 0.65, 0.07], [0.02, 0.09, 0.715]])
"""Linear RGB of an imaginary scanner -> XYZ, before its white is made D50."""

GAMMA = 1.8


def profile(space: bytes = b"RGB ", gamma: float = GAMMA, name: str = "Scanner 7") -> bytes:
    """Give an ICC profile (version 2) of primaries and a gamma: the one of `SCANNER`."""
    columns = scanner().T
    described = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name.encode() + bytes(79)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    tags = {
        b"desc": described,
        b"wtpt": xyz(D50),
        **dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(xyz, columns), strict=True)),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    at, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += tag + struct.pack(">II", at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"none", 0x02400000, b"scnr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + xyz(D50)[8:] + bytes(48)
    assert len(head) == 128
    return head + table + body


def xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


def scanner() -> NDArray[np.float64]:
    """Give `SCANNER` with each row scaled so that its white is D50."""
    scaled: NDArray[np.float64] = SCANNER * (D50 / SCANNER.sum(1))[:, None]
    return scaled


def expected(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Give what `profile` means by pixels, in sRGB, unrounded: gamma, matrices, sRGB's curve."""
    linear = (pixels / 255) ** GAMMA @ scanner().T @ np.linalg.inv(SRGB_TO_XYZ).T
    linear = linear.clip(0, 1)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    exact: NDArray[np.float64] = curve * 255
    return exact
