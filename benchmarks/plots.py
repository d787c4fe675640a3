"""The report's two plots, in the style of the results' own."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from benchmarks.figures import Size, Steps
from kdbench.board.page.static_plots import COLOURS, MUTED, SIZE, STYLE


def svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def styled() -> None:
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]


def cost_of_a_cell(sizes: Sequence[Size]) -> Figure:
    """Cost of a cell against the size of its cohort, in what it costs in the first of these."""
    figure = Figure(figsize=SIZE)
    axes = figure.add_subplot()
    counts, first = [size.learners for size in sizes], sizes[0]
    # each was timed in turns with the smallest cohort, so that a drift of the machine's speed cancels out
    whole = [size.whole_over_smallest / first.whole_over_smallest for size in sizes]
    own = [size.own_over_smallest / first.own_over_smallest * first.own / first.whole for size in sizes]
    axes.axhline(1.0, color=MUTED, linestyle=":", linewidth=1, label="trained alone")
    axes.plot(counts, whole, "o-", color=COLOURS[0], label="a cell, with its share of batch and teacher")
    axes.plot(counts, own, "s--", color=COLOURS[1], label="its own part, which the curve falls to")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("learners in the cohort")
    axes.set_ylabel("time of a cell's step (1: trained alone)")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left")
    return figure


def cost_of_a_step(steps: Steps, limit: float) -> Figure:
    """Each method's step in steps of the plain student."""
    methods = sorted(steps.alone, key=lambda method: -steps.alone[method])
    figure = Figure(figsize=(SIZE[0], 1.0 + 0.17 * len(methods)))
    axes = figure.add_subplot()
    axes.barh(methods, [steps.alone[method] for method in methods], color=COLOURS[0], height=0.7)
    axes.axvline(1.0, color=MUTED, linestyle=":", linewidth=1)
    axes.axvline(limit, color=COLOURS[1], linestyle="--", linewidth=1)
    axes.set_xlabel(f"time of a step (1: the plain student's; dashed: {limit:g}, the target of the median)")
    axes.tick_params(axis="y", labelsize=7, length=0)
    axes.grid(False, axis="y")
    axes.margins(y=0.005)
    return figure
