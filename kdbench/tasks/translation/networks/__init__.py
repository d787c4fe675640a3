"""Translation networks: encoder-decoders of transformers by their configuration, or from a checkpoint."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
)
from transformers.utils import logging

from kdbench.errors import KDBenchError, unknown
from kdbench.method import Network
from kdbench.suites.networks import split
from kdbench.tasks.hub import asked
from kdbench.tasks.translation.networks.adapter import TranslationNetwork
from kdbench.tasks.translation.networks.pretrained import PretrainedTranslator
from kdbench.tasks.translation.vocabulary import END, PAD, Vocabulary

logging.disable_progress_bar()
# by what a suite names: (configuration, model); NLLB is an M2M100
FAMILIES: dict[str, tuple[type, type]] = {
    "marian": (MarianConfig, MarianMTModel),
    "m2m100": (M2M100Config, M2M100ForConditionalGeneration),
    "nllb": (M2M100Config, M2M100ForConditionalGeneration),
}
# an option of a network's name -> the keys of a configuration that it sets
OPTIONS: dict[str, tuple[str, ...]] = {
    "width": ("d_model",),
    "layers": ("encoder_layers", "decoder_layers"),
    "encoder_layers": ("encoder_layers",),
    "decoder_layers": ("decoder_layers",),
    "heads": ("encoder_attention_heads", "decoder_attention_heads"),
    "feed_forward": ("encoder_ffn_dim", "decoder_ffn_dim"),
    "dropout": ("dropout",),
}
DEFAULTS: dict[str, Any] = {"width": 512, "layers": 6, "heads": 8, "dropout": 0.1}  # the base Transformer's


def create(
    name: str,
    vocabulary: Vocabulary,
    longest: int,
    source: str,
    target: str,
    pretrained: bool = False,
    width_factor: float = 1.0,
) -> Network:
    """A network by its name.

    Args:
        name: a family with options, `marian(layers=2, width=128)`, or a checkpoint of transformers: its identity on
            the hub, or a folder; with `(source='eng_Latn', target='ukr_Cyrl')` where it names languages otherwise
            than the data.
        longest: tokens of a sentence, at most.
        source, target: languages, for a checkpoint that knows several.
        pretrained: a checkpoint with its own weights and vocabulary; else its architecture with the data's vocabulary
            and random weights from torch's global stream.
        width_factor: times the width and the feed-forward layers'.

    Raises:
        KDBenchError: if there is no such network, or it cannot be built so.
    """
    base, options = split(name)
    if base in FAMILIES:
        if pretrained:
            raise KDBenchError(
                f"network {name!r} has no pretrained weights: name a checkpoint, e.g. "
                "'facebook/nllb-200-distilled-600M'"
            )
        return _build(name, *_of_family(name, base, options, width_factor, vocabulary, longest), vocabulary)
    if "/" not in base and "." not in base:
        raise unknown("translation network", base, FAMILIES, "or a checkpoint: OWNER/NAME of the hub, or a folder")
    for key in options:
        if key not in ("source", "target"):
            raise unknown("option", key, ("source", "target"), f"of checkpoint {base!r}")
    if pretrained:
        return PretrainedTranslator(name, base, longest, options.get("source", source), options.get("target", target))
    config = _loaded(AutoConfig, base)
    config.update(_ids(vocabulary, config.model_type))
    return _build(name, config, AutoModelForSeq2SeqLM.from_config, vocabulary)


def _build(name: str, config: Any, make: Any, vocabulary: Vocabulary) -> Network:
    try:
        return TranslationNetwork(name, make(config), vocabulary)
    except (ValueError, RuntimeError, AttributeError) as error:
        raise KDBenchError(f"network {name!r} cannot be built: {str(error).splitlines()[0]}") from error


def _of_family(
    name: str, base: str, options: dict[str, Any], width_factor: float, vocabulary: Vocabulary, longest: int
) -> tuple[Any, Any]:
    for key in options:
        if key not in OPTIONS:
            raise unknown("option", key, OPTIONS, f"of network {name!r}")
    given = {**DEFAULTS, **options}
    given["width"] = round(given["width"] * width_factor)
    given["feed_forward"] = round(given.get("feed_forward", 4 * given["width"] / width_factor) * width_factor)
    if given["width"] % given["heads"]:
        raise KDBenchError(
            f"network {name!r} has a width of {given['width']}, which {given['heads']} heads do not divide"
        )
    values = {key: given[option] for option in OPTIONS if option in given for key in OPTIONS[option]}
    config, model = FAMILIES[base]
    extra = {
        "scale_embedding": True,
        # Vaswani et al.'s and fairseq's: embeddings of size 1 beside the positions'; transformers' 0.02 learns no
        # alignment for the first thousand updates
        "init_std": given["width"] ** -0.5,
        "max_position_embeddings": longest + 2,
        "share_encoder_decoder_embeddings": True,
    }
    return config(**values, **extra, **_ids(vocabulary, base)), model


def _ids(vocabulary: Vocabulary, family: str) -> dict[str, Any]:
    """The data's ids. A decoder starts with the padding as Marian's do, or with the end as those of M2M100, to which
    padding is no place.
    """
    return {
        "vocab_size": len(vocabulary),
        "decoder_vocab_size": len(vocabulary),
        "pad_token_id": PAD,
        "eos_token_id": END,
        "bos_token_id": END,
        "decoder_start_token_id": vocabulary.start if family == "marian" else END,
        "forced_eos_token_id": None,
    }


def _loaded(cls: Any, checkpoint: str) -> Any:
    try:
        with asked(checkpoint):
            return cls.from_pretrained(checkpoint)
    except Exception as error:  # transformers and the hub raise a dozen kinds
        why = " ".join(str(error).split())[:200].rstrip(".:") or type(error).__name__
        raise KDBenchError(f"checkpoint {checkpoint!r} could not be loaded ({why})") from error


__all__ = ["TranslationNetwork", "create"]
