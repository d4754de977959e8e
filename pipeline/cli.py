"""The command ``wsi-pipeline``: thin, and importing only what a subcommand needs."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from pipeline import __version__
from pipeline.commands.cluster import cluster
from pipeline.commands.doctor import doctor
from pipeline.commands.examples import explained
from pipeline.commands.export import export
from pipeline.commands.merge import merge
from pipeline.commands.models import models
from pipeline.commands.plan import plan
from pipeline.commands.report import report
from pipeline.commands.results import diff, rerun, retry, status
from pipeline.commands.run import run
from pipeline.commands.slides import convert, inspect
from pipeline.commands.starting import completion, init, schema
from pipeline.commands.submit import submit
from pipeline.commands.terminal import (
    INCOMPLETE,
    INTERRUPTED,
    REFUSED,
    log_shown,
)
from pipeline.commands.view import view
from pipeline.errors import PipelineError, SchedulerLostError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; one clear line and an exit code for whatever goes wrong."""
    warnings.formatwarning = _warning_line
    try:
        with log_shown():
            code = cli.main(arguments, prog_name="wsi-pipeline", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(REFUSED)
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo("interrupted: what is stored stays; run again to continue", err=True)
        # click makes an Abort of what interrupts.
        asked = error.__cause__ if isinstance(error, click.Abort) else error
        code = INTERRUPTED + getattr(asked, "signal", signal.SIGINT)
        if arguments is None:  # the command itself: threads may be at blocks still
            _leave(code)
        sys.exit(code)
    except SchedulerLostError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(INCOMPLETE)
    except PipelineError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(REFUSED)
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """End without waiting for threads, as Python would."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _warning_line(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {' '.join(str(message).split())}\n"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="wsi-pipeline")
def cli() -> None:
    """Run ONNX models over whole-slide images, block by block, into OME-Zarr.

    \b
    wsi-pipeline run configs/demo.yaml          make a synthetic slide and find its nuclei
    wsi-pipeline init slide.svs model.yaml      write a run file for your slides and your model
    wsi-pipeline doctor my.yaml                 look whether a run could go well, before it begins
    wsi-pipeline inspect slide.svs              say what is in a slide
    wsi-pipeline convert slide.svs slide.zarr   write a slide as OME-Zarr
    wsi-pipeline plan my.yaml                   say what a run would do, and how long it takes
    wsi-pipeline models check card.yaml         hold a model card against its model
    wsi-pipeline submit my.yaml                 let a run be a job of SLURM
    wsi-pipeline status results                 say what a run has done
    wsi-pipeline view results                   look at slides and results in a browser
    wsi-pipeline retry results                  try again what failed
    wsi-pipeline diff results others            say in what two runs differ
    """  # noqa: D301 - click wants the control character itself


@click.command()
@click.argument("slide", type=click.Path())
@click.argument("out", type=click.Path(dir_okay=False))
@click.option("--size", default=1024, show_default=True, help="Longer side in pixels.")
def thumbnail(slide: str, out: str, size: int) -> None:
    """Write a picture of the whole of SLIDE to OUT (a .png file)."""
    from pipeline.display.describe import png_bytes
    from pipeline.errors import ConfigError
    from pipeline.slide import open_slide

    if Path(out).suffix.lower() != ".png":
        raise ConfigError(f"{out}: a thumbnail is a PNG; let its name end in .png")
    if size < 1:
        raise ConfigError(f"--size {size}: at least 1")
    picture = open_slide(slide).thumbnail(size)
    try:
        Path(out).write_bytes(png_bytes(picture))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from error
    click.echo(f"{out}: {picture.shape[1]} x {picture.shape[0]} px")


for _command in (
    cluster,
    completion,
    convert,
    diff,
    doctor,
    export,
    init,
    inspect,
    merge,
    models,
    plan,
    report,
    rerun,
    retry,
    run,
    schema,
    status,
    submit,
    thumbnail,
    view,
):
    cli.add_command(explained(_command))

# As it was called before there was `models ls`.
cli.add_command(click.Group("model", models.commands, hidden=True))
