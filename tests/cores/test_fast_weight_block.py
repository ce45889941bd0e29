"""Sizes of the fast weight cores; their equations are the oracles' matter."""

import pytest
import torch

from fwp_rl.config import ConfigError
from fwp_rl.cores import build_core
from fwp_rl.cores.delta_net import DeltaNetConfig
from fwp_rl.cores.feature_maps import FeatureMapName
from fwp_rl.cores.linear_transformer import LinearTransformerConfig


@pytest.mark.parametrize(
    ("feature_map", "width"), [("elu1", 8), ("dpfp1", 16), ("dpfp3", 48), ("favor", 16)]
)
def test_state_is_one_matrix_per_layer(feature_map: FeatureMapName, width: int) -> None:
    config = DeltaNetConfig(layers=3, hidden_size=20, heads=2, head_size=8,
                                feature_map=feature_map)  # fmt: skip
    state = build_core(config, 4).initial_state(5)
    assert [leaf.shape for leaf in state] == [(5, 2, 10, width)] * 3


def test_layers_have_their_own_favor_projection() -> None:
    core = build_core(DeltaNetConfig(feature_map="favor"), 4)
    first, second = (value for name, value in core.state_dict().items() if "projection" in name
                     and "feature_map" in name)  # fmt: skip
    assert not torch.equal(first, second)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"got 130, expected a multiple of heads \(4\)"):
        DeltaNetConfig(hidden_size=130)
    with pytest.raises(ConfigError, match="heads: got 0"):
        DeltaNetConfig(heads=0)
    with pytest.raises(ConfigError, match="Did you mean 'favor'"):
        DeltaNetConfig(feature_map="favor+")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="non-negative feature map"):
        LinearTransformerConfig(attention_normaliser=True, feature_map="identity")
