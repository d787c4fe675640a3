"""srrl fits the pooled map and what the teacher's classifier reads from it."""

from __future__ import annotations

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    convolved,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    maps,
    mean,
    network,
    normed,
    output,
)
from torch import nn

from kdbench import KDBenchError, registry


@pytest.mark.equation
def test_srrls_vector_variant_agrees_with_the_simkd_toolbox_in_value_and_gradient() -> None:
    golden = goldens.load("srrl_simkdrepo")
    goldens.require(golden["feat_s"])
    student = goldens.output(embedding=golden["feat_s"])
    teacher = goldens.output(golden["logits_t"], embedding=golden["feat_t"])
    classifier = nn.Linear(24, 10).double()
    goldens.load_parameters(classifier, golden, "teacher_fc.")
    method = registry.create("srrl", {"variant": "vector"})
    method.build(
        goldens.network([], embedding=student.embedding), goldens.network([], classifier, embedding=teacher.embedding)
    )
    method.double()
    goldens.load_parameters(method.transfer, golden, "transfer.")
    terms = method.loss(goldens.batch(), student, teacher)
    loss = terms["feature"] + terms["regression"]
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {"feat_s": student.embedding}, {"transfer.": method.transfer}, golden)
    goldens.load_parameters(method.transfer, golden, "transfer.")
    representation = method.transfer(student.embedding[:, :, None, None]).flatten(1)
    goldens.close(representation, golden["out_trans"])
    goldens.close(method.classifier(representation), golden["out_logits"])


@pytest.mark.equation
def test_srrl_fits_the_pooled_map_and_what_the_teachers_classifier_reads_from_it() -> None:
    head = nn.Linear(4, CLASSES)
    method = registry.create("srrl")
    method.build(network((2, 8, 8), (3, 4, 4)), network((5, 8, 8), (4, 2, 2), embedding=4, classifier=head))
    conv, bn, _ = method.transfer
    bn.weight.data.uniform_(0.5, 2)
    bn.bias.data.normal_()
    student = output(features=maps((2, 8, 8), (3, 4, 4), trained=True))
    last = torch.rand(BATCH, 4, 2, 2)
    teacher = output(logits().detach(), [*maps((5, 8, 8)), last], last.mean((2, 3)))
    g = torch.relu(normed(bn, convolved(conv, student.features[-1])))
    pooled = [[g[b, c].sum() / 16 for c in range(4)] for b in range(BATCH)]
    feature = mean((pooled[b][c] - last[b, c].sum() / 4) ** 2 for b in range(BATCH) for c in range(4))
    weight, bias = head.weight.detach(), head.bias.detach()
    read = [[sum(weight[k] * torch.stack(p)) + bias[k] for k in range(CLASSES)] for p in pooled]
    regression = mean((read[b][k] - teacher.logits[b, k]) ** 2 for b in range(BATCH) for k in range(CLASSES))
    expected = {"ce": labels(student.logits, batch()), "feature": feature, "regression": regression}
    trained = [p for p in method.parameters() if p.requires_grad]
    assert len(trained) == 3  # the classifier is frozen
    agree(method.loss(batch(), student, teacher), expected, [student.logits, student.features[-1], *trained])


def test_an_impossible_option_is_refused_in_a_sentence_that_names_it() -> None:
    with pytest.raises(KDBenchError, match=r"^srrl.*mean"):
        registry.create("srrl", {"variant": "mean"})
