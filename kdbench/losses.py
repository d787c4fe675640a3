"""Distances that several methods use. Logits are `[B, K]`; every function returns a scalar unless it says otherwise.

One convention for the whole benchmark: a Kullback-Leibler divergence is summed over classes, averaged over the batch
and multiplied by the squared temperature, as Hinton et al. (2015) do, so that a weight means the same in every method.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.errors import KDBenchError


def kl_per_sample(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)) for each sample, `[B]`."""
    return (
        log_kl(F.log_softmax(student / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1))
        * temperature**2
    )


def kl(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over the batch (Hinton et al. 2015)."""
    return kl_per_sample(student, teacher, temperature).mean()


def peer_kl(logits: Sequence[Tensor], index: int, temperature: float) -> Tensor:
    """Mean divergence of one student from each of its peers, whose predictions are constants."""
    peers = [peer.detach() for j, peer in enumerate(logits) if j != index]
    return torch.stack([kl(logits[index], peer, temperature) for peer in peers]).mean()


def log_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(exp(teacher) ‖ exp(student)) of log-probabilities `[B, K]`, for each sample, `[B]`."""
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


def weighted_kl(student: Tensor, teachers: Sequence[Tensor], weights: Tensor, temperature: float) -> Tensor:
    """sum_k w_k T² · KL(teacher k ‖ student), mean over the batch, with weights `[K, B]` of K teachers."""
    divergences = torch.stack([kl_per_sample(student, teacher, temperature) for teacher in teachers])  # [K, B]
    return (weights * divergences).sum(0).mean()


def sums_to_one(method: str, kd_scale: str) -> bool:
    """Whether a method's weights of its teachers are to sum to 1 (`"unit"`), or to what its authors' code makes of them
    (`"official"`).

    Raises:
        KDBenchError: for another `kd_scale`.
    """
    if kd_scale not in ("official", "unit"):
        raise KDBenchError(f"{method}'s kd_scale is {kd_scale!r}: give 'official' or 'unit'")
    return kd_scale == "unit"


def without(logits: Tensor, label: Tensor) -> Tensor:
    """Logits `[B, K]` of all classes but the label's `[B, 1]`, in their order: `[B, K - 1]`.

    By places, since the size of what a mask leaves is read by the host, which then waits for the accelerator.
    """
    others = torch.arange(logits.shape[1] - 1, device=logits.device)[None]
    return logits.gather(1, others + (others >= label))


def decoupled_kl(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """KL split at the target class (Zhao et al. 2022, eq. 7): target against the rest, and within the rest.

    Both are means over the batch times T². With two classes the second is zero.
    """
    ours, theirs = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    label, pairs, rests = targets[:, None], [], []
    for log_p in (ours, theirs):
        rest = without(log_p, label)
        pairs.append(torch.cat([log_p.gather(1, label), rest.logsumexp(1, keepdim=True)], 1))  # [B, 2]
        rests.append(F.log_softmax(rest, dim=1))
    target_class = log_kl(*pairs).mean() * temperature**2
    return target_class, log_kl(*rests).mean() * temperature**2


def wide(x: Tensor) -> Tensor:
    """bfloat16 and float16 to float32, for sums that half precision would lose; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def exact(x: Tensor) -> Tensor:
    """float64, for a product whose small differences are what counts; as it is where a device has none (MPS).

    Where a method leaves autocast, an accelerator may still multiply float32 with 10 bits of mantissa (TF32), and
    float32's own 23 are too few next to a difference of zero.
    """
    return x if x.device.type == "mps" else x.double()


def pearson(a: Tensor, b: Tensor, eps: float = 1e-8) -> Tensor:
    """Pearson correlation of each row of `a` with the same row of `b`, both `[N, M]`: `[N]`."""
    a, b = _centred(a), _centred(b)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + eps)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """-sum_c softmax(teacher / T)_c log softmax(student / T)_c for each sample, `[B]`; no T² factor."""
    return -(F.softmax(teacher / temperature, 1) * F.log_softmax(student / temperature, 1)).sum(1)


def squared_distances(x: Tensor, floor: float = 1e-12) -> Tensor:
    """|x_i - x_j|² of the rows of `[B, D]`, off the diagonal at least `floor` (a root needs a gradient): `[B, B]`."""
    squares = x.pow(2).sum(1)
    with torch.autocast(x.device.type, enabled=False):  # the small difference of large numbers
        distances = (squares[:, None] + squares[None, :] - 2 * x @ x.T).clamp(min=floor)
    return distances * (1 - torch.eye(len(x), dtype=x.dtype, device=x.device))


def batch_scale(batch_size: int, reference: int | None) -> float:
    """Factor that gives a loss of size 1 / B the weight that it has at a batch of `reference`; None: no factor."""
    return 1.0 if reference is None else batch_size / reference


def attention_map(feature: Tensor, power: float = 2.0) -> Tensor:
    """Where a map `[B, C, *space]` is active: mean over channels of |F|^power, flattened and normalised, `[B, M]`.

    As |F|_p^p / C: a norm reads bfloat16 and sums in float32 without a wide copy of the map.
    """
    wider = torch.promote_types(feature.dtype, torch.float32)
    norm = torch.linalg.vector_norm(feature, power, dim=1, dtype=wider)
    return F.normalize((norm.pow(power) / feature.shape[1]).flatten(1), dim=1)


def sample_norms(x: Tensor) -> Tensor:
    """The L2 norm of each sample of `[B, C, H, W]`, never zero, in a shape that divides it: `[B, 1, 1, 1]`."""
    return x.flatten(1).norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)[:, None, None, None]


def answer_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """`kl` of logits `[N, K]`; of a regression, K = 1, the mean squared difference from the teacher's number."""
    return F.mse_loss(wide(student), wide(teacher)) if student.shape[1] == 1 else kl(student, teacher, temperature)


def answer_cross_entropy(student: Tensor, teacher: Tensor, class_mean: bool = False) -> Tensor:
    """Mean soft cross-entropy of logits `[N, K]` at temperature 1; of a regression, K = 1, the mean squared difference.

    Args:
        class_mean: divide by K too, as a mean over all elements does (the code of TinyBERT and what is made of it).
    """
    if student.shape[1] == 1:
        return F.mse_loss(wide(student), wide(teacher))
    return soft_cross_entropy(wide(student), wide(teacher)).mean() / (student.shape[1] if class_mean else 1)


def token_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of one value per token, `[B, L]` or `[B, H, L]`, over the real tokens of a batch; padding counts nowhere.

    Args:
        mask: what is a real token, `[B, L]`, bool; None takes every position for one.
    """
    if mask is None:
        return values.mean()
    real = (mask if values.dim() == 2 else mask[:, None]).expand_as(values)
    return values.masked_fill(~real, 0.0).sum() / real.sum().clamp(min=1)


def sentence_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """As `token_mean`, but over each sentence's tokens first: a long sentence weighs as much as a short one."""
    if mask is None:
        return values.mean()
    real = (mask if values.dim() == 2 else mask[:, None]).expand_as(values)
    return (values.masked_fill(~real, 0.0).sum(-1) / real.sum(-1).clamp(min=1)).mean()


def token_mse(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Mean squared difference of hidden states `[B, L, D]` over the real tokens and D (see `token_mean`)."""
    return token_mean((wide(student) - wide(teacher)).square().mean(2), mask)


def relation_scores(states: Tensor, heads: int) -> Tensor:
    """Scaled products of all pairs of tokens: `[B, L, D]` to `[B, heads, L, L]`, each of `heads` slices of D by itself.

    The scale is 1 / sqrt(D / heads), as between queries and keys; D must be divisible by `heads`.
    """
    with torch.autocast(states.device.type, enabled=False):
        cut = wide(states).unflatten(2, (heads, -1)).transpose(1, 2)  # [B, heads, L, D / heads]
        return cut @ cut.transpose(2, 3) / cut.shape[3] ** 0.5


def attention_kl(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """KL(softmax(teacher) ‖ softmax(student)) of each row of scores `[B, H, L, L]`: `[B, H, L]`.

    Args:
        mask: the keys that take part, `[B, L]`, bool: others get no mass, whatever their scores. None: all.
    """
    if mask is not None:
        student, teacher = (
            wide(x).masked_fill(~mask[:, None, None], torch.finfo(wide(x).dtype).min) for x in (student, teacher)
        )
    ours, theirs = (F.log_softmax(wide(x), dim=3) for x in (student, teacher))
    return (theirs.exp() * (theirs - ours)).sum(3)
