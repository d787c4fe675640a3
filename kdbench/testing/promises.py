"""What a change must not alter unless it says so: the digest of every method and the id of every shipped suite's cells.

`python -m kdbench.testing.promises` prints them, one per line. A finished cell counts as done as long as its line
stays; a changed line means that it is trained again. Compare the lines before and after a change:

    python -m kdbench.testing.promises > before      (on the branch that the change goes into)
    python -m kdbench.testing.promises | diff before -
"""

from __future__ import annotations

from collections.abc import Iterator

from kdbench import registry, suites
from kdbench.registry.digest import source_digest
from kdbench.suites.parse import load


def promises() -> Iterator[str]:
    """Lines `method NAME DIGEST`, in alphabetical order, then `cell SUITE ID`, in the order of each grid."""
    for name in registry.names():
        yield f"method {name} {source_digest(registry.get(name))}"
    for name in suites.names():
        for cell in load(name).cells():
            yield f"cell {name} {cell.id}"


if __name__ == "__main__":
    for line in promises():
        print(line)
