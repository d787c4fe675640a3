"""Readers of parallel text on small files, most of them written by the libraries whose format it is."""

from __future__ import annotations

import gettext
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.suites.corpus import Corpus
from kdbench.suites.dataset import DatasetSpec
from kdbench.suites.folders import ABSENT
from kdbench.suites.recipe import Recipe
from kdbench.tasks.translation.data import iso_codes, load_data, sword
from kdbench.tasks.translation.data.pairs import clean
from kdbench.tasks.translation.task import TranslationTask
from kdbench.tasks.translation.vocabulary import END, UNKNOWN, Vocabulary

OPTIONS = {"source": "en", "target": "uk", "test": 4, "vocabulary": 40}
NAMES = ["Lake", "River", "Hill", "North", "South", "East", "West", "Sea", "Land", "Old", "New", "Great"]


def rows(count: int = 30) -> list[tuple[str, str]]:
    """Made-up names and what stands for their translations."""
    found = {f"{a} {b}": f"{b.lower()}-{a.lower()}" for a in NAMES for b in NAMES if a != b}
    return list(found.items())[:count]


def catalogue(path: Path, entries: dict[str, str]) -> None:
    """A `.mo` file, as the GNU gettext manual describes it."""
    entries = {"": "Content-Type: text/plain; charset=UTF-8\n", **entries}
    keys = sorted(entries)
    ids, texts = ([each.encode() + b"\0" for each in side] for side in (keys, [entries[key] for key in keys]))
    at, table = 28 + 16 * len(keys), b""
    for side in (ids, texts):
        for each in side:
            table += struct.pack("<II", len(each) - 1, at)
            at += len(each)
    head = struct.pack("<IIIIIII", 0x950412DE, 0, len(keys), 28, 28 + 8 * len(keys), 0, 28 + 16 * len(keys))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + table + b"".join(ids + texts))


@pytest.fixture
def locales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for language in ("uk", "be"):
        folder = tmp_path / language / "LC_MESSAGES"
        entries = {name: f"{text} {language}" for name, text in rows()}
        catalogue(folder / "iso_3166-1.mo", {**dict(list(entries.items())[:20]), "context\x04Lake": "no", "Blank": " "})
        catalogue(folder / "iso_639-3.mo", {**dict(list(entries.items())[15:]), "Lake River": "another text"})
    monkeypatch.setenv(iso_codes.VARIABLE, str(tmp_path))
    return tmp_path


def test_catalogues_give_each_name_once_with_the_first_ones_translation(locales: Path) -> None:
    path = locales / "uk" / "LC_MESSAGES" / "iso_3166-1.mo"
    with path.open("rb") as file:
        assert gettext.GNUTranslations(file).gettext("Lake River") == "river-lake uk"
    found = iso_codes.read("uk")
    assert sorted((pair.source, pair.target) for pair in found.train) == sorted((s, f"{t} uk") for s, t in rows())
    assert found.left_out == {"empty": 1, "duplicate": 0}


def test_a_language_without_catalogues_names_the_package(locales: Path) -> None:
    with pytest.raises(KDBenchError, match="no catalogues of the language 'tlh' here: apt-get install iso-codes"):
        iso_codes.read("tlh")
    (locales / "uk" / "LC_MESSAGES" / "iso_3166-1.mo").write_bytes(b"no catalogue")
    with pytest.raises(KDBenchError, match="cannot be read"):
        iso_codes.read("uk")


def test_no_source_of_the_test_set_is_trained_on_and_all_subsets_have_one_vocabulary(locales: Path) -> None:
    whole = load_data("iso_codes", OPTIONS, {})
    part = load_data("iso_codes", OPTIONS, {"subset": {"pairs": 7}})
    assert (len(whole.train), len(whole.test), len(part.train)) == (26, 4, 7)
    assert not {pair.source for pair in whole.train} & {pair.source for pair in whole.test}
    assert part.test == whole.test
    assert {*part.train} <= {*whole.train}
    assert part.vocabulary.digest == whole.vocabulary.digest
    assert part.content != whole.content
    assert load_data("iso_codes", OPTIONS, {}).content == whole.content
    other = load_data("iso_codes", OPTIONS, {"subset": {"pairs": 7, "seed": 1}})
    assert other.train != part.train


def test_validation_is_cut_from_training_and_takes_the_test_sets_place(locales: Path) -> None:
    whole, held = (
        load_data("iso_codes", OPTIONS, {}),
        load_data("iso_codes", OPTIONS, {"validation": {"fraction": 0.2}}),
    )
    assert len(held.test) == 5
    assert {*held.train} | {*held.test} == {*whole.train}


def test_a_multilingual_teacher_asks_by_tags_and_learns_no_sentence_of_the_test_set(locales: Path) -> None:
    options = {**OPTIONS, "others": ["be"]}
    student = load_data("iso_codes", options, {"subset": {"pairs": 5}})
    teacher = load_data("iso_codes", options, {"multilingual": {"per_language": 9}})
    assert student.vocabulary.digest == teacher.vocabulary.digest
    assert {pair.language for pair in student.train} == {"uk"}
    assert sum(pair.language == "be" for pair in teacher.train) == 9
    assert not {pair.source for pair in teacher.train} & {pair.source for pair in teacher.test}
    tags = teacher.vocabulary.tags
    assert [teacher.vocabulary.source("Lake", language)[0] for language in ("uk", "be")] == [tags["uk"], tags["be"]]
    assert teacher.vocabulary.text([tags["be"], *teacher.vocabulary.target("lake")]) == "lake"
    with pytest.raises(KDBenchError, match=r"multilingual, but options\.others names no language"):
        load_data("iso_codes", OPTIONS, {"multilingual": {}})


def test_a_teacher_writes_to_each_source_in_the_language_of_its_pair(
    locales: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = {"multilingual": {"per_language": 9}}
    spec = DatasetSpec("iso_codes", "translation", protocol, options={**OPTIONS, "others": ["be"]})
    task = TranslationTask(spec, Recipe(epochs=1, batch_size=4), Numerics(torch.device("cpu")), None)
    network, real, asked = task.network("marian(heads=2, layers=1, width=16)"), Vocabulary.source, list[str]()

    def source(self: Vocabulary, text: str, language: str = "") -> list[int]:
        asked.append(language)
        return real(self, text, language)

    monkeypatch.setattr(Vocabulary, "source", source)
    task.write(Corpus("greedy"), network, 0, 0, task.sources())
    assert asked == [pair.language for pair in task.data.train]
    assert {*asked} == {"uk", "be"}


def test_a_vocabulary_gives_its_text_back_without_the_references_own_tokenizer(locales: Path) -> None:
    vocabulary = load_data("iso_codes", OPTIONS, {}).vocabulary
    for text in ("lake-river uk", "sea-lake uk"):
        ids = vocabulary.target(text)
        assert (ids[-1], vocabulary.text([*ids, 5, 6])) == (END, text)
        assert UNKNOWN not in ids
    with pytest.raises(KDBenchError, match="no vocabulary of 9000 pieces"):
        load_data("iso_codes", {**OPTIONS, "vocabulary": 9000}, {})


# ------------------------------------------------------------------------------------------------ files


def moses(folder: Path, part: str, pairs: list[tuple[str, str]]) -> None:
    for place, language in enumerate(("en", "uk")):
        text = "".join(f"{pair[place]}\n" for pair in pairs)
        (folder / f"{part}.{language}").write_text(text, encoding="utf-8")


def test_tsv_and_moses_files_give_the_same_pairs(tmp_path: Path) -> None:
    pairs = [*rows(), ('say "x\u2028y"', "lac\u00a0bleu"), ("", "empty"), rows()[0]]
    moses(tmp_path, "train", pairs)
    moses(tmp_path, "test", rows(40)[30:])
    for part, lines in (("train", pairs), ("test", rows(40)[30:])):
        text = "id\tuk\ten\n" + "".join(f"{n}\t{target}\t{source}\r\n" for n, (source, target) in enumerate(lines))
        (tmp_path / f"{part}.tsv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    options = {**OPTIONS, "vocabulary": 60}
    ours, theirs = (load_data(f"{kind}:{tmp_path}", options, {}) for kind in ("tsv", "moses"))
    assert (ours.train, ours.test) == (theirs.train, theirs.test)
    assert (len(ours.train), len(ours.test)) == (31, 10)
    assert ours.train[-1][:2] == (clean('say "x\u2028y"'), "lac bleu")
    assert (ours.left_out["empty"], ours.left_out["duplicate"]) == (1, 1)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    moses(tmp_path, "text", rows())
    (tmp_path / "text.uk").write_text("one line\n")
    with pytest.raises(KDBenchError, match=r"text\.en and text\.uk in .* have 30 and 1 lines"):
        load_data(f"moses:{tmp_path / 'text'}", OPTIONS, {})
    (tmp_path / "bad.tsv").write_text("en\tuk\na\tb\nc\n")
    with pytest.raises(KDBenchError, match=r"line 3 of .* has 1 columns, and the first line 2"):
        load_data(f"tsv:{tmp_path / 'bad.tsv'}", OPTIONS, {})
    with pytest.raises(KDBenchError, match=r"no column 'de': its first line names en, uk"):
        load_data(f"tsv:{tmp_path / 'bad.tsv'}", {**OPTIONS, "target": "de"}, {})
    with pytest.raises(KDBenchError, match="does not exist"):
        load_data(f"tsv:{tmp_path / 'none.tsv'}", OPTIONS, {})
    (tmp_path / "latin.tsv").write_bytes("en\tuk\né\tb\n".encode("latin-1"))
    with pytest.raises(KDBenchError, match="cannot be read as UTF-8"):
        load_data(f"tsv:{tmp_path / 'latin.tsv'}", OPTIONS, {})


def test_what_lies_in_files_is_part_of_a_cell(tmp_path: Path) -> None:
    moses(tmp_path, "text", rows())
    name = f"moses:{tmp_path / 'text'}"
    before = DatasetSpec(name, "translation").content
    moses(tmp_path, "text", rows(31))
    assert before != DatasetSpec(name, "translation").content != ABSENT
    assert DatasetSpec(f"tsv:{tmp_path}", "translation").content not in (None, ABSENT)
    assert DatasetSpec(f"tsv:{tmp_path / 'none.tsv'}", "translation").content == ABSENT
    assert DatasetSpec("iso_codes", "translation").content is None


@pytest.mark.parametrize("nested", [True, False])
def test_what_datasets_saved_is_read(tmp_path: Path, nested: bool) -> None:
    datasets = pytest.importorskip("datasets")

    def table(pairs: list[tuple[str, str]]) -> Any:
        found = [{"en": source, "uk": target} for source, target in pairs]
        return datasets.Dataset.from_list([{"translation": row} for row in found] if nested else found)

    datasets.DatasetDict({"train": table(rows()), "test": table(rows(34)[30:])}).save_to_disk(str(tmp_path / "set"))
    data = load_data(f"hub:{tmp_path / 'set'}", OPTIONS, {})
    assert [pair[:2] for pair in data.train] == rows()
    assert [pair[:2] for pair in data.test] == rows(34)[30:]
    with pytest.raises(KDBenchError, match="no language 'de': it has"):
        load_data(f"hub:{tmp_path / 'set'}", {**OPTIONS, "target": "de"}, {})


# ------------------------------------------------------------------------------------------------ SWORD


def module(folder: Path, slots: list[str]) -> None:
    """A testament in zText, two slots to a block."""
    blocks, index, verses = b"", b"", b""
    for start in range(0, len(slots), 2):
        texts = [slot.encode() for slot in slots[start : start + 2]]
        packed = zlib.compress(b"".join(texts))
        index += struct.pack("<III", len(blocks), len(packed), sum(map(len, texts)))
        blocks += packed
        for place, text in enumerate(texts):
            verses += struct.pack("<IIH", start // 2, sum(map(len, texts[:place])), len(text))
    folder.mkdir(parents=True)
    for kind, content in (("bzs", index), ("bzz", blocks), ("bzv", verses)):
        (folder / f"nt.{kind}").write_bytes(content)


def test_verses_stand_side_by_side_without_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    english = [
        "",
        "<title>Book</title>",
        *(f'<w lemma="strong:G1">{s}</w> &amp; more<note>x</note>' for s, _ in rows()),
        "a" * 500,
    ]
    spanish = ["", "", *(target for _, target in rows()), "b"]
    texts = tmp_path / "modules" / "texts" / "ztext"
    module(texts / "engWEB2015eb", english)
    module(texts / "spaRV1909eb", spanish)
    monkeypatch.setenv(sword.VARIABLE, str(tmp_path))
    found = sword.read("en", "es")
    assert [pair[:2] for pair in found.train] == [(f"{source} & more", target) for source, target in rows()]
    assert found.left_out == {"empty": 2, "duplicate": 0, "too long": 1}
    with pytest.raises(KDBenchError, match="no language 'uk'"):
        sword.read("en", "uk")
    (texts / "engWEB2015eb" / "nt.bzz").write_bytes(b"damaged")
    with pytest.raises(KDBenchError, match="install its package anew"):
        sword.read("en", "es")


def test_texts_of_other_versifications_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("engWEB2015eb", 4), ("spaRV1909eb", 5)):
        module(tmp_path / "modules" / "texts" / "ztext" / name, ["text"] * count)
    monkeypatch.setenv(sword.VARIABLE, str(tmp_path))
    with pytest.raises(KDBenchError, match="have 4 and 5 slots"):
        sword.read("en", "es")
    monkeypatch.setenv(sword.VARIABLE, str(tmp_path / "nowhere"))
    monkeypatch.setattr(sword, "FOLDERS", ())
    with pytest.raises(KDBenchError, match="apt-get install sword-text-web"):
        sword.read("en", "es")


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("options", "protocol", "message"),
    [
        ({"source": "en"}, {}, "names no target language"),
        ({**OPTIONS, "sourc": "en"}, {}, "did you mean 'source'"),
        ({**OPTIONS, "vocabulary": "many"}, {}, r"options\.vocabulary is 'many': give a whole number"),
        ({**OPTIONS, "others": ["uk"]}, {}, "name each other language once"),
        (OPTIONS, {"label_noise": {"rate": 0.1}}, "unknown protocol 'label_noise'"),
        (OPTIONS, {"subset": {"per_class": 3}}, "unknown key of protocol subset 'per_class'"),
        (OPTIONS, {"subset": {"pairs": 9999}}, r"subset\.pairs = 9999 is more than"),
        (OPTIONS, {"validation": {"fraction": 2.0}}, "a number between 0 and 1"),
        ({**OPTIONS, "test": 9999}, {}, "cannot be cut for the test set"),
    ],
)
def test_what_cannot_be_is_refused(
    locales: Path, options: dict[str, Any], protocol: dict[str, Any], message: str
) -> None:
    with pytest.raises(KDBenchError, match=message):
        load_data("iso_codes", options, protocol)


def test_an_unknown_data_set_is_answered_with_those_there_are() -> None:
    with pytest.raises(KDBenchError, match="did you mean 'iso_codes'"):
        load_data("iso_code", OPTIONS, {})
