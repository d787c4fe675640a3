"""What is read inside of a transformers encoder: layers, and the linear layers in them, by hooks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

# the linear layers of a layer by architecture; what has others (fused or shared ones) offers hidden states alone
PARTS: tuple[dict[str, str], ...] = (
    {  # BERT, RoBERTa, ELECTRA, CamemBERT, XLM-R, MiniLM
        "queries": "attention.self.query",
        "keys": "attention.self.key",
        "values": "attention.self.value",
        "attended": "attention.output.dense",
        "inner": "intermediate.dense",
        "outer": "output.dense",
    },
    {  # DistilBERT
        "queries": "attention.q_lin",
        "keys": "attention.k_lin",
        "values": "attention.v_lin",
        "attended": "attention.out_lin",
        "inner": "ffn.lin1",
        "outer": "ffn.lin2",
    },
)


class _Keep:
    """Keeps what goes into a module or comes out of it. An object, not a closure: a copy of a network has its own."""

    def __init__(self, kept: dict[Any, Tensor], key: Any) -> None:
        self.kept, self.key = kept, key

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.kept[self.key] = args[0] if args else kwargs["hidden_states"]

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.kept[self.key] = output if isinstance(output, Tensor) else output[0]


class Taps:
    """The hooks of one model.

    Attributes:
        layers: the encoder's, in order; empty where they are not found.
        parts: the paths of the linear layers in a layer, by what an output calls them; empty likewise.
        kept: what the running forward has left so far.
    """

    def __init__(self, model: Any, classifier: nn.Module) -> None:
        self.kept: dict[Any, Tensor] = {}
        classifier.register_forward_pre_hook(_Keep(self.kept, "embedding").before, with_kwargs=True)
        self.layers = layers_of(model)
        self.parts = next((p for p in PARTS if self.layers and all(_has(self.layers[0], x) for x in p.values())), {})
        for number, layer in enumerate(self.layers, 1):
            if number == 1:
                layer.register_forward_pre_hook(_Keep(self.kept, ("hidden", 0)).before, with_kwargs=True)
            layer.register_forward_hook(_Keep(self.kept, ("hidden", number)).after)
            for name, path in self.parts.items():
                layer.get_submodule(path).register_forward_hook(_Keep(self.kept, (name, number)).after)

    def all(self, name: str, first: int = 1) -> tuple[Tensor, ...]:
        """Of each layer from `first` on."""
        return tuple(self.kept[name, number] for number in range(first, len(self.layers) + 1))


def layers_of(model: Any) -> list[nn.Module]:
    """The layers of an encoder; none where it has no list of so many as its configuration says (ALBERT)."""
    return list(list_of_layers(model) or ())


def list_of_layers(model: Any) -> nn.ModuleList | None:
    count = model.config.num_hidden_layers
    lists = (module for module in model.base_model.modules() if isinstance(module, nn.ModuleList))
    return next((found for found in lists if len(found) == count), None)


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True
