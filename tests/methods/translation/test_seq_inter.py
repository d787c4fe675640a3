"""seq_inter is trained on the teacher's best, and then on what of its list is most like the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.loops import float64  # noqa: F401  (a fixture for every test here)

from kdbench import KDBenchError, registry
from kdbench.suites.corpus import Corpus
from kdbench.tasks.translation.batches import TranslationBatch


class Step:
    """What `Method.step` works with: a student that answers with the inputs' own numbers."""

    def __init__(self, batch: Any) -> None:
        self.batch, self.students, self.teacher_outputs = batch, [None], []
        self.terms: Any = None

    def forward(self, student: int = 0, inputs: Any = None) -> Any:
        return goldens.output((self.batch.inputs if inputs is None else inputs).double())

    def update(self, terms: Any) -> None:
        self.terms = terms


@pytest.mark.equation
@pytest.mark.parametrize(("phase", "which"), [("sequences", 0), ("interpolation", 1)])
def test_the_loss_is_the_smoothed_likelihood_of_the_phases_own_targets(phase: str, which: int) -> None:
    draws = torch.Generator().manual_seed(0)
    sides = [(torch.randn(4, 5, generator=draws), torch.randint(5, (4,), generator=draws)) for _ in range(2)]
    batch = TranslationBatch(*sides[1], torch.arange(4), first=sides[0])
    method, step = registry.create("seq_inter"), Step(batch)
    method.phase = phase
    assert method.step(step) is step.terms
    logits, targets = sides[which]
    log_p = logits.double().log_softmax(1)
    wanted = -sum(0.9 * log_p[row, token] + 0.1 * log_p[row].mean() for row, token in enumerate(targets)) / 4
    goldens.close(step.terms["ce"], wanted)


def test_the_corpus_is_ranked_by_the_reference_and_fine_tuning_ends_the_training() -> None:
    method = registry.create("seq_inter")
    assert method.corpus() == Corpus("beam", 35, {"length_penalty": 1.0}, taken=1, choice="reference")
    assert [(phase.name, phase.share) for phase in method.phases()] == [("sequences", 0.75), ("interpolation", 0.25)]
    alone = registry.create("seq_inter", {"fine_tuning": 1.0}).phases()
    assert [(phase.name, phase.share) for phase in alone] == [("interpolation", 1.0)]
    with pytest.raises(KDBenchError, match="fine_tuning is 0"):
        registry.create("seq_inter", {"fine_tuning": 0.0})
