"""Augmenting Knowledge Distillation with Peer-to-Peer Mutual Learning for Model Compression (Niyaz, Bathula, 2021).

One teacher teaches several students, which also learn from each other; the teacher trains at the same time.

    L_i = a CE(z_i, y) + b KL_T(sg z_t || z_i) + c / (K - 1) sum_{j != i} KL_T(sg z_j || z_i),   L_teacher = CE(z_t, y)

K 2 students, a 0.1, b 0.45, c 0.45, T 2. With c 0 each student does KD, with b 0 (a 1, T 1) it does DML.

Deviations: the abstract fixes the structure only.
- K, the weights and T are inferred.
- Students are updated at once from one forward pass.
- `teacher_mode="online"` is the paper's: a teacher from scratch in the same steps, under the student's recipe;
  `"pretrained"` takes the suite's frozen teacher and is another method.
- The paper's claim is about the ensemble of students (`deployment="ensemble"`); by default one student is deployed, so
  that its cost compares with the other methods', and the record has the mean student's and the ensemble's accuracy
  beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, MutualMethod, Network, Output, Paper, register
from kdbench.connectors import Ensemble
from kdbench.losses import kl, peer_kl


@register(
    "peer_mutual",
    family="mutual",
    paper=Paper(
        title="Augmenting Knowledge Distillation With Peer-To-Peer Mutual Learning For Model Compression",
        authors="Niyaz & Bathula",
        year=2021,
        arxiv="2110.11023",
    ),
    fidelity="reconstructed",
)
class PeerMutual(MutualMethod):
    def __init__(
        self,
        n_students: int = 2,
        ce_weight: float = 0.1,
        kd_weight: float = 0.45,
        mutual_weight: float = 0.45,
        temperature: float = 2.0,
        teacher_mode: str = "online",
        deployment: str = "student",
    ) -> None:
        super().__init__()
        if n_students < 2 or teacher_mode not in ("online", "pretrained") or deployment not in ("student", "ensemble"):
            raise KDBenchError(
                f"peer_mutual needs n_students >= 2, teacher_mode 'online' or 'pretrained' and deployment 'student' or "
                f"'ensemble', not {n_students}, {teacher_mode!r}, {deployment!r}"
            )
        self.n_students, self.temperature = n_students, temperature
        self.ce_weight, self.kd_weight, self.mutual_weight = ce_weight, kd_weight, mutual_weight
        self.teacher_mode, self.deployment = teacher_mode, deployment
        self.uses_teacher = teacher_mode == "pretrained"

    def members(self) -> tuple[str, ...]:
        return ("student",) * self.n_students + ("teacher",) * (self.teacher_mode == "online")

    def loss(self, batch: Batch, student: Sequence[Output], teacher: Output | None) -> dict[str, Tensor]:
        logits = [output.logits for output in student[: self.n_students]]
        online = None if teacher is not None else student[-1].logits
        guide = teacher.logits if teacher is not None else student[-1].logits.detach()
        terms = {} if online is None else {"ce_teacher": F.cross_entropy(online, batch.targets)}
        for i, own in enumerate(logits):
            terms[f"ce_{i}"] = self.ce_weight * F.cross_entropy(own, batch.targets)
            terms[f"kd_{i}"] = self.kd_weight * kl(own, guide, self.temperature)
            terms[f"mutual_{i}"] = self.mutual_weight * peer_kl(logits, i, self.temperature)
        return terms

    def deploy(self, student: Sequence[Network]) -> nn.Module:
        return student[0] if self.deployment == "student" else Ensemble(student[: self.n_students])
