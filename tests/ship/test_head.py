from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tamis.errors import BundleError
from tamis.network import OrdinalHead
from tamis.policy import Policy, load_policy
from tamis.ship.head import HEAD, Head


def test_a_linear_head_by_hand(small_policy: Policy, tmp_path: Path) -> None:
    weight = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    save_file({"weight": weight, "bias": np.array([0, 0, 5], np.float32)}, tmp_path / HEAD)
    # Mean 2, deviation 1: the state becomes -1 and 1.
    assert Head(tmp_path / HEAD, small_policy)(np.array([[1, 3]], np.float32)) == pytest.approx(
        np.array([[-1, 1, 5]]), abs=1e-4
    )


def test_levels_are_those_of_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = OrdinalHead(8, 4)
    torch.nn.init.normal_(head.weight)
    states = torch.randn(5, 8) * 3
    save_file({name: p.detach().numpy() for name, p in head.named_parameters()}, tmp_path / HEAD)
    with torch.inference_mode():
        wanted = head(torch.nn.functional.layer_norm(states, (8,)))
    np.testing.assert_allclose(Head(tmp_path / HEAD, load_policy("severity"))(states.numpy()), wanted, atol=1e-5)


def test_a_head_of_another_policy_is_refused(small_policy: Policy, tmp_path: Path) -> None:
    save_file({"weight": np.zeros((4, 2), np.float32), "bias": np.zeros(4, np.float32)}, tmp_path / HEAD)
    with pytest.raises(BundleError, match="is the head of another policy: export the bundle again"):
        Head(tmp_path / HEAD, small_policy)
