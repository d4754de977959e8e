"""The commands about one slide: what is in it, whether it can be read, and a copy of it."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import click

from pipeline.commands.terminal import INCOMPLETE, open_console, print_lines, table_of

if TYPE_CHECKING:
    from pipeline.batch.converting import Converted
    from pipeline.checks.verify import Verified
    from pipeline.slide import Slide

__all__ = ["convert", "inspect"]

_MOST_LISTED = 20


@click.command()
@click.argument("slide", type=click.Path())
@click.option("--properties", is_flag=True, help="Also list every property of the file.")
@click.option(
    "--verify", is_flag=True, help="Also read every tile of every level, and list what cannot be."
)
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON, and show no progress.")
def inspect(slide: str, properties: bool, verify: bool, as_json: bool) -> int:
    """Say what is in SLIDE: size, scale and its source, levels, tiles, associated images.

    With --verify the exit code is 0 only if every tile can be read.
    """
    from pipeline.slide import open_slide

    opened = open_slide(slide)
    if as_json:
        verified = _verified(opened, quiet=True) if verify else None
        click.echo(json.dumps(_facts(opened, verified), indent=2, ensure_ascii=False))
    else:
        _show(opened, properties=properties)
        verified = _verified(opened, quiet=False) if verify else None
    if verified is None:
        return 0
    if not as_json:
        print_lines(open_console(), list(_said(verified)))
    return INCOMPLETE if verified.unreadable else 0


@click.command()
@click.argument("slide", type=click.Path())
@click.argument("out", type=click.Path())
@click.option(
    "--levels",
    type=click.Choice(["x2", "stored"]),
    default="x2",
    show_default=True,
    help="Make each level from the one before, or copy those the slide has.",
)
@click.option("--mpp", type=float, help="Resample to these um per pixel.")
@click.option("--assume-mpp", type=float, help="The um per pixel of a slide that does not say.")
@click.option(
    "--block", type=click.IntRange(1), help="Side of a shard in pixels; fitted to the file's tiles."
)
@click.option("--chunk", type=click.IntRange(1), help="Side of the chunks in a shard.")
@click.option(
    "--cluster",
    "kind",
    type=click.Choice(["threads", "local"]),
    default="threads",
    show_default=True,
    help="Work in threads of this process, or in worker processes.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="How many of them; as many as there are cores."
)
def convert(
    slide: str,
    out: str,
    levels: str,
    mpp: float | None,
    assume_mpp: float | None,
    block: int | None,
    chunk: int | None,
    kind: str,
    workers: int | None,
) -> int:
    """Write SLIDE as OME-Zarr 0.5 to the folder OUT, or what is left of it.

    Exit code 0 only if all of it could be read; run it again to go on after an interruption.
    """
    from pipeline.batch.converting import convert as convert_slide
    from pipeline.clusters import cluster
    from pipeline.commands.progress import watching
    from pipeline.slide import open_slide

    opened = open_slide(slide)
    if assume_mpp is not None and opened.mpp_problem is not None:
        opened = opened.assuming(assume_mpp)
    console = open_console()
    with (
        cluster(kind, workers=workers or "auto", dashboard="none"),
        watching(console, opened.name) as watch,
    ):
        made = convert_slide(
            opened, out, mpp=mpp, levels=levels, block=block, chunk=chunk, watch=watch
        )
    print_lines(console, list(_became(made)))
    return 0 if made.complete else INCOMPLETE


def _show(slide: Slide, *, properties: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    console = open_console()
    facts = Table(show_header=False, box=None, pad_edge=False)
    for key, text in slide.facts().items():
        facts.add_row(key, Text(text))
    console.print(facts)
    console.print(table_of(slide.level_table()))
    if properties:
        print_lines(console, [f"{key} = {text}" for key, text in sorted(slide.properties.items())])


def _facts(slide: Slide, verified: Verified | None) -> dict[str, object]:
    head, *rows = slide.level_table()
    said: dict[str, object] = {
        **slide.facts(),
        "levels": [dict(zip(head, row, strict=True)) for row in rows],
        "properties": slide.properties,
    }
    if verified is not None:
        said["tiles"] = verified.tiles
        said["unreadable"] = [
            {
                "level": each.level,
                "x": each.box.x,
                "y": each.box.y,
                "width": each.box.width,
                "height": each.box.height,
                "reason": each.reason,
            }
            for each in verified.unreadable
        ]
    return said


def _verified(slide: Slide, *, quiet: bool) -> Verified:
    from pipeline.checks.verify import verify
    from pipeline.clusters import cluster
    from pipeline.commands.progress import watching
    from pipeline.slide import open_slide

    whole = open_slide(slide.path, reader=slide.ref.reader, crop=False)
    with cluster("threads"):
        if quiet:
            return verify(whole)
        with watching(open_console(), slide.name) as watch:
            return verify(whole, watch)


def _said(verified: Verified) -> list[str]:
    broken = len(verified.unreadable)
    readable = f"{verified.tiles - broken} of {verified.tiles} tiles can be read"
    lines = [f"{readable} ({verified.seconds:.1f} s)"]
    regions = verified.regions
    lines += [
        f"level {each.level}, x {each.box.x}, y {each.box.y}, {each.box.width} x {each.box.height} "
        f"px: {each.reason}"
        for each in regions[:_MOST_LISTED]
    ]
    if len(regions) > _MOST_LISTED:
        lines.append(f"and {len(regions) - _MOST_LISTED} more; --json lists all")
    return lines


def _became(made: Converted) -> list[str]:
    lines = [f"note: {note}" for note in made.notes]
    lines.append(
        f"{made.path}: {'done' if made.complete else 'partial'}: {made.levels} levels, "
        f"{made.computed} blocks read now, {len(made.failures)} failed ({made.seconds:.1f} s)"
    )
    failures = sorted(made.failures.items())
    lines += [
        f"level {level}, block {index}: {reason}"
        for (level, index), reason in failures[:_MOST_LISTED]
    ]
    if len(failures) > _MOST_LISTED:
        lines.append(f"and {len(failures) - _MOST_LISTED} more; the store's attributes list all")
    if failures:
        lines.append("run it again when the slide can be read; what is stored is kept")
    else:
        lines += ["next:", f"  wsi-pipeline inspect {shlex.quote(made.path)}"]
    return lines
