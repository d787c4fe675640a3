"""A checkpoint of transformers with a vocabulary of its own: a teacher that writes, whose logits nobody can compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kdbench.errors import KDBenchError, NotApplicable
from kdbench.method import Network, Output, Shapes
from kdbench.tasks.hub import asked
from kdbench.tasks.translation.networks.adapter import Cached, Head


class PretrainedTranslator(Network):
    """Marian, M2M100 or NLLB as it comes, with its tokenizer.

    Its tokens are not the data's: `shapes.num_classes` is 0, so that methods that read logits refuse it, and so does
    `forward`. What it writes is text, which students read with the data's vocabulary.
    """

    offers = frozenset({"sequences"})

    def __init__(self, name: str, checkpoint: str, longest: int, source: str, target: str) -> None:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        super().__init__()
        self.name, self.longest = name, longest
        try:
            with asked(checkpoint):
                self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
                self.model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint)
        except Exception as error:  # transformers and the hub raise a dozen kinds
            why = " ".join(str(error).split())[:200].rstrip(".:") or type(error).__name__
            raise KDBenchError(f"checkpoint {checkpoint!r} could not be loaded ({why})") from error
        self.forced = _language(self.tokenizer, name, source, target)
        self.end = int(self.model.config.eos_token_id)
        self.padding = int(self.model.config.pad_token_id)
        self.head = Head(
            self.model.lm_head, getattr(self.model, "final_logits_bias", None), int(self.model.config.vocab_size)
        )
        self.shapes = Shapes(0, int(self.model.config.d_model))

    @property
    def core(self) -> nn.Module:
        return self.model

    @property
    def classifier(self) -> nn.Module:
        return self.head

    def forward(self, inputs: Tensor) -> Output:
        raise NotApplicable(
            f"network {self.name!r} has a vocabulary of its own: its logits are not of the data's tokens, it can only "
            "write a corpus"
        )

    def stage_parameters(self) -> list[frozenset[str]]:
        return [frozenset(name for name, _ in self.named_parameters()), frozenset()]

    # ---------------------------------------------------------------------------------- `decoding_rules.Translator`

    def ids(self, source: str, language: str = "") -> list[int]:
        return self.tokenizer(source, truncation=True, max_length=self.longest)["input_ids"]

    def padded(self, sources: Sequence[Sequence[int]]) -> Tensor:
        from kdbench.tasks.translation.decoding_rules import padded

        return padded(sources, self.padding, next(self.model.parameters()).device)

    def begin(self, inputs: Tensor) -> Cached:
        mask = (inputs != self.padding).long()
        start = int(self.model.config.decoder_start_token_id)
        return Cached(self.model, self.head, inputs, mask, start, (self.padding,), self.forced)

    def text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


def _language(tokenizer: Any, name: str, source: str, target: str) -> int | None:
    """Tell a multilingual tokenizer the languages; returns the token that begins each translation, if one does.

    Raises:
        KDBenchError: if it does not know one of them.
    """
    if not hasattr(tokenizer, "src_lang"):
        return None
    codes = {language: _code(tokenizer, name, language) for language in (source, target)}
    tokenizer.src_lang = codes[source]
    if hasattr(tokenizer, "get_lang_id"):
        return int(tokenizer.get_lang_id(codes[target]))
    return int(tokenizer.convert_tokens_to_ids(codes[target]))


def _code(tokenizer: Any, name: str, language: str) -> str:
    """What the checkpoint calls a language: `uk`, or `ukr_Cyrl` where NLLB's names are given."""
    known = list(getattr(tokenizer, "lang_code_to_id", {})) or [
        token for token in tokenizer.all_special_tokens if len(token) == 8 and token[3] == "_"
    ]
    if language in known:
        return language
    raise KDBenchError(
        f"checkpoint {name!r} does not know the language {language!r}: give its own names in the network's, "
        f"NAME(source='eng_Latn', target='ukr_Cyrl'); it knows {', '.join(known[:6])} and others"
    )


__all__ = ["PretrainedTranslator"]
