"""Translation networks: their rows, what a batch does to them, which weights and vocabularies they take."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

from kdbench import registry
from kdbench.errors import KDBenchError, NotApplicable
from kdbench.hardware.numerics import Numerics
from kdbench.losses import kl
from kdbench.method import Output, Shapes
from kdbench.suites.corpus import Corpus
from kdbench.tasks.translation import toy
from kdbench.tasks.translation.batches import Example, collate
from kdbench.tasks.translation.decoding_beam import beam_search
from kdbench.tasks.translation.decoding_rules import translate
from kdbench.tasks.translation.networks import create
from kdbench.tasks.translation.networks.adapter import Replayed, TranslationNetwork
from kdbench.tasks.translation.vocabulary import END, PAD, Vocabulary

pytestmark = pytest.mark.xdist_group("text")
CPU = torch.device("cpu")
NAMES = [
    "marian(heads=2, layers=1, width=16)",
    "m2m100(heads=2, layers=1, width=16)",
    "nllb(heads=2, layers=1, width=16)",
]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return toy.data().vocabulary


def made(name: str, vocabulary: Vocabulary, longest: int = 48, **options: Any) -> TranslationNetwork:
    torch.manual_seed(1)
    network = create(name, vocabulary, longest, "words", "backwards", **options)
    assert isinstance(network, TranslationNetwork)
    return network.eval()


def example(source: int, target: int, seed: int = 0) -> Example:
    """Random ids, so many with their ends."""
    draws = torch.Generator().manual_seed(seed)
    ids = [torch.randint(3, 30, (count - 1,), generator=draws).tolist() for count in (source, target)]
    return Example((*ids[0], END), (*ids[1], END))


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_a_real_target_token_whatever_the_batch_is_padded_to(name: str, vocabulary: Vocabulary) -> None:
    network, short, long = made(name, vocabulary), example(3, 2), example(30, 6, seed=1)
    together = collate([short, long], range(2), CPU)
    assert len(together.targets) == 8
    found = network(together.inputs)
    assert (found.logits.shape, found.embedding.shape) == ((8, len(vocabulary)), (8, 16))
    torch.testing.assert_close(network.classifier(found.embedding), found.logits)
    for rows, alone in ((slice(0, 2), short), (slice(2, 8), long)):
        batch = collate([alone], [0], CPU)
        torch.testing.assert_close(network(batch.inputs).logits, found.logits[rows], atol=1e-5, rtol=1e-4)
        assert together.targets[rows].tolist() == list(alone.target)


@pytest.mark.parametrize("name", NAMES[:2])
def test_with_a_cache_and_without_the_same_is_translated(name: str, vocabulary: Vocabulary) -> None:
    network = made(name, vocabulary)
    inputs = torch.tensor([[5, 6, 7, END], [8, END, PAD, PAD]])
    cached = beam_search(network.begin, inputs, beams=3, end=END, longest=9)
    replayed = beam_search(
        lambda sources: Replayed(network, sources, vocabulary.never), inputs, beams=3, end=END, longest=9
    )
    for mine, theirs in zip(cached, replayed, strict=True):
        assert [each.tokens for each in mine] == [each.tokens for each in theirs]
        assert [each.score for each in mine] == pytest.approx([each.score for each in theirs], abs=1e-5)


class Ending:
    """A state whose end is likelier than the network has it, so that hypotheses end at unlike lengths."""

    def __init__(self, state: Any) -> None:
        self.state, self.take = state, state.take

    def step(self, tokens: Tensor | None) -> Tensor:
        log_p = self.state.step(tokens)
        log_p[:, END] = log_p.max(1).values - 1.0
        return log_p.log_softmax(1)


@pytest.mark.parametrize("penalty", [0.6, 1.0])
def test_a_sentences_translation_does_not_depend_on_its_batch(penalty: float, vocabulary: Vocabulary) -> None:
    network = made(NAMES[0], vocabulary)
    with torch.no_grad():  # unlike tokens, so that hypotheses are
        network.model.model.shared.weight *= 30
    sources = [example(4, 2, 1).source, example(40, 2, 2).source, *(example(n, 2, n).source for n in range(5, 11))]

    def decoded(chosen: list[tuple[int, ...]]) -> Any:
        longest = max(map(len, chosen))
        inputs = torch.tensor([[*each, *[PAD] * (longest - len(each))] for each in chosen])
        return beam_search(
            lambda given: Ending(network.begin(given)), inputs, beams=5, end=END, longest=40, length_penalty=penalty
        )

    alone, both, eight = [decoded([each])[0] for each in sources], decoded(sources[:2]), decoded(sources)
    assert len({len(each.tokens) for row in alone for each in row}) > 2
    for place, row in (*enumerate(both), *enumerate(eight)):
        assert [each.tokens for each in row] == [each.tokens for each in alone[place]]
        assert [each.score for each in row] == pytest.approx([each.score for each in alone[place]], abs=1e-4)


def test_the_first_decoder_input_is_the_configured_start(vocabulary: Vocabulary) -> None:
    seen: list[Tensor] = []

    def watched(network: TranslationNetwork) -> list[list[int]]:
        hook = network.model.get_decoder().register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
        )
        network(collate([example(3, 3)], [0], CPU).inputs)
        network.begin(torch.tensor([[5, END]])).step(None)
        hook.remove()
        return [ids[0].tolist() for ids in seen[-2:]]

    target = list(example(3, 3).target)
    for name, start in ((NAMES[0], PAD), (NAMES[1], END)):
        whole, first = watched(made(name, vocabulary))
        assert (whole[:3], first) == ([start, *target[:-1]], [start])


def test_columns_that_are_no_tokens_are_left_out(vocabulary: Vocabulary) -> None:
    config = MarianConfig(
        vocab_size=len(vocabulary) + 2, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, pad_token_id=PAD, eos_token_id=END,
        decoder_start_token_id=PAD, max_position_embeddings=50,
    )  # fmt: skip
    teacher = TranslationNetwork("padded", MarianMTModel(config), vocabulary).eval()
    output = teacher(collate([example(3, 2)], [0], CPU).inputs)
    assert output.logits.shape == (2, len(vocabulary)) == (2, teacher.shapes.num_classes)
    logits = torch.zeros(2, len(vocabulary) + 2)
    logits[:, -2:] = -10.0
    teacher.head.layer = nn.Identity()  # type: ignore[assignment]
    assert kl(torch.zeros(2, len(vocabulary)), teacher.head(logits)).item() == pytest.approx(0.0, abs=1e-7)


def test_weights_of_another_vocabulary_are_refused_although_they_fit(vocabulary: Vocabulary) -> None:
    ours = made(NAMES[0], vocabulary)
    weights = copy.deepcopy(ours.core.state_dict())
    ours.core.load_state_dict(weights)
    other = made(NAMES[0], vocabulary)
    other.core.kdbench_vocabulary = "0123456789abcdef"
    with pytest.raises(KDBenchError, match="trained with another vocabulary"):
        other.core.load_state_dict(weights)
    weights["final_logits_bias"] += 1
    with pytest.raises(KDBenchError, match="bias of the logits"):
        ours.core.load_state_dict(weights)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_stand_in_one_stage_each(name: str, vocabulary: Vocabulary) -> None:
    network = made(name, vocabulary)
    stages = network.stage_parameters()
    assert sorted(each for stage in stages for each in stage) == sorted(name for name, _ in network.named_parameters())
    assert stages[0]
    assert stages[1]


def test_names_that_cannot_be_built_are_refused(vocabulary: Vocabulary) -> None:
    for name, message in (
        ("marain", "unknown translation network 'marain': did you mean 'marian'"),
        ("marian(width=10, heads=4)", "a width of 10, which 4 heads do not divide"),
        ("marian(depth=2)", "unknown option 'depth'"),
        ("./nowhere", "checkpoint './nowhere' could not be loaded"),
        ("owner/name(language='en')", "unknown option 'language'"),
    ):
        with pytest.raises(KDBenchError, match=message.replace("(", r"\(").replace(".", r"\.")):
            create(name, vocabulary, 48, "words", "backwards")
    with pytest.raises(KDBenchError, match="has no pretrained weights"):
        create(NAMES[0], vocabulary, 48, "words", "backwards", pretrained=True)


def test_half_the_width_is_another_network(vocabulary: Vocabulary) -> None:
    assert made(NAMES[0], vocabulary, width_factor=0.5).shapes == Shapes(len(vocabulary), 8)


# ------------------------------------------------------------------------------------------------ checkpoints


def saved(folder: Path, special: list[str], words: list[str], end: int, padding: int) -> Path:
    """A Marian model with a tokenizer of its own, as transformers saves it; its decoder starts with the padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = {word: n for n, word in enumerate(dict.fromkeys([*special, *words]))}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=len(fast), d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, pad_token_id=padding, eos_token_id=end,
        decoder_start_token_id=padding, max_position_embeddings=50,
    )  # fmt: skip
    MarianMTModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [*toy.WORDS, *(word[::-1] for word in toy.WORDS if len(word) > 1)]
    folder = tmp_path_factory.mktemp("checkpoints") / "opus.mini"
    return saved(folder, ["<pad>", "</s>", "<unk>"], words, end=1, padding=0)


def test_a_checkpoint_writes_text_and_shows_no_logits(checkpoint: Path) -> None:
    task = toy.toy(Numerics(CPU))
    teacher = task.network(str(checkpoint), pretrained=True).eval()
    assert teacher.shapes.num_classes == 0
    rows = task.write(Corpus("beam", 2, taken=2), teacher, 0, 0, 4)
    assert [len(row) for row in rows] == [2] * 4
    assert {word for row in rows for text, _ in row for word in text.split()} <= {
        *toy.WORDS, *(word[::-1] for word in toy.WORDS), "<unk>",
    }  # fmt: skip
    scores = task.scores(task.evaluate(teacher))
    assert scores["nll"] == 0.0
    with pytest.raises(NotApplicable, match="vocabulary of its own"):
        teacher(task.example())
    with pytest.raises(NotApplicable, match="reads logits"):
        registry.create("word_kd").bind([task.network(toy.STUDENT)], [teacher])
    registry.create("mhd").bind([task.network(toy.STUDENT)], [teacher])


def test_a_checkpoint_whose_end_is_token_0_begins_with_its_last_token_the_padding(tmp_path: Path) -> None:
    words = [*toy.WORDS, *(word[::-1] for word in toy.WORDS)]
    last = len({*words}) + 2
    task = toy.toy(Numerics(CPU))
    folder = saved(tmp_path / "opus.mini", ["</s>", "<unk>"], [*words, "<pad>"], end=0, padding=last)
    teacher: Any = task.network(str(folder), pretrained=True).eval()
    assert (teacher.end, teacher.padding) == (0, last)
    seen: list[list[int]] = []
    hook = teacher.model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].flatten().tolist()), with_kwargs=True
    )
    log_p = teacher.begin(teacher.padded([[2, 3, 4, 0], [5, 0]])).step(None)
    hook.remove()
    assert seen == [[last, last]]
    assert log_p[:, last].tolist() == [-torch.inf] * 2
    assert log_p[:, 0].isfinite().all()
    together = task.write(Corpus("beam", 2), teacher, 0, 0, 4)
    for place, row in enumerate(together):
        ((alone),) = task.write(Corpus("beam", 2), teacher, 0, place, place + 1)
        assert [text for text, _ in alone] == [text for text, _ in row]
        assert [score for _, score in alone] == pytest.approx([score for _, score in row], abs=1e-4)


def test_without_its_weights_a_checkpoint_is_an_architecture_in_the_datas_vocabulary(
    checkpoint: Path, vocabulary: Vocabulary
) -> None:
    network = create(str(checkpoint), vocabulary, 48, "words", "backwards")
    assert network.shapes == Shapes(len(vocabulary), 8)


# ------------------------------------------------------------------------------------------------ what is deployed


class Wrapped(nn.Module):
    """What a method may deploy: no `TranslationNetwork`, and it gives logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        answer: Output = self.network(inputs)
        return answer.logits


def test_a_module_that_only_answers_batches_is_scored_alike() -> None:
    task = toy.toy(Numerics(CPU))
    network = task.network(toy.TEACHER)
    mine, theirs = task.evaluate(network), task.evaluate(Wrapped(network))
    assert mine.texts == theirs.texts
    assert mine.nats == pytest.approx(theirs.nats, rel=1e-6)


@pytest.mark.parametrize("rule", ["beam", "diverse", "greedy", "top_k", "nucleus", "ancestral", "mbr"])
def test_every_rule_gives_as_many_hypotheses_as_are_drawn(rule: str) -> None:
    task = toy.toy(Numerics(CPU))
    network, drawn = task.network(toy.TEACHER).eval(), 1 if rule == "greedy" else 3
    translator = task._translator(network)
    found = translate(translator, [pair.source for pair in task.data.train[:5]], Corpus(rule, drawn), seed=1)
    assert [len(row) for row in found] == [drawn] * 5
    alone = translate(translator, [task.data.train[2].source], Corpus(rule, drawn), seed=1, first=2)
    assert [each.text for each in alone[0]] == [each.text for each in found[2]]
