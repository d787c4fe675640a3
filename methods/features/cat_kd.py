"""Class Attention Transfer Based Knowledge Distillation (Guo, Yan, Li, Lin, CVPR 2023).

The student attends to the regions by which the teacher tells the classes apart: the class activation maps agree.

    CAM_c = sum_k W_ck F_k, the classifier at each location of the map that the head pools, without bias
    L = CE(z_s, y) + weight mean (N(pool(CAM_s)) - N(pool(CAM_t)))^2,  pool to resolution x resolution, N = l2 by map

CIFAR-100 by pair: 15 (resnet32x4 -> resnet8x4), 0.7 (resnet56 -> 20), 1.8 (110 -> 32), 4.5 (vgg13 -> vgg8), 12 and
1.5 (wrn_40_2 -> 16_2, 40_1), all at resolution 2 without N; with N: 15 and 40 (vgg13 and resnet50 -> mobilenetv2),
and at resolution 4: 600 (resnet32x4 -> shufflenets), 80 (wrn_40_2 -> shufflenetv1). ImageNet: 0.5 at resolution 4
without N (resnet34 -> resnet18), 10 at resolution 2 with N (resnet50 -> mobilenetv2).

Deviations: the official code turns the classifier into a 1x1 convolution without bias before the pooling. That is the
same map as here, where the networks stay as they are; but our student keeps its classifier's bias for its logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Dataset, KDBenchError, Method, Network, NotApplicable, Output, Paper, register
from kdbench.connectors import check_pooled_student, pool_to, require_pooled_embedding
from kdbench.losses import wide


@register(
    "cat_kd",
    family="features",
    paper=Paper(
        title="Class Attention Transfer Based Knowledge Distillation",
        authors="Guo et al.",
        year=2023,
        venue="CVPR",
        arxiv="2304.12777",
        code="GzyAftermath/CAT-KD",
    ),
    fidelity="official-code",
)
class CATKD(Method):
    needs = frozenset({"maps", "unpooled"})

    def __init__(self, weight: float = 15.0, resolution: int = 2, normalise: bool = False) -> None:
        super().__init__()
        if resolution < 1:
            raise KDBenchError(f"cat_kd's resolution is {resolution}: give 1 or more")
        self.weight, self.resolution, self.normalise = weight, resolution, normalise

    def build(self, student: Network, teacher: Network) -> None:
        for network in (student, teacher):
            fits = network.shapes.unpooled[0] == network.shapes.embedding
            if not (fits and isinstance(network.classifier, nn.Linear)):
                raise NotApplicable(f"cat_kd needs a linear classifier on the last map, which {network.name!r} has not")
        self.register_buffer("weight_teacher", teacher.classifier.weight.detach().clone())
        self._student = (student,)  # in a tuple, so that it is no module of this one

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        require_pooled_embedding("cat_kd", teachers[0], data)
        check_pooled_student("cat_kd", self._student[0], data)

    def reads(self, stages: int) -> tuple[int, ...]:
        return ()

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours = self.attention(student.unpooled, self._student[0].classifier.weight)
        theirs = self.attention(teacher.unpooled, self.weight_teacher)
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "attention": self.weight * F.mse_loss(ours, theirs),
        }

    def attention(self, feature: Tensor, weight: Tensor) -> Tensor:
        """Class activation maps `[B, K, resolution, resolution]` of a map `[B, C, H, W]`."""
        with torch.autocast(feature.device.type, enabled=False):
            pooled = pool_to(wide(feature), (self.resolution, self.resolution))  # pooling and the classifier commute
            maps = torch.einsum("kc,bchw->bkhw", weight.to(pooled.dtype), pooled)
        return F.normalize(maps, dim=(2, 3)) if self.normalise else maps
