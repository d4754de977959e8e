"""The command that shows a slide, or what a run has made of slides, in a browser."""

from __future__ import annotations

import webbrowser

import click

from pipeline.commands.terminal import open_console, print_lines

__all__ = ["view"]


@click.command()
@click.argument("path", type=click.Path(), metavar="SLIDE|RESULTS")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="A free one by default.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen: by default only this machine can look.",
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def view(path: str, port: int, host: str, no_browser: bool) -> int:
    """Look at a slide, or at the results in a directory, in a browser. Ctrl-C ends it."""
    from pipeline.view.catalogue import catalogue_of
    from pipeline.view.guard import address, new_token, notes
    from pipeline.view.server import serve

    console = open_console()
    catalogue, token = catalogue_of(path), new_token()

    def opened(port: int) -> None:
        link = address(host, port, token)
        print_lines(console, [f"{path}: {link}", *notes(host, port, token), "Ctrl-C ends it"])
        if not no_browser:
            webbrowser.open(link)

    serve(catalogue, token, host, port, opened)
    return 0
