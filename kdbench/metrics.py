"""Scores of a classifier and the cost of a deployed network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdbench.losses import kl
from kdbench.method import Output


def logits_of(model: Callable[..., Any], inputs: Tensor) -> Tensor:
    """Logits `[B, K]` of a network or a deployed module, which may return either an `Output` or the logits."""
    output = model(inputs)
    return output.logits if isinstance(output, Output) else output


def classification(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None) -> dict[str, float | None]:
    """Scores of logits `[N, K]` against targets `[N]` and, where given, a teacher's logits `[N, K]`.

    Returns:
        `top1`, `top5`, `agreement` (share of samples with the teacher's top class) in percent, `nll` in nats,
        `kl_to_teacher` in nats at temperature 1. The last two of the teacher are None without one.
    """
    logits = logits.float()
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = ranked == targets[:, None]
    scores: dict[str, float | None] = {
        "top1": _percent(hits[:, 0]),
        "top5": _percent(hits.any(1)),
        "nll": F.cross_entropy(logits, targets).item(),
        "agreement": None,
        "kl_to_teacher": None,
    }
    if teacher_logits is not None:
        scores["agreement"] = _percent(ranked[:, 0] == teacher_logits.argmax(1))
        scores["kl_to_teacher"] = kl(logits, teacher_logits.float()).item()
    return scores


def group(members: list[Tensor], targets: Tensor) -> dict[str, float]:
    """Scores of several students that trained together, from each one's logits `[N, K]`, in percent.

    The ensemble is the mean of the softmax probabilities; disagreement is the share of samples on which two students
    name different classes, averaged over the pairs of students.
    """
    votes = [logits.argmax(1) for logits in members]
    top1 = [_percent(vote == targets) for vote in votes]
    probabilities = torch.stack([logits.float().softmax(1) for logits in members]).mean(0)
    pairs = [(a, b) for i, a in enumerate(votes) for b in votes[i + 1 :]]
    return {
        "mean_student_top1": sum(top1) / len(top1),
        "ensemble_top1": _percent(probabilities.argmax(1) == targets),
        "disagreement": sum(_percent(a != b) for a, b in pairs) / len(pairs),
    }


def _percent(hits: Tensor) -> float:
    return 100.0 * hits.sum().item() / len(hits)


def deployed_cost(module: nn.Module, example: Tensor) -> dict[str, int]:
    """Parameters and multiply-accumulates of what is deployed, for one input `[1, ...]`.

    Counted are the parameters that the logits depend on, so a classifier that SimKD replaces or a head that is dropped
    does not count. Works on a copy in float32 on the CPU; neither gradients nor random numbers leave a trace.
    """
    clone = copy.deepcopy(module).cpu().float().eval()
    example = example.detach().cpu().float() if example.is_floating_point() else example.cpu()
    for parameter in clone.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        logits = logits_of(clone, example)
    used = torch.autograd.grad(logits.sum(), list(clone.parameters()), allow_unused=True)
    parameters = sum(p.numel() for p, gradient in zip(clone.parameters(), used, strict=True) if gradient is not None)
    return {"deployed_parameters": parameters, "deployed_macs": counter.get_total_flops() // 2}
