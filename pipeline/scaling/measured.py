"""The constants that `pipeline.scaling` reckons with: each with where it was measured.

"Measured" in the README has the figures, ``python -m tests.benchmarks`` makes them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["CEILINGS", "COSTS", "TYPICAL", "TYPICAL_SAID", "Ceilings", "Costs", "Load", "Slides"]


@dataclass(frozen=True, slots=True)
class Costs:
    """What is paid beside a model's work; measured on two cores of a virtual machine (Xeon).

    Seconds are of CPU but for ``open_s`` and ``close_s``, of which a slide has to wait.
    """

    block_s: float = 0.0026
    """Client and scheduler, per block: ``python -m tests.benchmarks --only overhead``, 20,000 of
    them, on a machine that was busy."""

    slide_s: float = 0.48
    """Client, per slide: all of a run over 100,000 x 80,000 px whose blocks are done, the same with
    ``--only resume``; of a slide of 512 px it is 0.08, with ``--only "many slides"``."""

    open_s: float = 2.0
    """From a slide's turn to its first block: opening, finding tissue, planning. A slide of
    30,000 x 24,000 px took 0.9 to 4.3 s, without tissue, on a busy machine."""

    close_s: float = 1.0
    """From its last block to its end: coarser levels, commit, books. It took 0.1 s without
    coarser levels."""

    row_s: float = 0.7e-6
    """Writing a row of status.csv, all of them about once a second; 100,000 rows."""

    row_bytes: int = 110

    listed_bytes: int = 1_300
    """Memory of a client per slide of its run: its job, row and outcome; 100,000 slides."""


COSTS = Costs()


@dataclass(frozen=True, slots=True)
class Ceilings:
    """How far anything is to be used."""

    scheduler: float = 0.5
    """Part of one core that a scheduler and its client may be busy."""

    efficiency: float = 0.85
    """Least part of the workers' time that is work: below it there are more schedulers."""

    status_bytes_s: float = 10e6
    """Most that one run may write of its status.csv in a second, all rows each time."""

    client_bytes: float = 2**32
    """Most memory of a client for what it knows of its slides."""


CEILINGS = Ceilings()


@dataclass(frozen=True, slots=True)
class Load:
    """What one slide is for its workers: blocks, and seconds of one thread for all of them."""

    blocks: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Slides:
    """What the slides are like: some of them, and what one reads and writes, the mean.

    ``read_bytes`` are those of its file, None where that is not known; ``written_bytes`` are
    before compression.
    """

    loads: Sequence[Load]
    read_bytes: float | None
    written_bytes: float
    files: float

    @property
    def blocks(self) -> float:
        """Blocks of a slide, the mean."""
        return sum(load.blocks for load in self.loads) / len(self.loads)

    @property
    def seconds(self) -> float:
        """Seconds of one thread for a slide, the mean."""
        return sum(load.seconds for load in self.loads) / len(self.loads)


_SPREAD = (0.25, 0.5, 0.75, 1.0, 1.25, 2.25)
"""How slides differ in tissue, as parts of the mean."""

TYPICAL = Slides(
    tuple(Load(round(180 * part), 390.0 * part) for part in _SPREAD),
    read_bytes=1e9,
    written_bytes=180 * 128,
    files=42 + 180,
)
"""Slides of 100,000 x 80,000 px at 0.25 um, seen at 0.5 um by a classifier of ResNet-18's size.

A quarter is tissue: 7,600 patches of 256 px, in 180 of 500 blocks of 2048 px. A patch takes 45 ms
of one core (``python -m tests.benchmarks --only "classify tissue patches, ResNet-18"``), reading
2.9 Gpx at 63 Mpx/s 46 s (``--only "read at 0.5 um"``). Files and bytes are what `plan` says of such
a slide; 1 GB is what its file is taken to have.
"""

TYPICAL_SAID = (
    "a slide is taken to have 100,000 x 80,000 px at 0.25 um, a quarter of it tissue, 1 GB, and a "
    "model of ResNet-18's size to see it at 0.5 um on a CPU; with a run file it is what that has"
)
