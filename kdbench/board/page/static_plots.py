"""The plots for print: the same data as on the pages, drawn by matplotlib as PNG and SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdbench.board.numbers import known
from kdbench.board.page import maps, static_map, summary
from kdbench.board.page.data import Board, Results
from kdbench.board.page.plots import cost_key, cost_ticks, cost_title, score_title, short
from kdbench.board.page.series import Curve, Reliability, unit_of
from kdbench.suites.grid import BASELINES
from kdbench.tasks.metrics import Metric

# Okabe and Ito's colours, which all kinds of sight tell apart
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4a4f57")
DASHES = ("-", "--", ":")
DIVERGING = LinearSegmentedColormap.from_list("orange-blue", ["#eda43c", "#ffffff", "#6bb9e6"])
MUTED = "#5a6673"
LINE = "#dfe4ea"
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": "#18202a",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "kdbench",  # the same records give the same file
}
SIZE = (5.5, 3.6)


def draw_all(results: Results) -> Iterator[tuple[str, bytes]]:
    """Path in the site and content of every picture."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]
        yield from _saved("heat", heat(results))
        if results.map:
            yield from _saved(
                "map", static_map.draw(maps.shown(results.map), results.metrics.primary, DIVERGING, "#18202a")
            )
        for place, ranks in enumerate(summary.ranks(results)):
            yield from _saved(f"ranks-{ranks.key}" if place else "ranks", critical_difference(ranks))
        for board in results.boards:
            yield from _saved(f"pareto-{board.place.key}", pareto(board, results.metrics.primary))
            if board.overall:
                continue
            shown = results.shown(board)
            yield from _saved(
                f"curves-{board.place.key}", curves(results.curves(board.place), shown, results.metrics.primary)
            )
            bins = results.reliabilities(board.place)
            if bins:
                yield from _saved(f"calibration-{board.place.key}", calibration(bins, shown))


def _saved(name: str, figure: Figure) -> Iterator[tuple[str, bytes]]:
    for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=ending, dpi=200, metadata=metadata)
        yield f"plots/{name}.{ending}", buffer.getvalue()


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def heat(results: Results) -> Figure:
    """Methods x pairs: difference to the baseline, a dot where Holm's correction leaves one."""
    table = summary.heat(results)
    columns, rows = len(table.places), len(table.rows)
    figure, axes = _axes(2.2 + 1.1 * columns, 1.0 + 0.22 * rows)
    strength = np.array([row.strength for row in table.rows], dtype=float)
    image = axes.imshow(strength, cmap=DIVERGING, vmin=-100, vmax=100, aspect="auto")
    for y, row in enumerate(table.rows):
        for x, cell in enumerate(row.cells):
            text = cell.text.strip() + " •" * bool(cell.mark) if cell.text else row.state[x].replace("_", " ") or "-"
            axes.text(x, y, text, ha="center", va="center", fontsize=7, color="#18202a" if cell.text else MUTED)
    titles = [place.short.replace(", ", ",\n").replace(" -> ", "\n→ ") for place in table.places]
    axes.set_xticks(range(columns), titles, fontsize=7)
    axes.set_yticks(range(rows), [_plain(row.method) for row in table.rows], fontsize=7)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, orientation="horizontal", fraction=0.05, pad=0.02, aspect=30)
    bar.set_ticks([-100, 0, 100], labels=[table.worst, "0", table.best])
    bar.set_label(
        f"{results.metrics.primary.points or 'difference'} to {results.baseline}; • after Holm's correction", fontsize=7
    )
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def critical_difference(ranks: summary.Ranks) -> Figure:
    """Demsar's diagram: methods on an axis of average ranks, the best left; bars join what cannot be told apart."""
    data = ranks.data
    count = len(data.methods)
    half = math.ceil(count / 2)
    lanes = len(data.cliques)
    step, lane = 0.2, 0.09
    top = 0.55
    height = top + 0.25 + lanes * lane + 0.15 + half * step
    figure = Figure(figsize=(6.5, height))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 6.5), ylim=(height, 0))  # inches, downwards
    axes.axis("off")
    left, right = 1.7, 4.8
    span = max(count - 1, 1)

    def x(rank: float) -> float:
        return left + (right - left) * (rank - 1) / span

    ink: dict[str, Any] = {"color": "#18202a", "linewidth": 0.9}
    axes.plot([left, right], [top, top], **ink)
    for tick in _rank_ticks(count):
        axes.plot([x(tick)] * 2, [top - 0.06, top], **ink)
        axes.text(x(tick), top - 0.1, f"{tick}", ha="center", va="bottom", fontsize=7)
    end = x(1 + data.difference)
    axes.plot([left, min(end, right)], [0.15, 0.15], color=MUTED, linewidth=1.5)
    name = f"critical difference {data.difference:.2f}"
    axes.text(min(end, right) + 0.06, 0.15, name, fontsize=7, va="center", color=MUTED)
    for index, (first, last) in enumerate(data.cliques):
        y = top + 0.14 + index * lane
        ends = [x(data.ranks[first]) - 0.04, x(data.ranks[last]) + 0.04]
        axes.plot(ends, [y, y], color="#18202a", linewidth=2.2, solid_capstyle="butt")
    below = top + 0.25 + lanes * lane
    for index, (method, rank) in enumerate(zip(data.methods, data.ranks, strict=True)):
        on_left = index < half
        y = below + 0.1 + step * (index if on_left else count - 1 - index)
        edge = left - 0.12 if on_left else right + 0.12
        axes.plot([x(rank), x(rank), edge], [top, y, y], color=MUTED, linewidth=0.6)
        side = "right" if on_left else "left"
        text = f"{_plain(method, 20)}  {rank:.2f}" if on_left else f"{rank:.2f}  {_plain(method, 20)}"
        axes.text(edge + (-0.05 if on_left else 0.05), y, text, ha=side, va="center", fontsize=7)
    return figure


def _rank_ticks(count: int) -> list[int]:
    step = max(1, round(count / 10))
    return [1, *range(1 + step, count - step // 2, step), count] if count > 1 else [1]


def pareto(board: Board, score: Metric) -> Figure:
    """The score against training cost; the front is joined and named."""
    figure, axes = _axes(*SIZE)
    key = cost_key(board.rows)
    points = [row for row in board.rows if known(row["score_mean"]) and known(row[key]) and row[key] > 0]
    front = sorted((row for row in points if row.get("pareto") is True), key=lambda row: row[key])
    rest = [row for row in points if row not in front]
    for rows, colour in ((rest, MUTED), (front, COLOURS[0])):
        spread = [row["score_std"] if known(row["score_std"]) else 0.0 for row in rows]
        where = [row[key] for row in rows], [row["score_mean"] for row in rows]
        axes.errorbar(*where, yerr=spread, fmt="o", markersize=4, color=colour, elinewidth=0.6)
    line = [row[key] for row in front], [row["score_mean"] for row in front]
    axes.step(*line, where="post", color=COLOURS[0], linewidth=1)
    # names stand beside the plot, since the points of a front lie close together
    named = sorted([*front, *(row for row in rest if row["name"] in BASELINES)], key=lambda row: -row["score_mean"])
    for place, row in enumerate(named):
        at, beside = (row[key], row["score_mean"]), (1.04, 0.98 - 0.055 * place)
        leader = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.4, "shrinkB": 3}
        name = axes.annotate(_plain(row["method"]), at, beside, textcoords="axes fraction", arrowprops=leader)
        name.set(fontsize=7, va="center")
    axes.set_xscale("log")
    ticks, low, high = cost_ticks([row[key] for row in points])
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(cost_title(key))
    axes.set_ylabel(score_title(score))
    return figure


def _styles(shown: list[str]) -> dict[str, dict[str, Any]]:
    return {
        method: {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}
        for index, method in enumerate(shown)
    }


def curves(series: Mapping[str, Curve], shown: list[str], score: Metric) -> Figure:
    """Test score by epoch: mean of the seeds and their range."""
    figure, axes = _axes(*SIZE)
    for method, style in _styles(shown).items():
        curve = series.get(method)
        if curve is None:
            continue
        axes.plot(curve.epochs, curve.mean, label=_plain(method), linewidth=1.3, **style)
        if curve.seeds > 1:
            axes.fill_between(curve.epochs, curve.low, curve.high, color=style["color"], alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(unit_of(series.values()))
    axes.set_ylabel(score_title(score))
    if axes.lines:
        axes.legend(fontsize=7)
    return figure


def calibration(series: Mapping[str, Reliability], shown: list[str]) -> Figure:
    """Accuracy by confidence; a mark's area is its share of the samples."""
    figure, axes = _axes(4.2, 3.8)
    axes.plot([0, 100], [0, 100], color=MUTED, linestyle=":", linewidth=0.8)
    for method, style in _styles(shown).items():
        bins = series.get(method)
        if bins is None:
            continue
        sure, hit = ([100 * value for value in values] for values in (bins.confidence, bins.accuracy))
        axes.plot(sure, hit, label=_plain(method), linewidth=1.1, **style)
        axes.scatter(sure, hit, s=[4 + 120 * share for share in bins.share], color=style["color"])
    axes.set(xlim=(0, 101), ylim=(0, 101), xlabel="confidence, %", ylabel="accuracy, %", aspect="equal")
    if len(axes.lines) > 1:
        axes.legend(fontsize=7)
    return figure


def _plain(label: str, most: int = 32) -> str:
    """A label without the dollars that matplotlib takes for mathematics, and not too long."""
    return short(label, most).replace("$", r"\$")
