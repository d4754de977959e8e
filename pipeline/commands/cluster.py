"""The commands about the cluster a run file names."""

from __future__ import annotations

import click

from pipeline.commands.terminal import override_option

__all__ = ["cluster"]


@click.group()
def cluster() -> None:
    """Look at what a run file's cluster would be."""


@cluster.command("job-script")
@click.argument("config", type=click.Path())
@override_option
def job_script(config: str, overrides: tuple[str, ...]) -> int:
    """Print what would be submitted for one job of workers of CONFIG, of kind slurm."""
    from pipeline.clusters import job_script as script_of
    from pipeline.config.runfile import load_config
    from pipeline.errors import ConfigError
    from pipeline.files import places

    loaded = load_config(config, overrides)
    if loaded.cluster.kind != "slurm":
        raise ConfigError(
            f"{config}: cluster.kind: {loaded.cluster.kind} submits no jobs of workers; "
            "slurm does, and wsi-pipeline submit --dry-run prints the job of a run"
        )
    home = places.absolute(loaded.output.directory)
    click.echo(script_of(loaded.cluster, home=home).rstrip("\n"))
    return 0
