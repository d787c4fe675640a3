"""Networks by name: everything `timm.create_model` builds, the CIFAR networks of the literature among it."""

from __future__ import annotations

from typing import Any

import timm

from kdbench.errors import KDBenchError, unknown
from kdbench.networks import cifar_mobilenet, cifar_resnet, cifar_shufflenet, cifar_vgg, cifar_wrn  # noqa: F401  (register)
from kdbench.networks.adapter import Normalization, TimmNetwork
from kdbench.networks.cifar_base import CifarNet


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
    **options: Any,
) -> TimmNetwork:
    """Build a network for data of this size and number of classes.

    Args:
        name: a timm name; `network.tag` picks pretrained weights.
        input_size: (C, H, W) of the data. A network from scratch is built for it where its kind has a fixed size
            (ViT); a pretrained one keeps its size and inputs are resized to it.
        pretrained: load timm's weights; its own input normalisation then applies.
        data_normalization: mean and std that the data is normalised with.
        own_normalization: mean and std that the weights were trained with, if others.
        options: passed to `timm.create_model`.

    Raises:
        KDBenchError: for an unknown network, one that cannot take the data, or weights that cannot be had.
    """
    if not timm.is_model(name.partition(".")[0]):
        raise unknown("network", name, timm.list_models(), "`kdbench list networks` shows all")
    fixed_size = _is_fixed(name)
    if fixed_size and not pretrained:
        options = {"img_size": input_size[1:], **options}
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **options)
    except Exception as error:
        if pretrained:
            raise KDBenchError(
                f"timm's pretrained weights of {name!r} cannot be loaded ({type(error).__name__}): without internet, put"
                " a checkpoint file on disk and name it by `weights` and `sha256` in the suite"
            ) from error
        size = "x".join(map(str, input_size))
        raise KDBenchError(
            f"network {name!r} cannot be built for inputs of {size}: {str(error).splitlines()[0]}"
        ) from error
    own_size = None
    if pretrained:
        config = model.pretrained_cfg
        own_normalization = own_normalization or (config["mean"], config["std"])
        own_size = tuple(config["input_size"][1:]) if fixed_size else None
    return TimmNetwork(model, name, input_size, data_normalization, own_normalization, own_size)


def _is_fixed(name: str) -> bool:
    """Whether timm marks the network as made for one image size."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(config and config.fixed_input_size)


__all__ = ["CifarNet", "TimmNetwork", "create", "list_networks"]
