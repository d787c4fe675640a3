"""MLKD-BERT: Multi-level Knowledge Distillation for Pre-trained Language Models (Zhang, Yang, Ji 2024).

First features and relations between tokens, then relations between the samples of a batch, and soft answers.

    R(X): softmax(X_a X_a^T / sqrt(d / k)) over the tokens, of each of k equal slices X_a of X's width d
    phase tokens:   L = embedding_weight KL(R_1(E_t) || R_1(E_s))
                        + attention_weight sum_{n=1..N} KL(R_k(C_t^g(n)) || R_k(C_s^n))
                        + hidden_weight sum_{n=0..N} MSE(W_n h_s^n + b_n, h_t^g(n))
    phase samples:  L = similarity_weight SS + contrast_weight SC + kd_weight KD
    SS = KL of softmax(c_i . c_j / sqrt(d)) over the batch, c a sample's last [CLS] vector
    SC = 0.07 * supervised contrastive loss of [W c_s; c_t], normalised, at 0.07; positives have the same label
    KD = soft cross-entropy(z_t, z_s) at temperature 1

E: word embeddings after the embeddings' LayerNorm; C: concatenated contexts before the output projection, without
dropout; h^0: the embeddings; g(n) = n L_T / N. `splits` k is 12 whatever the heads, so that their number is free.
Authors' code: all weights 1; 6 + 6 epochs (MNLI, QQP), 20 + 15 (MRPC, RTE, STS-B).

Deviations: the authors' working code, not the paper, where the two differ (splits, temperature, 0.07, the 1e-7 in SC).
- Padded positions take no part. `pad_positions=True` is the authors' form, whose value depends on the padding.
- The authors' KD is also divided by the number of classes: `class_mean=True`.
- Shorter last batches are kept. In regression, SC is left out: labels there are no classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Around, Batch, KDBenchError, Method, NotApplicable, Paper, Phase, Space, Uniform, register
from kdbench.connectors import require_same_tokens, uniform_layers, width_of
from kdbench.losses import answer_cross_entropy, attention_kl, relation_scores, token_mean, token_mse, wide

TAU = 0.07


def relation_kl(student: Tensor, teacher: Tensor, splits: int, mask: Tensor | None) -> Tensor:
    """KLR: relations of the tokens of `[B, L, D]`, mean over samples, slices and tokens."""
    scores = (relation_scores(states, splits) for states in (student, teacher))
    return token_mean(attention_kl(*scores, mask), mask)


def sample_similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """SS of [CLS] vectors `[B, D]`."""
    return relation_kl(student[None], teacher[None], 1, None)


def sample_contrast(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """SC of [CLS] vectors `[B, D]` of one width, and classes `[B]`."""
    with torch.autocast(student.device.type, enabled=False):
        anchors = F.normalize(torch.cat([wide(student), wide(teacher)]), dim=1)  # [2 B, D]
        scores = anchors @ anchors.T / TAU
        scores = scores - scores.max(1, keepdim=True).values.detach()
    labels, others = torch.cat([targets, targets]), ~torch.eye(len(anchors), dtype=torch.bool, device=scores.device)
    positive = (labels[:, None] == labels) & others
    total = (scores.exp() * others).sum(1, keepdim=True)
    each = ((scores - (total + 1e-7).log()) * positive).sum(1) / positive.sum(1)
    return -TAU * each.mean()


@register(
    "mlkd_bert",
    family="text",
    paper=Paper(
        title="MLKD-BERT: Multi-level Knowledge Distillation for Pre-trained Language Models",
        authors="Zhang et al.",
        year=2024,
        arxiv="2407.02775",
        code="HandH1998/tmp_bert_mlkd",
    ),
    fidelity="official-code",
)
class MLKDBert(Method):
    needs = frozenset({"tokens", "attentions"})
    reads_logits = False
    search_space = Space(
        hidden_weight=Around(), attention_weight=Around(), similarity_weight=Around(), contrast_weight=Around(),
        tokens_share=Uniform(0.3, 0.7),
    )  # fmt: skip

    def __init__(
        self,
        embedding_weight: float = 1.0,
        attention_weight: float = 1.0,
        hidden_weight: float = 1.0,
        similarity_weight: float = 1.0,
        contrast_weight: float = 1.0,
        kd_weight: float = 1.0,
        splits: int = 12,
        tokens_share: float = 0.5,
        pad_positions: bool = False,
        class_mean: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < tokens_share < 1:
            raise KDBenchError(f"mlkd_bert's tokens_share is {tokens_share}: give a share between 0 and 1")
        self.embedding_weight, self.attention_weight, self.hidden_weight = (
            embedding_weight, attention_weight, hidden_weight
        )  # fmt: skip
        self.similarity_weight, self.contrast_weight, self.kd_weight = similarity_weight, contrast_weight, kd_weight
        self.splits, self.tokens_share = splits, tokens_share
        self.pad_positions, self.class_mean = pad_positions, class_mean

    def build(self, student: Any, teacher: Any) -> None:
        require_same_tokens("mlkd_bert", student, teacher)
        for network in (student, teacher):
            width = width_of(network)
            if self.splits < 1 or width % self.splits:
                raise NotApplicable(
                    f"mlkd_bert's splits are {self.splits}, which do not divide the width {width} of network "
                    f"{network.name!r}"
                )
            if not network.has_words:
                raise NotApplicable(f"mlkd_bert reads word embeddings and their norm, which {network.name!r} has not")
        self.met = uniform_layers("mlkd_bert", student, teacher)
        ours, theirs = width_of(student), width_of(teacher)
        self.fits = nn.ModuleList(nn.Linear(ours, theirs) for _ in range(len(self.met) + 1))
        self.fit = nn.Linear(ours, theirs)
        self.classes = student.shapes.num_classes

    def phases(self) -> tuple[Phase, ...]:
        share = self.tokens_share
        return (Phase("tokens", share, None, ("fits.",), ()), Phase("samples", 1 - share, None, ("fit.",)))

    def loss(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        return self._samples(batch, student, teacher) if self.phase == "samples" else self._tokens(student, teacher)

    def _tokens(self, student: Any, teacher: Any) -> dict[str, Tensor]:
        mask = None if self.pad_positions else student.mask
        contexts = sum(
            relation_kl(student.context(n), teacher.context(met), self.splits, mask)
            for n, met in enumerate(self.met, 1)
        )
        hidden = sum(
            token_mse(fit(student.hidden[n]), teacher.hidden[met], mask)
            for n, (fit, met) in enumerate(zip(self.fits, [0, *self.met], strict=True))
        )
        return {
            "embedding": self.embedding_weight * relation_kl(student.words, teacher.words, 1, mask),
            "attention": self.attention_weight * contexts,
            "hidden": self.hidden_weight * hidden,
        }

    def _samples(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        ours, theirs = student.hidden[-1][:, 0], teacher.hidden[-1][:, 0]
        terms = {
            "similarity": self.similarity_weight * sample_similarity(ours, theirs),
            "kd": self.kd_weight * answer_cross_entropy(student.logits, teacher.logits, self.class_mean),
        }
        if self.classes > 1:
            terms["contrast"] = self.contrast_weight * sample_contrast(self.fit(ours), theirs, batch.targets)
        return terms
