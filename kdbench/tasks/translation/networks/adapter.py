"""An encoder-decoder of transformers as methods see it: a row of logits for each real target token."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from kdbench.errors import KDBenchError
from kdbench.method import Network, Output, Shapes, answer_of
from kdbench.tasks.translation.vocabulary import END, PAD, Vocabulary

SOURCE, SOURCE_MASK, TARGET, TARGET_MASK = range(4)  # planes of a batch's inputs


class Head(nn.Module):
    """The output layer, without columns that are no token of the vocabulary."""

    def __init__(self, layer: nn.Linear, bias: Tensor | None, size: int) -> None:
        super().__init__()
        self.layer, self.size = layer, size
        self.register_buffer("bias", None if bias is None else bias[0, :size], persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.layer(hidden)[..., : self.size]
        return logits if self.bias is None else logits + self.bias


def known_to(core: nn.Module, digest: str) -> None:
    """Let a model's weights say of which vocabulary they are, and refuse those of another when they are loaded.

    Equal numbers of tokens say nothing of their order, so that nobody would notice.
    """
    core.register_buffer("vocabulary_digest", torch.tensor([int(digest, 16) >> 1], dtype=torch.int64))
    core.kdbench_vocabulary = digest  # type: ignore[assignment]
    core.register_load_state_dict_post_hook(_check_loaded)


def _check_loaded(core: Any, _: object) -> None:
    bias = getattr(core, "final_logits_bias", None)
    if core.vocabulary_digest.item() != int(core.kdbench_vocabulary, 16) >> 1:
        raise KDBenchError(
            "these weights were trained with another vocabulary, whose tokens are not the data's: train the teacher on "
            "this data set with the same `options`"
        )
    if bias is not None and bias.any():
        raise KDBenchError("these weights have a bias of the logits (Marian's `final_logits_bias`): leave it at zero")


class TranslationNetwork(Network):
    """A network that reads and writes the data's vocabulary.

    Its inputs are `[B, 4, L]`, int64: source ids, source mask, decoder-input ids, target mask. Its `Output` has a row
    for each of the N places where the target mask is 1, sentence by sentence.

    Attributes:
        vocabulary: digest of the vocabulary.
    """

    offers = frozenset({"sequences"})

    def __init__(self, name: str, core: Any, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.name, self.vocabulary, self.never = name, vocabulary.digest, vocabulary.never
        self.model = core
        known_to(core, vocabulary.digest)
        self.head = Head(core.lm_head, None, len(vocabulary))
        self.start = int(core.config.decoder_start_token_id)
        self.shapes = Shapes(len(vocabulary), int(core.config.d_model))

    @property
    def core(self) -> nn.Module:
        return self.model

    @property
    def classifier(self) -> nn.Module:
        return self.head

    def forward(self, inputs: Tensor) -> Output:
        mask = inputs[:, TARGET_MASK]
        # the batch's decoder inputs begin with the vocabulary's own start: each network has the one of its config
        start = torch.full_like(inputs[:, TARGET, :1], self.start)
        given = torch.cat([start, inputs[:, TARGET, 1:]], 1)
        hidden = self.model.model(
            input_ids=inputs[:, SOURCE],
            attention_mask=inputs[:, SOURCE_MASK],
            decoder_input_ids=given,
            use_cache=False,
        ).last_hidden_state  # [B, L, D]
        embedding = hidden[mask.bool()]  # [N, D]
        return Output(self.head(embedding).float(), embedding.float())

    def stage_parameters(self) -> list[frozenset[str]]:
        """Of the encoder, of the decoder, and of the head; shared embeddings are the encoder's."""
        names = [name for name, _ in self.named_parameters()]
        decoder = frozenset(name for name in names if ".decoder." in name)
        head = frozenset(name for name in names if name.startswith(("model.lm_head", "head.")))
        return [frozenset(names) - decoder - head, decoder, head]

    def begin(self, inputs: Tensor) -> Cached:
        """Start to translate sources `[S, L]`, padded with `PAD`."""
        return Cached(self.model, self.head, inputs, (inputs != PAD).long(), self.start, self.never)


@dataclass
class _Names:
    """What this version of transformers calls a decoder's cache."""

    cache: str

    @classmethod
    def of(cls, decoder: nn.Module) -> _Names:
        known = inspect.signature(decoder.forward).parameters
        return cls("cache" if "cache" in known else "past_key_values")


class Cached:
    """Rows of partial translations of an encoder-decoder, with its attention's keys and values kept."""

    def __init__(
        self, model: Any, head: nn.Module, sources: Tensor, mask: Tensor, start: int, never: tuple[int, ...],
        forced: int | None = None,
    ) -> None:  # fmt: skip
        self._decoder, self._head, self._start, self._forced = model.get_decoder(), head, start, forced
        self._mask = mask
        self._encoded = model.get_encoder()(input_ids=sources, attention_mask=mask).last_hidden_state
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._argument = _Names.of(self._decoder).cache
        self._never = torch.tensor(never, dtype=torch.int64, device=sources.device)
        self._length = 0

    def step(self, tokens: Tensor | None) -> Tensor:
        if tokens is None:
            tokens = torch.full((len(self._mask),), self._start, device=self._mask.device)
        hidden = self._decoder(
            input_ids=tokens[:, None],
            encoder_hidden_states=self._encoded,
            encoder_attention_mask=self._mask,
            use_cache=True,
            **{self._argument: self._cache},
        ).last_hidden_state[:, -1]
        self._length += 1
        logits = self._head(hidden).float()
        if self._forced is not None and self._length == 1:
            only = torch.full_like(logits, -torch.inf)
            only[:, self._forced] = 0.0
            return only
        logits[:, self._never] = -torch.inf
        return logits.log_softmax(1)

    def take(self, rows: Tensor) -> None:
        self._encoded, self._mask = self._encoded[rows], self._mask[rows]
        self._cache.reorder_cache(rows)  # type: ignore[arg-type]  # any int64 tensor


class Replayed:
    """Rows of partial translations of any module that answers a batch like a `TranslationNetwork`: without a cache."""

    def __init__(self, module: nn.Module, sources: Tensor, never: tuple[int, ...]) -> None:
        self._module, self._sources = module, sources
        self._prefix = sources.new_zeros(len(sources), 0)
        self._never = torch.tensor(never, dtype=torch.int64, device=sources.device)

    def step(self, tokens: Tensor | None) -> Tensor:
        token = self._sources.new_full((len(self._sources),), PAD) if tokens is None else tokens
        self._prefix = torch.cat([self._prefix, token[:, None]], 1)
        rows, length = len(self._sources), max(self._sources.shape[1], self._prefix.shape[1])
        inputs = self._sources.new_zeros(rows, 4, length)
        inputs[:, SOURCE, : self._sources.shape[1]] = self._sources
        inputs[:, SOURCE_MASK, : self._sources.shape[1]] = (self._sources != PAD).long()
        inputs[:, TARGET, : self._prefix.shape[1]] = self._prefix
        inputs[:, TARGET_MASK, self._prefix.shape[1] - 1] = 1  # the last place alone is answered
        logits = answer_of(self._module(inputs)).float().clone()
        logits[:, self._never] = -torch.inf
        return logits.log_softmax(1)

    def take(self, rows: Tensor) -> None:
        self._sources, self._prefix = self._sources[rows], self._prefix[rows]


__all__ = ["END", "PAD", "Cached", "Head", "Replayed", "TranslationNetwork"]
