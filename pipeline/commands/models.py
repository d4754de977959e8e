"""The commands about models: is a card right, and what may stand in one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from pipeline.commands.terminal import INCOMPLETE, open_console, print_lines, table_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.geometry import Box
    from pipeline.model import Model
    from pipeline.model.card import Card
    from pipeline.model.session import Node
    from pipeline.model.trial import Trial
    from pipeline.slide import Slide

__all__ = ["models"]

_LOOK_PIXELS = 1024


@click.group()
def models() -> None:
    """List models, check one and its card, say what may stand in a card."""


@models.command(name="ls")
@click.argument("folders", nargs=-1, type=click.Path())
def list_models(folders: tuple[str, ...]) -> int:
    """List the models of the package, and those whose cards are in FOLDERS (or in folders there).

    The first column is what `model:` takes in a run file. The exit code is 1 where a card cannot
    be read, which is said.
    """
    from pipeline.errors import ModelError
    from pipeline.model.found import builtins, models_in
    from pipeline.model.load import read_card_at

    rows, broken = [], []
    for path in [*builtins(), *(each for folder in folders for each in models_in(folder))]:
        try:
            _, card, _ = read_card_at(path)
        except ModelError as error:
            broken.append(str(error))
            continue
        rows.append((path, *_listed(card)))
    console = open_console()
    console.print(table_of([_LISTED, *rows]))
    print_lines(console, broken)
    return INCOMPLETE if broken else 0


@models.command()
@click.argument("card", type=click.Path())
@click.argument("slide", type=click.Path(), required=False)
@click.option("--provider", default="cpu", show_default=True, help="What the model is run by.")
@click.option("--mpp", type=float, help="The um per pixel it is to see; what the card says.")
@click.option("--assume-mpp", type=float, help="The um per pixel of a slide that does not say.")
def check(
    card: str, slide: str | None, provider: str, mpp: float | None, assume_mpp: float | None
) -> int:
    """Hold CARD against its ONNX file and run it, on the middle of SLIDE's tissue or on noise.

    The exit code is 1 where they disagree, or where the model gives no numbers.
    """
    from pipeline.errors import ConfigError, ModelError
    from pipeline.model.load import load_model
    from pipeline.model.runtime import PROVIDERS
    from pipeline.model.trial import try_model

    if provider not in PROVIDERS:
        raise ConfigError(f"--provider {provider}: there is {', '.join(PROVIDERS)}")
    console = open_console()
    opened = None if slide is None else _opened(slide, assume_mpp)
    try:
        loaded = load_model(card)
        print_lines(console, list(_described(loaded)))
        loaded = loaded.running(provider)
        rgb, of_what = _sample(loaded, opened, mpp)
        trial = try_model(loaded, rgb)
    except ModelError as error:
        click.echo(f"error: {error}", err=True)
        return INCOMPLETE
    console.print(table_of([_HEAD, *_rows(trial)]))
    print_lines(console, list(_said(trial, of_what)))
    return 0


@models.command()
def schema() -> None:
    """Print the JSON schema of a model card (draft 2020-12)."""
    from pipeline.model.schema import card_schema

    click.echo(json.dumps(card_schema(), indent=2, ensure_ascii=False))


_LISTED = ("model", "name", "um/px", "patch", "gives", "licence")


def _listed(card: Card) -> tuple[str, ...]:
    """Say what a card is, in the columns of `_LISTED`."""
    return (
        f"{card.name} {card.version}".strip(),
        "not said" if card.mpp is None else f"{card.mpp:g}",
        str(card.input.patch),
        ", ".join(f"{output.name} ({output.kind})" for output in card.outputs),
        card.licence or "not said",
    )


def _described(loaded: Model) -> Iterator[str]:
    facts = {
        **({"what": loaded.card.description} if loaded.card.description else {}),
        "card": f"{loaded.path}",
        **loaded.facts(),
        "input": _input(loaded),
        **_graphs(loaded),
        "memory": f"{loaded.footprint.session_bytes / 2**20:.0f} MiB, and "
        f"{loaded.footprint.running_bytes / 2**20:.0f} MiB for a batch that is run",
    }
    width = max(map(len, facts))
    yield f"{loaded.card.name}: card and ONNX file agree"
    yield from (f"{key:<{width}}  {' '.join(text.split())}" for key, text in facts.items())


def _graphs(loaded: Model) -> dict[str, str]:
    """Say what the ONNX file itself names, in its own sizes."""
    from pipeline.model.session import read_graph

    graph = read_graph(loaded.ref.members[0].onnx)

    def said(nodes: Iterable[Node]) -> str:
        return "; ".join(
            f"{node.name} ({', '.join(map(str, node.shape))}) {node.type}" for node in nodes
        )

    return {"graph takes": said(graph.inputs), "graph gives": said(graph.outputs)}


def _input(loaded: Model) -> str:
    given, member = loaded.card.input, loaded.ref.members[0]
    steps = [f"0..255 times {given.scale:.6g}"]
    if given.zscore != "none":
        steps.append(f"z-scored by {given.zscore}")
    if any(given.mean):
        steps.append(f"less {', '.join(f'{each:g}' for each in given.mean)}")
    if set(given.std) != {1.0}:
        steps.append(f"divided by {', '.join(f'{each:g}' for each in given.std)}")
    shape = ", ".join(map(str, member.input_shape(0)[1:]))
    return f"(batch, {shape}) {member.layout} {member.order}: {', '.join(steps)}"


def _opened(slide: str, assume_mpp: float | None) -> Slide:
    from pipeline.slide import open_slide

    opened = open_slide(slide)
    if assume_mpp is not None and opened.mpp_problem is not None:
        return opened.assuming(assume_mpp)
    return opened


def _sample(
    loaded: Model, opened: Slide | None, mpp: float | None
) -> tuple[NDArray[np.uint8], str]:
    """Give pixels to try a model on, and in words what they are."""
    from pipeline.model.trial import noise, sample_box

    box = sample_box(loaded)
    return (noise(box), "noise") if opened is None else _tissue(loaded, opened, mpp, box)


def _tissue(
    loaded: Model, opened: Slide, mpp: float | None, box: Box
) -> tuple[NDArray[np.uint8], str]:
    """Read ``box`` around the middle of a slide's tissue, at the scale that the model sees."""
    import numpy as np

    from pipeline.geometry import Box
    from pipeline.plan.seen import seen
    from pipeline.tissue import TissueSettings, tissue_mask

    level = seen(opened, loaded, level=None, mpp=mpp)
    small = opened.thumbnail(_LOOK_PIXELS)
    step = [whole / part for whole, part in zip(opened.shape, small.shape[:2], strict=True)]
    own = opened.believed_mpp
    mask = tissue_mask(small, (own[0] * step[0], own[1] * step[1]), TissueSettings())
    where = "the middle of the tissue" if mask.any() else "the middle, where no tissue was found"
    places = np.argwhere(mask if mask.any() else np.ones_like(mask))
    nearest = places[np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1))]
    l_middle = [
        round(((n + 0.5) * s - o) / d)
        for n, s, o, d in zip(nearest, step, level.origin, level.downsample, strict=True)
    ]
    at = Box(l_middle[0] - box.height // 2, l_middle[1] - box.width // 2, box.height, box.width)
    return level.read(at), f"{where} of {opened.name} (x {at.x}, y {at.y} of what the model sees)"


_HEAD = ("output", "channel", "least", "mean", "greatest")


def _rows(trial: Trial) -> list[tuple[str, ...]]:
    return [
        (each.output, each.channel, *(f"{n:.4g}" for n in (each.low, each.mean, each.high)))
        for each in trial.values
    ]


def _said(trial: Trial, of_what: str) -> Iterator[str]:
    count = f"{trial.patches} {'patch' if trial.patches == 1 else 'patches'}"
    yield f"tried on {of_what}: {count}, {trial.speed}"
    yield from (f"ran on {each}" for each in trial.runs)
    yield from (f"warning: {each}" for each in trial.warnings)
