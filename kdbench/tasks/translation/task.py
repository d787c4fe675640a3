"""The task of translation: parallel text, encoder-decoders, scores of what they write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.method import Network, answer_of
from kdbench.suites.corpus import Corpus
from kdbench.suites.grid import DatasetSpec, Recipe
from kdbench.tasks.answers import sentences
from kdbench.tasks.task import Task, TrainingSet
from kdbench.tasks.translation import scoring
from kdbench.tasks.translation.batches import ParallelSet, collate, examples_of
from kdbench.tasks.translation.data import TranslationData, load_data
from kdbench.tasks.translation.decoding import State
from kdbench.tasks.translation.decoding_rules import padded, translate
from kdbench.tasks.translation.metrics import METRICS, from_statistics
from kdbench.tasks.translation.networks import create
from kdbench.tasks.translation.networks.adapter import Replayed, TranslationNetwork
from kdbench.tasks.translation.networks.pretrained import PretrainedTranslator
from kdbench.tasks.translation.vocabulary import END, PAD
from kdbench.tasks.translation.written import about, best_first

EXAMPLE = 16  # tokens of each side of the input by which networks are counted and timed


@dataclass(frozen=True)
class Translations:
    """A network's predictions: what it makes of each source of the test set, and how likely it finds the references.

    Attributes:
        nats, tokens: sum of the references' negative log-likelihood, and their tokens; none for a network that has no
            likelihood in the data's vocabulary.
    """

    texts: tuple[str, ...]
    nats: float
    tokens: int


class _Translator:
    """A network, or what a method deploys, as `decoding_rules.translate` takes it."""

    end = END

    def __init__(self, module: nn.Module, task: TranslationTask) -> None:
        self._module, self._task = module, task
        self.longest = task.data.options.longest

    def ids(self, source: str, language: str = "") -> list[int]:
        vocabulary, target = self._task.data.vocabulary, self._task.data.options.target
        return [*vocabulary.source(source, language or target)[:-1][: self.longest - 1], END]

    def padded(self, sources: Sequence[Sequence[int]]) -> Tensor:
        return padded(sources, PAD, self._task.numerics.device)

    def begin(self, inputs: Tensor) -> State:
        if isinstance(self._module, TranslationNetwork):
            return self._module.begin(inputs)
        return Replayed(self._module, inputs, self._task.data.vocabulary.never)

    def text(self, tokens: Sequence[int]) -> str:
        return self._task.data.vocabulary.text(tokens)


class TranslationTask(Task):
    """Parallel text under one recipe, on one device.

    Its networks read `[B, 4, L]` (`networks.adapter`); the targets of a batch are its N real target tokens, so that
    what classification calls a sample is a token here. Models are scored by beam search.
    """

    metrics = METRICS

    def __init__(
        self, dataset: DatasetSpec, recipe: Recipe, numerics: Numerics, root: Path | None, download: bool = True
    ) -> None:
        if recipe.augment or recipe.image_size:
            raise KDBenchError(
                "the recipe has 'augment' or 'image_size', which are for images: take them out of the suite"
            )
        self._set_up(load_data(dataset.name, dataset.options, dataset.protocol, root), recipe.batch_size, numerics)

    def _set_up(self, data: TranslationData, batch_size: int, numerics: Numerics) -> None:
        self.data, self.batch_size, self.numerics = data, batch_size, numerics
        self.content = data.content

    @classmethod
    def of(cls, data: TranslationData, batch_size: int, numerics: Numerics) -> TranslationTask:
        """The task of data that is at hand."""
        task = cls.__new__(cls)
        task._set_up(data, batch_size, numerics)
        return task

    def training_set(self, seed: int, strong_view: bool) -> TrainingSet:
        """The references; a sentence has no strong view, and methods that need one do not apply."""
        return self._set(self.data.train, seed)

    def network(self, name: str, pretrained: bool = False, **options: Any) -> Network:
        options.pop("keep_classifier", None)  # a vocabulary is never cut to the data's classes
        if options.pop("own_normalization", None):
            raise KDBenchError(f"teacher {name!r} has mean and std, which are for images: take them out")
        of = self.data.options
        network = create(name, self.data.vocabulary, of.longest, of.source, of.target, pretrained, **options)
        self.numerics.place(network)
        return network

    # ------------------------------------------------------------------------------------------ scores

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Translations:
        model.eval()
        sources = [pair.source for pair in self.data.test]
        with self.numerics.autocast():
            texts = tuple(found[0].text for found in translate(self._translator(model), sources, self._beams))
            nats, tokens = (0.0, 0) if isinstance(model, PretrainedTranslator) else self._likelihood(model)
        return Translations(texts, nats, tokens)

    @torch.no_grad()
    def answer(self, model: nn.Module, given: Sequence[str]) -> list[str]:
        """The translation of each sentence, by the beam search that scores are made of."""
        model.eval()
        with self.numerics.autocast():
            found = translate(self._translator(model), sentences(given), self._beams)
        return [row[0].text for row in found]

    @property
    def _beams(self) -> Corpus:
        """By which models are scored."""
        of = self.data.options
        return Corpus("beam", of.beams, {"length_penalty": of.length_penalty})

    def _likelihood(self, model: nn.Module) -> tuple[float, int]:
        nats, tokens = 0.0, 0
        for start in range(0, len(self._test), self.batch_size):
            batch = collate(self._test[start : start + self.batch_size], range(self.batch_size), self.numerics.device)
            logits = answer_of(model(batch.inputs)).float()
            nats += F.cross_entropy(logits, batch.targets, reduction="sum").item()
            tokens += len(batch.targets)
        if nats != nats:
            raise FloatingPointError("the likelihood of the test set became NaN")
        return nats, tokens

    @cached_property
    def _test(self) -> list[Any]:
        return examples_of(self.data.test, self.data.vocabulary, self.data.options.longest)

    def scores(self, predictions: Translations, teacher: Translations | None = None) -> dict[str, float | None]:
        kept = self._statistics(predictions)
        texts = predictions.texts
        return {
            **from_statistics({"statistics": kept}),
            "hallucinations": scoring.hallucinations(self._sources, texts, self.references)["either"],
            "distinct1": scoring.distinct(texts, 1, self.data.options.target),
            "distinct2": scoring.distinct(texts, 2, self.data.options.target),
            "likeness": None if teacher is None else scoring.likeness(texts, teacher.texts),
        }

    def keeps(self, predictions: Translations) -> Mapping[str, Any]:
        """The counts that the scores are made of, sacrebleu's signatures, the kinds of hallucination, some examples."""
        rows = zip(self._sources, predictions.texts, self.references, strict=True)
        return {
            "statistics": self._statistics(predictions),
            "signatures": scoring.signatures(predictions.texts, self.references, self.data.options.target),
            "hallucinated": scoring.hallucinations(self._sources, predictions.texts, self.references),
            "examples": [dict(zip(("source", "translation", "reference"), row, strict=True)) for row in [*rows][:5]],
        }

    def group(self, members: Sequence[Translations]) -> Mapping[str, float]:
        found = [from_statistics({"statistics": self._statistics(member)})["chrf"] for member in members]
        return {"mean_student_chrf": sum(found) / len(found)}

    def _statistics(self, predictions: Translations) -> dict[str, Any]:
        counts = scoring.statistics(predictions.texts, self.references, self.data.options.target, strict=False)
        return {**counts, "nats": predictions.nats, "tokens": predictions.tokens}

    @cached_property
    def references(self) -> list[str]:
        """Of the test set."""
        return [pair.target for pair in self.data.test]

    @cached_property
    def _sources(self) -> list[str]:
        return [pair.source for pair in self.data.test]

    # ------------------------------------------------------------------------------------------ what a teacher writes

    def sources(self) -> int:
        return len(self.data.train)

    def write(self, corpus: Corpus, teacher: Network, seed: int, start: int, stop: int) -> list[Any]:
        pairs, target = self.data.train[start:stop], self.data.options.target
        sources, languages = [pair.source for pair in pairs], [pair.language or target for pair in pairs]
        if isinstance(teacher, PretrainedTranslator) and (other := next((a for a in languages if a != target), "")):
            raise KDBenchError(
                f"checkpoint {teacher.name!r} translates into {target!r} alone, but its students learn {other!r} as "
                "well: take `multilingual` out of their protocol"
            )
        with torch.no_grad(), self.numerics.autocast():
            found = translate(self._translator(teacher), sources, corpus, seed=seed, first=start, languages=languages)
        return [[[each.text, each.score] for each in row] for row in found]

    def corpus_set(self, corpus: Corpus, written: Sequence[Any], seed: int) -> tuple[TrainingSet, dict[str, Any]]:
        hypotheses = [[text for text, _ in row] for row in written]
        pairs, firsts, counts = best_first(self.data.train, hypotheses, corpus)
        chosen = self._set(pairs, seed, firsts if corpus.choice == "reference" else None)
        return chosen, {**counts, "pairs": len(pairs)}

    def about_corpus(self, written: Sequence[Any]) -> dict[str, Any]:
        hypotheses = [[text for text, _ in row] for row in written]
        return about(self.data.train, hypotheses, self.data.options.target)

    # ------------------------------------------------------------------------------------------ what the engine counts

    def _set(self, pairs: Sequence[Any], seed: int, firsts: Sequence[Any] | None = None) -> ParallelSet:
        vocabulary, longest = self.data.vocabulary, self.data.options.longest
        other = None if firsts is None else examples_of(firsts, vocabulary, longest)
        examples = examples_of(pairs, vocabulary, longest)
        return ParallelSet(examples, self.batch_size, self.numerics.device, seed, other, len(vocabulary))

    def _translator(self, model: nn.Module) -> Any:
        return model if isinstance(model, PretrainedTranslator) else _Translator(model, self)

    def example(self) -> Tensor:
        length = min(EXAMPLE, self.data.options.longest)
        ids, mask = torch.full((length,), END), torch.ones(length, dtype=torch.int64)
        return torch.stack([ids, mask, ids, mask])[None]

    def blank_targets(self, samples: int) -> Tensor:
        return torch.zeros(samples * self.example().shape[2], dtype=torch.int64)
