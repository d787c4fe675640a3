"""The map for print: a heat map for the teacher's lead and one for each method, on one scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from kdbench.board.page.maps import Shown
from kdbench.tasks.metrics import Metric

ACROSS = 3  # panels beside each other


def draw(shown: Shown, score: Metric, colours: Colormap, ink: str) -> Figure:
    """The panels, row by row."""
    rows = math.ceil(len(shown.panels) / ACROSS)
    columns, lines = len(shown.labels), len(shown.panels[0].rows)
    figure = Figure(figsize=(ACROSS * (0.75 + 0.5 * columns), rows * (0.75 + 0.32 * lines) + 0.5))
    grid = figure.subplots(rows, ACROSS, squeeze=False)
    image: Any = None
    for axes in grid.flat[len(shown.panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, shown.panels, strict=False):
        image = axes.imshow(np.array(panel.strength), cmap=colours, vmin=-100, vmax=100, aspect="auto")
        for y, (_, cells) in enumerate(panel.rows):
            for x, cell in enumerate(cells):
                text = cell.text + "•" * bool(cell.mark) or "-"
                axes.text(x, y, text, ha="center", va="center", fontsize=7, color=ink)
        axes.set_title(panel.title, fontsize=8, loc="left")
        axes.set_xticks(range(columns), shown.labels, fontsize=7)
        axes.set_yticks(range(lines), [label for label, _ in panel.rows], fontsize=7)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
    figure.supxlabel(shown.across, fontsize=8)
    if shown.down:
        figure.supylabel(shown.down, fontsize=8)
    bar = figure.colorbar(image, ax=grid, orientation="horizontal", fraction=0.05, pad=0.03, aspect=40)
    bar.set_ticks([-100, 0, 100], labels=[shown.worst, "0", shown.best])
    bar.set_label(f"{score.points or 'difference'} to the plain student; • its 95 % interval leaves 0 out", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return figure
