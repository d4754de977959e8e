"""Which images of a TIFF are the levels of one slide, which are its label and macro.

Read here: Aperio's SVS, OME-TIFF, QPTIFF of brightfield, and plain pyramids. Vendors whose
tiles overlap, are placed by metadata or lie in a JPEG of their own are left to OpenSlide.

Sources: https://openslide.org/formats/aperio/, https://openslide.org/formats/generic-tiff/,
https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html, and PerkinElmer's
"QPTIFF image format", 2017.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.errors import SlideError
from pipeline.readers.ranges import Bytes
from pipeline.readers.tiff.ome import ome_images, parse_xml
from pipeline.readers.tiff.page import Page, read_page
from pipeline.readers.tiff.tags import Directory, read_directories, sub_directories

__all__ = ["Pyramid", "read_pyramid"]

_ASPECT_PIXELS = 2
"""By how much the size of a reduced image may miss that of a whole division."""

_SOFTWARE, _XMP, _NDPI_FORMAT = 305, 700, 65420


@dataclass(frozen=True)
class Pyramid:
    """The images of one slide.

    ``levels`` are finest first; a level is one page, or three of one sample each. ``mpp`` is
    ``(y, x)`` um per level-0 pixel.
    """

    vendor: str
    levels: tuple[tuple[Page, ...], ...]
    associated: Mapping[str, Page] = field(default_factory=dict)
    mpp: tuple[float, float] | None = None
    objective: float | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


def read_pyramid(file: Bytes) -> Pyramid:
    """Find the slide in a TIFF.

    Raises `SlideError` where there is none that this reader can place, saying why.
    """
    directories = read_directories(file)
    if not directories:
        raise SlideError(f"{file.name}: a TIFF without an image")
    first = directories[0]
    foreign = _foreign(first)
    if foreign:
        raise SlideError(f"{file.name}: {foreign}, whose tiles only OpenSlide places")
    pages = [read_page(file.name, each) for each in directories]
    text = pages[0].description
    if text.startswith("Aperio"):
        return _aperio(pages)
    if "<OME" in text[:4096]:
        return _ome(file, pages)
    if "PerkinElmer-QPI-ImageDescription" in text[:4096]:
        return _qptiff(pages)
    return _plain(file, pages)


def _foreign(first: Directory) -> str | None:
    """Say which vendor's layout a file has that is more than a pyramid; None where it is not."""
    text, software = first.text(270)[:4096], first.text(_SOFTWARE)
    if _NDPI_FORMAT in first:
        return "Hamamatsu's NDPI"
    if "<iScan" in first.text(_XMP)[:4096] or "<iScan" in text:
        return "Ventana's BIF"
    if "leica-microsystems.com/scn" in text:
        return "Leica's SCN"
    if software.startswith("Philips") or "DPUfsImport" in text:
        return "Philips' TIFF"
    if software.startswith("MedScan"):
        return "Trestle's TIFF"
    return None


def _aperio(pages: list[Page]) -> Pyramid:
    tiled = [page for page in pages if page.tiled]
    facts = dict(_aperio_facts(pages[0].description))
    associated = {} if len(pages) < 2 or pages[1].tiled else {"thumbnail": pages[1]}
    for page in pages[2:]:
        name = _aperio_name(page.description)
        if not page.tiled and name:
            associated[name] = page
    mpp = _number(facts.get("MPP", ""))
    return Pyramid(
        vendor="aperio",
        levels=_finest_first(pages[0], tiled[1:] if tiled[:1] == pages[:1] else tiled),
        associated=associated,
        mpp=None if mpp is None else (mpp, mpp),
        objective=_number(facts.get("AppMag", "")),
        properties={f"aperio.{key}": value for key, value in facts.items()},
    )


def _aperio_facts(description: str) -> Iterator[tuple[str, str]]:
    for part in description.split("|")[1:]:
        key, _, value = part.partition("=")
        yield key.strip(), value.strip()


def _aperio_name(description: str) -> str:
    lines = description.splitlines()
    words = lines[1].split() if len(lines) > 1 else []
    return words[0] if words and words[0] in ("label", "macro") else ""


def _ome(file: Bytes, pages: list[Page]) -> Pyramid:
    images = ome_images(file.name, pages[0].description)
    largest = max(images, key=lambda image: image.shape[0] * image.shape[1])
    if not all(0 <= number < len(pages) for number in largest.pages):
        raise SlideError(
            f"{file.name}: its OME-XML names TIFF images {list(largest.pages)} of {len(pages)}"
        )
    planes = [pages[number] for number in largest.pages]
    below = [_sub_pages(file, page) for page in planes]
    if len({len(each) for each in below}) != 1:
        raise SlideError(f"{file.name}: its channels have pyramids of unequal height")
    levels = [tuple(planes), *zip(*below, strict=True)]
    associated = {
        image.name: pages[image.pages[0]]
        for image in images
        if image is not largest and image.name and len(image.pages) == 1
        if 0 <= image.pages[0] < len(pages)
    }
    return Pyramid(
        vendor="ome-tiff",
        levels=tuple(sorted(levels, key=lambda level: -level[0].shape[0] * level[0].shape[1])),
        associated=associated,
        mpp=largest.mpp,
        objective=largest.objective,
    )


def _qptiff(pages: list[Page]) -> Pyramid:
    kinds = [_qptiff_text(page, "ImageType") for page in pages]
    full = [page for page, kind in zip(pages, kinds, strict=True) if kind == "FullResolution"]
    if len(full) != 1:
        raise SlideError(
            f"{pages[0].name}: a QPTIFF of {len(full)} full images, one per fluorescence channel; "
            "only brightfield is read"
        )
    reduced = [page for page, kind in zip(pages, kinds, strict=True) if kind == "ReducedResolution"]
    names = {"Thumbnail": "thumbnail", "Overview": "macro", "Label": "label"}
    magnification = re.match(r"\d+(\.\d+)?", _qptiff_text(full[0], "Objective"))
    return Pyramid(
        vendor="qptiff",
        levels=_finest_first(full[0], reduced),
        associated={
            names[kind]: page for page, kind in zip(pages, kinds, strict=True) if kind in names
        },
        mpp=full[0].mpp,
        objective=float(magnification[0]) if magnification else None,
    )


def _qptiff_text(page: Page, name: str) -> str:
    text = page.description
    if not text.lstrip().startswith("<"):
        return ""
    found = parse_xml(page.name, text).find(f".//{name}")
    return "" if found is None or found.text is None else found.text.strip()


def _plain(file: Bytes, pages: list[Page]) -> Pyramid:
    first = pages[0]
    below = _sub_pages(file, first) or [
        page for page in pages[1:] if page.reduced and page.tiled == first.tiled
    ]
    return Pyramid(vendor="generic-tiff", levels=_finest_first(first, below), mpp=first.mpp)


def _sub_pages(file: Bytes, page: Page) -> list[Page]:
    return [read_page(file.name, each) for each in sub_directories(file, page.directory)]


def _finest_first(first: Page, below: list[Page]) -> tuple[tuple[Page, ...], ...]:
    """Give the first page and those below it that show all of it, as levels."""
    fitting = [page for page in below if _shows_the_same(first, page)]
    ordered = sorted(fitting, key=lambda page: -page.shape[0] * page.shape[1])
    return tuple((page,) for page in (first, *ordered))


def _shows_the_same(first: Page, page: Page) -> bool:
    """Say whether an image is the first one made smaller: the same part of the glass."""
    factors = [l0 / n for l0, n in zip(first.shape, page.shape, strict=True)]
    factor = factors[first.shape.index(max(first.shape))]  # there rounding weighs least
    return min(factors) >= 1 and all(
        abs(l0 / factor - n) <= _ASPECT_PIXELS
        for l0, n in zip(first.shape, page.shape, strict=True)
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
