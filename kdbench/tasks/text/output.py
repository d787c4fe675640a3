"""What a text network says about a batch: answers, and what is known of each token in each layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.losses import wide
from kdbench.method import Batch, Output


@dataclass(frozen=True)
class TextOutput(Output):
    """Layers are counted from 1; 0 are the embeddings. B samples, L tokens, width D, H heads of d, M layers.

    `features` and `stem` are the hidden states as `[B, D, L]`, zero at padded places. Scores, probabilities and
    contexts are computed from queries, keys and values when they are asked for, without dropout: so they are there
    whatever computes the attention itself.

    Attributes:
        mask: real tokens, `[B, L]`, bool.
        hidden: M + 1 of `[B, L, D]`, the embeddings first; `hidden[m][:, 0]` is layer m's [CLS].
        queries, keys, values: M of `[B, H, L, d]`, where the network offers "attentions", else empty.
        attended, inner, outer: M outputs of the attention's output layer `[B, L, D]`, of the first feed-forward layer
            before its activation `[B, L, F]`, and of the second `[B, L, D]`; likewise.
        words: word embeddings after the embeddings' norm, without position, segment and dropout, `[B, L, E]`; None
            where a network has no such norm.
    """

    mask: Tensor = None  # type: ignore[assignment]  # these follow fields with defaults
    hidden: tuple[Tensor, ...] = ()
    queries: tuple[Tensor, ...] = ()
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()
    attended: tuple[Tensor, ...] = ()
    inner: tuple[Tensor, ...] = ()
    outer: tuple[Tensor, ...] = ()
    words: Tensor | None = None

    def supervised(self, batch: Batch, label_smoothing: float = 0.0) -> dict[str, Tensor]:
        """Cross-entropy, or in a regression the mean squared error."""
        if self.logits.shape[1] == 1:
            return {"labels.mse": F.mse_loss(self.logits[:, 0], batch.targets.to(self.logits.dtype))}
        return super().supervised(batch, label_smoothing)

    def scores(self, layer: int) -> Tensor:
        """Q K^T / sqrt(d) before mask and softmax, `[B, H, L, L]`, float32 or wider."""
        with torch.autocast(self.mask.device.type, enabled=False):
            queries, keys = (wide(self._of(name, layer)) for name in ("queries", "keys"))
            return queries @ keys.transpose(2, 3) / queries.shape[3] ** 0.5

    def probabilities(self, layer: int) -> Tensor:
        """Attention probabilities `[B, H, L, L]`; padded keys have none."""
        scores = self.scores(layer)
        return scores.masked_fill(~self.mask[:, None, None], torch.finfo(scores.dtype).min).softmax(3)

    def context(self, layer: int) -> Tensor:
        """What the heads found, concatenated, before the output layer: `[B, L, H d]`."""
        with torch.autocast(self.mask.device.type, enabled=False):
            found = self.probabilities(layer) @ wide(self._of("values", layer))
            return found.transpose(1, 2).flatten(2)

    def merged(self, name: str, layer: int) -> Tensor:
        """`"queries"`, `"keys"` or `"values"` of all heads side by side, `[B, L, H d]`."""
        return self._of(name, layer).transpose(1, 2).flatten(2)

    def matrices(self, layer: int) -> tuple[Tensor, ...]:
        """The outputs of a layer's six linear layers: Q, K, V, O, FFN1, FFN2."""
        first = [self.merged(name, layer) for name in ("queries", "keys", "values")]
        return (*first, *(self._of(name, layer) for name in ("attended", "inner", "outer")))

    def _of(self, name: str, layer: int) -> Tensor:
        """A layer's; there is none before the first, where an index would give the last."""
        layers: tuple[Tensor, ...] = getattr(self, name)
        if not 1 <= layer <= len(layers):
            raise IndexError(f"{name} of layer {layer} are asked for, but layers are counted from 1 to {len(layers)}")
        return layers[layer - 1]
