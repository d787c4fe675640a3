"""A data set of a suite, and what is done to it for students and for their teachers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kdbench.errors import KDBenchError
from kdbench.suites.added import added
from kdbench.suites.folders import content


@dataclass(frozen=True)
class DatasetSpec:
    """A data set by name, the task it belongs to (see kdbench.tasks), and what is done to it.

    Attributes:
        options: how the task is to read it, for tasks that have a choice (docs/tasks.md); None: as it does by itself.
        teacher_protocol: what is done to it while its teachers are trained; None: the same. What `validation` holds out
            for students is held out for them as well: they must not have seen what is scored.
    """

    name: str
    task: str = "image"
    protocol: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    teacher_protocol: Mapping[str, Mapping[str, Any]] | None = added(None)
    options: Mapping[str, Any] | None = added(None)

    def __post_init__(self) -> None:
        if self.teacher_protocol is None:
            return
        held = {key: self.protocol[key] for key in ("validation",) if key in self.protocol}
        taught = {**held, **self.teacher_protocol}
        if taught.get("validation") != held.get("validation"):
            raise KDBenchError(
                f"teacher_protocol of dataset {self.name!r} has a validation of its own: give it in protocol, which "
                "holds the same samples out for teachers"
            )
        object.__setattr__(self, "teacher_protocol", None if taught == self.protocol else taught)

    @property
    def of_teachers(self) -> DatasetSpec:
        """The data that its teachers are trained on."""
        protocol = self.protocol if self.teacher_protocol is None else self.teacher_protocol
        return dataclasses.replace(self, protocol=protocol, teacher_protocol=None)

    @cached_property
    def content(self) -> str | None:
        """A digest of what lies in a folder of images (`folders.content`); None for sets that their name identifies."""
        return content(self.name)
