"""The command that measures the machine: tune."""

from __future__ import annotations

from kdbench.commands.options import Selection, console, selecting


@selecting("suite_name", "pairs", "out", "data", "device", "threads")
def tune(chosen: Selection) -> None:
    """Time a suite's networks plain and compiled on this machine; `kdbench run` then takes the faster of the two."""
    from kdbench.records.lock import locked
    from kdbench.training.tune import tune as measure

    with locked(chosen.out):
        measure(console(), chosen.cells, chosen.out, chosen.device, chosen.data, chosen.threads)
