"""What the list of commands says of each, and how each is used: shown by ``--help``.

A test holds every example against the command's own arguments and options.
"""

from __future__ import annotations

from dataclasses import dataclass

import click

__all__ = ["USES", "Use", "explained"]


@dataclass(frozen=True, slots=True)
class Use:
    """What a command is for, in a line, and examples: the arguments, and what they do."""

    line: str
    examples: tuple[tuple[str, str], ...]


USES = {
    "cluster": Use(
        "Look at the jobs that a run would submit.",
        (("job-script my.yaml", "the script of a job of workers"),),
    ),
    "completion": Use(
        "Let your shell complete commands, options and files.",
        (
            ("bash >> ~/.bashrc", "from the next shell on"),
            ("zsh >> ~/.zshrc", "the same"),
            ("fish | source", "in this shell"),
        ),
    ),
    "convert": Use(
        "Write a slide as OME-Zarr.",
        (
            ("slide.svs slide.zarr", "a pyramid, each level from the one before"),
            ("slide.svs slide.zarr --mpp 0.5", "resampled to 0.5 um per pixel"),
            ("slide.svs slide.zarr --levels stored", "the slide's own levels"),
        ),
    ),
    "diff": Use(
        "Say in what two results differ.",
        (
            ("results/a results/b", "values, objects, states, settings"),
            ("results/a results/b --json", "the same for programs"),
        ),
    ),
    "doctor": Use(
        "Look for what would stop a run, before it begins.",
        (
            ("", "the installation"),
            ("my.yaml", "and all that the run file names, its workers too"),
            ("my.yaml --no-cluster", "without starting workers"),
        ),
    ),
    "export": Use(
        "Make files for other programs: QuPath, scanpy, CLAM ...",
        (
            ("geojson results/my", "for QuPath: objects, regions, patches, tissue"),
            ("hdf5 results/my --slide a --slide b --output features", "of two slides"),
        ),
    ),
    "init": Use(
        "Write a first run file for your slides and your model.",
        (
            ("slide.svs", "with the built-in model, to run.yaml"),
            ("slides/ tumour.yaml --output my.yaml", "with a card of yours"),
        ),
    ),
    "inspect": Use(
        "Say what is in a slide.",
        (
            ("slide.svs", "size, scale and who says it, levels, tiles"),
            ("slide.svs --verify", "and read every tile once"),
            ("slide.svs --json", "for programs"),
        ),
    ),
    "merge": Use(
        "Put together what the shards of a run have done.",
        (("results/my", "status.csv and run.json of all shards"),),
    ),
    "models": Use(
        "List models, and hold a card against its model.",
        (
            ("ls ~/models", "what model: in a run file can be"),
            ("check card.yaml slide.svs", "run a model on tissue of a slide"),
        ),
    ),
    "plan": Use(
        "Say what a run would do, and how long it takes.",
        (
            ("my.yaml", "blocks, memory, bytes, files, time; nothing is written"),
            ("my.yaml --slides 1000000", "what so many like them would need"),
            ("my.yaml -o output.block=1024", "with another setting"),
        ),
    ),
    "report": Use(
        "Make one page of what a run did: report.html.",
        (
            ("results/my", "at any time, also while the run goes on"),
            ("results/my --output /tmp/report.html", "somewhere else"),
        ),
    ),
    "rerun": Use(
        "Make results again, beside the others, and compare.",
        (("results/my", "into results/my-rerun"),),
    ),
    "retry": Use(
        "Try again what failed, and nothing else.",
        (("results/my", "failed slides, and failed blocks of others"),),
    ),
    "run": Use(
        "Run a model over slides, or do what is left of that.",
        (
            ("my.yaml", "and again after an interruption: only the rest is done"),
            ("my.yaml -o output.directory=results/b", "with another setting"),
            ("my.yaml --shard 3/8", "the third of eight parts, for job arrays"),
        ),
    ),
    "schema": Use(
        "Print the JSON schema of a run file or a card, for editors.",
        (
            ("> run.schema.json", "of a run file"),
            ("card > card.schema.json", "of a model card"),
        ),
    ),
    "status": Use(
        "Say what a run has done, and what failed for which reason.",
        (
            ("results/my", "a line per slide"),
            ("results/my --verify", "and read every block back"),
            ("results/my --verify --repair", "and drop what is damaged"),
        ),
    ),
    "submit": Use(
        "Let a run be a job of SLURM.",
        (
            ("my.yaml", "one job, queued again until all is done"),
            ("my.yaml --array 8", "eight that share out the slides; then merge"),
            ("my.yaml --dry-run", "its script, to look at"),
        ),
    ),
    "thumbnail": Use(
        "Write a picture of a whole slide.",
        (("slide.svs slide.png --size 2000", "2000 px at its longer side"),),
    ),
    "view": Use(
        "Look at a slide or at results in a browser.",
        (
            ("slide.svs", "a slide, of any format that is read"),
            ("results/my", "results over their slides, also while a run goes on"),
            ("results/my/a.zarr --port 8765 --no-browser", "one of them; prints the address"),
        ),
    ),
}
"""Name of each command -> its use."""


def explained(command: click.Command) -> click.Command:
    """Give a command its line in the list, and its examples at the end of its help."""
    use = USES[str(command.name)]
    lines = ["\b", "Examples:"]
    for given, does in use.examples:
        lines += [f"  wsi-pipeline {command.name} {given}".rstrip(), f"      {does}"]
    command.short_help = use.line
    command.epilog = "\n".join(lines)
    return command
