"""The site: pages from templates, plots, tables and records, in one folder that needs nothing from outside."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from operator import attrgetter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from kdbench import __version__
from kdbench.board.captions import correction
from kdbench.board.grid import STATES
from kdbench.board.maps.gains import FILE as MAP
from kdbench.board.maps.gains import table as map_table
from kdbench.board.numbers import capital, decimals, fixed, in_unit, known, scaled, with_unit
from kdbench.board.page import maps, plots, summary, trials
from kdbench.board.page.cells import Column, columns, rounded
from kdbench.board.page.data import Board, Results
from kdbench.board.page.latex import latex_tables
from kdbench.board.page.methods import method_page
from kdbench.board.seen import CLASSES
from kdbench.board.tables import write_csv
from kdbench.board.teachers import teacher_seeds
from kdbench.info import FIDELITIES
from kdbench.records import Record
from kdbench.records.files import write_atomically
from kdbench.suites.teacher_seeds import ONE, PAIRED, SAID
from kdbench.tasks.metrics import Metrics

HERE = files("kdbench.board.page")
MANIFEST = ".kdbench-site.json"  # what the last build wrote, so that the next can take away what it no longer writes


def build(
    results: Results,
    folder: Path,
    *,
    originals: Callable[[str], Path] | None = None,
    latex: bool = False,
    pictures: bool = True,
) -> Path:
    """Write the site; the same results give the same bytes.

    Args:
        results: of one suite, with at least one record.
        folder: where to; files of an earlier site that are no longer part of it are removed, others are left alone.
        originals: where the own file of a record lies, by its id: it is copied as it is; None: written anew.
        latex: also write `leaderboard.tex`.
        pictures: also write the plots as PNG and SVG.

    Returns:
        the path of `index.html`.

    Raises:
        KDBenchError: if the folder cannot be written or the disk is full.
    """
    site = _Site(folder)
    _write_pages(results, site, latex, pictures)
    for name in ("page.css", "page.js"):
        site.text(f"assets/{name}", (HERE / "assets" / name).read_text(encoding="utf-8"))
    site.text("assets/plotly.min.js", get_plotlyjs())
    for name, table in results.files.items():
        write_csv(table, site.place(f"data/{name}"))
    if results.map:
        write_csv(map_table(results.map), site.place(f"data/{MAP}"))
    for board in results.boards:
        site.text(f"data/{board.place.key}.js", _plot_data(results, board))
    for record in results.shown_records:
        content = originals(record["id"]).read_bytes() if originals else _as_file(record)
        site.bytes(f"records/{record['id']}.json", content)
    if latex:
        site.text("leaderboard.tex", latex_tables(results))
    if pictures:
        from kdbench.board.page.static_plots import draw_all

        for path, content in draw_all(results):
            site.bytes(path, content)
    site.finish()
    return folder / "index.html"


class _Site:
    """The folder, and what was written into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: set[str] = set()

    def place(self, path: str) -> Path:
        self.written.add(path)
        return self.folder / path

    def bytes(self, path: str, content: bytes) -> None:
        write_atomically(self.place(path), content)

    def text(self, path: str, content: str) -> None:
        self.bytes(path, content.encode())

    def finish(self) -> None:
        """Remove what an earlier build wrote and this one did not."""
        for path in self._earlier() - self.written:
            if (self.folder / path).resolve().is_relative_to(self.folder.resolve()):
                (self.folder / path).unlink(missing_ok=True)
        self.bytes(MANIFEST, json.dumps(sorted(self.written), indent=0).encode())

    def _earlier(self) -> set[str]:
        try:
            return set(json.loads((self.folder / MANIFEST).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return set()


def _as_file(record: Record) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _plot_data(results: Results, board: Board) -> str:
    """A script, because a page on a disk may read no JSON."""
    figures: dict[str, Any] = {"pareto": plots.pareto(board.rows, results.metrics.primary)}
    if not board.overall:
        if curves := results.curves(board.place):
            figures["curves"] = plots.curves(curves, results.metrics.primary)
        if bins := results.reliabilities(board.place):
            figures["calibration"] = plots.calibration(bins)
        figures |= trials.figures(results, board.place)
    key, value = (json.dumps(part, sort_keys=True, separators=(",", ":")) for part in (board.place.key, figures))
    return f"kdbench.add({key},{value});\n"


def environment() -> Environment:
    """Templates with everything escaped: labels and reasons come from users' files."""
    made = Environment(
        loader=FunctionLoader(lambda name: (HERE / "templates" / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.tests["known"] = known
    made.globals["held_against"] = FIDELITIES
    made.filters["correction"] = correction
    made.filters["prose"] = _prose
    made.filters["capital"] = capital
    made.filters["in_unit"] = in_unit
    made.filters["with_unit"] = with_unit
    made.filters["groupby_run"] = _runs_of
    made.filters["groupby_run_items"] = _items_of
    return made


def _prose(text: str) -> Markup:
    """A docstring's text: what stands in backticks is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _runs_of(items: Iterable[Any], attribute: str) -> list[tuple[Any, int]]:
    """Values of an attribute and how often each stands in a row."""
    return [(key, len(list(own))) for key, own in itertools.groupby(items, attrgetter(attribute))]


def _items_of(items: Iterable[Any], attribute: str) -> list[tuple[Any, list[Any]]]:
    """Items that stand in a row with one value of an attribute."""
    return [(key, list(own)) for key, own in itertools.groupby(items, attrgetter(attribute))]


def _write_pages(results: Results, site: _Site, latex: bool, pictures: bool) -> None:
    templates = environment()
    origins = dict(summary.facts(results))
    seeds = len(set(results.runs["seed"]))
    shared = {
        "results": results,
        "version": __version__,
        "dates": "".join(origins.get("Finished", [])),
        "seeds": seeds,
        "families": sorted(set(results.runs["family"])),
        "fidelities": sorted({row["fidelity"] for board in results.boards for row in board.rows}),
        "score": results.metrics.primary,
        "pictures": pictures,
        "classes": CLASSES,
    }
    first = results.fullest(results.boards)
    place = results.fullest([board for board in results.boards if not board.overall])
    findings = _findings(results)
    index = {
        **shared,
        "root": "",
        "first_board": first.place.key,
        "first_place": place.place.key,
        "columns": _columns(results.boards, results.metrics),
        "counts": summary.counts(results),
        "findings": findings,
        "resolution": findings[0][1].resolution,
        "shown_rows": len(first.rows),
        "pairs": len({place.pair for place in results.places}),
        "several_pairs": any(board.overall for board in results.boards),
        "several_settings": len({board.place.where for board in results.boards}) > 1,
        "few_seeds": seeds < summary.FEW,
        "teacher_seeds": PAIRED if teacher_seeds(results.records) == SAID[PAIRED] else ONE,
        "tuned": any(results.grid.trials),
        "states": STATES,
        "heat": summary.heat(results),
        "map": maps.shown(results.map) if results.map else None,
        "ranks": summary.ranks(results),
        "aggregates": summary.aggregates(results) if len(results.places) > 1 else [],
        "compared": first.compared,
        "shown": results.shown(place),
        "calibrated": any(results.reliabilities(p) for p in results.places),
        "comparisons": list(_comparisons(results)),
        "unfinished": summary.unfinished(results),
        "facts": summary.facts(results),
        "latex": latex,
    }
    site.text("index.html", templates.get_template("index.html.j2").render(index))
    _write_method_pages(results, site, templates, shared)
    template = templates.get_template("pair.html.j2")
    for board in results.boards:
        if board.overall:
            continue
        page = {
            **shared,
            "root": "../",
            "first_board": board.place.key,
            "board": board,
            "columns": _columns([board], results.metrics),
            "finding": summary.finding(board, results.baseline, results.metrics.primary),
            "pair_facts": _pair_facts(results, board),
            "compared": board.compared,
            "shown": results.shown(board),
            "calibrated": bool(results.reliabilities(board.place)),
        }
        site.text(f"pairs/{board.place.key}.html", template.render(page))


def _write_method_pages(results: Results, site: _Site, templates: Environment, shared: dict[str, Any]) -> None:
    template = templates.get_template("method.html.j2")
    columns = _columns(results.boards, results.metrics)
    with_curves = {place.key: set(results.curves(place)) for place in results.places}
    calibrated = {place.key: set(results.reliabilities(place)) for place in results.places}
    boards = {board.place.key: board for board in results.boards}
    for label in results.methods:
        own = [key for key, methods in with_curves.items() if label in methods]
        tried = trials.tried(results, label)
        shown = [label, *(m for m in results.shown(boards[own[0]], 2) if m != label)] if own else []
        page = {
            **shared,
            "root": "../",
            "first_board": own[0] if own else "",
            "page": method_page(results, label),
            "columns": columns,
            "shown": shown,
            "calibrated": any(label in methods for methods in calibrated.values()),
            "tried": tried,
            "tried_places": [board for board in results.boards if board.place in [one.place for one in tried]],
            "trial_plots": trials.kinds(results, label),
        }
        site.text(f"methods/{results.slugs[label]}.html", template.render(page))


def _columns(boards: Sequence[Board], metrics: Metrics) -> list[Column]:
    """The columns that say something on at least one board."""
    return [column for column in columns(metrics) if any(column.key in board.cells for board in boards)]


def _findings(results: Results) -> list[tuple[Board, summary.Finding]]:
    """One per data set and protocol: of its fullest board, which is that of all pairs where nothing is missing."""
    settings: dict[str, list[Board]] = {}
    for board in results.boards:
        settings.setdefault(board.place.where, []).append(board)
    boards = [results.fullest(own) for own in settings.values()]
    return [(board, summary.finding(board, results.baseline, results.metrics.primary)) for board in boards]


def _pair_facts(results: Results, board: Board) -> list[tuple[str, str]]:
    """Teacher, student, and how large they are."""
    found = [record for records in results.at(board.place).values() for record in records]
    score = results.metrics.primary
    teacher = next((row["teacher_score"] for row in board.rows if known(row["teacher_score"])), None)
    size = next((r["cost"]["student_parameters"] for r in found if r["status"] == "done"), None)
    students = [row for row in board.rows if row["name"] == "student" and known(row["score_mean"])]
    student = next((row for row in students if not known(row.get("trials"))), None)
    facts = [(f"teacher's {score.heading}", fixed(teacher, score.decimals))] if teacher is not None else []
    if student is not None:
        facts.append((f"student's {score.heading}", rounded(student, score)[0]))
    if size is not None:
        facts.append(("student's parameters", scaled(size)))
    reported = results.teacher_reported(board.place)
    return [*facts, (f"teacher's {score.title} reported", f"{reported[0].value:g}")] if reported else facts


def _comparisons(results: Results) -> Iterator[dict[str, Any]]:
    """What papers report beside what was measured: the same data, pair and label; the epoch as the paper chose it."""
    score = results.metrics.primary
    for board in results.boards:
        for row in board.rows:
            for reported in row["reported"]:
                measured = row["best_score_mean"] if reported.selection == "best" else row["score_mean"]
                digits = decimals(row["score_std"], score.decimals)
                yield {
                    "place": board.place,
                    "slug": row["slug"],
                    "reported": reported,
                    "theirs": fixed(reported.value, score.decimals),
                    "their_spread": f"± {reported.std:g}" if reported.std is not None else "",
                    "ours": fixed(measured, digits) if known(measured) else "",
                    "our_spread": rounded(row, score)[1] if reported.selection != "best" else "",
                    "difference": fixed(measured - reported.value, digits, True) if known(measured) else "",
                }
