"""A transformers encoder with a head for sequences, as methods see it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.losses import wide
from kdbench.method import Network, Shapes
from kdbench.tasks.text.networks.taps import Taps, list_of_layers
from kdbench.tasks.text.networks.weights import taken
from kdbench.tasks.text.output import TextOutput

WORDS = ("word_embeddings", "LayerNorm")  # of the embeddings
PLANES = 3  # of one tokenizer in a batch: token ids, segment ids, real tokens


class TextNetwork(Network):
    """Adapter around a model that `AutoModelForSequenceClassification` builds.

    Attributes:
        vocabulary: identity of its tokenizer; networks of one vocabulary read the same tokens at the same places.
        heads, inner: of a layer, the attention heads and the feed-forward width; 0 where unknown.
        rank: of its factorised layers; 0 where they are whole.
        start: where its first weights come from: `"fresh"`, `"checkpoint"`, or `"teacher"`.
        picked: the layers of the teacher (or checkpoint) that its own come from, from 1.
        has_words: whether outputs have `words`.

    Args:
        place: which tokenizer's planes of a batch it reads.
        length: tokens of every sample, L.
    """

    model: Any

    def __init__(
        self,
        model: Any,
        name: str,
        *,
        place: int,
        length: int,
        vocabulary: str,
        start: str = "fresh",
        picked: Sequence[int] = (),
        rank: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.name = model, name
        self.place, self.length, self.vocabulary = place, length, vocabulary
        self.start, self.picked, self.rank = start, tuple(picked), rank
        config = model.config
        self.heads = int(getattr(config, "num_attention_heads", 0))
        self.inner = int(getattr(config, "intermediate_size", getattr(config, "hidden_dim", 0)) or 0)
        known = signature(model.forward).parameters
        self._segments = "token_type_ids" in known and getattr(config, "type_vocab_size", 0) > 1
        self.has_words = all(_embedding_part(model, part) is not None for part in WORDS)
        self.taps = Taps(model, self.classifier)
        self.offers = frozenset({"tokens"} if self.taps.layers else ())
        self.shapes = self._probe()

    def forward(self, inputs: Tensor) -> TextOutput:
        """Planes `[B, P, L]`, int64, three for each tokenizer: token ids, segment ids, 1 for real tokens."""
        ids, segments, real = inputs[:, PLANES * self.place : PLANES * (self.place + 1)].unbind(1)
        logits = wide(self.model(**self._named(ids, segments, real)).logits)
        mask, taps = real.bool(), self.taps
        output = self._output(logits, ids, mask)
        taps.kept.clear()  # nothing outlives the batch
        return output

    def _named(self, ids: Tensor, segments: Tensor, real: Tensor) -> dict[str, Tensor]:
        known = {"input_ids": ids, "attention_mask": real}
        return {**known, "token_type_ids": segments} if self._segments else known

    def _output(self, logits: Tensor, ids: Tensor, mask: Tensor) -> TextOutput:
        taps, parts = self.taps, dict[str, Any]()
        hidden = taps.all("hidden", 0) if taps.layers else ()
        if "attentions" in self.offers:
            parts = {name: taps.all(name) for name in taps.parts}
            for name in ("queries", "keys", "values"):
                parts[name] = tuple(x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in parts[name])
        maps = [(states * mask[:, :, None]).transpose(1, 2) for states in hidden]
        words = None
        if self.has_words:
            table, norm = (_embedding_part(self.model, part) for part in WORDS)
            words = norm(table(ids))  # type: ignore[misc]
        return TextOutput(
            logits,
            wide(taps.kept["embedding"]),
            tuple(maps[1:]),
            stem=maps[0] if maps else None,
            mask=mask,
            hidden=hidden,
            words=words,
            **parts,
        )

    @property
    def classifier(self) -> nn.Module:
        """The last layer: `classifier(embedding) == logits`."""
        return last_linear(self.model, self.name)

    @property
    def core(self) -> nn.Module:
        return self.model  # type: ignore[no-any-return]

    def inherit(self, teachers: Sequence[Network]) -> None:
        if self.start != "teacher":
            return
        if not teachers:
            raise KDBenchError(
                f"network {self.name!r} starts from its teacher's layers, so that it cannot be a teacher: name another"
            )
        teacher = teachers[0]
        if not isinstance(teacher, TextNetwork) or teacher.vocabulary != self.vocabulary:
            raise KDBenchError(f"network {self.name!r} cannot start from {teacher.name!r}, which reads other tokens")
        count = len(teacher.taps.layers)
        picked = self.picked or spread(len(self.taps.layers), count, self.name)
        self.model.load_state_dict(taken(self.model, teacher.model, picked, self.name, teacher.name))

    def stage_parameters(self) -> list[frozenset[str]]:
        """Names by layer, the embeddings with the first; the head's come last."""
        layers = list_of_layers(self.model)
        names = [name for name, _ in self.named_parameters()]
        if layers is None:
            return [frozenset(names)]
        own = [{id(parameter) for parameter in layer.parameters()} for layer in layers]
        base = {id(parameter) for parameter in self.model.base_model.parameters()}
        pooler = {id(p) for n, p in self.model.base_model.named_parameters() if n.startswith("pooler")}
        groups: list[set[str]] = [set() for _ in range(len(own) + 1)]
        for name, parameter in self.named_parameters():
            found = next((k for k, layer in enumerate(own) if id(parameter) in layer), None)
            inside = id(parameter) in base - pooler
            groups[found if found is not None else 0 if inside else -1].add(name)
        return [frozenset(group) for group in groups]

    def _probe(self) -> Shapes:
        """Whether attention can be told from queries and keys, and the shapes of an output."""
        parameter = next(self.parameters())
        size = int(self.model.config.vocab_size)
        ids = torch.arange(2 * self.length, device=parameter.device).reshape(2, -1) % size
        real = (torch.arange(self.length, device=ids.device) < torch.tensor([[self.length], [3]])).long()
        planes = torch.stack([ids, torch.zeros_like(ids), real], 1)
        inputs = torch.cat([torch.zeros_like(planes)] * self.place + [planes], 1)
        with _quietly(self), torch.no_grad():
            if self.taps.parts and self._explains_attention(ids, real, inputs):
                self.offers |= {"attentions"}
            output = self(inputs)
        return Shapes(
            num_classes=output.logits.shape[1],
            embedding=output.embedding.shape[1],
            features=tuple(tuple(feature.shape[1:]) for feature in output.features),
            stem=None if output.stem is None else tuple(output.stem.shape[1:]),
        )

    def _explains_attention(self, ids: Tensor, real: Tensor, inputs: Tensor) -> bool:
        """Whether the model's own probabilities are those of an output, in every layer: not so where positions enter
        the scores (DeBERTa, MPNet).
        """
        how = self.model.config._attn_implementation
        try:
            self.model.set_attn_implementation("eager")
            known = self.model(**self._named(ids, torch.zeros_like(ids), real), output_attentions=True).attentions
        finally:
            self.model.set_attn_implementation(how)
        offers, self.offers = self.offers, self.offers | {"attentions"}
        try:
            output = self(inputs)
            return bool(known) and all(
                own.shape == probabilities.shape and torch.allclose(own, probabilities, atol=1e-4)
                for own, probabilities in zip(known, map(output.probabilities, range(1, len(known) + 1)), strict=True)
            )
        finally:
            self.offers = offers


def spread(layers: int, of: int, name: str) -> tuple[int, ...]:
    """So many layers spread evenly over another network's, the last one among them, from 1.

    Raises:
        KDBenchError: if it has fewer.
    """
    if layers > of:
        raise KDBenchError(f"network {name!r} takes {layers} layers of a network that has {of}")
    return tuple(-(-k * of // layers) for k in range(1, layers + 1))


def last_linear(model: Any, name: str) -> nn.Linear:
    """The head's last layer."""
    inside = {id(module) for module in model.base_model.modules()}
    found = [m for m in model.modules() if isinstance(m, nn.Linear) and id(m) not in inside]
    if not found or found[-1].out_features != model.config.num_labels:
        raise KDBenchError(f"network {name!r} has no linear classifier: choose another architecture")
    return found[-1]


def _embedding_part(model: Any, name: str) -> nn.Module | None:
    part = getattr(getattr(model.base_model, "embeddings", None), name, None)
    return part if isinstance(part, nn.Module) else None


@contextmanager
def _quietly(network: nn.Module) -> Any:
    """Eval mode for a while, and the random numbers as they were."""
    mode = network.training
    with torch.random.fork_rng([]):
        network.eval()
        try:
            yield
        finally:
            network.train(mode)
