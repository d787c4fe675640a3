"""Text from records and suites as a terminal may show it."""

from __future__ import annotations


def plain(text: object) -> str:
    """Text without what a terminal would obey instead of show: escape sequences, marks that turn the direction, half
    characters. Line ends and tabs stay.
    """
    return "".join(c for c in str(text) if c.isprintable() or c in "\n\t")
