"""What the OME-XML of an OME-TIFF says of its images.

https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from pipeline.errors import SlideError
from pipeline.geometry import Shape
from pipeline.readers.units import micrometres

__all__ = ["OmeImage", "ome_images", "parse_xml"]


@dataclass(frozen=True, slots=True)
class OmeImage:
    """One image: its size, its scale, and the numbers of the TIFF images with its channels."""

    name: str
    shape: Shape
    pages: tuple[int, ...]
    mpp: tuple[float, float] | None
    objective: float | None


def parse_xml(name: str, text: str) -> ET.Element:
    """Parse a description's XML without the namespaces of its tags.

    Raises `SlideError` where it is none, or would define entities.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise SlideError(f"{name}: its XML defines a document type, which no slide needs")
    try:
        root = ET.fromstring(text)  # noqa: S314 - no entity can be defined
    except ET.ParseError as error:
        raise SlideError(f"{name}: its XML cannot be read: {error}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def ome_images(name: str, text: str) -> list[OmeImage]:
    """Give the images of an OME-XML that hold 8-bit RGB or grey.

    Raises `SlideError` where there is none, saying what there is.
    """
    root = parse_xml(name, text)
    refused, found = [], []
    for image in root.iter("Image"):
        pixels = image.find("Pixels")
        if pixels is None:
            continue
        why = _refusal(pixels)
        if why:
            refused.append(f"{image.get('Name') or image.get('ID') or 'an image'}: {why}")
            continue
        try:
            found.append(_image(root, image, pixels))
        except ValueError as error:
            raise SlideError(f"{name}: its OME-XML holds no number: {error}") from error
    if not found:
        raise SlideError(
            f"{name}: no 8-bit RGB or grey image in this OME-TIFF ({'; '.join(refused) or 'empty'})"
        )
    return found


def _refusal(pixels: ET.Element) -> str | None:
    kind = pixels.get("Type", "")
    if kind not in ("uint8", "int8"):
        return f"samples of type {kind}"
    sizes = {axis: pixels.get(f"Size{axis}", "1") for axis in "CZT"}
    if sizes["Z"] != "1" or sizes["T"] != "1":
        return f"{sizes['Z']} focal planes and {sizes['T']} times"
    if sizes["C"] not in ("1", "3", "4"):
        return f"{sizes['C']} channels"
    named = {each.get("FileName") for uuid in pixels.iter("UUID") for each in [uuid]} - {None}
    if len(named) > 1:
        return f"spread over {len(named)} files"
    return None


def _image(root: ET.Element, image: ET.Element, pixels: ET.Element) -> OmeImage:
    channels = int(pixels.get("SizeC", "1"))
    samples = sum(int(each.get("SamplesPerPixel", "1")) for each in pixels.findall("Channel")[:1])
    count = 1 if samples == channels else channels
    y, x = _length_um(pixels, "Y"), _length_um(pixels, "X")
    return OmeImage(
        name=image.get("Name", ""),
        shape=(int(pixels.get("SizeY", "0")), int(pixels.get("SizeX", "0"))),
        pages=tuple(_pages(pixels, count)),
        mpp=None if y is None or x is None else (y, x),
        objective=_magnification(root, image),
    )


def _pages(pixels: ET.Element, count: int) -> Iterator[int]:
    """Give the TIFF image of each channel; where blocks are not listed they follow each other."""
    listed = {}
    for block in pixels.findall("TiffData"):
        first, start = int(block.get("FirstC", "0")), int(block.get("IFD", "0"))
        for i in range(min(int(block.get("PlaneCount", "1")), count)):
            listed[first + i] = start + i
    start = listed.get(0, 0)
    return (listed.get(channel, start + channel) for channel in range(count))


def _length_um(pixels: ET.Element, axis: str) -> float | None:
    length = float(pixels.get(f"PhysicalSize{axis}", "0"))
    um = length * micrometres(pixels.get(f"PhysicalSize{axis}Unit", "um"))
    return um if math.isfinite(um) and um > 0 else None


def _magnification(root: ET.Element, image: ET.Element) -> float | None:
    settings = image.find("ObjectiveSettings")
    for objective in root.iter("Objective"):
        if settings is not None and objective.get("ID") == settings.get("ID"):
            value = float(objective.get("NominalMagnification", "0"))
            return value if math.isfinite(value) and value > 0 else None
    return None
