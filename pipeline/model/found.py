"""Where a model's card is: at a path, in a folder, beside an ONNX file, or in the package."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from pipeline.errors import ModelError

__all__ = ["builtins", "find_card", "models_in"]

BUILTIN = "builtin:"

FOREIGN = ("rdf.yaml", "bioimageio.yaml", "config.json")
"""How `pipeline.model.zoo` calls what it has instead of a card."""

_NO_CARDS = ("environment.yaml", "environment.yml")
"""What else lies in the folder of a bioimage.io model."""

_NAMES_ONNX = re.compile(rb"^onnx\s*:", re.MULTILINE)


def find_card(path: str) -> Path:
    """Give the card that a path means; see `pipeline.model.load.load_model`.

    Raises `ModelError` where there is none, or more than one.
    """
    if path.startswith(BUILTIN):
        return _builtin(path)
    given = Path(path).expanduser().absolute()
    if given.is_dir():
        return _in_folder(given)
    if given.suffix == ".onnx":
        beside = given.with_suffix(".yaml")
        if not beside.is_file():
            raise ModelError(f"{given}: an ONNX file needs a card; write {beside.name} beside it")
        return beside
    if not given.is_file():
        raise ModelError(f"{given}: no such model card; give a card, its folder or builtin:nuclei")
    return given


def builtins() -> list[str]:
    """Give how the models that come with the package are named.

    >>> builtins()
    ['builtin:nuclei', 'builtin:nuclei-objects']
    """
    return sorted(f"{BUILTIN}{each.stem}" for each in _shipped().glob("*.yaml"))


def models_in(folder: str) -> list[str]:
    """Give the paths of what may be cards in a folder and in the folders in it, one level deep.

    Whether they are cards is for `pipeline.model.load.read_card_at` to say. Raises `ModelError`
    where there is no such folder.
    """
    given = Path(folder).expanduser()
    try:
        inside = [each for each in sorted(given.iterdir()) if each.is_dir()]
        return [str(card) for each in [given, *inside] for card in sorted(_cards_of(each))]
    except OSError as error:
        where = error.filename or given
        raise ModelError(f"{where}: {error.strerror}; name a folder of models") from error


def _cards_of(folder: Path) -> list[Path]:
    foreign = [folder / name for name in FOREIGN if (folder / name).is_file()]
    own = [
        each
        for each in [*folder.glob("*.yaml"), *folder.glob("*.yml")]
        # Run files lie about, too: only what names an ONNX file is meant for a card.
        if each.name not in (*FOREIGN, *_NO_CARDS)
        and each.is_file()
        and _NAMES_ONNX.search(each.read_bytes())
    ]
    return [*own, *foreign]


def _shipped() -> Path:
    return Path(str(files("pipeline.model.builtin")))


def _builtin(path: str) -> Path:
    card = _shipped() / f"{path.removeprefix(BUILTIN)}.yaml"
    if not card.is_file():
        raise ModelError(f"{path}: no such built-in model; there is {', '.join(builtins())}")
    return card


def _in_folder(folder: Path) -> Path:
    """Give the one card in a folder, else what a model zoo has in its place."""
    cards = sorted(
        each
        for each in [*folder.glob("*.yaml"), *folder.glob("*.yml")]
        if each.name not in (*FOREIGN, *_NO_CARDS)
    )
    if len(cards) == 1:
        return cards[0]
    foreign = [folder / name for name in FOREIGN if (folder / name).is_file()]
    if cards or len(foreign) != 1:
        found = ", ".join(each.name for each in [*cards, *foreign]) or "none"
        raise ModelError(
            f"{folder}: a model folder holds one card (*.yaml, or {', '.join(FOREIGN)}); "
            f"found {found}"
        )
    return foreign[0]
