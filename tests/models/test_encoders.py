from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwp_rl.config import ConfigError
from fwp_rl.cores.feedforward import FeedforwardConfig
from fwp_rl.models import ENCODERS, Encoder, EncoderConfig, MLPConfig, Policy, PolicyConfig
from fwp_rl.types import EnvSpec, Observation

ATARI = (4, 84, 84)


def build(name: str, shape: tuple[int, ...] = ATARI) -> Encoder:
    torch.manual_seed(0)
    return ENCODERS[name]().build(shape)


def images(count: int, shape: tuple[int, ...] = ATARI) -> Tensor:
    return torch.randint(256, (count, *shape), dtype=torch.uint8)


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("shape", [ATARI, (3, 64, 61), (1, 36, 36)])
def test_features_have_the_promised_size(name: str, shape: tuple[int, ...]) -> None:
    encoder = build(name, shape)
    y = encoder(images(2, shape))
    assert y.shape == (2, encoder.output_size)
    assert y.dtype == torch.float32


@pytest.mark.parametrize("name", ENCODERS)
def test_bytes_are_scaled_to_one(name: str) -> None:
    encoder = build(name)
    obs = images(2)
    torch.testing.assert_close(encoder(obs), encoder(obs.float() / 255))


KINDS: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "image of bytes": ((3, 40, 48), torch.uint8),
    "image of floats": ((3, 40, 48), torch.float32),
    "vector": ((17,), torch.float32),
    "grid": ((40, 48), torch.float32),
    "stack of colour images": ((2, 3, 40, 48), torch.float32),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_reads_a_kind_of_observation_or_refuses_to_be_built(
    name: str, kind: str
) -> None:
    shape, dtype = KINDS[kind]
    spec = EnvSpec(
        name="toy/any",
        observation_shape=shape,
        observation_dtype="uint8" if dtype is torch.uint8 else "float32",
        num_actions=2,
    )
    core = FeedforwardConfig()
    config = PolicyConfig(encoder=ENCODERS[name](), core=core, precision="float32")
    if name != "mlp" and not spec.is_image:
        with pytest.raises(ConfigError, match=r"expected an image \[C, H, W\]; use .*mlp"):
            Policy(config, spec)
        return
    policy = Policy(config, spec)
    seen = Observation(
        obs=(255 * torch.rand(1, 2, *shape)).to(dtype),
        reset=torch.ones(1, 2, dtype=torch.bool),
        last_reward=torch.zeros(1, 2),
        last_action=torch.full((1, 2), -1),
    )
    assert policy(seen, policy.initial_state(2)).value.isfinite().all()
    seen.obs = seen.obs.to(torch.float32 if dtype is torch.uint8 else torch.uint8)
    with pytest.raises(ValueError, match=rf"obs has dtype .*, expected {dtype} for toy/any"):
        policy(seen, policy.initial_state(2))


@pytest.mark.parametrize("name", ENCODERS)
def test_parameters_are_contiguous(name: str) -> None:
    assert all(p.is_contiguous() for p in build(name).parameters())


def test_impala_resnet_has_the_authors_size() -> None:
    encoder = build("impala_resnet")
    convolutions = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    (linear,) = (m for m in encoder.modules() if isinstance(m, nn.Linear))
    assert len(convolutions) == 15
    assert sum(map(size, convolutions)) == 97_744
    assert size(linear) == 991_488
    assert size(encoder) == 97_744 + 991_488
    assert encoder.output_size == 256


def test_impala_resnet_follows_the_paper() -> None:
    encoder = build("impala_resnet").double()
    parameters = iter(encoder.parameters())

    def conv(x: Tensor) -> Tensor:
        return F.conv2d(x, next(parameters), next(parameters), padding=1)

    obs = images(2)
    x = obs.double() / 255
    for _ in range(3):
        x = F.max_pool2d(conv(x), 3, stride=2, padding=1)
        for _ in range(2):
            x = conv(conv(x.relu()).relu()) + x
    expected = F.linear(x.relu().flatten(1), next(parameters), next(parameters)).relu()
    torch.testing.assert_close(encoder(obs.double() / 255), expected)


def test_nature_cnn_follows_the_paper() -> None:
    encoder = build("nature_cnn").double()
    weight, bias = list(encoder.parameters())[::2], list(encoder.parameters())[1::2]
    obs = images(2).double() / 255
    x = obs
    for w, b, stride in zip(weight, bias, (4, 2, 1), strict=False):
        x = F.conv2d(x, w, b, stride=stride).relu()
    assert x.shape[1:] == (64, 7, 7)
    torch.testing.assert_close(encoder(obs), F.linear(x.flatten(1), weight[3], bias[3]).relu())


@pytest.mark.parametrize("name", ["nature_cnn", "mlp"])
def test_initialisation_is_orthogonal(name: str) -> None:
    for parameter in build(name, (3, 36, 36)).parameters():
        if parameter.ndim == 1:
            assert not parameter.any()
        else:
            singular_values = torch.linalg.svdvals(parameter.flatten(1))
            torch.testing.assert_close(singular_values, torch.full_like(singular_values, 2**0.5))


@pytest.mark.parametrize(("activation", "function"), [("tanh", torch.tanh), ("relu", torch.relu)])
def test_mlp_flattens(activation: Any, function: Callable[[Tensor], Tensor]) -> None:
    encoder = MLPConfig(hidden_sizes=(5, 9), activation=activation).build((2, 3))
    obs = torch.randn(4, 2, 3)
    w1, b1, w2, b2 = encoder.parameters()
    expected = function(function(obs.flatten(1) @ w1.T + b1) @ w2.T + b2)
    torch.testing.assert_close(encoder(obs), expected)


@pytest.mark.parametrize("name", ["nature_cnn", "impala_resnet"])
def test_what_is_no_image_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"shape \(17,\), expected an image \[C, H, W\]; use .*mlp"
    ):
        build(name, (17,))


def test_too_small_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="images are 36 x 35, expected 36 x 36 or more"):
        build("nature_cnn", (3, 36, 35))
    assert build("impala_resnet", (3, 7, 7))(images(1, (3, 7, 7))).shape == (1, 256)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"hidden_sizes": ()}),
        ("mlp", {"hidden_sizes": (64, 0)}),
        ("mlp", {"activation": "gelu"}),
        ("impala_resnet", {"channels": (16, True)}),
        ("impala_resnet", {"features": 0}),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, object]) -> None:
    (field,) = options
    config: type[EncoderConfig] = ENCODERS[name]
    with pytest.raises(ConfigError, match=f"{field}: got"):
        config(**options)


@pytest.mark.parametrize("name", ENCODERS)
def test_layer_norm_follows_every_layer(name: str) -> None:
    config: Any = ENCODERS[name]
    torch.manual_seed(0)
    encoder = config(layer_norm=True).build((3, 36, 40))
    calls: list[Any] = []
    for module in encoder.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.LayerNorm)):
            module.register_forward_hook(lambda m, x, y: calls.append((m, x[0], y)))
    encoder(images(2, (3, 36, 40)))
    layers, norms = calls[::2], calls[1::2]
    assert len(layers) == len(norms) > 1
    for (layer, _, y), (norm, x, normal) in zip(layers, norms, strict=True):
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        assert isinstance(norm, nn.LayerNorm)
        assert x is y
        torch.testing.assert_close(
            normal.mean(1), torch.zeros_like(normal.mean(1)), atol=1e-5, rtol=0
        )
        assert 0.9 < normal.var(1, correction=0).median() <= 1.0001


@pytest.mark.parametrize("name", ENCODERS)
def test_without_layer_norm_an_encoder_has_the_weights_it_had(name: str) -> None:
    config: Any = ENCODERS[name]
    plain, normal = config().build(ATARI), config(layer_norm=True).build(ATARI)
    assert not any(isinstance(m, nn.LayerNorm) for m in plain.modules())
    layers = [m for m in normal.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert size(plain) == sum(map(size, layers))
