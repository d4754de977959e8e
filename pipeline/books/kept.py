"""The run file and the slides of a run, as they were understood, beside its results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.books.names import CONFIG, MANIFEST, cannot_hold
from pipeline.config import RunConfig
from pipeline.config.runfile import dump_config, parse_config
from pipeline.errors import ConfigError
from pipeline.files import places
from pipeline.files.urls import join, shown
from pipeline.manifest.jobs import Job, jobs, manifest_text
from pipeline.results import ENDING

__all__ = ["Kept", "kept_config", "not_begun"]


@dataclass
class Kept:
    """What is kept of a run in its results directory.

    At once where nothing is kept there; else once a slide was not refused (`settle`): a run that
    is must not leave its settings beside the stores of another. Raises `ConfigError` where the
    directory cannot hold results.
    """

    config: RunConfig
    slides: Sequence[Job]
    folder: str

    def __post_init__(self) -> None:
        self._settled = False
        try:
            earlier = places.exists(join(self.folder, CONFIG))
        except OSError as error:
            raise ConfigError(f"output.directory: {self.folder}: {error.strerror}") from error
        if not earlier:
            self.settle()

    def settle(self) -> None:
        """Write both, unless they are written."""
        if self._settled:
            return
        slides = self.config.slides
        given = shown(slides) if isinstance(slides, str) else [shown(each) for each in slides]
        text = dump_config(self.config.model_copy(update={"slides": given}))
        try:
            places.write_whole(join(self.folder, CONFIG), text.encode())
            places.write_whole(join(self.folder, MANIFEST), manifest_text(self.slides).encode())
        except OSError as error:
            raise cannot_hold(self.folder, error) from error
        self._settled = True


def kept_config(directory: str | os.PathLike[str]) -> RunConfig:
    """Give the run file that made the results in a directory, its results going there again.

    It may have been moved since. Raises `ConfigError` where there is none, or it is damaged.
    """
    folder = places.absolute(directory)
    copy = join(folder, CONFIG)
    try:
        text = places.read_text(copy)
    except OSError as error:
        raise ConfigError(f"{copy}: {error.strerror}; it is written by a run") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{copy}: not UTF-8 text; run the run file itself again") from error
    config = parse_config(text, copy, Path())
    output = config.output.model_copy(update={"directory": folder})
    return config.model_copy(update={"output": output})


def not_begun(directory: str | os.PathLike[str]) -> tuple[Job, ...]:
    """Give the slides of a results directory's run file that have no store there.

    Raises `ConfigError` where the run file is not kept there or its slides are gone.
    """
    config = kept_config(directory)
    folder = places.absolute(directory)
    try:
        there = set(places.names(folder))
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}") from error
    return tuple(job for job in jobs(config) if f"{job.slide_id}{ENDING}" not in there)
