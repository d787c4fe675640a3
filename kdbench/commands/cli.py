"""The command line: which commands there are, in the order of `kdbench --help`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from kdbench.commands import agreement, maps, methods, publishing, reproduce, results, run, sweep, tune, use
from kdbench.errors import KDBenchError

COMMANDS: dict[str, Callable[..., None]] = {
    "run": run.run,
    "use": use.use,
    "status": run.status,
    "sweep": sweep.sweep,
    "leaderboard": results.leaderboard,
    "report": results.report,
    "compare": results.compare,
    "map": maps.map_,
    "agreement": agreement.agreement,
    "power": results.power,
    "list": methods.list_,
    "show": methods.show,
    "reproduce": reproduce.reproduce,
    "new": methods.new,
    "check": methods.check,
    "publish": publishing.publish,
    "validate": publishing.validate,
    "merge": publishing.merge,
    "tune": tune.tune,
}

app = typer.Typer(
    help="Which knowledge-distillation method makes a better student, on what, at what cost?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> None:
    """Run the command line; bad input becomes one sentence and exit status 2."""
    from kdbench.commands.screen import showable
    from kdbench.records.plain import plain

    showable()
    try:
        app()
    except KDBenchError as error:
        print(f"kdbench: {plain(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
