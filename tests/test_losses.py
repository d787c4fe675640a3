"""The functions that losses are made of agree with the field's reference code."""

from __future__ import annotations

from support import goldens

from kdbench.losses import attention_map


def test_the_attention_map_agrees_with_repdistiller() -> None:
    golden = goldens.load("at")
    goldens.close(attention_map(golden["feat_s_0"]), golden["out_att_s_0"])
