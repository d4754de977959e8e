"""The commands that help to begin: a first run file, schemas for editors, completion in a shell."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipeline.commands.terminal import open_console, print_lines

__all__ = ["completion", "init", "schema"]

_RUN_FILE = "run.yaml"


@click.command()
@click.argument("slides", type=click.Path())
@click.argument("model", type=click.Path(), default="builtin:nuclei")
@click.option(
    "--output", type=click.Path(), default=_RUN_FILE, show_default=True, help="The run file."
)
def init(slides: str, model: str, output: str) -> int:
    """Look at SLIDES and MODEL and write a commented run file for them.

    SLIDES is a slide, a folder, a pattern in quotes or a manifest; MODEL a card, its folder or
    builtin:nuclei. Nothing that is there is overwritten.
    """
    import shlex

    from pipeline.batch.drafting import draft
    from pipeline.errors import ConfigError

    path = Path(output).expanduser()
    if path.exists():
        raise ConfigError(f"{path}: is there already; name another file with --output")
    drafted = draft(slides, model, path)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(drafted.text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    notes = [f"note: {text}" for text in drafted.notes]
    name = shlex.quote(str(path))
    steps = [f"  wsi-pipeline {verb} {name}" for verb in ("plan", "run")]
    print_lines(open_console(), [*notes, f"written: {path}; look through it, then", *steps])
    return 0


@click.command()
@click.argument("what", type=click.Choice(["run", "card"]), default="run")
def schema(what: str) -> None:
    """Print the JSON schema of a run file, or of a model card, for editors.

    An editor that knows YAML's language server completes keys, shows what they mean and marks
    what is wrong, where a file begins with such a line:

    \b
    wsi-pipeline schema > run.schema.json
    # yaml-language-server: $schema=run.schema.json
    """  # noqa: D301 - click wants the control character itself
    from pipeline.config.schema import config_schema
    from pipeline.model.schema import card_schema

    made = config_schema() if what == "run" else card_schema()
    click.echo(json.dumps(made, indent=2, ensure_ascii=False))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options and files of wsi-pipeline."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    root = click.get_current_context().find_root()
    if made is None or root.info_name is None:
        raise AssertionError(f"click knows no {shell}")
    variable = f"_{root.info_name.replace('-', '_').upper()}_COMPLETE"
    click.echo(made(root.command, {}, root.info_name, variable).source())
