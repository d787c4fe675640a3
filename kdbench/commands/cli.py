"""The command line: list, show, new, check, run, status, leaderboard, report, compare, power, reproduce, and others."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench.commands import publishing, tune
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
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is")]
Compile = Annotated[
    str, typer.Option(help="auto (as `kdbench tune` measured, else on where CUDA is), on, off, or graphs (CUDA graphs)")
]
CohortSize = Annotated[int, typer.Option(help="train at most so many cells side by side (0: no limit)", min=0)]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="run cells again that failed before")]


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
    device: Device = None,
    compile: Compile = "auto",
    cohort_size: CohortSize = 0,
    retry_failed: RetryFailed = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the cells, what is done, and the likely cost")
    ] = False,
) -> None:
    """Run a suite: train what has no record yet, then print the leaderboard and the path of its CSV."""
    from kdbench.records import Store

    grid = _suite(suite, methods, pairs, seeds, epochs, set_, precision)
    cells = grid.cells()
    store = Store(out / grid.name)
    if dry_run:
        from kdbench.commands.plan import print_plan

        print_plan(_console(), cells, store, data_root=data, device=device, compile=compile, teachers=out / "teachers")
        return
    _execute(cells, store, out, data, device, compile, cohort_size, retry_failed)
    failed = _show(cells, store)
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
    from kdbench.commands.plan import print_status
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
    common: Annotated[
        bool, typer.Option("--common", help="rank over the pairs (or else seeds) that all methods shown have finished")
    ] = False,
) -> None:
    """Make runs.csv, leaderboard.csv and leaderboard_long.csv from the records, and print the leaderboard."""
    from kdbench.records import Store

    grid = _suite(suite, methods, pairs, seeds, epochs, set_, precision)
    _show(grid.cells(), Store(out / grid.name), common)


@app.command()
def report(
    suite: SuiteName = "digits",
    methods: Methods = "",
    pairs: Pairs = "",
    seeds: Seeds = "",
    epochs: Epochs = None,
    set_: Settings = None,
    precision: Precision = "auto",
    out: Out = Path("runs"),
    site: Annotated[
        Path | None, typer.Option("--site", "-o", help="where the site goes [default: site/SUITE]", show_default=False)
    ] = None,
    latex: Annotated[bool, typer.Option("--latex", help="also write leaderboard.tex")] = False,
    plots: Annotated[bool, typer.Option(help="also write the plots as PNG and SVG")] = True,
    everything: Annotated[
        bool, typer.Option("--all", help="show every record of the folder, not only those of the suite as it is now")
    ] = False,
) -> None:
    """Make a site of the results: leaderboard, plots, a page a method and a pair; it needs no server and no network."""
    from kdbench.commands.site import report as make_report
    from kdbench.records import Store

    grid = _suite(suite, methods, pairs, seeds, epochs, set_, precision)
    folder = site or Path("site") / grid.name
    page = make_report(grid, Store(out / grid.name), folder, everything=everything, latex=latex, pictures=plots)
    print(f"report: {page}")


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
    from kdbench.commands.unusable import records_of
    from kdbench.records import Store

    grid = _suite(suite, "", "", "", epochs, set_, precision)
    comparison(_console(), compare_methods(current(records_of(Store(out / grid.name)), grid.cells()), a, b))


@app.command()
def power(
    suite: SuiteName = "digits",
    methods: Annotated[str, typer.Option(help="two methods as the leaderboard calls them, comma-separated")] = "",
    delta: Annotated[
        float | None, typer.Option(help="the difference in points to be seen; default: the one in the records")
    ] = None,
    epochs: Epochs = None,
    set_: Settings = None,
    precision: Precision = "auto",
    out: Out = Path("runs"),
) -> None:
    """Say how many seeds it takes to tell two methods apart, from how their differences spread so far."""
    from kdbench.board.power import plan
    from kdbench.board.select import current
    from kdbench.board.terminal import power as render
    from kdbench.commands.unusable import records_of
    from kdbench.records import Store

    labels = [label.strip() for label in re.split(r",(?![^()]*\))", methods) if label.strip()]
    if len(labels) != 2:
        raise KDBenchError(
            f"--methods {methods!r} names {len(labels)} methods: give the two to tell apart, e.g. dkd,kd"
        )
    grid = _suite(suite, "", "", "", epochs, set_, precision)
    records = current(records_of(Store(out / grid.name)), grid.cells())
    render(_console(), plan(records, labels[0], labels[1], delta))


@app.command("list")
def list_command(
    what: Annotated[str, typer.Argument(help="methods, suites, networks or datasets")] = "methods",
    papers: Annotated[bool, typer.Option("--papers", help="the methods' papers: title, venue, arXiv, code")] = False,
) -> None:
    """List the methods with family, source and needs; or the suites, networks or data sets."""
    from kdbench.commands.listing import print_list

    print_list(_console(), what, papers)


@app.command()
def show(
    method: Annotated[str, typer.Argument(help="a registered name, a composition (crd+kd), or a .py file")],
) -> None:
    """Show a method: its equation, hyperparameters, needs and deviations, and what its paper reports."""
    from kdbench import registry
    from kdbench.commands.show import print_method

    for name in registry.load_file(method) if method.endswith(".py") else [method]:
        print_method(_console(), name)


@app.command()
def reproduce(
    method: Annotated[str, typer.Argument(help="a registered name, or a composition (crd+kd)")],
    paper: Annotated[str, typer.Option(help="another paper's table, by a part of its name")] = "",
    datasets: Annotated[str, typer.Option(help="only these, comma-separated")] = "",
    pairs: Pairs = "",
    seeds: Annotated[str, typer.Option(help="these instead of the paper's number, comma-separated")] = "",
    epochs: Epochs = None,
    precision: Precision = "auto",
    out: Out = Path("runs"),
    data: Data = None,
    device: Device = None,
    compile: Compile = "auto",
    cohort_size: CohortSize = 0,
    retry_failed: RetryFailed = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the cells and what the paper reports")] = False,
    report: Annotated[bool, typer.Option("--report", help="train nothing: only compare what is done")] = False,
) -> None:
    """Run a paper's table under its recipe, and give a verdict on each of its values."""
    from kdbench.board.reproduction import reproduction_table
    from kdbench.board.tables import write_csv
    from kdbench.board.terminal import reproduction as render
    from kdbench.papers.table import Choice, protocol, take_over
    from kdbench.records import Store
    from kdbench.records.lock import locked

    choice = Choice(paper, _words(datasets), _words(pairs), _numbers(seeds), epochs, _precision(precision))
    table = protocol(method, choice)
    cells, store = table.cells, Store(out / table.suite)
    console = _console()
    if dry_run and cells:
        from kdbench.commands.plan import print_plan

        print_plan(console, cells, store, data_root=data, device=device, compile=compile, teachers=out / "teachers")
        if elsewhere := take_over(cells, store, out, dry=True):
            print(f"{elsewhere} of them are finished in other suites of {str(out)!r} and will be taken from there")
    failed = 0
    if cells and not dry_run:
        with locked(out):
            take_over(cells, store, out)
        if not report:
            _execute(cells, store, out, data, device, compile, cohort_size, retry_failed)
        records, grid = _results(cells, store)
        _write(records, grid, store)
        failed = _failed(records, cells)
    frame = reproduction_table(table.entries, [store.read(cell.id) for cell in cells if store.has(cell.id)])
    console.print(table.paper, style="bold", highlight=False)
    for part in render(frame):
        console.print(part)
    if not dry_run:
        write_csv(frame, store.folder / "reproduce.csv")
        print(f"reproduce: {store.folder / 'reproduce.csv'}")
    if failed:
        print(f"kdbench: {failed} cells failed; --retry-failed runs them again", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="the method's name, e.g. my_method")],
    family: Annotated[
        str, typer.Option(help="logits, features, relations, mutual, multi_teacher, multi_head, staged, inputs")
    ] = "logits",
    folder: Annotated[Path, typer.Option(help="where to write the file")] = Path(),
) -> None:
    """Write the file of a new method that already runs, to be filled with your own loss."""
    from kdbench.commands.scaffold import write_method

    path = write_method(name, family, folder)
    print(f"wrote {path}; next: kdbench check {path}, then kdbench run digits --methods student,kd,{path}")


@app.command()
def check(
    method: Annotated[str, typer.Argument(help="a registered name, or a .py file that registers methods")],
) -> None:
    """Hold a method to the contract: finite terms, gradients, odd batches, bf16, compile, resume, cohort."""
    from kdbench import registry
    from kdbench.testing.checks import print_checks

    names = registry.load_file(method) if method.endswith(".py") else [registry.get(method).info.name]
    failed = [name for name in names if not print_checks(_console(), name)]
    if failed:
        raise typer.Exit(1)


def _console() -> Any:
    from kdbench.commands.screen import PlainConsole

    return PlainConsole()


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(seeds: str) -> list[int]:
    try:
        return [int(word) for word in _words(seeds)]
    except ValueError:
        raise KDBenchError(f"--seeds {seeds!r} is not a comma-separated list of whole numbers") from None


def _precision(name: str) -> str:
    from kdbench.errors import unknown
    from kdbench.hardware.numerics import PRECISIONS

    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    return name


def _suite(
    name: str, methods: str, pairs: str, seeds: str, epochs: int | None, settings: list[str] | None, precision: str
) -> Any:
    from kdbench.suites import parse

    return parse.narrow(
        parse.load(name),
        methods=_words(methods),
        pairs=_words(pairs),
        seeds=_numbers(seeds),
        epochs=epochs,
        settings=settings or [],
        precision=_precision(precision),
    )


def _execute(
    cells: list[Any],
    store: Any,
    out: Path,
    data: Path | None,
    device: str | None,
    compile: str,
    cohort_size: int,
    retry_failed: bool,
) -> None:
    """Train the cells that have no record."""
    from kdbench.commands.unusable import clear_away
    from kdbench.records.leftovers import sweep
    from kdbench.records.lock import locked

    try:
        with locked(out):
            sweep(out)
            for kept in (store, type(store)(out / "teachers")):
                clear_away(kept)
            done = sum(store.has(cell.id) for cell in cells)
            if done == len(cells) and not retry_failed:
                return  # before what only training needs is imported
            from kdbench.commands.progress import Display
            from kdbench.executors.local import LocalExecutor

            with Display(_console(), len(cells), done) as display:
                LocalExecutor(out, display, data, device, compile, cohort_size).run(cells, retry_failed)
    except KeyboardInterrupt:
        print("kdbench: interrupted; the same command goes on from the last finished epoch", file=sys.stderr)
        raise typer.Exit(130) from None


def _show(cells: list[Any], store: Any, common: bool = False) -> int:
    """Write the tables, print the leaderboard, and return how many of the cells failed."""
    from kdbench.board import terminal

    records, grid = _results(cells, store)
    long, wide = _write(records, grid, store)
    console = _console()
    files = ["leaderboard.csv", "leaderboard_long.csv", "runs.csv"]
    if common:
        long, wide, note = _write_common(records, grid, store)
        files.insert(0, "leaderboard_common.csv")
        console.print(note or "all methods finished all pairs: nothing is left out", markup=False, highlight=False)
    for part in (*terminal.leaderboard(long, console.width), *terminal.suite(wide, console.width)):
        console.print(part)
    for name in files:
        print(f"{name.removesuffix('.csv') + ':':<20} {store.folder / name}")
    return _failed(records, cells)


def _results(cells: list[Any], store: Any) -> tuple[list[Any], list[Any]]:
    """The records that count for these cells, each read once, and the grid that the tables are made over."""
    from kdbench.board.select import current, expected
    from kdbench.commands.unusable import records_of

    return current(records_of(store), cells), expected(cells)


def _failed(records: list[Any], cells: list[Any]) -> int:
    planned = {cell.id for cell in cells}
    return sum(record["status"] == "failed" for record in records if record["id"] in planned)


def _write(records: list[Any], grid: list[Any], store: Any) -> tuple[Any, Any]:
    """Write the tables; returns the long and the wide leaderboard."""
    from kdbench.board.runs import runs_table
    from kdbench.board.tables import leaderboard_table, write_csv
    from kdbench.board.wide import wide_table

    long, wide = leaderboard_table(records, grid), wide_table(records, grid)
    for name, table in (("runs", runs_table(records, grid)), ("leaderboard", wide), ("leaderboard_long", long)):
        write_csv(table, store.folder / f"{name}.csv")
    return long, wide


def _write_common(records: list[Any], grid: list[Any], store: Any) -> tuple[Any, Any, str]:
    """Rank over what all methods finished; returns the long and the wide leaderboard, and what was left out."""
    from kdbench.board.tables import leaderboard_table, write_csv
    from kdbench.board.wide import common_note, wide_table

    long, wide = leaderboard_table(records, grid, common=True), wide_table(records, grid, common=True)
    write_csv(wide, store.folder / "leaderboard_common.csv")
    return long, wide, common_note(records, grid)


publishing.register(app)
tune.register(app)

if __name__ == "__main__":
    main()
