"""One vocabulary per data set, for teacher and students: SentencePiece, trained on the data's own references."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from functools import cached_property

import sentencepiece

from kdbench.errors import KDBenchError

PAD, UNKNOWN, END = 0, 1, 2


def tag(language: str) -> str:
    """The token that asks a model of several languages for one of them (Johnson et al. 2017)."""
    return f"<2{language}>"


class Vocabulary:
    """Text to ids and back.

    Attributes:
        tags: language -> id of its tag; empty where all targets are of one language.
    """

    def __init__(self, model: bytes, languages: Sequence[str] = ()) -> None:
        self.model = model
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.tags = {language: self._pieces.piece_to_id(tag(language)) for language in languages}

    def __len__(self) -> int:
        return self._pieces.get_piece_size()

    @property
    def start(self) -> int:
        """What a decoder is given first: the padding token, as Marian does."""
        return PAD

    @cached_property
    def never(self) -> tuple[int, ...]:
        """Ids that no translation contains."""
        return (PAD, UNKNOWN, *self.tags.values())

    @cached_property
    def digest(self) -> str:
        """16 hex digits over all pieces in their order: equal ids mean equal text where it is the same."""
        pieces = "\n".join(self._pieces.id_to_piece(place) for place in range(len(self)))
        return hashlib.sha256(pieces.encode()).hexdigest()[:16]

    def source(self, text: str, language: str = "") -> list[int]:
        """Ids of a source sentence, with the tag of the language it is to be translated into, and the end."""
        front = [self.tags[language]] if language in self.tags else []
        return [*front, *self._pieces.encode(text), END]

    def target(self, text: str) -> list[int]:
        """Ids of a target sentence and the end."""
        return [*self._pieces.encode(text), END]

    def text(self, ids: Iterable[int]) -> str:
        """Detokenised text; what follows the end, and what no text contains, is left out."""
        kept = []
        for token in ids:
            if token == END:
                break
            if token not in (PAD, *self.tags.values()):
                kept.append(int(token))
        return self._pieces.decode(kept)


def train(sentences: Iterable[str], size: int, languages: Sequence[str] = ()) -> Vocabulary:
    """Byte-pair encoding of so many pieces with every character of the sentences, on one thread, to the same bits.

    Args:
        languages: those that get a tag.

    Raises:
        KDBenchError: if the sentences have no such vocabulary.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            character_coverage=1.0,
            user_defined_symbols=[tag(language) for language in languages],
            pad_id=PAD,
            unk_id=UNKNOWN,
            eos_id=END,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:  # its words: which sizes there can be
        why = str(error).strip().splitlines()[-1].rpartition("] ")[2]
        raise KDBenchError(
            f"there is no vocabulary of {size} pieces for this text ({why}): give another size"
        ) from None
    return Vocabulary(model.getvalue(), languages)
