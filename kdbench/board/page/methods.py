"""What the page of one method shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.board.columns import rows_of
from kdbench.board.numbers import fixed, known, scaled
from kdbench.board.page.cells import Cell, table
from kdbench.board.page.data import Board, Place, Results
from kdbench.papers.reported import Reported, by_paper, of_method
from kdbench.registry.about import Described
from kdbench.tasks.metrics import Metrics

COSTS = (
    ("seconds_per_epoch", "seconds an epoch", 2),
    ("time_ratio_to_student", "time to student's", 2),
    ("joules_per_epoch", "joules an epoch", 0),
    ("peak_memory_mb", "peak memory, MB", 0),
    ("extra_parameters", "extra parameters", None),
    ("deployed_parameters", "deployed parameters", None),
    ("deployed_macs", "deployed MACs", None),
    ("latency_ms_batch1", "latency, 1 input, ms", 2),
    ("latency_ms_batch128", "latency, 128 inputs, ms", 1),
    ("trials", "trials", 0),
    ("trial_seconds", "training time of the trials, s", 0),
)


def score_columns(metrics: Metrics) -> list[tuple[str, str, int | None]]:
    """Key, heading and decimals of every score."""
    score = metrics.primary
    unit = score.heading.removeprefix(score.title)
    return [
        ("score_mean", score.heading, score.decimals),
        ("best_score_mean", f"best epoch{unit}", score.decimals),
        ("teacher_score", f"teacher{unit}", score.decimals),
        *((metric.name, metric.heading, metric.decimals) for metric in metrics.others),
    ]


@dataclass(frozen=True)
class Standing:
    """A method's row on one board."""

    board: Board
    row: Mapping[str, Any]
    cells: Mapping[str, Cell]
    of: int  # ranked methods there


@dataclass(frozen=True)
class MethodPage:
    """Everything about one label.

    Attributes:
        hyperparameters: name, value, and the default where it differs.
        scores, costs: headings, then one row per place.
        run_scores: headings of the scores of single runs.
        runs: one row per cell of the grid.
        reported: paper -> its values.
    """

    label: str
    name: str
    slug: str
    family: str
    described: Described | None
    hyperparameters: list[tuple[str, str, str]]
    standings: list[Standing]
    scores: tuple[list[str], list[tuple[Place, list[str]]]]
    costs: tuple[list[str], list[tuple[Place, list[str]]]]
    run_scores: list[str]
    runs: list[dict[str, Any]]
    reported: dict[str, list[Reported]]


def method_page(results: Results, label: str) -> MethodPage:
    """Collect one method's page."""
    found = [
        (board, row, sum(known(other.get("rank")) for other in board.rows))
        for board in results.boards
        for row in board.rows
        if row["method"] == label
    ]
    cells = table([row for _, row, _ in found], results.metrics)
    standings = [
        Standing(board, row, {key: column[i] for key, column in cells.items()}, of)
        for i, (board, row, of) in enumerate(found)
    ]
    name = results.names[label]
    described = results.described.get(name)
    single = [standing for standing in standings if not standing.board.overall]
    return MethodPage(
        label,
        name,
        results.slugs[label],
        str(found[0][1]["family"]),
        described,
        _hyperparameters(results.hyperparameters(label), described.defaults if described else {}),
        standings,
        _numbers(single, score_columns(results.metrics)),
        _numbers(single, COSTS),
        [results.metrics.primary.heading, "best (epoch)", *(metric.heading for metric in results.metrics.shown)],
        _runs(results, label),
        by_paper(of_method(results.reported, name)),
    )


def _hyperparameters(used: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (name, _value(value), _value(defaults[name]) if name in defaults and defaults[name] != value else "")
        for name, value in sorted(used.items())
    ]


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _numbers(
    standings: list[Standing], wanted: Sequence[tuple[str, str, int | None]]
) -> tuple[list[str], list[tuple[Place, list[str]]]]:
    """A table without its empty columns."""
    kept = [column for column in wanted if any(known(standing.row.get(column[0])) for standing in standings)]
    rows = [
        (standing.board.place, [_number(standing.row.get(key), digits) for key, _, digits in kept])
        for standing in standings
    ]
    return [heading for _, heading, _ in kept], rows


def _number(value: Any, digits: int | None) -> str:
    if not known(value):
        return ""
    return scaled(value) if digits is None else fixed(value, digits)


def _runs(results: Results, label: str) -> list[dict[str, Any]]:
    places = {(place.dataset, place.protocol, place.pair): place for place in results.places}
    mine = rows_of(results.runs[results.runs["method"] == label], results.metrics)
    shown, digits = results.metrics.shown, results.metrics.primary.decimals
    return [
        {
            "place": places[run["dataset"], run["protocol"], run["pair"]],
            "seed": run["seed"],
            "state": run["status"].replace("_", " "),
            "reason": run["reason"] or "",
            "id": run["id"] or "",
            "numbers": [
                _number(run["score"], digits),
                f"{_number(run['best_score'], digits)} ({run['best_epoch']:.0f})" if known(run["best_epoch"]) else "",
                *(_number(run[metric.name], metric.decimals) for metric in shown),
                _number(run["seconds_per_epoch"], 2),
            ],
        }
        for run in mine
    ]
