"""Scores: sacrebleu's own on plain text, what a record keeps of them, diversity, hallucinations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU, CHRF

from kdbench.errors import KDBenchError
from kdbench.suites.corpus import Corpus
from kdbench.tasks.translation import scoring
from kdbench.tasks.translation.data.pairs import Pair
from kdbench.tasks.translation.metrics import from_statistics
from kdbench.tasks.translation.scoring import distinct
from kdbench.tasks.translation.vocabulary import train
from kdbench.tasks.translation.written import best_first, sentence_bleu

REFERENCES = [
    "L'homme dit : « Qu'est-ce que c'est ? »",
    "Il a payé 3,50 € & il est parti.",
    "Die Nord-Süd-Verbindung ist gesperrt.",
]
RIGHT, EMPTY = [REFERENCES[0], "Il est parti.", ""], ["", "", ""]


def test_the_likeness_to_a_reference_is_told_by_the_tokenizer_of_its_language() -> None:
    reference, near, far = "我们今天去北京", "我们今天去南京", "鱼在水里游"
    assert sentence_bleu(near, reference, "zh_CN") > sentence_bleu(far, reference, "zh_CN") == 0
    corpus = Corpus("beam", 2, taken=1, choice="reference")
    chosen, _, _ = best_first([Pair("we go to Beijing", reference, "zh")], [[far, near]], corpus)
    assert [pair.target for pair in chosen] == [near]


def test_where_no_space_tells_words_apart_letters_are_counted() -> None:
    assert distinct(["好好学习", "好好学习"], 1, "zh") == pytest.approx(100 * 3 / 8)
    assert distinct(["see sea", "see sea"], 1, "uk") == pytest.approx(50)


def test_copies_are_taken_once_where_a_corpus_asks_for_that() -> None:
    pairs, drawn = [Pair("a", "b", "uk")], [["x", "x", "y", "z"]]
    for unique, wanted in ((False, ["x", "x"]), (True, ["x", "y"])):
        corpus = Corpus("beam", 4, taken=2, unique=unique)
        chosen, _, counts = best_first(pairs, drawn, corpus)
        assert [pair.target for pair in chosen] == wanted
        assert counts["duplicates"] == (not unique)
        assert ("unique" in corpus.view) == unique


def recomputed(translations: list[str], references: list[str], language: str = "fr") -> dict[str, float]:
    counts = scoring.statistics(translations, references, language)
    return from_statistics({"statistics": {**counts, "nats": 6.0, "tokens": 3}})


@pytest.mark.parametrize("translations", [RIGHT, EMPTY, REFERENCES, ["x", "y", "z"], ["Il a", "payé 3,50 €", "Die"]])
def test_scores_follow_from_what_a_record_keeps(translations: list[str]) -> None:
    scores = recomputed(translations, REFERENCES)
    assert scores["bleu"] == pytest.approx(BLEU(trg_lang="fr").corpus_score(translations, [REFERENCES]).score)
    assert scores["chrf"] == pytest.approx(CHRF().corpus_score(translations, [REFERENCES]).score)
    assert scores["nll"] == 2.0


def test_every_reference_counts_and_an_empty_translation_is_not_left_out() -> None:
    kept = scoring.statistics(RIGHT, REFERENCES, "fr")
    tokens = sum(len(BLEU().tokenizer(line).split()) for line in REFERENCES)
    assert kept["bleu"]["reference_length"] == tokens
    assert recomputed(RIGHT, REFERENCES)["bleu"] < 60
    assert recomputed(EMPTY, REFERENCES) == {"bleu": 0.0, "chrf": 0.0, "nll": 2.0}
    with pytest.raises(KDBenchError, match="2 translations stand beside 3 references"):
        scoring.statistics(RIGHT[:2], REFERENCES, "fr")


def test_bleu_is_that_of_sacrebleus_command_on_the_plain_files(tmp_path: Path) -> None:
    translations = ["L'homme dit: « Qu'est-ce que c'est ? »", *REFERENCES[1:]]
    for name, lines in (("mine", translations), ("reference", REFERENCES)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", str(tmp_path / "reference"), "-i", str(tmp_path / "mine")]
    told = subprocess.run([*command, "-m", "bleu", "-b", "-w", "4"], capture_output=True, text=True, check=True)
    assert recomputed(translations, REFERENCES)["bleu"] == pytest.approx(float(told.stdout), abs=1e-4)


def test_text_from_ids_scores_as_the_plain_file_does(tmp_path: Path) -> None:
    plain = [*REFERENCES, "Qu'est-ce que c'est\u202f? \u201cRien\u201d, dit-il\u00a0; ni plus ni moins."]
    vocabulary = train(plain, 90)
    texts = [vocabulary.text(vocabulary.target(line)) for line in plain]
    assert scoring.corpus_scores(texts, plain, "fr") == pytest.approx({"chrf": 100.0, "bleu": 100.0})
    worse = [texts[1], *texts[1:]]
    from_ids, from_file = (scoring.corpus_scores(worse, lines, "fr") for lines in (plain, texts))
    assert from_ids == pytest.approx(from_file)
    assert from_ids["bleu"] < 90


@pytest.mark.parametrize("marked", ["▁Il ▁a ▁pa yé", "Il a pa@@ yé", "Il a payé &amp; parti", "l&apos;homme"])
def test_marks_of_subwords_and_html_are_refused(marked: str) -> None:
    with pytest.raises(KDBenchError, match="detokenise it"):
        scoring.corpus_scores([marked], ["Il a payé & parti"], "fr")
    assert scoring.corpus_scores([marked], ["Il a payé & parti"], "fr", strict=False)["chrf"] < 100


def test_a_signature_says_what_was_done() -> None:
    told = scoring.signatures(RIGHT, REFERENCES, "fr")
    assert told["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert told["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_the_target_language_chooses_the_tokenizer() -> None:
    text = ["我喜欢读很长的书。"]
    assert "tok:zh" in scoring.signatures(text, text, "zh")["bleu"]
    for language in ("zh", "zh-CN", "zho"):
        assert scoring.corpus_scores(text, text, language)["bleu"] == pytest.approx(100.0)
    assert scoring.corpus_scores(text, text, "en")["bleu"] == 0.0  # one word, to another tokenizer


def test_a_language_whose_tokenizer_is_not_here_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(**options: str) -> None:
        raise RuntimeError("Japanese tokenization requires extra dependencies")

    monkeypatch.setattr(scoring, "BLEU", absent)
    scoring.bleu_metric.cache_clear()
    with pytest.raises(KDBenchError, match=r"pip install 'sacrebleu\[ja\]'"):
        scoring.corpus_scores(["本"], ["本"], "ja")
    scoring.bleu_metric.cache_clear()


def test_corpus_bleu_of_two_words_is_zero_and_a_sentences_is_smoothed() -> None:
    assert recomputed(["Banco Central"], ["Banco Central"])["bleu"] == 0.0
    assert sentence_bleu("Banco Central", "Banco Central") == pytest.approx(100.0)
    partial = sentence_bleu("Banco Nacional", "Banco Central")
    assert sentence_bleu("qui va là", "Banco Central") == 0.0 < partial < 100
    assert sentence_bleu("", "Banco Central") == 0.0
    assert sentence_bleu("Banco Central", "Banco Central") > sentence_bleu("Banco Central Central", "Banco Central")


def test_diversity() -> None:
    lines = ["a b a", "a c", ""]
    assert scoring.distinct(lines, 1) == pytest.approx(100 * 3 / 5)
    assert scoring.distinct(lines, 2) == pytest.approx(100 * 3 / 3)
    assert scoring.distinct([""], 2) == 0.0
    assert scoring.self_chrf([["one"], []]) is None
    assert scoring.self_chrf([["same text", "same text"], ["one"]]) == pytest.approx(100.0)
    assert scoring.self_chrf([["abc", "xyz"]]) == 0.0


def test_hallucinations_repeat_themselves_or_have_nothing_of_the_reference() -> None:
    sources = ["the bank of the land", "a river", "a hill", "no no no no no no no"]
    references = ["der Bank des Landes", "ein Fluss", "ein Berg", "nein nein nein nein nein nein nein"]
    translations = ["der Bank der Bank der Bank der Bank der Bank", "ein Fluss", "zzzz", references[3]]
    assert [scoring.oscillates(*row) for row in zip(sources, translations, strict=True)] == [True, False, False, False]
    assert [scoring.detached(*row) for row in zip(translations, references, strict=True)] == [False, False, True, False]
    assert scoring.hallucinations(sources, translations, references) == {
        "oscillating": 25.0, "detached": 25.0, "either": 50.0,
    }  # fmt: skip
