"""Tokenizers: a checkpoint's own, or word pieces that are learnt from the training texts."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import torch
from tokenizers import Tokenizer as Rust
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kdbench.errors import KDBenchError
from kdbench.suites.networks import split
from kdbench.tasks.hub import asked
from kdbench.tasks.text.checkpoints import folder_of, is_checkpoint
from kdbench.tasks.text.data.sets import Texts

LEARNT, VOCABULARY = "wordpiece", 6000
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Tokenizer:
    """A tokenizer as a data set uses it.

    Attributes:
        name: as the data set's options write it.
    """

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name, self.tokenizer = name, tokenizer

    @property
    def size(self) -> int:
        """Numbers of tokens."""
        return len(self.tokenizer)

    @property
    def padding(self) -> int:
        """The number of the padding token."""
        return int(self.tokenizer.pad_token_id or 0)

    @cached_property
    def identity(self) -> str:
        """16 hex digits over what it makes of texts: the vocabulary in its order, and how words are cut."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        vocabulary = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        rules = "" if backend is None else f"{backend.normalizer}{backend.pre_tokenizer}{backend.post_processor}"
        return hashlib.sha256(f"{type(backend).__name__}{rules}{vocabulary}".encode()).hexdigest()[:16]

    def lengths(self, texts: Texts) -> int:
        """Tokens of the longest text."""
        return max(map(len, self._called(texts)["input_ids"]), default=0)

    def planes(self, texts: Texts, length: int) -> Tensor:
        """Token ids, segment ids and 1 for real tokens, `[N, 3, length]`, int32; longer texts are cut."""
        made = self._called(
            texts,
            padding="max_length",
            truncation=True,
            max_length=length,
            return_token_type_ids=True,
            return_attention_mask=True,
        )
        ids = torch.tensor(made["input_ids"], dtype=torch.int32).reshape(-1, length)
        second = torch.tensor(made["token_type_ids"], dtype=torch.int32)
        real = torch.tensor(made["attention_mask"], dtype=torch.int32)
        return torch.stack([ids, second.reshape(ids.shape), real.reshape(ids.shape)], 1)

    def _called(self, texts: Texts, **options: Any) -> Any:
        second = None if texts.second is None else list(texts.second)
        return self.tokenizer(list(texts.first), second, verbose=False, **options)


def make(name: str, training: Texts) -> Tokenizer:
    """A tokenizer by name: a checkpoint's, or `wordpiece` (`wordpiece(vocabulary=6000)`) learnt from these texts.

    Raises:
        KDBenchError: if there is no such tokenizer.
    """
    base, options = split(name)
    if base == LEARNT and set(options) <= {"vocabulary"}:
        return Tokenizer(name, learnt(training, int(options.get("vocabulary", VOCABULARY))))
    if not is_checkpoint(base) or options:
        raise KDBenchError(
            f"unknown tokenizer {name!r}: give 'wordpiece', 'wordpiece(vocabulary=6000)', 'minilm_l6', or a "
            "checkpoint's folder or hub id"
        )
    try:
        with asked(folder_of(base)):
            found = AutoTokenizer.from_pretrained(folder_of(base))
    except (OSError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:160].rstrip(".:")
        raise KDBenchError(
            f"tokenizer {name!r} cannot be loaded ({why}): name a checkpoint's folder or hub id"
        ) from error
    if found.pad_token_id is None:
        raise KDBenchError(f"tokenizer {name!r} has no padding token: give it one in its folder")
    return Tokenizer(name, found)


def learnt(texts: Texts, vocabulary: int) -> PreTrainedTokenizerFast:
    """BERT's lower-case word pieces, of the most frequent in these texts; the same for the same texts.

    The trainer numbers the pieces `##a` in the order of a hash table, which differs from run to run and decides between
    equally frequent ones: they are numbered before it starts.
    """
    every = (*texts.first, *(texts.second or ()))
    rust = _cut_as_bert(models.WordPiece(unk_token="[UNK]"))
    letters = sorted({letter for text in every for letter in rust.normalizer.normalize_str(text) if letter.strip()})
    first = [*SPECIAL, *(f"##{letter}" for letter in letters)]
    size = max(vocabulary, len(first) + len(letters))
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=first, show_progress=False)
    rust.train_from_iterator(every, trainer)
    # made anew, since what was numbered first is no special token in texts
    rust = _cut_as_bert(models.WordPiece(rust.get_vocab(), unk_token="[UNK]"))
    rust.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, rust.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    named = {f"{key}_token": f"[{key.upper()}]" for key in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=rust, **named)


def _cut_as_bert(model: Any) -> Any:
    rust: Any = Rust(model)
    rust.normalizer = normalizers.BertNormalizer(lowercase=True)
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return rust
