"""Distilling Knowledge by Mimicking Features (Wang, Ge, Wu, TPAMI 2022; first titled "In Defense of Feature Mimicking
for Knowledge Distillation").

The student mimics the teacher's embedding: its direction through random hyperplanes, on whose right side it has to
fall (locality-sensitive hashing), and its length through the squared distance.

    h(f) = W f + b, frozen, W ~ N(0, std^2) `[N, D]`, b = -median over the training set of W f_t
    l_i = mean_D (f_s - f_t)^2 + mean_N BCE(h(f_s), [h(f_t) > 0])
    L = CE(z_s, y) + weight (mean of l_i over the samples that the teacher classifies correctly)

CIFAR-100: weight 6, N 32 D, std that of the weights of the teacher's classifier. ImageNet: weight 5, N 2048, b 0
(`bias="zero"`). Variants: `l2`, `lsh` and `lshl2` (their sum) are means over all samples, `lshl2_s` is the above.
`kd_weight` (0 in the paper) adds T^2 KL.

Where the widths differ, the student's classifier is two linear layers without an activation between, f_s = the first
one's output, and both learn from the labels. Deployed is their product, written into the student's own classifier, so
that the student keeps its size.

Deviations:
- Where W and b take more than `max_hash_mb` (2048, in units of 2^20 bytes of float32; from D = 4096 on), N is what fits
  into it; a given `n_hash` stays as it is.
- The median is taken over plain images, not augmented ones.
- A batch without any sample that the teacher classifies correctly adds nothing (official code: 0 / 0).
- In a composition such as `lshfm+kd` the other terms see the student's own classifier: use `kd_weight`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Dataset, KDBenchError, Method, Network, NotApplicable, Output, Paper, register
from kdbench.connectors import require_memory
from kdbench.losses import kl

VARIANTS = ("l2", "lsh", "lshl2", "lshl2_s")
BIASES = ("median", "mean", "zero")
CHUNK = 2**24  # hash values held at once while the biases are computed


def last_layer(network: Network) -> nn.Linear | nn.Conv2d:
    """The layer of weights in a classifier: linear, or a 1x1 convolution."""
    layers = [layer for layer in network.classifier.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if len(layers) != 1 or layers[0].bias is None:
        raise NotApplicable(f"lshfm needs a linear classifier with a bias, which {network.name!r} has not")
    return layers[0]


@register(
    "lshfm",
    family="features",
    paper=Paper(
        title="Distilling Knowledge by Mimicking Features",
        authors="Wang et al.",
        year=2022,
        venue="TPAMI",
        arxiv="2011.01424",
        code="DoctorKey/LSHFM.singleclassification",
    ),
    fidelity="official-code",
)
class LSHFM(Method):
    hash_weight: Tensor
    hash_bias: Tensor

    def __init__(
        self,
        weight: float = 6.0,
        variant: str = "lshl2_s",
        n_hash: int | None = None,
        max_hash_mb: float = 2048.0,
        std: float | None = None,
        bias: str = "median",
        kd_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        """`n_hash` None: 32 D, or what `max_hash_mb` holds; `std` None: that of the teacher's classifier."""
        super().__init__()
        if variant not in VARIANTS or bias not in BIASES:
            raise KDBenchError(
                f"lshfm's variant is {variant!r} and its bias {bias!r}: give one of {VARIANTS} and one of {BIASES}"
            )
        if max_hash_mb <= 0 or (n_hash is not None and n_hash < 1):
            raise KDBenchError("lshfm needs at least one hash function: give n_hash and max_hash_mb above 0")
        self.weight, self.variant, self.n_hash, self.max_hash_mb = weight, variant, n_hash, max_hash_mb
        self.std, self.bias, self.kd_weight, self.temperature = std, bias, kd_weight, temperature
        self.feat_fc: nn.Linear | None = None

    def build(self, student: Network, teacher: Network) -> None:
        width = teacher.shapes.embedding
        if student.shapes.embedding != width:
            last_layer(student)
            self.feat_fc = nn.Linear(student.shapes.embedding, width)
            self.fc = nn.Linear(width, student.shapes.num_classes)
        if self.variant != "l2":
            std = last_layer(teacher).weight.std().item() if self.std is None else self.std
            count = self.hashes(width) if self.n_hash is None else self.n_hash
            self.register_buffer("hash_weight", std * torch.randn(count, width))
            self.register_buffer("hash_bias", torch.zeros(count))

    def hashes(self, width: int) -> int:
        """The paper's number of hash functions of an embedding `[width]`, or as many as `max_hash_mb` holds."""
        fitting = int(self.max_hash_mb * 2**20) // (4 * (width + 1))  # float32, a row of W and its b
        return max(min(32 * width, fitting), 1)

    @torch.no_grad()
    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        if self.variant == "l2" or self.bias == "zero":
            return
        size = len(data) * self.hash_weight.shape[1] * self.hash_weight.element_size()
        require_memory("lshfm", teachers[0], size, "set `bias` to 'zero', as the paper does on ImageNet")
        embeddings = torch.cat([teachers[0](batch.inputs).embedding for batch in data.batches()]).to(self.hash_weight)
        centres = []
        with torch.autocast(embeddings.device.type, enabled=False):
            for weight in self.hash_weight.split(max(CHUNK // len(embeddings), 1)):
                values = weight @ embeddings.T  # [chunk, samples]
                centres.append(values.mean(1) if self.bias == "mean" else values.median(1).values)
        self.hash_bias.copy_(-torch.cat(centres))

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours, logits = student.embedding, student.logits
        with torch.autocast(ours.device.type, enabled=False):  # half precision would flip bits near the hyperplanes
            if self.feat_fc is not None:
                ours = self.feat_fc(ours)
                logits = self.fc(ours)
            correct = teacher.logits.argmax(1) == batch.targets
            feature = self.mimic(ours, teacher.embedding, correct.to(ours.dtype))
        terms = {"ce": F.cross_entropy(logits, batch.targets), "feature": self.weight * feature}
        if self.kd_weight:
            terms["kd"] = self.kd_weight * kl(logits, teacher.logits, self.temperature)
        return terms

    def mimic(self, student: Tensor, teacher: Tensor, correct: Tensor) -> Tensor:
        """Distance of embeddings `[B, D]`; `correct` `[B]` is 1 where the teacher classifies the sample correctly."""
        costs = student.new_zeros(len(student))
        if self.variant != "lsh":
            costs = costs + (student - teacher).pow(2).mean(1)
        if self.variant != "l2":
            ours, theirs = (F.linear(f, self.hash_weight, self.hash_bias) for f in (student, teacher))  # [B, N]
            sides = (theirs > 0).to(ours.dtype)
            costs = costs + F.binary_cross_entropy_with_logits(ours, sides, reduction="none").mean(1)
        if self.variant != "lshl2_s":
            return costs.mean()
        return (costs * correct).sum() / correct.sum().clamp(min=1)

    @torch.no_grad()
    def deploy(self, student: Network) -> nn.Module:
        """The student; where it learns through two layers, its own classifier, which does not train, takes both."""
        if self.feat_fc is not None:
            merged = last_layer(student)
            merged.weight.copy_((self.fc.weight @ self.feat_fc.weight).reshape(merged.weight.shape))
            assert merged.bias is not None
            merged.bias.copy_(self.fc.weight @ self.feat_fc.bias + self.fc.bias)
        return student
