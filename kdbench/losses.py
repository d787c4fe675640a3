"""Distances that several methods use. Logits are `[B, K]`; every function returns a scalar unless it says otherwise.

One convention for the whole benchmark: a Kullback-Leibler divergence is summed over classes, averaged over the batch
and multiplied by the squared temperature, as Hinton et al. (2015) do, so that a weight means the same in every method.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def kl_per_sample(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)) for each sample, `[B]`."""
    target = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(F.log_softmax(student / temperature, dim=1), target, reduction="none", log_target=True)
    return divergence.sum(1) * temperature**2


def kl(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over the batch (Hinton et al. 2015)."""
    return kl_per_sample(student, teacher, temperature).mean()
