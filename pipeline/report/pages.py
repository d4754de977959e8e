"""The HTML of a report: templates in, self-contained pages out.

Every text is escaped by the templates. The policy in a page's head forbids whatever is not in the
page itself, and lets only its own style and script count.
"""

from __future__ import annotations

import base64
import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from pipeline import __version__
from pipeline.report.gathered import Entry, Gathered
from pipeline.report.numbers import Histogram
from pipeline.report.sections import MOST_FAILURES, Section
from pipeline.report.totals import Summary, Totals

__all__ = ["Parts", "drawn_by", "index_page", "row_of", "section_html", "slide_page"]

_FOLDER = files("pipeline.report") / "templates"
_NAMES = ("page.html", "index.html", "slide.html", "row.html", "macros.html")

_STAGE_COLOURS = {
    "read": "#56B4E9",
    "predict": "#0072B2",
    "finish": "#CC79A7",
    "write": "#E69F00",
}
_STATE_COLOURS = {
    "done": "#009E73",
    "partial": "#E69F00",
    "failed": "#D55E00",
    "refused": "#CC79A7",
    "damaged": "#D55E00",
    "no store": "#CC79A7",
    "unfinished": "#56B4E9",
    "running": "#56B4E9",
    "pending": "#999999",
}

MOST_REASONS = 200
"""Slides that are not done and are listed with their reasons; status.csv has all."""


@cache
def _sources() -> Mapping[str, str]:
    return {name: (_FOLDER / name).read_text("utf-8") for name in (*_NAMES, "style.css", "sort.js")}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=DictLoader(dict(_sources())),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "mm2": _mm2,
        "count": _count,
        "bars": _bars,
        "percent": _percent,
        "duration": _duration,
    }
    environment.globals |= {
        "stage_colours": _STAGE_COLOURS,
        "state_colours": _STATE_COLOURS,
        "most_failures": MOST_FAILURES,
        "most_reasons": MOST_REASONS,
        "style": Markup(_sources()["style.css"]),  # noqa: S704 - the package's own
        "script": Markup(_sources()["sort.js"]),  # noqa: S704 - the package's own
        "policy": _policy(),
        "version": __version__,
    }
    return environment


@cache
def drawn_by() -> str:
    """Give what tells pages of other versions of this package from these."""
    return hashlib.sha256("".join([__version__, *_sources().values()]).encode()).hexdigest()


def _policy() -> str:
    style, script = (_digest(_sources()[name]) for name in ("style.css", "sort.js"))
    return (
        f"default-src 'none'; img-src data:; style-src {style}; script-src {script}; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def section_html(section: Section, *, level: int) -> str:
    """Give a slide's part of a page; its title is a heading of ``level``."""
    return _environment().get_template("slide.html").render(s=section, level=level)


def row_of(entry: Entry, summary: Summary, link: str) -> str:
    """Give a slide's row of the index."""
    return _environment().get_template("row.html").render(e=entry, n=summary, link=link)


def slide_page(entry: Entry, body: str, back: str) -> str:
    """Give the page of one slide; ``back`` is the way to the index."""
    return (
        _environment()
        .get_template("page.html")
        .render(title=entry.slide_id, back=back, body=Markup(body))  # noqa: S704 - escaped before
    )


@dataclass(frozen=True)
class Parts:
    """What the index is put together of: HTML that was escaped before."""

    rows: Sequence[str]
    slides: Sequence[str]


def index_page(gathered: Gathered, totals: Totals, parts: Parts) -> Iterator[str]:
    """Give the report's page, piece by piece."""
    run: Mapping[str, Any] = gathered.runs[0] if gathered.runs else {}
    yield from (
        _environment()
        .get_template("index.html")
        .stream(
            g=gathered,
            t=totals,
            run=run,
            how=_how(gathered, run),
            made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            rows=map(Markup, parts.rows),
            slides=map(Markup, parts.slides),
            left=[each for each in gathered.entries if each.state != "done"],
        )
    )


def _how(gathered: Gathered, run: Mapping[str, Any]) -> str:
    """Say how the last run ended."""
    if run.get("ended"):
        return str(run.get("exit") or "broken off")
    if gathered.running:
        return "still going on"
    return "killed" if run else "not known"


def _mm2(value: float | None) -> str:
    """Say an area in three digits, or more where it is large."""
    if value is None:
        return "\u2013"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _count(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:,.0f}"


def _percent(part: float) -> str:
    return "0" if part == 0 else f"{100 * part:.1f}" if part >= 0.001 else "<0.1"


def _duration(seconds: float | None) -> str:
    """Say a time as people do.

    >>> _duration(9.87), _duration(125), _duration(7300)
    ('9.9 s', '2 min 5 s', '2 h 2 min')
    """
    if seconds is None:
        return "\u2013"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    hours, left = divmod(round(seconds / 60), 60)
    return f"{hours} h {left} min"


def _bars(histogram: Histogram) -> dict[str, Any]:
    """Give the bars of a histogram and its grid, heights by the logarithm of counts, 0 to 1."""
    low, high = histogram.limits
    width = (high - low) / len(histogram.counts)
    decades = max(math.ceil(math.log10(max(*histogram.counts, 10))), 1)
    # A single pixel is a bar too.
    heights = [math.log10(count) / decades if count else 0 for count in histogram.counts]
    bars = [
        {
            "from": low + i * width,
            "to": low + (i + 1) * width,
            "count": count,
            "height": max(height, 0.01) if count else 0,
        }
        for i, (count, height) in enumerate(zip(histogram.counts, heights, strict=True))
    ]
    step = 1 if decades <= 4 else 2
    ticks = [(_power(n), n / decades) for n in range(0, decades + 1, step)]
    return {"bars": bars, "ticks": ticks}


def _power(exponent: int) -> str:
    """Give a power of ten in few letters.

    >>> [_power(n) for n in (0, 2, 4, 8)]
    ['1', '100', '10 k', '100 M']
    """
    thousands, rest = divmod(exponent, 3)
    return f"{10**rest} {['', 'k', 'M', 'G'][thousands]}".strip()
