"""The functions that losses are made of agree with the field's reference code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from support import goldens
from torch import Tensor

from kdbench.losses import attention_map, decoupled_kl, log_kl, without


def test_the_attention_map_agrees_with_repdistiller() -> None:
    golden = goldens.load("at")
    goldens.close(attention_map(golden["feat_s_0"]), golden["out_att_s_0"])


def masked(logits: Tensor, targets: Tensor) -> Tensor:
    """All classes but the target, by a mask, for which an accelerator makes the host wait."""
    others = torch.ones_like(logits, dtype=torch.bool).scatter_(1, targets[:, None], False)
    return logits[others].reshape(len(logits), -1)


def decoupled_by_masks(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    pairs, rests = [], []
    for logits in (student, teacher):
        log_p = F.log_softmax(logits / temperature, dim=1)
        rest = masked(log_p, targets)
        pairs.append(torch.cat([log_p.gather(1, targets[:, None]), rest.logsumexp(1, keepdim=True)], 1))
        rests.append(F.log_softmax(rest, dim=1))
    return log_kl(*pairs).mean() * temperature**2, log_kl(*rests).mean() * temperature**2


def test_classes_that_are_taken_by_their_places_give_the_bits_that_a_mask_gives() -> None:
    for seed in range(50):
        torch.manual_seed(seed)
        classes = (2, 10, 100)[seed % 3]
        logits, teacher = (5 * torch.randn(64, classes) for _ in range(2))
        targets = torch.randint(0, classes, (64,))
        found = []
        for split, others in ((decoupled_kl, lambda z, y: without(z, y[:, None])), (decoupled_by_masks, masked)):
            z = logits.clone().requires_grad_()
            target, rest = split(z, teacher, targets, 4.0)
            entropy = (others(z, targets).softmax(1) ** 2).sum()
            found.append((target, rest, entropy, *torch.autograd.grad(target + 8 * rest + entropy, z)))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))
