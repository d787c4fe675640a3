"""Any timm model as a `kdbench.method.Network`: one forward pass gives logits, embedding and every tap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.method import Network, Output, Shapes
from kdbench.networks.cifar_base import CifarNet

Normalization = tuple[Sequence[float], Sequence[float]]


class TimmNetwork(Network):
    """Adapter around a timm model.

    Stages: a CIFAR network has its own three or four and a stem; a hierarchical timm network gives its last four maps,
    and the one before them as the stem; a network of uniform blocks (ViT, Mixer) gives the maps after a quarter, a
    half, three quarters and all of its blocks. `shapes` come from one pass over zeros at construction.

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
        self._own_size = own_size if own_size and tuple(own_size) != tuple(input_size[1:]) else None
        self._indices = _stage_indices(model)
        scale, shift = _conversion(normalization, own_normalization, input_size[0])
        self.register_buffer("_scale", scale, persistent=False)
        self.register_buffer("_shift", shift, persistent=False)
        self._input_size = input_size
        self.shapes = self._probe(input_size)

    def forward(self, inputs: Tensor) -> Output:
        """Images `[B, C, H, W]`, normalised as the data is, to an `Output`."""
        x = self._converted(inputs)
        stem: Tensor | None = None
        features: tuple[Tensor, ...] = ()
        before: tuple[Tensor, ...] = ()
        if isinstance(self.model, CifarNet):
            stem, stages, pre, final = self.model.run_taps(x)
            features, before = tuple(stages), tuple(pre)
        elif self._indices:
            final, maps = self.model.forward_intermediates(x, indices=self._indices, output_fmt="NCHW")  # type: ignore[operator]
            features = tuple(maps[-4:])
            stem = maps[-5] if len(maps) > 4 else None
        else:
            final = self.model.forward_features(x)  # type: ignore[operator]
        embedding = _wide(self.model.forward_head(final, pre_logits=True))  # type: ignore[operator]
        logits = self._classify(embedding)
        return Output(logits, embedding.flatten(1), features, before, stem)

    def _classify(self, embedding: Tensor) -> Tensor:
        return _wide(self.classifier(embedding)).flatten(1)

    def _converted(self, x: Tensor) -> Tensor:
        if self._own_size is not None:
            x = F.interpolate(x, size=self._own_size, mode="bilinear", antialias=True)
        if self._scale is not None:
            x = x * self._scale + self._shift
        return x

    @property
    def classifier(self) -> nn.Module:
        return self.model.get_classifier()  # type: ignore[operator]

    @property
    def core(self) -> nn.Module:
        return self.model

    def stage_parameters(self) -> list[frozenset[str]]:
        """Names by the first stage whose map depends on the parameter; the head's and all others come last."""
        named = dict(self.named_parameters())
        asked = {name: p.requires_grad for name, p in named.items()}
        mode = self.training
        self.eval().requires_grad_(True)
        with torch.enable_grad():
            output = self(self._zeros(self._input_size))
        groups: list[frozenset[str]] = []
        left = set(named)
        for feature in output.features:
            names = sorted(left)
            grads = torch.autograd.grad(feature.sum(), [named[n] for n in names], retain_graph=True, allow_unused=True)
            groups.append(frozenset(n for n, gradient in zip(names, grads, strict=True) if gradient is not None))
            left -= groups[-1]
        for name, parameter in named.items():
            parameter.requires_grad_(asked[name])
        self.train(mode)
        return [*groups, frozenset(left)]

    def _zeros(self, input_size: tuple[int, int, int]) -> Tensor:
        parameter = next(self.parameters())
        return torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype)

    @torch.no_grad()
    def _probe(self, input_size: tuple[int, int, int]) -> Shapes:
        """Check `logits == classifier(embedding)` against the plain model, and read the shapes off."""
        if not isinstance(self.classifier, nn.Module):
            raise self._many_heads()
        mode = self.training
        self.eval()
        generator = torch.Generator().manual_seed(0)
        inputs = torch.rand(2, *input_size, generator=generator).to(self._zeros(input_size))
        state = torch.get_rng_state()
        try:
            output = self(inputs)
            plain = self.model(self._converted(inputs))
        except (RuntimeError, ValueError, AssertionError) as error:
            size = "x".join(map(str, input_size))
            raise KDBenchError(
                f"network {self.name!r} cannot take inputs of {size} ({str(error).splitlines()[0]}): choose another "
                "network, or another image_size in the recipe"
            ) from error
        finally:
            torch.set_rng_state(state)
            self.train(mode)
        if not isinstance(plain, Tensor) or not torch.allclose(plain, output.logits, rtol=1e-3, atol=1e-4):
            raise self._many_heads()
        return Shapes(
            num_classes=output.logits.shape[1],
            embedding=output.embedding.shape[1],
            features=tuple(tuple(feature.shape[1:]) for feature in output.features),
            preactivations=tuple(tuple(feature.shape[1:]) for feature in output.preactivations),
            stem=None if output.stem is None else tuple(output.stem.shape[1:]),
        )

    def _many_heads(self) -> KDBenchError:
        return KDBenchError(
            f"network {self.name!r} does not compute its logits by one classifier on one embedding (it may have two "
            "heads, as distilled DeiT): choose a variant with a single head"
        )


def _wide(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _stage_indices(model: nn.Module) -> list[int]:
    """Which intermediates of `forward_intermediates` to take: up to four stages, and the stem before them."""
    info: Any = getattr(model, "feature_info", None)
    if isinstance(model, CifarNet) or not info or not hasattr(model, "forward_intermediates"):
        return []
    count = len(info)
    uniform = hasattr(model, "blocks") and len({(i["num_chs"], i.get("reduction")) for i in info}) == 1
    if uniform:
        depth = len(model.blocks)  # type: ignore[arg-type]
        return sorted({max(round(depth * share), 1) - 1 for share in (0.25, 0.5, 0.75, 1.0)})
    return list(range(max(count - 5, 0), count))


def _conversion(
    given: Normalization | None, wanted: Normalization | None, channels: int
) -> tuple[Tensor | None, Tensor | None]:
    """Scale and shift, `[1, C, 1, 1]` each, that turn the data's normalisation into the model's; None if they agree."""
    if given is None or wanted is None or (list(given[0]), list(given[1])) == (list(wanted[0]), list(wanted[1])):
        return None, None
    mean, std, own_mean, own_std = (_per_channel(values, channels) for values in (*given, *wanted))
    return std / own_std, (mean - own_mean) / own_std


def _per_channel(values: Sequence[float], channels: int) -> Tensor:
    """`[1, C, 1, 1]`; three colours' values serve one grey channel by their mean."""
    tensor = torch.tensor(values, dtype=torch.float32)
    if len(values) != channels:
        tensor = tensor.mean().repeat(channels)
    return tensor.reshape(1, channels, 1, 1)
