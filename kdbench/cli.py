"""The command line: list, new, check, run, status, leaderboard, compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench.errors import KDBenchError

app = typer.Typer(
    help="Which knowledge-distillation method makes a better student, on what, at what cost?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SuiteName = Annotated[
    str, typer.Argument(help="a suite's name (`kdbench list suites`) or a .toml file", metavar="SUITE")
]
Methods = Annotated[str, typer.Option(help="only these, comma-separated: names, or .py files that register methods")]
Pairs = Annotated[str, typer.Option(help="only these, comma-separated: names or parts of names")]
Seeds = Annotated[str, typer.Option(help="only these, comma-separated")]
Epochs = Annotated[int | None, typer.Option(help="epochs of the students (teachers: --set teacher_recipe.epochs=N)")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="METHOD.HYPERPARAMETER=VALUE, recipe.KEY=VALUE or teacher_recipe.KEY=VALUE"),
]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16")]
Out = Annotated[Path, typer.Option(help="results folder", envvar="KDBENCH_OUT")]
Data = Annotated[Path | None, typer.Option(help="data folder", envvar="KDBENCH_DATA")]


def main() -> None:
    """Run the command line; bad input becomes one sentence and exit status 2."""
    try:
        app()
    except KDBenchError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command("run")
def run_command(
    suite: SuiteName = "digits",
    methods: Methods = "",
    pairs: Pairs = "",
    seeds: Seeds = "",
    epochs: Epochs = None,
    set_: Settings = None,
    precision: Precision = "auto",
    out: Out = Path("runs"),
    data: Data = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is")] = None,
    compile: Annotated[str, typer.Option(help="auto (on where CUDA is), on or off")] = "auto",
    cohort_size: Annotated[int, typer.Option(help="train at most so many cells side by side (0: no limit)", min=0)] = 0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run cells again that failed before")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the cells, what is done, and the likely cost")
    ] = False,
) -> None:
    """Run a suite: train what has no record yet, then print the leaderboard and the path of its CSV."""
    from kdbench.executors.local import LocalExecutor
    from kdbench.lock import locked
    from kdbench.progress import Display
    from kdbench.records import Store

    grid = _suite(suite, methods, pairs, seeds, epochs, set_, precision)
    cells = grid.cells()
    store = Store(out / grid.name)
    if dry_run:
        from kdbench.plan import print_plan

        print_plan(_console(), cells, store, data_root=data, device=device, compile=compile, teachers=out / "teachers")
        return
    done = sum(store.has(cell.id) for cell in cells)
    try:
        with locked(out), Display(_console(), len(cells), done) as display:
            LocalExecutor(out, display, data, device, compile, cohort_size).run(cells, retry_failed)
    except KeyboardInterrupt:
        print("kdbench: interrupted; the same command goes on from the last finished epoch", file=sys.stderr)
        raise typer.Exit(130) from None
    failed = _show(grid, store)
    if failed:
        print(
            f"kdbench: {failed} cells failed; `kdbench status {suite}` says why, --retry-failed runs them again",
            file=sys.stderr,
        )
        raise typer.Exit(1)


@app.command()
def status(
    suite: SuiteName = "digits",
    methods: Methods = "",
    pairs: Pairs = "",
    seeds: Seeds = "",
    epochs: Epochs = None,
    set_: Settings = None,
    precision: Precision = "auto",
    out: Out = Path("runs"),
) -> None:
    """Show which cells are done, running, interrupted, failed, not applicable or missing."""
    from kdbench.plan import print_status
    from kdbench.records import Store

    grid = _suite(suite, methods, pairs, seeds, epochs, set_, precision)
    print_status(_console(), grid.cells(), Store(out / grid.name), out)


@app.command()
def leaderboard(
    suite: SuiteName = "digits",
    methods: Methods = "",
    pairs: Pairs = "",
    seeds: Seeds = "",
    epochs: Epochs = None,
    set_: Settings = None,
    precision: Precision = "auto",
    out: Out = Path("runs"),
) -> None:
    """Make runs.csv and leaderboard.csv from the records, and print the leaderboard."""
    from kdbench.records import Store

    grid = _suite(suite, methods, pairs, seeds, epochs, set_, precision)
    _show(grid, Store(out / grid.name))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="a method as the leaderboard calls it")],
    b: Annotated[str, typer.Argument(help="another one")],
    suite: Annotated[str, typer.Option(help="a suite's name or a .toml file")] = "digits",
    epochs: Epochs = None,
    set_: Settings = None,
    precision: Precision = "auto",
    out: Out = Path("runs"),
) -> None:
    """Say whether method A is better than method B, by how much, and how sure that is."""
    from kdbench.board.compare import compare as compare_methods
    from kdbench.board.select import current
    from kdbench.board.terminal import comparison
    from kdbench.records import Store

    grid = _suite(suite, "", "", "", epochs, set_, precision)
    comparison(_console(), compare_methods(current(Store(out / grid.name).all(), grid.cells()), a, b))


@app.command("list")
def list_command(
    what: Annotated[str, typer.Argument(help="methods, suites, networks or datasets")] = "methods",
) -> None:
    """List the methods with family, paper and needs; or the suites, networks or data sets."""
    from kdbench.listing import print_list

    print_list(_console(), what)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="the method's name, e.g. my_method")],
    family: Annotated[
        str, typer.Option(help="logits, features, relations, mutual, multi_teacher, multi_head, staged, inputs")
    ] = "logits",
    folder: Annotated[Path, typer.Option(help="where to write the file")] = Path(),
) -> None:
    """Write the file of a new method that already runs, to be filled with your own loss."""
    from kdbench.scaffold import write_method

    path = write_method(name, family, folder)
    print(f"wrote {path}; next: kdbench check {path}, then kdbench run digits --methods student,kd,{path}")


@app.command()
def check(
    method: Annotated[str, typer.Argument(help="a registered name, or a .py file that registers methods")],
) -> None:
    """Hold a method to the contract: finite terms, gradients, odd batches, bf16, compile, resume, cohort."""
    from kdbench import registry
    from kdbench.check import print_checks

    names = registry.load_file(method) if method.endswith(".py") else [registry.get(method).info.name]
    failed = [name for name in names if not print_checks(_console(), name)]
    if failed:
        raise typer.Exit(1)


def _console() -> Any:
    from rich.console import Console

    return Console()


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _suite(
    name: str, methods: str, pairs: str, seeds: str, epochs: int | None, settings: list[str] | None, precision: str
) -> Any:
    from kdbench import suite
    from kdbench.device import PRECISIONS
    from kdbench.errors import unknown

    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    try:
        numbers = [int(word) for word in _words(seeds)]
    except ValueError:
        raise KDBenchError(f"--seeds {seeds!r} is not a comma-separated list of whole numbers") from None
    return suite.narrow(
        suite.load(name),
        methods=_words(methods),
        pairs=_words(pairs),
        seeds=numbers,
        epochs=epochs,
        settings=settings or [],
        precision=precision,
    )


def _show(grid: Any, store: Any) -> int:
    """Write the tables, print the leaderboard, and return how many cells of the grid failed."""
    from kdbench.board.select import current, expected
    from kdbench.board.tables import leaderboard_table, runs_table, write_csv
    from kdbench.board.terminal import leaderboard as render

    cells = grid.cells()
    records = current(store.all(), cells)
    table = leaderboard_table(records, expected(cells))
    write_csv(runs_table(records, expected(cells)), store.folder / "runs.csv")
    write_csv(table, store.folder / "leaderboard.csv")
    console = _console()
    for part in render(table, width=console.width):
        console.print(part)
    print(f"leaderboard: {store.folder / 'leaderboard.csv'}\nruns:        {store.folder / 'runs.csv'}")
    planned = {cell.id for cell in cells}
    return sum(record["status"] == "failed" for record in records if record["id"] in planned)


if __name__ == "__main__":
    main()
