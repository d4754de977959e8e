"""Whole-slide images as lazy Dask arrays, ONNX models over every block, OME-Zarr out."""

from __future__ import annotations

__version__ = "0.1.0"
