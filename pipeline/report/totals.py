"""A slide in a few numbers, as a row of the index keeps them, and the sums of all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from pipeline.report.gathered import Entry
from pipeline.report.sections import Section

__all__ = ["Summary", "Totals", "summary_of", "totals_of"]


@dataclass(frozen=True)
class Summary:
    """A slide in the index: mm2, blocks by state, objects by table, its picture.

    ``pictured`` says whether the slide itself could be drawn.
    """

    tissue: float | None = None
    analysed: float | None = None
    blocks: dict[str, int] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    classes: dict[str, float] = field(default_factory=dict)
    pictured: bool = False
    thumb: str = ""

    @property
    def kept(self) -> str:
        """Give it as text, without the picture."""
        return json.dumps({**asdict(self), "thumb": ""}, ensure_ascii=False)

    @classmethod
    def of(cls, kept: str) -> Summary:
        """Read it back; `ValueError` or `TypeError` where it is none."""
        return cls(**json.loads(kept))


def summary_of(section: Section) -> Summary:
    """Give a slide's row."""
    stored = section.entry.stored
    classes: dict[str, float] = {}
    if stored is not None:
        for each in section.labels:
            names = stored.classes(each.name)
            classes |= {f"{each.name}: {names[value]}": mm2 for value, mm2 in each.mm2.items()}
    return Summary(
        tissue=section.areas.tissue if section.areas else None,
        analysed=section.areas.analysed if section.areas else None,
        blocks=dict(section.blocks),
        objects={each.name: each.total for each in section.objects},
        classes=classes,
        pictured=section.pictured,
        thumb=section.thumb,
    )


@dataclass(frozen=True)
class Totals:
    """The sums of all slides."""

    states: Counter[str]
    tissue: float
    analysed: float
    blocks: Counter[str]
    objects: Counter[str]
    classes: dict[str, float]

    @property
    def slides(self) -> int:
        """How many there are."""
        return sum(self.states.values())


def totals_of(entries: Sequence[Entry], summaries: Iterable[Summary]) -> Totals:
    """Add up."""
    blocks: Counter[str] = Counter()
    objects: Counter[str] = Counter()
    classes: dict[str, float] = {}
    tissue = analysed = 0.0
    for each in summaries:
        tissue += each.tissue or 0
        analysed += each.analysed or 0
        blocks.update(each.blocks)
        objects.update(each.objects)
        for name, mm2 in each.classes.items():
            classes[name] = classes.get(name, 0) + mm2
    states = Counter(entry.state for entry in entries)
    return Totals(states, tissue, analysed, blocks, objects, classes)
