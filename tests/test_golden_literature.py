"""More of the literature's methods against golden vectors of its code: values and all stored gradients, in float64.

At the end, every method with one teacher and one student on real small networks at its edges: 2 and 100 classes,
batches of two samples and of one.
"""

from __future__ import annotations

import dataclasses
from typing import Any
from unittest import mock

import pytest
import torch
from goldens import batch, close, gradients_agree, load, load_parameters, network, output, require
from loops import Whole
from torch import Tensor, nn

from kdbench import Batch, Method, MultiTeacherMethod, MutualMethod, registry
from kdbench.connectors import norm
from kdbench.tasks.image.networks import create

Golden = dict[str, Tensor]


def sides(golden: Golden, stages: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    """The student's maps, which require gradients, and the teacher's."""
    ours, theirs = ([golden[f"feat_{side}_{k}"] for k in range(stages)] for side in "st")
    require(*ours)
    return ours, theirs


def named(tensors: list[Tensor], name: str = "feat_s") -> dict[str, Tensor]:
    return {f"{name}_{k}": tensor for k, tensor in enumerate(tensors)}


# ---------------------------------------------------------------------------------------------- logits


@pytest.mark.parametrize("tau", [1, 4])
def test_dist_agrees_with_the_authors_code_in_value_and_gradient(tau: int) -> None:
    golden = load("dist")
    student, teacher = output(golden["logits_s"]), output(golden["logits_t"])
    require(student.logits)
    terms = registry.create("dist", {"temperature": float(tau)}).loss(batch(), student, teacher)
    loss = (terms["inter"] + terms["intra"]) / 2
    close(loss, golden[f"loss_tau{tau}"])
    if tau == 1:
        close(loss, golden["loss"])
        close(terms["inter"] / 2, golden["loss_inter_tau1"])
        close(terms["intra"] / 2, golden["loss_intra_tau1"])
        gradients_agree(loss, {"logits_s": student.logits}, {}, golden)


def test_dists_defaults_are_those_of_cifar() -> None:
    golden = load("dist")
    terms = registry.create("dist").loss(batch(), output(golden["logits_s"]), output(golden["logits_t"]))
    close(terms["inter"] + terms["intra"], 2 * golden["loss_tau4"])


def test_dots_parameter_takes_the_official_trajectory() -> None:
    from kdbench.methods.logits.dot import dot_update

    golden = load("dot")
    parameter, state = golden["p0"].clone(), {}
    for task, distill, expected in zip(golden["grads_task"], golden["grads_kd"], golden["out_traj"], strict=True):
        dot_update(parameter, task, distill, state, rate=0.05, momentum=0.9, delta=0.075, decay=5e-4)
        close(parameter, expected)


@pytest.mark.parametrize("missing", ["task", "distill"])
def test_dot_moves_a_parameter_that_one_loss_reaches_as_sgd_does(missing: str) -> None:
    from kdbench.methods.logits.dot import dot_update

    golden = load("dot")
    ours, theirs = golden["p0"].clone(), nn.Parameter(golden["p0"].clone())
    sgd, state = torch.optim.SGD([theirs], lr=0.05, momentum=0.9, weight_decay=5e-4), {}
    for gradient in golden["grads_kd"]:
        given = (None, gradient) if missing == "task" else (gradient, None)
        dot_update(ours, *given, state, rate=0.05, momentum=0.9, delta=0.075, decay=5e-4)
        theirs.grad = gradient.clone()
        sgd.step()
        close(ours, theirs.detach())


def test_lskd_agrees_with_the_authors_code_in_value_and_gradient() -> None:
    golden = load("lskd")
    student, teacher = output(golden["logits_s"]), output(golden["logits_t"])
    require(student.logits)
    terms = registry.create("lskd").loss(batch(golden["target"]), student, teacher)
    close(terms["ce"], 0.1 * nn.functional.cross_entropy(student.logits, golden["target"]))
    close(terms["kd"], 9 * golden["loss"])
    gradients_agree(terms["kd"] / 9, {"logits_s": student.logits}, {}, golden)


def test_lskd_standardises_as_the_authors_code_does() -> None:
    from kdbench.methods.logits.lskd import standardised

    golden = load("lskd")
    close(standardised(golden["logits_s"]), golden["out_z_s"])


def test_lskd_on_dkd_agrees_with_the_authors_code() -> None:
    golden = load("lskd")
    student, teacher = output(golden["logits_s"]), output(golden["logits_t"])
    terms = registry.create("lskd", {"base": "dkd"}).loss(batch(golden["target"]), student, teacher)
    close(terms["tckd"] + terms["nckd"], 9 * golden["loss_dkd_ls"])
    close(terms["ce"], nn.functional.cross_entropy(student.logits, golden["target"]))


@pytest.mark.parametrize(
    ("name", "method", "hyperparameters"),
    [("mlld", "mlld", {}), ("mlkd_ls", "lskd", {"base": "mlld", "weight": 0.9, "temperature": 4.0})],
)
def test_mlld_agrees_with_the_authors_code_in_value_and_gradient(
    name: str, method: str, hyperparameters: dict[str, Any]
) -> None:
    golden = load(name)
    weak, strong = golden["logits_s_weak"], golden["logits_s_strong"]
    require(weak, strong)
    student, teacher = (
        output(golden[f"logits_{side}_weak"], strong=output(golden[f"logits_{side}_strong"])) for side in "st"
    )
    terms = registry.create(method, hyperparameters).loss(batch(golden["target"]), student, teacher)
    for ours, theirs in {"ce": "ce", "kd": "kd", "classes": "cc", "batch": "bc"}.items():
        close(terms[ours], golden[f"loss_{theirs}"])
    loss = sum(terms.values())
    close(loss, golden["loss"])
    gradients_agree(loss, {"logits_s_weak": weak, "logits_s_strong": strong}, {}, golden)


# ---------------------------------------------------------------------------------------------- relations


def test_cc_agrees_with_repdistiller_in_value_and_gradient() -> None:
    golden = load("cc")
    require(golden["feat_s"])
    student, teacher = (output(embedding=golden[f"feat_{side}"]) for side in "st")
    method = registry.create("cc", {"width": 16})
    method.build(network([], embedding=student.embedding), network([], embedding=teacher.embedding))
    method.double()
    modules = {"embed_s.linear.": method.embed_student, "embed_t.linear.": method.embed_teacher}
    for prefix, module in modules.items():
        load_parameters(module, golden, prefix)
    loss = method.loss(batch(), student, teacher)["congruence"] / 0.02
    close(loss, golden["loss"])
    gradients_agree(loss, {"feat_s": student.embedding}, modules, golden)


def test_hkd_agrees_with_the_semckd_toolbox_in_value_and_gradient() -> None:
    golden = load("hkd")
    ours, theirs = sides(golden)
    loss = registry.create("hkd").loss(batch(), output(features=ours), output(features=theirs))["flow"]
    close(loss, golden["loss"])
    # a sample's distance to itself is the root of a rounding error; the gradients go up to 2e-3
    gradients_agree(loss, named(ours), {}, golden, atol=1e-11)


def test_irg_agrees_with_the_semckd_toolbox_in_value_and_gradient() -> None:
    golden = load("irg")
    ours, theirs = sides(golden)
    require(golden["feat_s"])
    student = output(features=ours, embedding=golden["feat_s"])
    terms = registry.create("irg").loss(batch(), student, output(features=theirs, embedding=golden["feat_t"]))
    loss = terms["graph"] + terms["transform"]
    close(loss, golden["loss"])
    gradients_agree(loss, {"feat_s": student.embedding}, {}, golden)


# ---------------------------------------------------------------------------------------------- features


def test_ab_agrees_with_repdistiller_in_value_and_gradient() -> None:
    golden = load("ab")
    ours, theirs = sides(golden)
    method = registry.create("ab")
    method.build(network([], preactivations=ours), network([], preactivations=theirs))
    method.double()
    load_parameters(method.connectors, golden, "connector.connectors.")
    method.phase = "init"
    terms = method.loss(batch(), output(preactivations=ours), output(preactivations=theirs))
    assert terms.keys() == {"boundary"}
    close(terms["boundary"], golden["loss"])
    gradients_agree(terms["boundary"], named(ours), {"connector.connectors.": method.connectors}, golden)
    for k, connector in enumerate(method.connectors):
        stage = method.boundary(connector(ours[k]), theirs[k]) * 3 / (1000 * 8) * 2.0 ** (k - 2)
        close(stage, golden[f"loss_stage_{k}"])


def test_ab_compares_maps_of_one_shape_as_they_are() -> None:
    golden = load("ab")
    ours, theirs = golden["feat_s_0"], golden["feat_s_0"].flip(0)
    method = registry.create("ab")
    method.build(network([], preactivations=[ours]), network([], preactivations=[theirs]))
    method.phase = "init"
    terms = method.loss(batch(), output(preactivations=[ours]), output(preactivations=[theirs]))
    assert not list(method.parameters())
    close(terms["boundary"], method.boundary(ours, theirs) * 3 / 8000)


def test_fsp_agrees_with_repdistiller_in_value_and_gradient() -> None:
    from kdbench.methods.features.fsp import flow

    golden = load("fsp")
    ours, theirs = sides(golden)
    method = registry.create("fsp")
    method.build(network(ours), network(theirs))
    method.phase = "init"
    terms = method.loss(batch(), output(features=ours), output(features=theirs))
    assert terms.keys() == {"flow"}
    close(terms["flow"] / 50, golden["loss"])
    gradients_agree(terms["flow"] / 50, named(ours), {}, golden)
    matrices = list(zip(flow(output(features=ours)), flow(output(features=theirs)), strict=True))
    close(matrices[0][0], golden["out_fsp_s_0"])
    for k, (student, teacher) in enumerate(matrices):
        close((student - teacher).pow(2).mean(), golden[f"loss_pair_{k}"])


def ft() -> tuple[Any, Golden]:
    golden = load("ft")
    method = registry.create("ft")
    method.build(network([golden["feat_s"]]), network([golden["feat_t"]]))
    method.double()
    for name in ("encoder", "decoder"):
        load_parameters(getattr(method, name), golden, f"paraphraser.{name}.")
    load_parameters(method.translator, golden, "translator.encoder.")
    return method, golden


def test_ft_agrees_with_repdistiller_in_value_and_gradient() -> None:
    method, golden = ft()
    require(golden["feat_s"])
    method.phase = "train"
    terms = method.loss(batch(), output(features=[golden["feat_s"]]), output(features=[golden["feat_t"]]))
    close(terms["factor"] / 200, golden["loss"])
    gradients_agree(
        terms["factor"] / 200, {"feat_s": golden["feat_s"]}, {"translator.encoder.": method.translator}, golden
    )


def test_fts_factors_and_reconstruction_agree_with_repdistiller() -> None:
    method, golden = ft()
    close(method.translator(golden["feat_s"]), golden["out_factor_s"])
    close(method.encoder(golden["feat_t"]), golden["out_factor_t"])
    method.phase = "init"
    terms = method.loss(batch(), output(features=[golden["feat_s"]]), output(features=[golden["feat_t"]]))
    close(terms["paraphrase"], golden["loss_rec"])


def test_mgd_agrees_with_the_authors_code_in_value_and_gradient() -> None:
    golden = load("mgd")
    ours, theirs = golden["feat_s"], golden["feat_t"]
    require(ours)
    method = registry.create("mgd")
    method.build(network([ours]), network([theirs]))
    method.double()
    modules = {"align.": method.align, "generation.": method.generation}
    for prefix, module in modules.items():
        load_parameters(module, golden, prefix)
    with mock.patch("torch.rand", return_value=golden["uniform"]):
        loss = method.loss(batch(), output(features=[ours]), output(features=[theirs]))["generation"]
    close(loss, golden["loss"])
    gradients_agree(loss, {"feat_s": ours}, modules, golden)


def test_nst_agrees_with_repdistiller_in_value_and_gradient() -> None:
    from kdbench.methods.features.nst import discrepancy

    golden = load("nst")
    ours, theirs = sides(golden)
    loss = registry.create("nst").loss(batch(), output(features=ours), output(features=theirs))["selectivity"] / 50
    close(loss, golden["loss"])
    gradients_agree(loss, named(ours), {}, golden)
    for k, pair in enumerate(zip(ours, theirs, strict=True)):
        close(discrepancy(*pair), golden[f"loss_stage_{k}"])


def test_reviewkd_agrees_with_mdistiller_in_value_and_gradient() -> None:
    golden = load("reviewkd")
    ours = [golden[f"feat_s_{k}"] for k in range(3)]
    theirs = [golden[f"feat_t_{k}"] for k in (1, 2, 3)]  # 0 is the stem
    require(*ours, golden["pooled_s"])
    method = registry.create("reviewkd")
    method.build(network(ours), network([], preactivations=theirs, embedding=golden["pooled_t"]))
    method.double()
    load_parameters(method.fusion, golden, "")
    student = output(features=ours, embedding=golden["pooled_s"])
    teacher = output(preactivations=theirs, embedding=golden["pooled_t"])
    method.epoch, method.epochs = 20, 240
    loss = method.loss(batch(), student, teacher)["review"]
    close(loss, golden["loss"])
    gradients_agree(loss, {**named(ours), "pooled_s": student.embedding}, {"": method.fusion}, golden)


def test_reviewkd_warms_up_over_the_first_20_of_240_epochs() -> None:
    golden = load("reviewkd")
    ours, theirs = [golden[f"feat_s_{k}"] for k in range(3)], [golden[f"feat_t_{k}"] for k in (1, 2, 3)]
    method = registry.create("reviewkd")
    method.build(network(ours), network(theirs))
    method.double()
    load_parameters(method.fusion, golden, "")
    student = output(features=ours, embedding=golden["pooled_s"])
    teacher = output(features=theirs, embedding=golden["pooled_t"])
    method.epoch, method.epochs = 5, 240
    close(method.loss(batch(), student, teacher)["review"], golden["loss"] / 4)


def test_srrls_vector_variant_agrees_with_the_simkd_toolbox_in_value_and_gradient() -> None:
    golden = load("srrl_simkdrepo")
    require(golden["feat_s"])
    student = output(embedding=golden["feat_s"])
    teacher = output(golden["logits_t"], embedding=golden["feat_t"])
    classifier = nn.Linear(24, 10).double()
    load_parameters(classifier, golden, "teacher_fc.")
    method = registry.create("srrl", {"variant": "vector"})
    method.build(network([], embedding=student.embedding), network([], classifier, embedding=teacher.embedding))
    method.double()
    load_parameters(method.transfer, golden, "transfer.")
    terms = method.loss(batch(), student, teacher)
    loss = terms["feature"] + terms["regression"]
    close(loss, golden["loss"])
    gradients_agree(loss, {"feat_s": student.embedding}, {"transfer.": method.transfer}, golden)
    load_parameters(method.transfer, golden, "transfer.")
    representation = method.transfer(student.embedding[:, :, None, None]).flatten(1)
    close(representation, golden["out_trans"])
    close(method.classifier(representation), golden["out_logits"])


def test_unikd_agrees_with_the_fork_in_value_and_gradient() -> None:
    golden = load("unikd")
    ours = [golden[f"feat_s_{k}"] for k in range(3)]
    require(*ours, golden["pooled_s"], golden["logits_s"])
    # the code compares with the teacher's first map alone; the others only give the fusion its shapes
    theirs = [golden["feat_t"], torch.zeros(8, 24, 4, 4), torch.zeros(8, 48, 2, 2)]
    method = registry.create("unikd")
    method.build(network(ours), network([], preactivations=theirs, embedding=torch.zeros(8, 48)))
    method.double()
    abfs = method.fusion.abfs
    load_parameters(abfs, golden, "abfs.")
    modules: dict[str, nn.Module] = {f"abfs.{k}.conv1.": abf.conv1 for k, abf in enumerate(abfs)}
    modules |= {f"abfs.{k}.att_conv.": abf.att_conv for k, abf in enumerate(abfs) if k}
    modules["abfs.3.conv2."] = abfs[3].conv2  # the other results are not used
    for side, module in (("s", method.predict_student), ("t", method.predict_teacher)):
        load_parameters(module, golden, f"feat2pro_{side}.")
        modules[f"feat2pro_{side}."] = module
    student = output(golden["logits_s"], ours, embedding=golden["pooled_s"])
    teacher = output(golden["logits_t"], preactivations=theirs)
    method.epoch, method.epochs = 20, 240
    with mock.patch("torch.randn_like", side_effect=[golden["eps_s"], golden["eps_t"]]):
        terms = method.loss(batch(golden["target"]), student, teacher)
    for name, theirs_name in {"ce": "ce", "logits": "logits", "feature": "feature", "unify": "supp_feat2pro"}.items():
        close(terms[name], golden[f"loss_{theirs_name}"])
    loss = sum(terms.values())
    close(loss, golden["loss"])
    inputs = {**named(ours), "pooled_s": golden["pooled_s"], "logits_s": golden["logits_s"]}
    gradients_agree(loss, inputs, modules, golden)


# ---------------------------------------------------------------------------------------------- edges


def test_a_norm_of_one_value_a_channel_uses_its_running_statistics_and_keeps_them() -> None:
    for axes in (0, 1, 2):
        layer = norm(3, axes).double()
        layer.running_mean += 1
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        x = torch.randn(1, 3, *[1] * axes).double()
        close(layer(x).flatten(), ((x.flatten() - 1) / (1 + layer.eps) ** 0.5).detach())
        assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


@pytest.mark.parametrize("shape", [(2, 3), (1, 3, 2), (2, 3, 1), (1, 3, 1, 2), (2, 3, 1, 1)])
def test_a_norm_of_several_values_a_channel_is_batch_norm(shape: tuple[int, ...]) -> None:
    ours, theirs = norm(3, len(shape) - 2).double(), nn.BatchNorm2d(3).double()
    x = torch.randn(shape).double()
    close(ours(x), theirs(x.reshape(*shape, *[1] * (4 - len(shape)))).reshape(shape))
    for name, tensor in ours.state_dict().items():
        close(tensor, theirs.state_dict()[name])


def plain(name: str) -> bool:
    """One student and one teacher, and a step that is nothing but the loss."""
    cls = registry.get(name)
    alone = not issubclass(cls, MutualMethod | MultiTeacherMethod) and registry.create(name).members() == ("student",)
    return alone and cls.step is Method.step


@pytest.mark.parametrize("size", [2, 1])
@pytest.mark.parametrize("classes", [2, 100])
@pytest.mark.parametrize("name", filter(plain, registry.names()))
def test_a_loss_and_its_gradients_are_finite(name: str, classes: int, size: int) -> None:
    torch.manual_seed(0)
    student, teacher = (
        create("cifar_resnet8", num_classes=classes, in_chans=3, input_size=(3, 16, 16)) for _ in range(2)
    )
    teacher.eval().requires_grad_(False)
    images, targets = torch.randn(104, 3, 16, 16), torch.arange(104) % classes
    method = registry.create(name)
    method.epoch, method.epochs = 120, 240
    method.bind([student], [teacher])
    method.prepare(Whole(Batch(images, targets, torch.arange(104))), [teacher])
    few = Batch(images[:size], targets[:size], torch.arange(size), images[:size].flip(3), follow=lambda maps: maps)
    for phase in method.phases():
        method.phase = phase.name
        ours, theirs = (
            dataclasses.replace(network(few.inputs), strong=network(few.strong)) for network in (student, teacher)
        )
        terms = method.compute(few, [ours], [theirs])
        assert all(term.isfinite() for term in terms.values())
        sum(terms.values()).backward()
        for parameter in [*student.parameters(), *method.parameters()]:
            assert parameter.grad is None or parameter.grad.isfinite().all()
