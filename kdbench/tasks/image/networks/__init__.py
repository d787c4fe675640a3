"""Networks by name: everything `timm.create_model` builds, the CIFAR networks of the literature among it."""

from __future__ import annotations

from typing import Any

import timm

from kdbench.errors import KDBenchError, unknown
from kdbench.suites import networks
from kdbench.tasks.image.networks import cifar_mobilenet, cifar_resnet, cifar_shufflenet, cifar_vgg, cifar_wrn  # noqa: F401  (register)
from kdbench.tasks.image.networks.adapter import Normalization, TimmNetwork, misfit
from kdbench.tasks.image.networks.cifar_base import CifarNet


def list_networks() -> list[str]:
    """All names, the CIFAR networks' with the prefix `cifar_`."""
    return timm.list_models()


def create(
    name: str,
    *,
    num_classes: int,
    in_chans: int,
    input_size: tuple[int, int, int],
    pretrained: bool = False,
    data_normalization: Normalization | None = None,
    own_normalization: Normalization | None = None,
    keep_classifier: bool = False,
    **timm_kwargs: Any,
) -> TimmNetwork:
    """Build a network for data of this size and number of classes.

    Args:
        name: a timm name; `network.tag` picks pretrained weights. Options may stand behind it, as in
            `cifar_resnet8(width_factor=0.5)` (see kdbench/suites/networks.py).
        input_size: (C, H, W) of the data. A network of one fixed size (ViT) is built for it from scratch; a pretrained
            one keeps its size, and inputs are resized to it.
        pretrained: load timm's weights; their input normalisation then applies.
        data_normalization: mean and std that the data is normalised with.
        own_normalization: mean and std that the weights were trained with, if others.
        keep_classifier: whether pretrained weights must bring the classifier, so that the network can teach.
        timm_kwargs: more options, passed to `timm.create_model`; `width_factor` multiplies the channels of CIFAR
            ResNets, WRNs and VGGs and of timm's ResNets and EfficientNets, and one given here those of one in the name.

    Raises:
        KDBenchError: for an unknown network, one that cannot take the data, or weights that cannot be had.
    """
    name, base, timm_kwargs = _named(name, timm_kwargs)
    config = _config(base)
    fixed_size = config is not None and config.fixed_input_size
    if fixed_size and not pretrained:
        timm_kwargs = {"img_size": tuple(input_size[1:]), **timm_kwargs}
    if pretrained and not (config and config.has_weights) and "pretrained_cfg_overlay" not in timm_kwargs:
        raise KDBenchError(
            f"timm has no pretrained weights of {name!r}: let kdbench train it, or name a checkpoint file by `weights`"
        )
    if keep_classifier and config and config.num_classes not in (num_classes, None):
        raise KDBenchError(
            f"timm's pretrained weights of {name!r} were made for {config.num_classes} classes, but the data has "
            f"{num_classes}: as a teacher it would guess; let kdbench train one, or name a checkpoint file by `weights`"
        )
    if not base.startswith("cifar_"):
        timm_kwargs = _timm_widths(base, timm_kwargs)
    options = {"num_classes": num_classes, "in_chans": in_chans, **timm_kwargs}
    try:
        model: Any = timm.create_model(base, pretrained=pretrained, **options)
    except Exception as error:  # timm, the Hugging Face hub and torch raise whatever they like
        if pretrained:
            raise _no_weights(name, error) from error
        if isinstance(error, TypeError) and "keyword argument" in str(error):
            raise KDBenchError(f"network {name!r} does not take these options: {error}") from error
        raise misfit(name, input_size, error) from error
    own_size = timm_kwargs.get("img_size")
    if pretrained:
        own = model.pretrained_cfg
        own_normalization = own_normalization or (own["mean"], own["std"])
        own_size = own_size or (tuple(own["input_size"][1:]) if fixed_size else None)
    network = TimmNetwork(model, name, input_size, data_normalization, own_normalization, own_size)
    if network.shapes.num_classes != num_classes:
        raise KDBenchError(
            f"network {name!r} gives {network.shapes.num_classes} classes, but the data has {num_classes}: choose a "
            "network whose classifier can be replaced"
        )
    return network


def _named(name: str, options: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """The network's one spelling, timm's name of it, and the options of both places.

    Raises:
        KDBenchError: if the name is malformed, or gives an option that the data decides.
    """
    base, given = networks.split(name)
    if decided := sorted({"num_classes", "in_chans", "pretrained"} & given.keys()):
        raise KDBenchError(f"network {name!r} gives {decided[0]!r}, which data and suite decide: leave it out")
    if "width_factor" in given and "width_factor" in options:
        options = {**options, "width_factor": given["width_factor"] * options["width_factor"]}
    if isinstance(given.get("img_size"), int):
        given["img_size"] = (given["img_size"],) * 2
    return networks.canonical(name), base, {**given, **options}


def _timm_widths(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """`width_factor` as timm's networks call it; those that have no such option answer with an error."""
    factor = options.pop("width_factor", 1.0) if "width_factor" in options else 1.0
    if factor == 1.0:
        return options
    module = timm.models.model_entrypoint(name.partition(".")[0]).__module__.rpartition(".")[2]
    if module == "resnet":
        plain = timm.create_model(name)  # its stem stays as it is
        widths = [round(getattr(plain, f"layer{k}")[0].conv2.out_channels * factor) for k in range(1, 5)]
        return {**options, "channels": tuple(widths)}
    key = "channel_multiplier" if module in ("efficientnet", "mobilenetv3") else "width_factor"
    return {**options, key: factor}


def _config(name: str) -> Any:
    """timm's description of the network and its weights; None where it has none."""
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise unknown("network", name, timm.list_models(), "`kdbench list networks` shows all")
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # the part after the dot
        raise unknown("pretrained network", name, timm.list_models(f"{architecture}.*", pretrained=True)) from error


def _no_weights(name: str, error: Exception) -> KDBenchError:
    if "size mismatch" in str(error):
        return KDBenchError(
            f"timm's pretrained weights of {name!r} do not fit: they were made for another number of classes or "
            "another input; leave out the options that change the network"
        )
    return KDBenchError(
        f"timm's pretrained weights of {name!r} cannot be loaded ({type(error).__name__}): without internet, put a "
        "checkpoint file on disk and name it by `weights`"
    )


__all__ = ["CifarNet", "TimmNetwork", "create", "list_networks"]
