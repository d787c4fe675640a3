"""Sets of texts, from files that the libraries' own writers wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.suites.folders import content
from kdbench.suites.grid import DatasetSpec, Recipe
from kdbench.tasks.text.data import load, wordnet
from kdbench.tasks.text.data.hub import GLUE
from kdbench.tasks.text.data.sets import TextData, changed
from kdbench.tasks.text.task import TextTask

pytestmark = pytest.mark.xdist_group("text")

CPU = Numerics(torch.device("cpu"))
ROWS: dict[str, list[Any]] = {
    "id": [1, 2, 3, 4],
    "premise": ['a "quoted cat', "NA", "two\twords", "four, commas"],
    "hypothesis": ["it is", "", "null", "so"],
    "label": ["neutral", "entailment", "neutral", "contradiction"],
}
NLI = {"text": ["premise", "hypothesis"]}


def written(folder: Path, kind: str) -> str:
    """A folder of tables by pandas' and json's own writers."""
    for part in ("train", "validation"):
        frame = pd.DataFrame({key: [v.replace("\t", " ") if kind == "tsv" and isinstance(v, str) else v for v in values]
                              for key, values in ROWS.items()})  # fmt: skip
        file = folder / f"{part}.{kind}"
        if kind == "jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")), encoding="utf-8")
        elif kind == "tsv":
            file.write_text("\n".join("\t".join(map(str, row)) for row in [frame.columns, *frame.values]))
        else:
            frame.to_csv(file, index=False)
    return f"table:{folder}"


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_tables_are_read_as_they_were_written(tmp_path: Path, kind: str) -> None:
    data = load(written(tmp_path, kind), None, NLI)
    assert data.train.second == ("it is", "", "null", "so")
    assert data.train.first[:2] == ('a "quoted cat', "NA")
    assert data.train.first[3] == "four, commas"
    assert data.classes == ("contradiction", "entailment", "neutral")
    assert data.train_targets.tolist() == [2, 1, 2, 0]
    named = load(f"table:{tmp_path}", None, {**NLI, "classes": ["entailment", "neutral", "contradiction"]})
    assert named.train_targets.tolist() == [1, 0, 1, 2]
    assert named.content != data.content


def test_a_changed_table_makes_other_cells(tmp_path: Path) -> None:
    name = written(tmp_path, "csv")
    before = content(name)
    (tmp_path / "train.csv").write_text("premise,label\nother,neutral\n")
    assert before != content(name)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text": "premis"}, "unknown column of train 'premis': did you mean 'premise'"),
        ({**NLI, "label": "gold"}, "unknown column of train 'gold'"),
        ({**NLI, "metric": "bleu"}, "unknown metric 'bleu'"),
        ({**NLI, "classes": ["neutral"]}, "unknown class 'entailment'"),
        ({**NLI, "metric": "correlation"}, "is a regression, but could not convert"),
        ({**NLI, "size": 3}, "unknown option 'size'"),
        ({**NLI, "length": 0}, "option length of dataset"),
        ({"text": ["premise"] * 3}, "give the name of a column, or two"),
    ],
)
def test_options_that_cannot_be_get_a_sentence(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(KDBenchError, match=sentence):
        load(written(tmp_path, "csv"), None, options)


def test_a_set_of_one_class_is_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text("text,label\na,3\nb,3\n")
    with pytest.raises(KDBenchError, match="has one class, '3', so that there is nothing to tell apart"):
        load(f"table:{tmp_path}", None, {})
    assert load(f"table:{tmp_path}", None, {"metric": "correlation"}).num_classes == 1


@pytest.mark.parametrize("name", ["wordne", "table:", "wordnet:all", "glue:cola2", "glue"])
def test_unknown_sets_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(KDBenchError, match="unknown"):
        load(name, tmp_path, {})


def test_absent_sets_say_where_they_go(tmp_path: Path) -> None:
    with pytest.raises(KDBenchError, match=r"save it with datasets' `save_to_disk` in .*glue/cola"):
        load("glue:cola", tmp_path, {})
    with pytest.raises(KDBenchError, match=r"has no file train\.tsv, \.csv or \.jsonl"):
        load(f"table:{tmp_path}", None, {})
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b"}\n')
    (tmp_path / "test.csv").write_text("text,label\na,1\n")
    with pytest.raises(KDBenchError, match="a row lacks 'label'"):
        load(f"table:{tmp_path}", None, {})


# ------------------------------------------------------------------------------------------ GLUE


def glue(root: Path, task: str) -> None:
    """One of GLUE's tasks as `save_to_disk` leaves it."""
    import datasets

    entry = GLUE[task]
    names = ["entailment", "neutral", "contradiction"] if task == "mnli" else ["no", "yes"]
    label = datasets.Value("float32") if task == "stsb" else datasets.ClassLabel(names=names)
    columns = {**dict.fromkeys(entry.text, datasets.Value("string")), "label": label, "idx": datasets.Value("int32")}

    def part(count: int) -> Any:
        texts = {column: [f"{column} {i}" for i in range(count)] for column in entry.text}
        labels = [i % len(names) for i in range(count)]
        rows = {**texts, "label": labels, "idx": list(range(count))}
        return datasets.Dataset.from_dict(rows, features=datasets.Features(columns))

    splits = {"train": part(6), **{split: part(3 + place) for place, split in enumerate(entry.splits.values())}}
    datasets.DatasetDict(splits).save_to_disk(str(root / "glue" / task))


@pytest.mark.parametrize("task", GLUE)
def test_every_task_of_glue_is_read_with_its_columns_and_metric(tmp_path: Path, task: str) -> None:
    glue(tmp_path, task)
    data = load(f"glue:{task}", tmp_path, {})
    assert len(data.train) == 6
    assert (data.train.second is None) == (len(GLUE[task].text) == 1)
    assert data.metric == GLUE[task].metric
    assert data.train.first[0] == f"{GLUE[task].text[0]} 0"
    assert data.is_regression == (task == "stsb")
    assert data.train_targets.dtype == (torch.float32 if task == "stsb" else torch.int64)
    if task == "mnli":
        assert data.classes == ("entailment", "neutral", "contradiction")
        assert {name: len(texts) for name, (texts, _) in data.tests.items()} == {"matched": 3, "mismatched": 4}


def test_a_set_of_datasets_is_read_from_its_folder(tmp_path: Path) -> None:
    glue(tmp_path, "sst2")
    data = load(f"datasets:{tmp_path / 'glue' / 'sst2'}", None, {"text": "sentence"})
    assert data.classes == ("no", "yes")
    with pytest.raises(KDBenchError, match="unknown split 'dev'"):
        load(f"datasets:{tmp_path / 'glue' / 'sst2'}", None, {"text": "sentence", "test": "dev"})


# ------------------------------------------------------------------------------------------ WordNet, protocols, batches

LICENCE = "  1 This software and database is being provided to you\n"
GLOSS = '0000{n:04d} {kind:02d} n 01 thing 0 000 | the gloss number {n}; "with | a bar"  \n'


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A data folder with a small data.noun."""
    (tmp_path / "wordnet").mkdir()
    glosses = "".join(GLOSS.format(n=n, kind=3 + n % 4) for n in range(60))
    (tmp_path / "wordnet" / "data.noun").write_text(LICENCE + glosses)
    return tmp_path


def test_glosses_are_read_with_their_lexicographer_file(words: Path) -> None:
    texts, labels = wordnet.read(words / "wordnet" / "data.noun")
    assert len(texts) == 60
    assert texts[5] == 'the gloss number 5; "with | a bar"'
    assert [wordnet.CLASSES[label] for label in labels[:4]] == ["Tops", "act", "animal", "artifact"]
    data = load("wordnet", words, {"train_samples": 20})
    assert (len(data.train), len(data.tests["test"][0]), data.num_classes) == (20, 12, 26)
    assert not {*data.train.first} & {*data.tests["test"][0].first}
    whole = load("wordnet", words, {})
    assert whole.train.first[:20] == data.train.first
    with pytest.raises(KDBenchError, match="train_samples is 99, but wordnet has 48 to train"):
        load("wordnet", words, {"train_samples": 99})


def test_the_debian_package_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordnet, "PLACES", ())
    with pytest.raises(KDBenchError, match="apt install wordnet-base, or put"):
        load("wordnet", tmp_path, {})


def task(words: Path, protocol: dict[str, Any] | None = None, **options: Any) -> TextTask:
    spec = DatasetSpec("wordnet", "text", protocol or {}, options=options)
    return TextTask(spec, Recipe(epochs=1, batch_size=16), CPU, words)


def test_protocols_hold_for_texts(words: Path) -> None:
    noisy = task(words, {"label_noise": {"kind": "symmetric", "rate": 0.5}}).data
    assert (noisy.train_targets != noisy.clean_targets).sum() == 24
    whole = task(words)
    held = task(words, {"validation": {"fraction": 0.25}})
    assert held.data.tests.keys() == {"validation"}
    assert len(held.data.train) + len(held.data.tests["validation"][0]) == 48
    assert held.length == whole.length
    assert held.content != whole.content


def test_a_regression_takes_a_validation_part_alone(tmp_path: Path) -> None:
    glue(tmp_path, "stsb")
    data: TextData = load("glue:stsb", tmp_path, {})
    held = changed(data, {"validation": {"fraction": 0.5}})
    assert held.train_targets.dtype == torch.float32
    assert sorted([*held.train.first, *held.tests["validation"][0].first]) == sorted(data.train.first)
    with pytest.raises(KDBenchError, match="protocol label_noise is about classes"):
        changed(data, {"label_noise": {"kind": "symmetric", "rate": 0.5}})


def test_every_sample_is_in_an_epoch_once_and_keeps_its_own_target(words: Path) -> None:
    loader = task(words).training_set(3, False)
    seen = []
    for epoch in (1, 2):
        batches = list(loader.epoch(epoch))
        again = list(loader.epoch(epoch))
        assert [len(batch) for batch in batches] == [16, 16, 16]
        assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(batches, again, strict=True))
        for batch in batches:
            assert torch.equal(batch.targets, loader.targets[batch.indices])
            assert torch.equal(batch.inputs, loader.planes[batch.indices].long())  # type: ignore[attr-defined]
        seen.append(torch.cat([batch.indices for batch in batches]))
    assert all(torch.equal(order.sort().values, torch.arange(48)) for order in seen)
    assert not torch.equal(*seen)


def test_a_batch_has_three_planes_of_each_tokenizer_at_one_width(words: Path) -> None:
    made = task(words, tokenizers=["wordpiece", "wordpiece(vocabulary=50)"], length=12)
    batch = next(iter(made.training_set(0, False).epoch(1)))
    assert batch.inputs.shape == (16, 6, 12)
    assert batch.inputs.dtype == torch.int64
    for place, tokenizer in enumerate(made.tokenizers):
        ids, _, mask = batch.inputs[:, 3 * place : 3 * place + 3].unbind(1)
        assert torch.equal(ids == tokenizer.padding, mask == 0)
    assert made.example().shape == (1, 6, 12)
    with pytest.raises(KDBenchError, match="unknown tokenizer 'words'"):
        task(words, tokenizers=["words"])


def test_recipes_of_images_are_refused(words: Path) -> None:
    with pytest.raises(KDBenchError, match="has augment"):
        TextTask(DatasetSpec("wordnet", "text"), Recipe(epochs=1, augment=("flip",)), CPU, words)
