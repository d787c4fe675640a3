"""Patient Knowledge Distillation for BERT Model Compression (Sun, Cheng, Gan, Liu, EMNLP 2019).

The student imitates the teacher's normalised [CLS] vectors of several layers beside its soft answers.

    L = (1 - alpha) CE(z_s, y) + alpha T^2 KL(z_t || z_s) + beta * mean((c_s^j / |c_s^j| - c_t^g(j) / |c_t^g(j)|)^2)

j = 1..m-1 of m student layers; `layers="skip"`: g(j) = j L_T / m (2, 4, 6, 8, 10 of 12); `"last"`: the last m - 1 below
the top (7..11). The mean is over batch, layers and width. Paper: alpha of {.2, .5, .7}, T of {5, 10, 20}, beta of {10,
100, 500, 1000} for each task; the defaults are the code's for RTE.

Deviations:
- The authors' KL is a mean over all elements, K times smaller: `class_mean=True`.
- The paper's student is as wide as its teacher; of another width a linear layer for all layers fits it.
- The student starts from whatever the pair's student is; `minilm_l6(layers=(1, 2))` is the paper's, the first m layers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Around, Batch, Choice, KDBenchError, Method, NotApplicable, Paper, Space, register
from kdbench.connectors import fitted, uniform_layers, width_of
from kdbench.losses import answer_kl, wide


def patience(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of normalised vectors `[B, n, D]`, over all elements."""
    return F.mse_loss(F.normalize(wide(student), dim=-1), F.normalize(wide(teacher), dim=-1))


@register(
    "bert_pkd",
    family="text",
    paper=Paper(
        title="Patient Knowledge Distillation for BERT Model Compression",
        authors="Sun et al.",
        year=2019,
        venue="EMNLP",
        arxiv="1908.09355",
        code="intersun/PKD-for-BERT-Model-Compression",
    ),
    fidelity="official-code",
)
class BertPKD(Method):
    needs = frozenset({"tokens"})
    reads_logits = False
    search_space = Space(beta=Around(), alpha=Choice(0.2, 0.5, 0.7), temperature=Choice(5.0, 10.0, 20.0))

    def __init__(
        self,
        alpha: float = 0.7,
        beta: float = 500.0,
        temperature: float = 10.0,
        layers: str = "skip",
        class_mean: bool = False,
    ) -> None:
        super().__init__()
        if layers not in ("skip", "last"):
            raise KDBenchError(f"bert_pkd's layers are {layers!r}: give 'skip' or 'last'")
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.layers, self.class_mean = layers, class_mean

    def build(self, student: Any, teacher: Any) -> None:
        ours, theirs = (len(network.shapes.features) for network in (student, teacher))
        if ours < 2:
            raise NotApplicable(f"bert_pkd reads all layers but the last, and {student.name!r} has {ours}")
        if self.layers == "skip":
            self.met = uniform_layers("bert_pkd", student, teacher)[:-1]
        elif ours > theirs:
            raise NotApplicable(f"bert_pkd has {theirs} teacher layers for the {ours} of {student.name!r}")
        else:
            self.met = [theirs - ours + j for j in range(1, ours)]
        self.fit = fitted(width_of(student), width_of(teacher))

    def loss(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        ours = torch.stack([student.hidden[j][:, 0] for j in range(1, len(self.met) + 1)], 1)  # [B, m - 1, D]
        theirs = torch.stack([teacher.hidden[layer][:, 0] for layer in self.met], 1)
        imitation = answer_kl(student.logits, teacher.logits, self.temperature)
        return {
            **{name: (1 - self.alpha) * term for name, term in student.supervised(batch).items()},
            "kd": self.alpha * imitation / (student.logits.shape[1] if self.class_mean else 1),
            "patience": self.beta * patience(self.fit(ours), theirs),
        }
