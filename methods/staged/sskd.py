"""An Embarrassingly Simple Approach for Knowledge Distillation, stage by stage (Gao et al., 2018; first titled "Feature
Matters: A Stage-by-Stage Approach for Knowledge Transfer").

The student's body imitates the teacher's, one stage after the other with the earlier ones frozen, without labels;
then the head alone learns the task. No two losses are ever weighed against each other.

    phase k = 1..K:  L = mean((adapter_k(F_s^k) - F_t^k)^2), training stage k
    last phase:      L = CE(z_s, y), training the head

Not the self-supervised SSKD of Xu et al. (ECCV 2020).

Deviations: the body of the paper was not at hand.
- Inferred are the greedy freezing (with norms in eval mode), a 1x1 convolution without activation as adapter where the
  channels differ (none where they agree), pooling the larger map to the smaller, the epochs (40 of 240 for the head,
  the others split equally over the stages), and the rate's restart in each phase with drops at 60 % and 80 % of it.
- `unfreeze_head_stage=True` trains everything in the last phase.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, Method, Network, NotApplicable, Output, Paper, Phase, Space, Uniform, register
from kdbench.connectors import pointwise, pool_match

MILESTONES = (0.6, 0.8)


@register(
    "sskd",
    family="staged",
    paper=Paper(
        title="An Embarrassingly Simple Approach for Knowledge Distillation",
        authors="Gao et al.",
        year=2018,
        arxiv="1812.01819",
    ),
    fidelity="reconstructed",
)
class SSKD(Method):
    needs = frozenset({"features"})
    search_space = Space(head_share=Uniform(0.1, 0.5))

    def __init__(self, head_share: float = 40 / 240, unfreeze_head_stage: bool = False) -> None:
        super().__init__()
        if not 0 < head_share < 1:
            raise KDBenchError(f"sskd's head_share is {head_share}: give a share of the training between 0 and 1")
        self.head_share, self.unfreeze_head_stage = head_share, unfreeze_head_stage

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = student.shapes.features, teacher.shapes.features
        if len(ours) != len(theirs):
            raise NotApplicable(
                f"sskd needs as many stages on both sides, but {student.name!r} has {len(ours)} and {teacher.name!r} "
                f"has {len(theirs)}"
            )
        *self.stages, self.head = student.stage_parameters()
        if not all(self.stages):
            empty = self.stages.index(frozenset()) + 1
            raise NotApplicable(f"sskd trains stage by stage, but stage {empty} of {student.name!r} has no parameters")
        self.adapters = nn.ModuleList(
            nn.Identity() if s[0] == t[0] else pointwise(s[0], t[0], len(s) - 1)
            for s, t in zip(ours, theirs, strict=True)
        )

    def phases(self) -> tuple[Phase, ...]:
        share = (1 - self.head_share) / len(self.stages)
        imitate = [
            Phase(f"stage_{k}", share, names, (f"adapters.{k}.",), MILESTONES) for k, names in enumerate(self.stages)
        ]
        head = None if self.unfreeze_head_stage else self.head
        return (*imitate, Phase("head", self.head_share, head, (), MILESTONES))

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        if self.phase == "head":
            return {"ce": F.cross_entropy(student.logits, batch.targets)}
        k = int(self.phase.removeprefix("stage_"))
        ours, theirs = pool_match(self.adapters[k](student.features[k]), teacher.features[k])
        return {"feature": F.mse_loss(ours, theirs)}
