"""A task that does not classify, for tests only: a tiny language model, scored by perplexity, where lower is better.

Its networks' `Output` has a field of its own, which is the one that is scored, and neither data nor task has a number
of classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch, Network, Output, Shapes, answer_of
from kdbench.seeding import derive_seed
from kdbench.suites.grid import DatasetSpec, Recipe
from kdbench.tasks import Task, register_task
from kdbench.tasks.metrics import Metric, Metrics, register

VOCABULARY, LENGTH = 8, 10
LOWER: dict[str, Any] = {"higher_is_better": False}


def from_likelihood(result: Mapping[str, Any]) -> dict[str, float]:
    """The scores that follow from what a result keeps."""
    mean = result["likelihood"]["nats"] / result["likelihood"]["tokens"]
    return {"perplexity": math.exp(mean), "bits": mean / math.log(2)}


METRICS = register(
    Metrics(
        "language",
        (
            Metric("perplexity", "perplexity", "", "perplexity of the test set's tokens", low=1, decimals=3, **LOWER),
            Metric("bits", "bits a token", "bits", "negative log-likelihood of a token, bits", low=0, **LOWER),
            Metric("distance", "distance", "nats", "to the teacher's predictions, nats", of_teacher=True, **LOWER),
        ),
        extra=(Metric("mean_student_perplexity", "students' perplexity", "", "of the students, on average", **LOWER),),
        recompute=from_likelihood,
    )
)


@dataclass(frozen=True)
class Continuation(Output):
    """What a language model says: a row of `logits` and of `embedding` for each next token, `[B * L, ...]`.

    Attributes:
        log_probabilities: `[B * L, V]`, the answer.
    """

    log_probabilities: Tensor = None  # type: ignore[assignment]  # follows fields with defaults

    @property
    def answer(self) -> Tensor:
        return self.log_probabilities


class LanguageModel(Network):
    """Token embedding, causal convolutions, and a linear layer at each place."""

    def __init__(self, name: str, width: int, depth: int) -> None:
        super().__init__()
        self.name = name
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.stages = nn.ModuleList(nn.Conv1d(width, width, 2) for _ in range(depth))
        self.head = nn.Linear(width, VOCABULARY)
        self.shapes = Shapes(VOCABULARY, width, tuple((width, LENGTH) for _ in range(depth)))

    def forward(self, inputs: Tensor) -> Continuation:
        hidden = self.tokens(inputs).transpose(1, 2)  # [B, D, L]
        features = []
        for stage in self.stages:
            hidden = stage(F.pad(hidden, (1, 0))).relu()
            features.append(hidden)
        embedding = hidden.transpose(1, 2).flatten(0, 1)
        logits = self.head(embedding).float()
        return Continuation(logits, embedding, tuple(features), log_probabilities=logits.log_softmax(1))

    @property
    def classifier(self) -> nn.Module:
        return self.head


def sentences(seed: int, count: int = 48) -> Tensor:
    """`[count, LENGTH + 1]`: each token is mostly three times the one before it, plus one."""
    draws = torch.Generator().manual_seed(seed)
    tokens = [torch.randint(VOCABULARY, (count,), generator=draws)]
    for _ in range(LENGTH):
        noise = torch.randint(VOCABULARY, (count,), generator=draws)
        noisy = torch.rand(count, generator=draws) < 0.3
        tokens.append(torch.where(noisy, noise, (3 * tokens[-1] + 1) % VOCABULARY))
    return torch.stack(tokens, 1)


class Sentences:
    """What is trained on: the target of a token is the next one, `[B * L]`."""

    def __init__(self, seed: int, batch_size: int) -> None:
        self.text, self.seed, self.batch_size = sentences(1), seed, batch_size
        self.targets = self.text[:, 1:].flatten()
        self.steps_per_epoch = -(-len(self) // batch_size)

    def __len__(self) -> int:
        return len(self.text)

    def _batch(self, indices: Tensor) -> Batch:
        return Batch(self.text[indices, :-1], self.text[indices, 1:].flatten(), indices)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        draws = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        return map(self._batch, torch.randperm(len(self), generator=draws).split(self.batch_size))

    def batches(self) -> Iterator[Batch]:
        return map(self._batch, torch.arange(len(self)).split(self.batch_size))


class LanguageTask(Task):
    """Its predictions are the log-probabilities of all next tokens of the test set, `[N, V]`."""

    metrics = METRICS

    def __init__(
        self, dataset: DatasetSpec, recipe: Recipe, numerics: Numerics, root: Path | None, download: bool
    ) -> None:
        self.numerics, self.batch_size = numerics, recipe.batch_size
        self.test = sentences(2)

    def training_set(self, seed: int, strong_view: bool) -> Sentences:
        return Sentences(seed, self.batch_size)

    def network(self, name: str, pretrained: bool = False, **options: Any) -> Network:
        _, width, depth = name.split("_")
        network = LanguageModel(name, int(width), int(depth))
        network.to(self.numerics.device)
        return network

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, Tensor]:
        model.eval()
        with self.numerics.autocast():
            parts = [answer_of(model(text[:, :-1])) for text in self.test.split(self.batch_size)]
        return {"log_probabilities": torch.cat(parts)}

    def scores(
        self, predictions: dict[str, Tensor], teacher: dict[str, Tensor] | None = None
    ) -> dict[str, float | None]:
        ours = predictions["log_probabilities"]
        distance = None if teacher is None else (ours - teacher["log_probabilities"]).abs().mean().item()
        return {**from_likelihood(self.keeps(predictions)), "distance": distance}

    def keeps(self, predictions: dict[str, Tensor]) -> dict[str, Any]:
        targets = self.test[:, 1:].flatten()
        nats = F.nll_loss(predictions["log_probabilities"].double(), targets, reduction="sum").item()
        return {"likelihood": {"nats": nats, "tokens": len(targets)}}

    def group(self, members: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        found = [from_likelihood(self.keeps(member))["perplexity"] for member in members]
        return {"mean_student_perplexity": sum(found) / len(found)}

    def example(self) -> Tensor:
        return torch.zeros(1, LENGTH, dtype=torch.int64)

    def blank_targets(self, samples: int) -> Tensor:
        return torch.zeros(samples * LENGTH, dtype=torch.int64)


register_task("language", LanguageTask)

SUITE: dict[str, Any] = {
    "name": "language",
    "seeds": [0, 1],
    "methods": ["student", "kd"],
    "datasets": [{"name": "sentences", "task": "language"}],
    "pairs": [{"teacher": "lm_24_2", "student": "lm_16_1"}],
    "recipe": {"epochs": 5, "batch_size": 16, "learning_rate": 0.3},
}  # of a second of training
