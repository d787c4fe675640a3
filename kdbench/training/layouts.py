"""Checkpoints of the field's code bases: the same networks, whose tensors are called otherwise.

RepDistiller's and mdistiller's files of CIFAR networks have the tensors that kdbench's have, in the same order and
shape: by order they are the same networks, and no known network's list of shapes fits another's. Layouts were made by
their code, not downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdbench.errors import KDBenchError
from kdbench.method import Network
from kdbench.suites.grid import TeacherSpec
from kdbench.tasks.metrics import Metric

OWN = "kdbench's"
COUNTER = "num_batches_tracked"  # of BatchNorm; decides nothing while it has a momentum, and old versions have none
ENTRIES = ("state_dict", "model", "model_state", "net")  # under which a file keeps its weights


def weights_in(found: Any) -> dict[str, Tensor]:
    """The tensors of a loaded file by name, whatever it has beside them, without the names of wrappers."""
    while isinstance(found, dict):
        inner = next((found[key] for key in ENTRIES if isinstance(found.get(key), dict)), None)
        if inner is None:
            break
        found = inner
    entries = found.items() if isinstance(found, dict) else ()
    weights = {str(name).removeprefix("module."): value for name, value in entries if isinstance(value, Tensor)}
    # mdistiller keeps student and teacher side by side in the file of a run that goes on
    students = {name.removeprefix("student."): v for name, v in weights.items() if name.startswith("student.")}
    return students or weights


def fitted(network: Network, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """A checkpoint's tensors by the network's own names, and in whose layout they were.

    Raises:
        KDBenchError: naming the first tensor that is missing, unknown or of another shape.
    """
    own = network.core.state_dict()
    filled = {**{name: value for name, value in own.items() if name.endswith(COUNTER)}, **weights}
    if own.keys() == filled.keys():
        _check_shapes(network, filled)
        return filled, OWN
    from kdbench.tasks.image.networks import CifarNet  # not at the top: it loads timm

    if isinstance(_bare(network), CifarNet) and (named := _by_order(own, weights)):
        return named, "RepDistiller's and mdistiller's, by order and shape"
    lacks, strange = sorted(own.keys() - filled.keys()), sorted(filled.keys() - own.keys())
    what = f"it lacks {lacks[0]!r}" if lacks else f"it has {strange[0]!r}, which the network has not"
    raise KDBenchError(f"the checkpoint is not of network {network.name!r}: {what}")


def told(spec: TeacherSpec, about: Mapping[str, Any], score: Metric) -> str:
    """The score of a teacher that somebody else trained, for the user, who knows what it should be."""
    layout, value = about.get("layout", OWN), about[score.name]
    return f"teacher {spec} of {spec.weights!r}, layout: {layout}; {score.title} {value:.{score.decimals}f}"


def _bare(network: Network) -> Any:
    """timm's model, or kdbench's own of the CIFAR literature, within the adapter."""
    return getattr(network, "model", network)


def _by_order(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that stand at their places; nothing if one has another shape than its place."""
    names = [name for name in own if not name.endswith(COUNTER)]
    values = [value for name, value in weights.items() if not name.endswith(COUNTER)]
    if [own[name].shape for name in names] != [value.shape for value in values]:
        return {}
    return {**own, **dict(zip(names, values, strict=True))}


def _check_shapes(network: Network, weights: Mapping[str, Tensor]) -> None:
    own = network.core.state_dict()
    for key, tensor in weights.items():
        if own[key].shape != tensor.shape:
            raise KDBenchError(
                f"the checkpoint for network {network.name!r} does not fit: {key!r} is {list(tensor.shape)} there and "
                f"{list(own[key].shape)} here; it was trained with another number of classes or another input"
            )
