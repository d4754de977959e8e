"""The command that makes a run a job of SLURM."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from pipeline.commands.terminal import override_option

if TYPE_CHECKING:
    from pipeline.batch.submitting import Driver

__all__ = ["submit"]


@click.command()
@click.argument("config", type=click.Path())
@override_option
@click.option(
    "--array",
    "shards",
    type=int,
    metavar="N",
    help="Share the slides out among N jobs, each a run of its own with --shard.",
)
@click.option("--dry-run", is_flag=True, help="Print the job's script, and write nothing.")
def submit(config: str, overrides: tuple[str, ...], shards: int | None, dry_run: bool) -> int:
    """Submit the run CONFIG to SLURM: `run` as a job that goes on until everything is done.

    Before its walltime is over the run ends cleanly and is queued again. Prints the job's number
    and how to follow it.
    """
    from pipeline.batch.submitting import Driver
    from pipeline.batch.submitting import submit as submit_driver
    from pipeline.config.runfile import load_config

    driver = Driver.of(load_config(config, overrides), shards)
    if dry_run:
        click.echo(driver.script(), nl=False)
        return 0
    job = submit_driver(driver)
    for line in _followed(driver, job):
        click.echo(line)
    return 0


def _followed(driver: Driver, job: str) -> Iterator[str]:
    results = shlex.quote(driver.config.output.directory)
    log = shlex.quote(str(driver.log_file(job if driver.shards is None else f"{job}_1")))
    yield f"job {job} is submitted: {shlex.quote(str(driver.script_file))}"
    yield f"  squeue -j {job}    # does it wait or run?"
    yield f"  tail -F {log}    # what it says, once it runs"
    yield f"  wsi-pipeline status {results}    # what is done"
    yield f"  scancel {job}    # ends it; submit again to go on"
    if driver.shards is not None:
        yield f"  wsi-pipeline merge {results}    # puts the shards' books together, when all ended"
