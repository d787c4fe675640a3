"""`kdbench new`: the file of a method that already runs, with the places to fill in."""

from __future__ import annotations

import keyword
from pathlib import Path

from kdbench import registry
from kdbench.errors import KDBenchError, unknown
from kdbench.records.files import write_atomically

_HEAD = '''"""TITLE OF THE PAPER (authors, venue year).

The idea in two lines: what the student imitates, and why that should help.

    L = ce_weight * CE(z_s, y) + weight * ...

Deviations: none.
"""

from __future__ import annotations

{imports}

@register("{name}", family="{family}", paper=Paper("TITLE OF THE PAPER", "Authors", 2026, arxiv=""))
class {cls}({base}):
'''

_LOGITS = """    def __init__(self, ce_weight: float = 0.1, weight: float = 0.9, temperature: float = 4.0) -> None:
        super().__init__()
        self.ce_weight, self.weight, self.temperature = ce_weight, weight, temperature

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "kd": self.weight * kl(student.logits, teacher.logits, self.temperature),  # your term here
        }
"""

_FEATURES = """    needs = frozenset({"features"})

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def build(self, student: Network, teacher: Network) -> None:
        self.project = nn.Linear(student.shapes.features[-1][0], teacher.shapes.features[-1][0])

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours = self.project(student.features[-1].flatten(2).mean(2))  # [B, C_t]
        theirs = teacher.features[-1].flatten(2).mean(2)  # [B, C_t]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "feature": self.weight * F.mse_loss(ours, theirs),  # your term here
        }
"""

_RELATIONS = """    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours, theirs = (F.normalize(output.embedding, dim=1) for output in (student, teacher))  # [B, D]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "relation": self.weight * F.mse_loss(ours @ ours.T, theirs @ theirs.T),  # [B, B]; your term here
        }
"""

_MUTUAL = """    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, batch: Batch, student: Sequence[Output], teacher: None) -> dict[str, Tensor]:
        first, second = (output.logits for output in student)
        return {
            "ce": F.cross_entropy(first, batch.targets) + F.cross_entropy(second, batch.targets),
            "mutual": self.weight * (kl(first, second.detach()) + kl(second, first.detach())),  # your term here
        }
"""

_MULTI_TEACHER = """    def __init__(self, weight: float = 1.0, temperature: float = 4.0) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature

    def loss(self, batch: Batch, student: Output, teacher: Sequence[Output]) -> dict[str, Tensor]:
        terms = [kl(student.logits, output.logits, self.temperature) for output in teacher]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "kd": self.weight * torch.stack(terms).mean(),  # your term here
        }
"""

_MULTI_HEAD = """    needs = frozenset({"features"})

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = weight

    def build(self, student: Network, teacher: Network) -> None:
        shapes = student.shapes
        self.heads = nn.ModuleList(nn.Linear(shape[0], shapes.num_classes) for shape in shapes.features[:-1])

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        pooled = [feature.flatten(2).mean(2) for feature in student.features[:-1]]  # [B, C_k] each
        logits = [head(vector) for head, vector in zip(self.heads, pooled, strict=True)]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "kd": kl(student.logits, teacher.logits, 4.0),
            "heads": self.weight * sum(kl(head, teacher.logits, 4.0) for head in logits),  # your term here
        }
"""

_STAGED = """    def phases(self) -> tuple[Phase, ...]:
        return (Phase("imitate", share=0.5), Phase("learn", share=0.5))

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        if self.phase == "imitate":
            return {"kd": kl(student.logits, teacher.logits, 4.0)}  # your first stage here
        return {"ce": F.cross_entropy(student.logits, batch.targets)}
"""

_INPUTS = """    def __init__(self, weight: float = 0.9, temperature: float = 4.0, noise: float = 0.1) -> None:
        super().__init__()
        self.weight, self.temperature, self.noise = weight, temperature, noise

    def step(self, step: Step) -> Mapping[str, Tensor]:
        batch, teacher = step.batch, step.teachers[0]
        moved = batch.inputs + self.noise * torch.randn_like(batch.inputs)  # your own inputs here
        with torch.no_grad():
            theirs = teacher(moved)
        terms = {
            "ce": F.cross_entropy(step.forward().logits, batch.targets),
            "kd": self.weight * kl(step.forward(inputs=moved).logits, theirs.logits, self.temperature),
        }
        step.update(terms)
        return terms
"""

_BODIES = {
    "logits": (_LOGITS, "Method", ("kl",)),
    "features": (_FEATURES, "Method", ()),
    "relations": (_RELATIONS, "Method", ()),
    "mutual": (_MUTUAL, "MutualMethod", ("kl",)),
    "multi_teacher": (_MULTI_TEACHER, "MultiTeacherMethod", ("kl",)),
    "multi_head": (_MULTI_HEAD, "Method", ("kl",)),
    "staged": (_STAGED, "Method", ("kl",)),
    "inputs": (_INPUTS, "Method", ("kl",)),
}


def method_source(name: str, family: str) -> str:
    """The text of the file.

    Raises:
        KDBenchError: if the name is no Python name or is taken, or there is no such family.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise KDBenchError(f"{name!r} is no Python name: use letters, digits and underscores, as in my_method")
    if name in registry.names():
        raise KDBenchError(f"method {name!r} exists already: choose another name")
    if family not in _BODIES:
        raise unknown("family", family, _BODIES)
    body, base, helpers = _BODIES[family]
    public = sorted(
        n
        for n in ("Batch", "Network", "Output", "Paper", "Phase", "Step", base, "register")
        if n in body + _HEAD or n == base
    )
    containers = [n for n in ("Mapping", "Sequence") if f"{n}[" in body]
    lines = [f"from collections.abc import {', '.join(containers)}\n"] if containers else []
    lines += ["import torch"] if "torch." in body else []
    lines += ["import torch.nn.functional as F"]
    lines += [f"from torch import Tensor{', nn' if 'nn.' in body.replace('torch.nn', '') else ''}\n"]
    lines += [f"from kdbench import {', '.join(public)}"]
    lines += [f"from kdbench.losses import {', '.join(helpers)}"] if helpers else []
    cls = "".join(part.capitalize() for part in name.split("_"))
    return _HEAD.format(imports="\n".join(lines) + "\n", name=name, family=family, cls=cls, base=base) + body


def write_method(name: str, family: str, folder: Path) -> Path:
    """Write `<folder>/<name>.py`, never over a file that exists."""
    path = folder / f"{name}.py"
    text = method_source(name, family)
    if path.exists():
        raise KDBenchError(f"{str(path)!r} exists already: remove it or choose another name")
    write_atomically(path, text.encode())
    return path
