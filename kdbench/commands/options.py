"""What commands share: the options by which cells are chosen and trained, and one decorator that adds them.

Nothing heavy is imported before a command needs it, so that `kdbench --help` answers at once.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_type_hints

import typer

from kdbench.errors import KDBenchError, unknown
from kdbench.records.plain import plain

if TYPE_CHECKING:
    from rich.console import Console

    from kdbench.board.sweeps.taken import TrialsToCome
    from kdbench.records import Store
    from kdbench.suites.grid import Cell, Suite

CARD = "card.json"  # what tells a published folder from one that runs write into
Command = Callable[..., None]


@dataclass
class Selection:
    """The shared options, as they were given; those that a command does not have are as they stand here.

    Attributes:
        suite: the grid that they leave.
        cells: its cells.
        store: where its records lie.
    """

    suite_name: Annotated[
        str, typer.Argument(help="a suite's name (`kdbench list suites`) or a .toml file", metavar="SUITE")
    ] = "digits"
    methods: Annotated[
        str, typer.Option(help="only these, comma-separated: names, or .py files that register methods")
    ] = ""
    pairs: Annotated[str, typer.Option(help="only these, comma-separated: names or parts of names")] = ""
    seeds: Annotated[str, typer.Option(help="only these, comma-separated")] = ""
    epochs: Annotated[
        int | None, typer.Option(help="epochs of the students (teachers: --set teacher_recipe.epochs=N)")
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="METHOD.HYPERPARAMETER=VALUE, recipe.KEY=VALUE or teacher_recipe.KEY=VALUE"),
    ] = None
    checkpoints: Annotated[
        list[str] | None,
        typer.Option("--teacher", help="NETWORK=FILE: a checkpoint in place of a teacher that would be trained"),
    ] = None
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or tf32")] = "auto"
    out: Annotated[Path, typer.Option(help="results folder", envvar="KDBENCH_OUT")] = Path("runs")
    data: Annotated[Path | None, typer.Option(help="data folder", envvar="KDBENCH_DATA")] = None
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is")] = None
    compile: Annotated[
        str,
        typer.Option(help="auto (as `kdbench tune` measured, else long trainings on CUDA and AMX), on or off"),
    ] = "auto"
    threads: Annotated[
        int | None,
        typer.Option(help="of the CPU, for each learner; default: one, or what the suite fixes", min=1),
    ] = None
    graphs: Annotated[
        int,
        typer.Option(help="of whole training steps, replayed on so many streams (CUDA only; 0: none)", min=0),
    ] = 0
    cohort_size: Annotated[int, typer.Option(help="train at most so many cells side by side (0: no limit)", min=0)] = 0
    sources: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help="a folder whose records and teachers count as if they were made here: results/SUITE, or another run's",
        ),
    ] = None
    stop_after: Annotated[
        str, typer.Option(help="start nothing that cannot end in this time: 90s, 30m, 2h, 1h30m; exit status 0")
    ] = ""
    tuned: Annotated[
        bool, typer.Option("--tuned", help="also the rows with the settings that `kdbench sweep` chose")
    ] = False
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run cells again that failed before")] = False

    @cached_property
    def suite(self) -> Suite:
        from kdbench.suites import parse

        suite = parse.narrow(
            parse.load(self.suite_name),
            methods=words(self.methods),
            pairs=words(self.pairs),
            seeds=self.seed_numbers,
            epochs=self.epochs,
            settings=self.settings or [],
            precision=self.known_precision,
        )
        if self.checkpoints:
            from kdbench.suites.published_teachers import with_teachers

            suite = with_teachers(suite, self.checkpoints)
        remark(suite.hidden_source())
        return suite

    @cached_property
    def cells(self) -> list[Cell]:
        """With tuned rows where they are asked for."""
        cells = self.suite.cells()
        if self.tuned or self.suite.tuned:
            from kdbench.board.sweeps.rows import tuned_cells

            cells += tuned_cells(self.suite, self.trials_to_come, self.grid_typed)
        return cells

    @cached_property
    def shown(self) -> list[Cell]:
        """The cells that tables show: with those tuned rows that are asked for or have a record."""
        from kdbench.board.sweeps.rows import rows_there

        if self.tuned or self.suite.tuned:
            try:
                return self.cells
            except KDBenchError as error:
                remark([str(error)])
        return self.suite.cells() + rows_there(self.suite, self.store)

    @cached_property
    def trials_to_come(self) -> TrialsToCome:
        """The trials of `--from`'s folders, which say with those that are here which cells `--tuned` has."""
        from kdbench.board.sweeps.taken import look

        return look(self.sources or (), self.store.folder)

    @cached_property
    def store(self) -> Store:
        return self.store_of(self.suite.name)

    @cached_property
    def published(self) -> Store | None:
        """The published folder that was named, by its path or as a suite's in `out`; None if it is none."""
        from kdbench.records import Store
        from kdbench.suites import parse

        for folder in (Path(self.suite_name), self.out / Path(self.suite_name).name):
            if (folder / CARD).is_file():
                return Store(folder)
        if not (self.suite_name.endswith(".toml") and self.out.is_dir()):
            return None
        folder = self.out / parse.load(self.suite_name).name
        return Store(folder) if (folder / CARD).is_file() else None

    def is_given(self, name: str) -> bool:
        """Whether an option is not left as it stands here."""
        return bool(getattr(self, name) != getattr(Selection, name))

    def store_of(self, suite: str) -> Store:
        """Where the records of a suite of this name lie."""
        from kdbench.records import Store

        return Store(self.out / suite)

    @property
    def typed(self) -> str:
        """What chose these cells, as it is typed: the suite, and the options that are not left as they stand here."""
        given = {name: getattr(self, name) for name in GRID if self.is_given(name)}
        suite = given.pop("suite_name", self.suite_name)
        tuned = ["--tuned"] * given.pop("tuned", False)
        settings = [("set", setting) for setting in given.pop("settings", None) or []]
        settings += [("teacher", entry) for entry in given.pop("checkpoints", None) or []]
        options = [f"--{name} {shlex.quote(str(value))}" for name, value in [*given.items(), *settings]]
        return " ".join([suite, *options, *tuned])

    @property
    def grid_typed(self) -> str:
        """The same for a sweep of these cells, which has a seed of its own."""
        return dataclasses.replace(self, tuned=False, seeds="").typed

    @property
    def seed_numbers(self) -> list[int]:
        """`seeds` as numbers; none where none are given."""
        try:
            return [int(word) for word in words(self.seeds)]
        except ValueError:
            raise KDBenchError(f"--seeds {self.seeds!r} is not a comma-separated list of whole numbers") from None

    @property
    def known_precision(self) -> str:
        """`precision`, if it is one."""
        from kdbench.hardware.numerics import PRECISIONS

        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        return self.precision


# what most commands take from it
RECIPE = ("epochs", "settings", "checkpoints", "precision", "out")
GRID = ("suite_name", "methods", "pairs", "seeds", *RECIPE, "tuned")
RUNNING = ("data", "device", "compile", "threads", "graphs", "cohort_size", "sources", "stop_after", "retry_failed")


def selecting(*names: str, **others: Any) -> Callable[[Command], Command]:
    """Give a command shared options; it is called with the `Selection` first, and by name with what is its own.

    Args:
        names: fields of `Selection`, which become options of the command.
        others: fields whose option looks otherwise in this command, with its annotation.
    """
    forms = {**others, **{name: get_type_hints(Selection, include_extras=True)[name] for name in names}}
    defaults = {field.name: field.default for field in dataclasses.fields(Selection)}

    def decorate(command: Command) -> Command:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=form)
            for name, form in forms.items()
        ]

        def wrapped(**given: Any) -> None:
            chosen = Selection(**{name: given.pop(name) for name in forms})
            command(chosen, **given)

        # what must be given comes first, then what is shared, then what is the command's own
        needed = [parameter for parameter in own if parameter.default is parameter.empty]
        free = [parameter for parameter in own if parameter not in needed]
        keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*needed, *shared, *free)]
        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        wrapped.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in keywords}
        return wrapped

    return decorate


def words(text: str) -> list[str]:
    """The entries of a comma-separated list; commas in brackets, as in `kd(beta=1, temperature=2)`, separate none."""
    return [word.strip() for word in re.split(r",(?![^()]*\))", text) if word.strip()]


def label_of(entry: str) -> str:
    """A method as the leaderboard calls it, of its label or of the file that registers it: runs of the file count then.

    Raises:
        KDBenchError: if the file registers several.
    """
    if not entry.endswith(".py"):
        return entry
    from kdbench.suites.method_files import load_methods

    names = load_methods(entry)
    if len(names) > 1:
        raise KDBenchError(f"method file {entry!r} registers {', '.join(names)}: give each a file of its own")
    return names[0]


def remark(sentences: Iterable[str]) -> None:
    """Say on standard error what should be known of a command's results."""
    for sentence in sentences:
        print(f"kdbench: {plain(sentence)}", file=sys.stderr)


def console() -> Console:
    """Where tables and prose are printed."""
    from kdbench.commands.screen import PlainConsole

    return PlainConsole()


def fail(sentence: str) -> NoReturn:
    """Say on standard error what went wrong, and end with status 1."""
    print(f"kdbench: {plain(sentence)}", file=sys.stderr)
    raise typer.Exit(1)
