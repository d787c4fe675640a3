"""`python -m benchmarks.report results.json`: from pytest-benchmark's results to docs/performance.md and its plots."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, StrictUndefined

from benchmarks import figures, plots, tables
from benchmarks.figures import Results
from benchmarks.targets import METHOD_STEP, targets

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"


def render(results: Results, accuracy: Sequence[Sequence[str]] = ()) -> str:
    """The page; `accuracy` are the rows of `tables.accuracy_rows`."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {
        "table": tables.table,
        "seconds": tables.seconds,
        "functions": tables.functions,
    }
    content: dict[str, Any] = {
        "targets": targets(results),
        "machine": tables.machine(results),
        "accuracy_rows": accuracy,
        "six": figures.six(results),
        "steps": figures.steps(results),
        "overheads": figures.overheads(results),
        "growth": figures.growth(results),
        "floor": figures.floor(results),
        "batched": figures.batched(results),
    }
    template = (HERE / "performance.md.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(content, **tables.by_name(results)) + "\n"


def write(results: Results, folder: Path) -> list[Path]:
    """Write the page and its plots; a plot without figures is taken away."""
    pictures = folder / "performance"
    pictures.mkdir(parents=True, exist_ok=True)
    page = folder / "performance.md"
    page.write_text(render(results, tables.accuracy_rows(pictures / "precision.csv")), encoding="utf-8")
    sizes, steps = figures.growth(results), figures.steps(results)
    with matplotlib.rc_context():
        plots.styled()
        drawn = {
            "cost_of_a_cell.svg": plots.cost_of_a_cell(sizes) if sizes else None,
            "steps.svg": plots.cost_of_a_step(steps, METHOD_STEP) if steps else None,
        }
        for name, figure in drawn.items():
            if figure is None:
                (pictures / name).unlink(missing_ok=True)
            else:
                (pictures / name).write_bytes(plots.svg(figure))
    return [page, *(pictures / name for name, figure in drawn.items() if figure is not None)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="what `pytest benchmarks --benchmark-json` wrote")
    parser.add_argument("--to", type=Path, default=DOCS, help="the folder of the page")
    arguments = parser.parse_args()
    for path in write(Results.read(arguments.results), arguments.to):
        print(path)


if __name__ == "__main__":
    main()
