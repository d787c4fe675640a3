"""Text networks by name: a configuration of transformers, a checkpoint, or the MiniLM of an installed package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from kdbench.errors import KDBenchError, unknown
from kdbench.suites.networks import split
from kdbench.tasks.hub import asked
from kdbench.tasks.text.checkpoints import folder_of, is_checkpoint
from kdbench.tasks.text.data.tokenizers import Tokenizer
from kdbench.tasks.text.networks.adapter import TextNetwork, last_linear, spread
from kdbench.tasks.text.networks.taps import list_of_layers
from kdbench.tasks.text.networks.weights import factorise, keep_layers

__all__ = ["TextNetwork", "create"]

# an option of a name -> transformers' own
SIZES = {"width": "hidden_size", "heads": "num_attention_heads", "inner": "intermediate_size"}
OPTIONS = (*SIZES, "layers", "rank", "start", "dropout", "tokenizer")
STARTS = ("checkpoint", "fresh", "teacher")
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "dropout",
            "attention_dropout", "seq_classif_dropout")  # fmt: skip


def create(
    name: str,
    *,
    classes: Sequence[str],
    tokenizers: Sequence[Tokenizer],
    length: int,
    keep_classifier: bool = False,
    **more: Any,
) -> TextNetwork:
    """Build a text network; random weights come from torch's global stream.

    Args:
        name: `minilm_l6`, a model type of transformers (`bert`, `distilbert`, `roberta`, ...) or a checkpoint's folder
            or hub id (with a slash), with options: `layers` (a number, or which ones, from 1), `width`, `heads`,
            `inner` (feed-forward width), `rank` (of factorised layers), `dropout`, `tokenizer` (one of the data set's)
            and `start`: `"checkpoint"`, `"fresh"` (random weights) or `"teacher"` (the teacher's layers).
        classes: the data's, in their order; one for a regression.
        tokenizers: the data set's.
        length: tokens of every sample.
        keep_classifier: take the checkpoint's own head, whose classes are mapped to the data's by their names.

    Raises:
        KDBenchError: if there is no such network, option or weight.
    """
    base, options = split(name)
    for key in (*options, *more):
        if key not in OPTIONS:
            raise unknown("option", key, OPTIONS, f"of network {name!r}")
    place = _place(name, base, options, tokenizers)
    config, checkpoint = _config(name, base, options), is_checkpoint(base)
    start = _start(name, checkpoint, options)
    depth = int(config.num_hidden_layers)
    picked = _picked(name, options.get("layers"), depth, start)
    _set_sizes(config, options, len(picked) if start == "fresh" else depth)
    names = _names(config)
    config.id2label = dict(enumerate(classes))
    config.label2id = {each: place for place, each in enumerate(classes)}
    with _silent():
        if start == "checkpoint":
            model = _loaded(name, base, config, names if keep_classifier else None)
            if picked != tuple(range(1, depth + 1)):
                _require_layers(model, name)
                keep_layers(model, picked)
        else:
            if start == "teacher":
                config.num_hidden_layers = len(picked)
            if not checkpoint:
                _fit_vocabulary(config, tokenizers[place], length)
            model = AutoModelForSequenceClassification.from_config(config)
    model.float()
    rank = options.get("rank", 0)
    if rank:
        _require_layers(model, name)
        factorise(model, rank, name, keep=start != "teacher")
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and length > most:
        raise KDBenchError(f"network {name!r} reads {most} tokens at most: give the data set a length of at most that")
    return TextNetwork(
        model,
        name,
        place=place,
        length=length,
        vocabulary=tokenizers[place].identity,
        start=start,
        picked=_chosen(options.get("layers"), picked),
        rank=rank,
    )


def _place(name: str, base: str, options: dict[str, Any], tokenizers: Sequence[Tokenizer]) -> int:
    """Which of the data set's tokenizers a network reads."""
    own = options.get("tokenizer", base if is_checkpoint(base) else tokenizers[0].name)
    known = [tokenizer.name for tokenizer in tokenizers]
    if own not in known:
        raise KDBenchError(
            f"network {name!r} reads the tokens of {own!r}, which the data set does not make: add it to its options, "
            f"tokenizers = {[*known, own]}"
        )
    return known.index(own)


def _config(name: str, base: str, options: dict[str, Any]) -> Any:
    if is_checkpoint(base):
        try:
            with asked(folder_of(base)):
                return AutoConfig.from_pretrained(folder_of(base))
        except (OSError, ValueError) as error:
            raise _absent(name, base, error) from error
    if base not in CONFIG_MAPPING:
        raise unknown("network", base, ["minilm_l6", *CONFIG_MAPPING], "a checkpoint's name has a slash")
    return AutoConfig.for_model(base)


def _start(name: str, checkpoint: bool, options: dict[str, Any]) -> str:
    reshaped = [key for key in SIZES if key in options]
    default = "checkpoint" if checkpoint and not reshaped else "fresh"
    start = options.get("start", "teacher" if options.get("rank") else default)
    if start not in STARTS:
        raise unknown("start", str(start), STARTS, f"of network {name!r}")
    if start == "checkpoint" and (reshaped or not checkpoint):
        why = f"it has another {reshaped[0]}" if reshaped else "it names none"
        raise KDBenchError(f"network {name!r} cannot start from a checkpoint, {why}: leave `start` out")
    return str(start)


def _picked(name: str, layers: Any, depth: int, start: str) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(1, depth + 1))
    whole = type(layers) is int and layers >= 1
    chosen = isinstance(layers, tuple) and layers and all(type(k) is int and k >= 1 for k in layers)
    if not (whole or chosen):
        raise KDBenchError(f"network {name!r} has layers {layers!r}: give their number, or which ones as (3, 6)")
    if start == "fresh" or (whole and start == "teacher"):
        return tuple(range(1, (layers if whole else len(layers)) + 1))
    picked = spread(layers, depth, name) if whole else tuple(layers)
    if start == "checkpoint" and max(picked) > depth:
        raise KDBenchError(f"network {name!r} takes layer {max(picked)} of a checkpoint that has {depth}")
    return picked


def _chosen(layers: Any, picked: tuple[int, ...]) -> tuple[int, ...]:
    """The layers that a name gives one by one; else the teacher's depth decides."""
    return picked if isinstance(layers, tuple) else ()


def _set_sizes(config: Any, options: dict[str, Any], layers: int) -> None:
    config.num_hidden_layers = layers
    for key, theirs in SIZES.items():
        if key in options:
            setattr(config, theirs, options[key])
    if "width" in options and "inner" not in options:
        config.intermediate_size = 4 * options["width"]
    if "width" in options and hasattr(config, "pooler_hidden_size"):
        config.pooler_hidden_size = options["width"]
    if config.hidden_size % config.num_attention_heads:
        raise KDBenchError(
            f"a width of {config.hidden_size} cannot be cut into {config.num_attention_heads} heads: give `heads`"
        )
    for key in DROPOUTS if "dropout" in options else ():
        if hasattr(config, key):
            setattr(config, key, float(options["dropout"]))


def _fit_vocabulary(config: Any, tokenizer: Tokenizer, length: int) -> None:
    config.vocab_size, config.pad_token_id = tokenizer.size, tokenizer.padding
    for key in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
        if hasattr(config, key):
            setattr(config, key, None)
    if getattr(config, "max_position_embeddings", None) is not None:  # RoBERTa counts from its padding's id
        config.max_position_embeddings = max(512, length) + 2 + tokenizer.padding


def _names(config: Any) -> list[str]:
    """What a checkpoint calls its classes, in its order."""
    return [str(label) for _, label in sorted((config.id2label or {}).items(), key=lambda item: int(item[0]))]


def _loaded(name: str, base: str, config: Any, theirs: Sequence[str] | None) -> Any:
    """A checkpoint's model.

    Args:
        theirs: what it calls its classes, where its own head is to be kept; None for a new head.
    """
    classes = list(config.id2label.values())
    if theirs is not None and len(theirs) != len(classes):
        raise KDBenchError(f"checkpoint {name!r} has {len(theirs)} classes, but the data has {len(classes)}")
    try:
        with asked(folder_of(base)):
            model, report = AutoModelForSequenceClassification.from_pretrained(
                folder_of(base), config=config, ignore_mismatched_sizes=theirs is None, output_loading_info=True
            )
    except (OSError, ValueError) as error:
        raise _absent(name, base, error) from error
    head = last_linear(model, name)
    if theirs is None:  # a head that fits may be of other classes
        head.reset_parameters()
        model._init_weights(head)
        return model
    if any("classifier" in str(key) for key in report["missing_keys"]):
        raise KDBenchError(f"checkpoint {name!r} has no classifier: fine-tune it first, or leave `weights` out")
    if len(classes) > 1:
        _map_classes(head, theirs, classes, name)
    return model


@torch.no_grad()
def _map_classes(head: nn.Linear, names: Sequence[str], classes: Sequence[str], name: str) -> None:
    """Bring a head's rows into the data's order, by the names of the classes."""
    theirs = {label.casefold(): number for number, label in enumerate(names)}
    absent = [each for each in classes if each.casefold() not in theirs]
    if absent:
        raise KDBenchError(
            f"checkpoint {name!r} calls its classes {list(names)}, and the data {list(classes)}: their order is "
            "not guessed, give the checkpoint's config the data's names (id2label)"
        )
    order = torch.tensor([theirs[each.casefold()] for each in classes])
    head.weight.copy_(head.weight[order])
    if head.bias is not None:
        head.bias.copy_(head.bias[order])


def _require_layers(model: Any, name: str) -> None:
    if list_of_layers(model) is None:
        raise KDBenchError(f"network {name!r} shares its layers: it takes neither `layers` of a checkpoint nor `rank`")


def _absent(name: str, base: str, error: Exception) -> KDBenchError:
    why = (str(error).splitlines() or [type(error).__name__])[0][:160].rstrip(".:")
    return KDBenchError(
        f"network {name!r} cannot be loaded from {base!r} ({why}): name a checkpoint's folder or hub id"
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' progress bars and reports, which are about heads that are new on purpose."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
