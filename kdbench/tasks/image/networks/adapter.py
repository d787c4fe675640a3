"""Any timm model as a `kdbench.method.Network`: one forward pass gives logits, embedding and every tap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import Tensor, nn

from kdbench.errors import KDBenchError, NotApplicable
from kdbench.method import Network, Output, Shapes
from kdbench.tasks.image.networks import maps, tail
from kdbench.tasks.image.networks.cifar_base import CifarNet, Taps

Normalization = tuple[Sequence[float], Sequence[float]]

STAGES = 4  # that a timm network is read at
# what layers raise on images that do not fit them
MISFITS = (RuntimeError, ValueError, AssertionError, IndexError, TypeError, ZeroDivisionError)


class TimmNetwork(Network):
    """Adapter around a timm model.

    Stages: a CIFAR network has its own three or four and a stem; a hierarchical timm network gives its last four maps,
    and the one before them as the stem; a network of uniform blocks (ViT, Mixer) gives the maps after a quarter, a
    half, three quarters and all of its blocks. A model without `forward_intermediates` has no features. What the head
    pools is read after the head's own norm, activation or convolution (`maps.pooled`).

    Args:
        model: the timm model.
        name: for messages.
        input_size: (C, H, W) of the data.
        normalization: mean and std that the data is normalised with.
        own_normalization: mean and std that the model expects, if others; inputs are then converted.
        own_size: (H, W) that the model expects, if another; inputs are then resized bilinearly.

    Raises:
        KDBenchError: if the model cannot take the data, or its logits are not one classifier of one embedding.
    """

    model: Any  # timm's models share their methods, not a type
    _scale: Tensor | None
    _shift: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        name: str,
        input_size: tuple[int, int, int],
        normalization: Normalization | None = None,
        own_normalization: Normalization | None = None,
        own_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.name = name
        self._input_size = input_size
        self._own_size = None if own_size is None or tuple(own_size) == self._input_size[1:] else tuple(own_size)
        # what follows from the data is no part of a checkpoint
        scale, shift = _conversion(normalization, own_normalization, input_size[0])
        self.register_buffer("_scale", scale, persistent=False)
        self.register_buffer("_shift", shift, persistent=False)
        self._indices: list[int] = []
        self._linear = False  # whether the maps that are read come out of linear layers
        self._pooled: maps.Pooled | None = None
        self.shapes = self._probe()

    def forward(self, inputs: Tensor) -> Output:
        """Images `[B, C, H, W]`, normalised as the data is, to an `Output`."""
        stem, features, before, final = self._run(self._converted(inputs))
        return self.head(final, features, before, stem)

    def head(
        self, final: Tensor, features: Sequence[Tensor] = (), before: Sequence[Tensor] = (), stem: Tensor | None = None
    ) -> Output:
        """What the body gives to an `Output`: pooling, embedding and classifier."""
        embedding = _wide(self.model.forward_head(final, pre_logits=True).flatten(1))
        logits = _wide(self.classifier(embedding))
        pooled = None if self._pooled is None else self._pooled(final)
        return Output(logits, embedding, tuple(features), tuple(before), stem, final=pooled)

    def tail(self, stage: int) -> nn.Module:
        rest = tail.cut(self, stage)
        with _dry_run(self):
            if rest is None or not tail.fits(self, rest, stage, self._zeros()):
                raise NotApplicable(f"network {self.name!r} cannot be entered after stage {stage}")
        return rest

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of the data's images."""
        return self._input_size

    def _run(self, x: Tensor) -> Taps | tuple[Tensor | None, list[Tensor], list[Tensor], Tensor]:
        """The model's body: stem, features, pre-activations and what the head takes."""
        if isinstance(self.model, CifarNet):
            return self.model.run_taps(x)
        if not self._indices:
            return None, [], [], self.model.forward_features(x)
        final, found = self.model.forward_intermediates(x, indices=self._indices, output_fmt="NCHW")
        features = found[-STAGES:]
        return (found[0] if len(found) > STAGES else None), features, features if self._linear else [], final

    def _converted(self, x: Tensor) -> Tensor:
        """The data's images as the model knows them: its size, its normalisation."""
        if self._own_size is not None:
            x = F.interpolate(x, size=self._own_size, mode="bilinear", antialias=True)
        return x if self._scale is None or self._shift is None else x * self._scale + self._shift

    @property
    def classifier(self) -> nn.Module:
        """The last layer, `[B, D]` to `[B, K]`; a 1x1 convolution is given in a wrapper that shares its weights."""
        layer = self.model.get_classifier()
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            layer = getattr(layer, "fc", layer)  # some of timm's models give the whole head: pooling, dropout, layer
        if isinstance(layer, nn.Conv2d):
            return nn.Sequential(nn.Unflatten(1, (-1, 1, 1)), layer, nn.Flatten(1))
        return layer

    @property
    def core(self) -> nn.Module:
        return self.model

    def stage_parameters(self) -> list[frozenset[str]]:
        """Names by the first stage whose map depends on the parameter; the head's and all others come last.

        Names are those of `named_parameters()`; every parameter is in exactly one set.
        """
        named = dict(self.named_parameters())
        frozen = [parameter for parameter in named.values() if not parameter.requires_grad]
        groups: list[frozenset[str]] = []
        left = sorted(named)
        with _dry_run(self), torch.enable_grad():
            try:
                self.requires_grad_(True)
                for feature in Network.__call__(self, self._zeros()).features if left else ():
                    gradients = torch.autograd.grad(
                        feature.sum(), [named[name] for name in left], retain_graph=True, allow_unused=True
                    )
                    groups.append(frozenset(n for n, g in zip(left, gradients, strict=True) if g is not None))
                    left = [name for name in left if name not in groups[-1]]
            finally:
                for parameter in frozen:
                    parameter.requires_grad_(False)
        return [*groups, frozenset(left)]

    def _zeros(self) -> Tensor:
        """One black image, `[1, C, H, W]`, of the parameters' type and on their device."""
        parameter = next(self.parameters())
        return torch.zeros(1, *self._input_size, device=parameter.device, dtype=parameter.dtype)

    def _probe(self) -> Shapes:
        """Choose the taps, check the output against the plain model's, and read the shapes off."""
        zeros = self._zeros()
        noise = torch.rand(2, *self._input_size, generator=torch.Generator().manual_seed(0)).to(zeros)
        with _dry_run(self), torch.no_grad():
            try:
                _check_patches(self.model, self._own_size or self._input_size[1:])
                plain = self.model(self._converted(noise))
            except MISFITS as error:
                raise misfit(self.name, self._input_size, error) from error
            if not isinstance(plain, Tensor) or not isinstance(self.model.get_classifier(), nn.Module):
                raise self._many_heads()
            self._indices = self._choose_taps(self._converted(zeros))
            self._linear = maps.end_linearly(self.model, self._indices[-STAGES:])
            _, features, _, final = self._run(self._converted(zeros))
            self._pooled = maps.pooled(self.model, features, final)
            try:
                logits = self(noise).logits
            except MISFITS as error:  # the head's parts do not fit together
                raise self._many_heads() from error
            if logits.shape != plain.shape or not torch.allclose(logits, plain.to(logits), rtol=1e-4, atol=1e-5):
                raise self._many_heads()
            return _shapes(self(zeros))

    def _choose_taps(self, x: Tensor) -> list[int]:
        """Which maps of `forward_intermediates` to take: up to four stages, and the stem before them."""
        if isinstance(self.model, CifarNet) or not hasattr(self.model, "forward_intermediates"):
            return []
        found = self.model.forward_intermediates(x, output_fmt="NCHW", intermediates_only=True)
        count = len(found)
        if len({feature.shape for feature in found}) == 1:
            return sorted({-(-count * quarter // STAGES) - 1 for quarter in range(1, STAGES + 1)})
        return list(range(max(count - STAGES - 1, 0), count))

    def _many_heads(self) -> KDBenchError:
        return KDBenchError(
            f"network {self.name!r} does not compute its logits by one classifier on one embedding (it may have two "
            "heads, as distilled DeiT does): choose a variant with a single head"
        )


def misfit(name: str, input_size: Sequence[int], error: Exception) -> KDBenchError:
    """The sentence for a network that the data's images do not fit."""
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return KDBenchError(
        f"network {name!r} cannot take inputs of {'x'.join(map(str, input_size))} ({reason}): choose another network, "
        "or another `image_size` in the recipe"
    )


def _check_patches(model: Any, size: Sequence[int]) -> None:
    """Refuse a size that a ViT's patches do not cover: timm would look at the upper left corner only."""
    patches = getattr(model, "patch_embed", None)
    if not isinstance(patches, PatchEmbed) or patches.dynamic_img_pad:
        return
    if any(side % length for side, length in zip(size, patches.patch_size, strict=True)):
        raise ValueError(f"patches of {patches.patch_size[0]} pixels do not cover it")


@contextmanager
def _dry_run(network: nn.Module) -> Iterator[None]:
    """Eval mode for a while; afterwards the mode of every module and the random numbers are as before."""
    modes = {module: module.training for module in network.modules()}
    device = next(network.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        network.train().eval()  # some modules keep what they computed in eval mode until the next train()
        try:
            yield
        finally:
            network.train()
            for module, mode in modes.items():
                module.training = mode


def _wide(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _shapes(output: Output) -> Shapes:
    return Shapes(
        num_classes=output.logits.shape[1],
        embedding=output.embedding.shape[1],
        features=tuple(tuple(feature.shape[1:]) for feature in output.features),
        preactivations=tuple(tuple(feature.shape[1:]) for feature in output.preactivations),
        stem=None if output.stem is None else tuple(output.stem.shape[1:]),
        final=None if output.final is None else tuple(output.final.shape[1:]),
    )


def _conversion(
    given: Normalization | None, wanted: Normalization | None, channels: int
) -> tuple[Tensor | None, Tensor | None]:
    """Scale and shift, `[1, C, 1, 1]` each, that turn the data's normalisation into the model's; None if they agree."""
    if given is None or wanted is None:
        return None, None
    mean, std, own_mean, own_std = (_per_channel(values, channels) for values in (*given, *wanted))
    if torch.equal(mean, own_mean) and torch.equal(std, own_std):
        return None, None
    return (std / own_std).float(), ((mean - own_mean) / own_std).float()


def _per_channel(values: Sequence[float], channels: int) -> Tensor:
    """`[1, C, 1, 1]`; three colours' values serve one grey channel by their mean."""
    tensor = torch.tensor(values, dtype=torch.float64)
    if len(values) != channels:
        tensor = tensor.mean().repeat(channels)
    return tensor.reshape(1, channels, 1, 1)
