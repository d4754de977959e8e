"""The commands' own help: every example can be typed, and fits a terminal."""

from __future__ import annotations

import shlex

import click
import pytest

from pipeline.cli import cli
from pipeline.commands.examples import USES

SHOWN = {name: each for name, each in cli.commands.items() if not each.hidden}


def test_every_command_has_its_examples_and_no_others_do() -> None:
    assert USES.keys() == SHOWN.keys()


@pytest.mark.parametrize(
    ("name", "given"), [(name, given) for name, use in USES.items() for given, _ in use.examples]
)
def test_an_example_can_be_typed(name: str, given: str) -> None:
    words = shlex.split(given)
    ours = words[: next((i for i, word in enumerate(words) if word in (">", ">>", "|")), None)]
    command, context = SHOWN[name], click.Context(cli, info_name="wsi-pipeline")
    while isinstance(command, click.Group):
        inner = command.get_command(context, ours[0])
        assert inner is not None, f"no {ours[0]} in {command.name}"
        command, ours = inner, ours[1:]
    command.make_context(str(command.name), ours, context)  # refuses unknown options and values


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_help_fits_a_terminal_and_shows_the_examples(name: str) -> None:
    context = click.Context(SHOWN[name], info_name=name, parent=click.Context(cli))
    told = SHOWN[name].get_help(context)
    assert max(map(len, told.splitlines())) <= 80
    assert told.count(f"\n    wsi-pipeline {name}") == len(USES[name].examples)


def test_what_commands_are_for_is_said_whole_in_the_list() -> None:
    told = cli.get_help(click.Context(cli, info_name="wsi-pipeline"))
    for name, use in USES.items():
        assert f"{use.line}\n" in f"{told}\n", name
