"""`python -m benchmarks.precision`: does bf16 change what the benchmark says? On `fashion`, about half an hour.

The same cells, from the same teachers (trained in fp32), in fp32, in bf16, and once more in fp32 with another number of
threads, whose sums round otherwise: training is chaotic, and the last arm shows how far rounding alone carries it.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path

import pandas as pd
from rich.console import Console
from scipy import stats

from benchmarks.setting import SIX
from kdbench.board.statistics.intervals import holm
from kdbench.commands.progress import Display
from kdbench.executors.local import LocalExecutor
from kdbench.hardware.numerics import Numerics
from kdbench.records import Store
from kdbench.suites import parse
from kdbench.suites.grid import Cell

# precision and threads
ARMS = {"fp32": ("fp32", 1), "bf16": ("bf16", 1), "fp32, two threads": ("fp32", 2)}
METHODS = ("student", *SIX)
FILE = Path(__file__).parent.parent / "docs" / "performance" / "precision.csv"


class Arm(LocalExecutor):
    """Students in the arm's precision, teachers in fp32."""

    precision: str

    def numerics(self, cell: Cell) -> Numerics:
        precision = self.precision if cell.role == "student" else "fp32"
        return dataclasses.replace(super().numerics(cell), precision=precision, precision_rule="given")


def cells(name: str, pair: str, seeds: int) -> list[Cell]:
    grid = parse.narrow(parse.load(name), methods=METHODS, pairs=[pair])
    return dataclasses.replace(grid, seeds=tuple(range(seeds))).cells()


def train(grid: list[Cell], out: Path) -> pd.DataFrame:
    """Top-1 of every cell in every arm, one row each; what is in the folder already is not trained again."""
    rows = []
    first = out / next(iter(ARMS))
    for arm, (precision, threads) in ARMS.items():
        folder = out / arm
        if folder != first and not folder.exists():
            shutil.copytree(first / "teachers", folder / "teachers")
        store = Store(folder / grid[0].suite)
        with Display(Console(), len(grid), sum(store.has(cell.id) for cell in grid)) as display:
            executor = Arm(folder, display, device="cpu", compile="off", threads=threads)
            executor.precision = precision
            executor.run(grid)
        for cell in grid:
            top1 = store.read(cell.id)["result"]["top1"]
            rows.append({"arm": arm, "method": cell.method.name, "seed": cell.seed, "top1": top1})
    return pd.DataFrame(rows)


def compare(runs: pd.DataFrame) -> pd.DataFrame:
    """Each method's mean and standard deviation over seeds by arm, and its difference to fp32 over the same seeds.

    `p` is that of the paired t-test, corrected for all differences by Holm's method.
    """
    rows = []
    for method, group in runs.groupby("method", sort=False):
        by_seed = group.pivot(index="seed", columns="arm", values="top1")
        for arm in ARMS:
            difference = by_seed[arm] - by_seed["fp32"]
            rows.append(
                {
                    "method": method,
                    "arm": arm,
                    "seeds": len(by_seed),
                    "top1_mean": by_seed[arm].mean(),
                    "top1_std": by_seed[arm].std(),
                    "difference": difference.mean() if arm != "fp32" else None,
                    "p": stats.ttest_rel(by_seed[arm], by_seed["fp32"]).pvalue if arm != "fp32" else None,
                }
            )
    table = pd.DataFrame(rows)
    table["p"] = holm(table["p"].to_numpy(dtype=float))
    return table.round(4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/precision"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--suite", default="fashion")
    parser.add_argument("--pair", default="cifar_resnet20")
    chosen = parser.parse_args()
    table = compare(train(cells(chosen.suite, chosen.pair, chosen.seeds), chosen.out))
    FILE.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(FILE, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
