"""Text networks: what they offer, where their weights come from, which tokens they read."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from kdbench.errors import KDBenchError
from kdbench.method import Batch
from kdbench.tasks.text.data.sets import Texts
from kdbench.tasks.text.data.tokenizers import Tokenizer, make
from kdbench.tasks.text.networks import TextNetwork, create
from kdbench.tasks.text.networks.weights import factors

pytestmark = pytest.mark.xdist_group("text")

TEXTS = Texts(("a red cat runs", "the blue dog sleeps under the old house", "a green bird"))
PAIRS = Texts(TEXTS.first, ("it is quick", "so it rests", "it flies over the river"))
CLASSES = ("entailment", "neutral", "contradiction")
WIDTH, LENGTH = 24, 16


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make("wordpiece(vocabulary=120)", PAIRS)


def network(tokenizer: Tokenizer, options: str = "", base: str = "bert", seed: int = 0, **more: Any) -> TextNetwork:
    torch.manual_seed(seed)
    sizes = f"heads=2, layers=2, width={WIDTH}" if base in ("bert", "distilbert", "deberta-v2", "albert") else ""
    name = f"{base}({', '.join(filter(None, (sizes, options)))})"
    wanted: dict[str, Any] = {"classes": CLASSES, "tokenizers": [tokenizer], "length": LENGTH, **more}
    return create(name, **wanted).eval()


def planes(tokenizer: Tokenizer, texts: Texts = TEXTS, length: int = LENGTH) -> torch.Tensor:
    return tokenizer.planes(texts, length).long()


def test_taps_are_what_transformers_says_of_the_model(tokenizer: Tokenizer) -> None:
    net = network(tokenizer)
    inputs = planes(tokenizer, PAIRS)
    output = net(inputs)
    ids, segments, mask = inputs.unbind(1)
    assert segments.any()
    net.model.set_attn_implementation("eager")
    known = net.model(ids, mask, segments, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(output.logits, known.logits)
    assert len(output.hidden) == 3
    for own, other in zip(output.hidden, known.hidden_states, strict=True):
        torch.testing.assert_close(own, other)
    for layer, other in enumerate(known.attentions, 1):
        torch.testing.assert_close(output.probabilities(layer), other)
        torch.testing.assert_close(output.probabilities(layer).sum(3), torch.ones(3, 2, LENGTH))
    for layer in (1, 2):
        module = net.taps.layers[layer - 1]
        attended = module.attention.output.dense(output.context(layer))  # type: ignore[union-attr, operator]
        torch.testing.assert_close(attended, output.attended[layer - 1])
        assert [x.shape[2] for x in output.matrices(layer)] == [WIDTH] * 4 + [4 * WIDTH, WIDTH]
    words = net.model.bert.embeddings.LayerNorm(net.model.bert.embeddings.word_embeddings(ids))
    torch.testing.assert_close(output.words, words)


def test_scores_are_those_before_the_softmax_whatever_computes_the_attention(tokenizer: Tokenizer) -> None:
    net = network(tokenizer)
    assert net.model.config._attn_implementation != "eager"  # a fused one, which keeps no map
    output = net(planes(tokenizer))
    for layer in (1, 2):
        scores = output.scores(layer)
        assert (scores.sum(3) - 1).abs().min() > 1e-3
        masked = scores.masked_fill(~output.mask[:, None, None], -torch.inf)
        torch.testing.assert_close(masked.softmax(3), output.probabilities(layer))


@pytest.mark.parametrize("layer", [0, -1, 3])
def test_a_layer_that_is_not_there_is_an_error(tokenizer: Tokenizer, layer: int) -> None:
    output = network(tokenizer)(planes(tokenizer))
    for ask in (output.scores, output.context, output.matrices):
        with pytest.raises(IndexError, match=f"of layer {layer} are asked for, but layers are counted from 1 to 2"):
            ask(layer)


def test_features_are_hidden_states_without_padding_and_logits_are_of_the_embedding(tokenizer: Tokenizer) -> None:
    net = network(tokenizer)
    output = net(planes(tokenizer))
    real = output.mask[:, None].expand(-1, WIDTH, -1)
    for feature, hidden in zip(output.features, output.hidden[1:], strict=True):
        assert torch.equal(feature[real], hidden.transpose(1, 2)[real])
        assert not feature[~real].any()
    assert net.shapes.features == ((WIDTH, LENGTH),) * 2
    torch.testing.assert_close(net.classifier(output.embedding), output.logits)


@pytest.mark.parametrize(
    ("base", "offers"),
    [
        ("bert", {"tokens", "attentions"}),
        ("distilbert", {"tokens", "attentions"}),
        ("deberta-v2", {"tokens"}),  # its scores depend on positions
        ("albert", set()),  # its layers are one
    ],
)
def test_an_architecture_offers_what_can_be_told_of_it(tokenizer: Tokenizer, base: str, offers: set[str]) -> None:
    assert network(tokenizer, base=base).offers == offers


def test_the_answer_does_not_depend_on_the_padding(tokenizer: Tokenizer) -> None:
    net = network(tokenizer)
    short, long = (net(planes(tokenizer, length=length)) for length in (LENGTH, 30))
    torch.testing.assert_close(short.logits, long.logits, rtol=1e-5, atol=1e-6)
    for layer in (1, 2):
        own = [output.context(layer)[output.mask] for output in (short, long)]
        torch.testing.assert_close(*own, rtol=1e-5, atol=1e-6)


def test_a_copy_has_hooks_of_its_own(tokenizer: Tokenizer) -> None:
    net, inputs = network(tokenizer), planes(tokenizer)
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    before = net(inputs).hidden[1]
    assert not torch.equal(other(inputs).hidden[1], before)
    assert torch.equal(net(inputs).hidden[1], before)
    assert not net.taps.kept


def test_the_same_random_numbers_make_the_same_network(tokenizer: Tokenizer) -> None:
    one, two, other = (network(tokenizer, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_every_parameter_belongs_to_one_stage(tokenizer: Tokenizer) -> None:
    net = network(tokenizer)
    first, second, head = net.stage_parameters()
    assert sorted([*first, *second, *head]) == sorted(name for name, _ in net.named_parameters())
    assert all("layer.1" in name for name in second)
    assert {name.split(".")[1] for name in head} == {"classifier", "bert"}


# ------------------------------------------------------------------------------------------ weights


def test_a_student_starts_from_its_teachers_layers(tokenizer: Tokenizer) -> None:
    teacher = network(tokenizer, seed=1)
    for options, picked in (("layers=1, start='teacher'", (2,)), ("layers=(1,), start='teacher'", (1,))):
        name = f"bert(heads=2, {options}, width={WIDTH})"
        student = create(name, classes=CLASSES, tokenizers=[tokenizer], length=LENGTH)
        student.inherit([teacher])
        theirs = teacher.taps.layers[picked[0] - 1].state_dict()
        assert all(torch.equal(own, theirs[key]) for key, own in student.taps.layers[0].state_dict().items())
        assert torch.equal(student.classifier.weight, teacher.classifier.weight)


def test_a_factorised_student_is_the_best_of_its_rank_and_the_teacher_at_full_rank(tokenizer: Tokenizer) -> None:
    teacher, inputs = network(tokenizer, seed=1), planes(tokenizer)
    whole, low = (network(tokenizer, f"rank={rank}") for rank in (WIDTH, 4))
    for student in (whole, low):
        student.inherit([teacher])
    torch.testing.assert_close(whole(inputs).logits, teacher(inputs).logits, rtol=1e-4, atol=1e-5)
    assert (low.rank, low.start) == (4, "teacher")
    assert sum(p.numel() for p in low.parameters()) < sum(p.numel() for p in teacher.parameters())
    weight = torch.randn(8, 5, dtype=torch.float64)
    down, up = factors(weight, 3)
    u, s, v = torch.linalg.svd(weight)
    torch.testing.assert_close(up @ down, u[:, :3] * s[:3] @ v[:3])
    torch.testing.assert_close(up.square().sum(0), s[:3])  # shared evenly
    torch.testing.assert_close(down.square().sum(1), s[:3])


def test_teachers_that_do_not_fit_are_named(tokenizer: Tokenizer) -> None:
    student = network(tokenizer, "start='teacher'")
    with pytest.raises(KDBenchError, match="it cannot be a teacher"):
        student.inherit([])
    wide = create("bert(heads=2, layers=2, width=48)", classes=CLASSES, tokenizers=[tokenizer], length=LENGTH)
    with pytest.raises(KDBenchError, match="cannot start from 'bert"):
        student.inherit([wide])
    with pytest.raises(KDBenchError, match="takes 2 layers of a network that has 1"):
        student.inherit(
            [create("bert(heads=2, layers=1, width=24)", classes=CLASSES, tokenizers=[tokenizer], length=9)]
        )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("bertt", "unknown network 'bertt': did you mean 'bert'"),
        ("bert(depth=2)", "unknown option 'depth'"),
        ("bert(heads=5, width=24)", "a width of 24 cannot be cut into 5 heads"),
        ("bert(heads=2, layers=0, width=24)", "has layers 0"),
        ("bert(heads=2, layers=1, rank=99, width=24)", "has a matrix of rank 24 at most"),
        ("bert(start='checkpoint')", "cannot start from a checkpoint, it names none"),
        ("bert(start='warm')", "unknown start 'warm'"),
        ("bert(tokenizer='other/one')", "which the data set does not make: add it to its options"),
        ("no/such-checkpoint(tokenizer='wordpiece(vocabulary=120)')", "cannot be loaded from 'no/such-checkpoint'"),
    ],
)
def test_a_network_that_does_not_exist_gets_a_sentence(
    tokenizer: Tokenizer, name: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(KDBenchError) as raised:
        create(name, classes=CLASSES, tokenizers=[tokenizer], length=LENGTH)
    assert sentence in str(raised.value)


# ------------------------------------------------------------------------------------------ checkpoints


def saved(folder: Path, tokenizer: Tokenizer, labels: Sequence[str] = (), layers: int = 3) -> str:
    """A checkpoint as transformers writes it."""
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=tokenizer.size, hidden_size=WIDTH, num_attention_heads=2, num_hidden_layers=layers,
        intermediate_size=48, pad_token_id=tokenizer.padding, num_labels=len(labels) or 3,
    )  # fmt: skip
    if labels:
        config.id2label = dict(enumerate(labels))
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_checkpoint_brings_its_weights_and_a_student_some_of_its_layers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = saved(tmp_path, tokenizer)
    own = make(path, TEXTS)
    known = AutoModelForSequenceClassification.from_pretrained(path)
    whole, few, fresh = (
        create(f"{path}({options})", classes=CLASSES, tokenizers=[own], length=LENGTH)
        for options in ("", "layers=(1, 3)", "start='fresh'")
    )
    assert len(few.taps.layers) == few.model.config.num_hidden_layers == 2
    for place, number in enumerate((1, 3)):
        theirs = known.bert.encoder.layer[number - 1].state_dict()
        assert all(torch.equal(x, theirs[key]) for key, x in few.taps.layers[place].state_dict().items())
    assert not torch.equal(whole.classifier.weight, known.classifier.weight)  # a new head: its classes may be others
    assert not torch.equal(fresh.taps.layers[0].output.dense.weight, known.bert.encoder.layer[0].output.dense.weight)  # type: ignore[union-attr]
    with pytest.raises(KDBenchError, match="cannot start from a checkpoint, it has another width"):
        create(f"{path}(start='checkpoint', width=12)", classes=CLASSES, tokenizers=[own], length=LENGTH)
    with pytest.raises(KDBenchError, match="takes layer 4 of a checkpoint that has 3"):
        create(f"{path}(layers=(4,))", classes=CLASSES, tokenizers=[own], length=LENGTH)


def test_a_teachers_classes_are_mapped_by_name(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = saved(tmp_path, tokenizer, ("CONTRADICTION", "entailment", "neutral"))
    own = make(path, TEXTS)
    known = AutoModelForSequenceClassification.from_pretrained(path).eval()
    teacher = create(path, classes=CLASSES, tokenizers=[own], length=LENGTH, keep_classifier=True).eval()
    inputs = planes(own)
    output = teacher(inputs)
    theirs = known(inputs[:, 0], inputs[:, 2]).logits
    torch.testing.assert_close(output.logits, theirs[:, [1, 2, 0]])
    torch.testing.assert_close(teacher.classifier(output.embedding), output.logits)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [((), "their order is not guessed"), (("a", "b"), "has 2 classes, but the data has 3")],
    ids=["nameless", "fewer"],
)
def test_classes_without_names_are_refused(
    tokenizer: Tokenizer, tmp_path: Path, labels: tuple[str, ...], sentence: str
) -> None:
    path = saved(tmp_path, tokenizer, labels)
    with pytest.raises(KDBenchError, match=sentence):
        create(path, classes=CLASSES, tokenizers=[make(path, TEXTS)], length=LENGTH, keep_classifier=True)


# ------------------------------------------------------------------------------------------ tokens


def test_each_network_reads_its_own_tokenizers_planes(tokenizer: Tokenizer) -> None:
    other = make("wordpiece(vocabulary=60)", TEXTS)
    both = [tokenizer, other]
    inputs = torch.cat([planes(each) for each in both], 1)
    for place, each in enumerate(both):
        options = f"tokenizer='{each.name}'"
        together = network(tokenizer, options, tokenizers=both)
        torch.manual_seed(0)
        alone = network(tokenizer, options, tokenizers=[each])
        assert (together.place, together.vocabulary) == (place, each.identity)
        torch.testing.assert_close(together(inputs).logits, alone(planes(each)).logits)


def test_equal_sizes_are_no_equal_vocabularies(tokenizer: Tokenizer) -> None:
    text = tokenizer.tokenizer.backend_tokenizer.to_str()
    table = json.loads(text)
    vocabulary = table["model"]["vocab"]
    one, two = sorted(vocabulary, key=vocabulary.get)[10:12]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    swapped = copy.deepcopy(tokenizer.tokenizer)
    swapped._tokenizer = type(tokenizer.tokenizer.backend_tokenizer).from_str(json.dumps(table))
    assert len(swapped) == tokenizer.size
    assert Tokenizer("swapped", swapped).identity != tokenizer.identity
    assert make(tokenizer.name, PAIRS).identity == tokenizer.identity


def test_the_teacher_keeps_its_segments_beside_a_student_without(tokenizer: Tokenizer) -> None:
    inputs = planes(tokenizer, PAIRS)
    teacher, student = network(tokenizer), network(tokenizer, base="distilbert")
    ids, segments, mask = inputs.unbind(1)
    torch.testing.assert_close(teacher(inputs).logits, teacher.model(ids, mask, segments).logits)
    blank = inputs.clone()
    blank[:, 1] = 0
    assert not torch.equal(teacher(inputs).logits, teacher(blank).logits)
    assert torch.equal(student(inputs).logits, student(blank).logits)


def test_a_regressions_labels_are_met_by_the_squared_error(tokenizer: Tokenizer) -> None:
    net = network(tokenizer, classes=("score",))
    inputs = planes(tokenizer)
    output = net(inputs)
    batch = Batch(inputs, torch.tensor([1.0, 2.0, 3.0]), torch.arange(3))
    expected = (output.logits[:, 0] - batch.targets).square().mean()
    torch.testing.assert_close(output.supervised(batch)["labels.mse"], expected)
    assert net.shapes.num_classes == 1
