"""The `latentpress` command, one file a verb. Asking for help imports neither torch nor transformers.

__init__.py    main: the app and its verbs
run.py         arguments -> verb -> exit code; errors become one message, or one JSON object
options.py     options that several verbs share
output.py      where text, JSON and progress go
documents.py   files, folders and JSON lines -> texts
jobs.py        which documents are still to be compressed, and what became of each
comparison.py what `eval` does between its options and its report
ask.py  average.py  compress.py  inspect.py  synth.py  label.py  train.py  eval.py  analyze.py  info.py  doctor.py
"""

from collections.abc import Sequence
from typing import Annotated

import typer

from latentpress import __version__

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: arguments after the program's name; those of the process if None.

    Returns:
        Exit code: 0 done, 1 something failed or is missing, 2 a mistake in what was given and nothing worse,
        130 interrupted.
    """
    from latentpress.cli.run import run

    return run(_app(), argv, name="latentpress")


def _app() -> typer.Typer:
    # Imported here: up there, functions would take the names of their modules.
    from latentpress.cli.analyze import app as analysis
    from latentpress.cli.ask import ask
    from latentpress.cli.average import average
    from latentpress.cli.compress import compress
    from latentpress.cli.doctor import doctor
    from latentpress.cli.eval import app as comparison
    from latentpress.cli.info import info
    from latentpress.cli.inspect import inspect
    from latentpress.cli.label import app as labels
    from latentpress.cli.synth import synth
    from latentpress.cli.train import train

    app = typer.Typer(
        name="latentpress",
        help="Press a long context into a few latents that a language model reads in place of the text.",
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_options)
    for verb in (ask, compress, inspect, train, average, synth, info, doctor):
        app.command()(verb)
    app.add_typer(labels, name="label")
    app.add_typer(comparison, name="eval")
    app.add_typer(analysis, name="analyze")
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"latentpress {__version__}")
        raise typer.Exit


def _options(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[  # noqa: ARG001 - `run` takes it off the arguments, so that it may stand after the verb too
        bool, typer.Option("--debug", help="Show tracebacks and warnings; also LATENTPRESS_DEBUG=1.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
