"""``fast_weight`` with an erase key and a decay for each channel: the recurrences of newer papers
as they write them, in float64 with gradients by torch, against what the op makes of them."""

import pytest
import torch
from torch.nn.functional import normalize

from fwp_rl.kernels import OPS, fast_weight

from .cases import RESETS, assert_close, with_gradients

BACKENDS = tuple(name for name in OPS["fast_weight_channels"].backends if name != "cuda")
T, B, H, K, V = 9, 3, 2, 5, 4
RESET = RESETS["random"](T, B)


def drawn(seed=0):
    """Leaves: q, k, kappa and v, gates between 0 and 1, beta up to 2, decays, the state."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    vectors = {n: normalize(normal(T, B, H, K), dim=-1) for n in ("q", "k", "kappa")}
    gates = {"erases": normal(T, B, H, K).sigmoid(), "writes": normal(T, B, H, V).sigmoid()}
    rates = {"beta": 2 * normal(T, B, H).sigmoid(), "log_decay": -normal(T, B, H, K).exp() / 2}
    made = vectors | gates | rates | {"v": normal(T, B, H, V), "state": normal(B, H, V, K)}
    return {name: x.requires_grad_() for name, x in made.items()}


def outer(x, y):
    return x.unsqueeze(-1) * y.unsqueeze(-2)


def recurrence(step, inputs, reset=RESET):
    """y and the last matrix, [V, K], of S = step(S, x), y = S q."""
    S, ys = inputs["state"], []
    for t in range(T):
        x = {name: value[t] for name, value in inputs.items() if name != "state"}
        S = step(S.masked_fill(reset[t, :, None, None, None], 0), x)
        ys.append((S @ x["q"].unsqueeze(-1)).squeeze(-1))
    return {"y": torch.stack(ys), "state": S}


def kimi_delta_attention(S, x):
    """S^T <- (I - b k k^T) diag(a) S^T + b k v^T"""
    b = x["beta"][..., None, None]
    keep = torch.eye(K) - b * outer(x["k"], x["k"])
    return (keep @ torch.diag_embed(x["log_decay"].exp()) @ S.mT + b * outer(x["k"], x["v"])).mT


def gated_linear_attention(S, x):
    """S^T <- diag(a) S^T + k v^T"""
    return (torch.diag_embed(x["log_decay"].exp()) @ S.mT + outer(x["k"], x["v"])).mT


def gated_delta_net_2(S, x):
    """S^T <- diag(a) S^T;  S^T <- S^T + k (w * v - S (b * k))^T"""
    S = torch.diag_embed(x["log_decay"].exp()) @ S.mT
    read = (S.mT @ (x["erases"] * x["k"]).unsqueeze(-1)).squeeze(-1)
    return (S + outer(x["k"], x["writes"] * x["v"] - read)).mT


def rwkv_7(S, x):
    """S <- S (diag(w) - kappa^T (a * kappa)) + v^T k, the vectors being rows"""
    kappa = x["kappa"]
    transition = torch.diag_embed(x["log_decay"].exp()) - outer(kappa, x["erases"] * kappa)
    return S @ transition + outer(x["v"], x["k"])


def by_kimi(x, **options):
    return fast_weight(x["q"], x["k"], x["v"], x["beta"], x["state"], **options)


def by_gla(x, **options):
    return fast_weight(x["q"], x["k"], x["v"], None, x["state"], rule="sum", **options)


def by_gdn_2(x, **options):
    erase, v = x["erases"] * x["k"], x["writes"] * x["v"]
    return fast_weight(x["q"], x["k"], v, None, x["state"], erase=erase, **options)


def by_rwkv_7(x, *, log_decay, reset, **options):
    """A step is two: it erases what the matrix held before its decay, then adds."""

    def pair(first, second):
        return torch.stack([first, second], dim=1).flatten(0, 1)

    zero, nothing = torch.zeros_like(x["k"]), torch.zeros_like(x["v"])
    y, S = fast_weight(
        pair(x["q"], x["q"]),
        pair(x["erases"] * x["kappa"], x["k"]),
        pair(nothing, x["v"]),
        None,
        x["state"],
        erase=pair(x["kappa"] / log_decay.exp(), zero),
        log_decay=pair(log_decay, zero),
        reset=pair(reset, torch.zeros_like(reset)),
        **options,
    )
    return y[1::2], S


RULES = {
    "Kimi Delta Attention": (kimi_delta_attention, by_kimi),
    "Gated Linear Attention": (gated_linear_attention, by_gla),
    "Gated DeltaNet-2": (gated_delta_net_2, by_gdn_2),
    "RWKV-7": (rwkv_7, by_rwkv_7),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_what_its_paper_writes(rule, backend):
    step, by_the_op = RULES[rule]
    x = drawn()
    y, state = by_the_op(x, log_decay=x["log_decay"], reset=RESET, backend=backend)
    expected = with_gradients(recurrence(step, x), x)
    assert_close(with_gradients({"y": y, "state": state}, x), expected, 1e-11)


@pytest.mark.parametrize("decays", [True, False])
@pytest.mark.parametrize("horizon", [None, 4])
def test_the_general_form_has_the_plain_one_in_it(decays, horizon):
    """What is erased by the key itself, on one decay for all channels or none."""

    def outcome(**general):
        x = drawn()
        log_decay = x["log_decay"][..., 0] if decays else None
        given = {"log_decay": log_decay} | {n: make(x, log_decay) for n, make in general.items()}
        arguments = (x[name] for name in ("q", "k", "v", "beta", "state"))
        y, state = fast_weight(*arguments, **given, reset=RESET, gradient_horizon=horizon)
        return with_gradients({"y": y, "state": state}, x)

    expected = outcome()
    assert_close(outcome(erase=lambda x, _: x["k"]), expected, 1e-11)
    if decays:
        every = {"log_decay": lambda _, decay: decay.unsqueeze(-1).expand(T, B, H, K)}
        assert_close(outcome(**every), expected, 1e-11)
        other = {"erase": lambda x, _: x["kappa"]}
        assert_close(outcome(**other), outcome(**other, **every), 1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backend", BACKENDS)
def test_decays_of_zero_and_near_one(backend, dtype):
    """What a decay of zero forgets has no gradient, nor has the decay: exactly."""
    x = {name: value.detach().to(dtype) for name, value in drawn().items()}
    x["log_decay"][:, ..., 1] = -1e-6
    x["log_decay"][4, ..., 2:] = -float("inf")
    x = {name: value.requires_grad_() for name, value in x.items()}
    y, state = by_kimi(x, log_decay=x["log_decay"], backend=backend)
    got = with_gradients({"y": y, "state": state}, x)
    doubles = {name: value.detach().double().requires_grad_() for name, value in x.items()}
    expected = recurrence(kimi_delta_attention, doubles, torch.zeros_like(RESET))
    assert_close(got, with_gradients(expected, doubles), 1e-11 if dtype == torch.float64 else 1e-5)
    assert not got["gradient of log_decay"][4, ..., 2:].any()


def test_what_the_arguments_are_to_be():
    x = {name: value.detach() for name, value in drawn().items()}
    arguments = [x[name] for name in ("q", "k", "v", "beta", "state")]
    decay = x["log_decay"]
    for wrong, message in [
        ({"log_decay": decay[0, 0]}, r"log_decay has shape \(2, 5\), expected \[T, B, H\] or,"),
        ({"log_decay": decay[..., :2]}, r"log_decay has shape .* expected \[T, B, H, K\] = \(9, 3"),
        ({"log_decay": decay[1:, ..., 0], "erase": x["k"]}, r"log_decay has shape \(8, 3, 2\), ex"),
        ({"erase": x["v"]}, r"erase has shape .*, expected \[T, B, H, K\] = \(9, 3, 2, 5\)"),
        ({"erase": x["k"], "rule": "sum"}, r'erase is given, expected None: rule="sum" goes wi'),
    ]:
        with pytest.raises(ValueError, match=message):
            fast_weight(*arguments, **wrong)
    arguments[3] = None
    with pytest.raises(TypeError, match=r"beta is None, expected a tensor \[T, B, H\]"):
        fast_weight(*arguments, log_decay=decay)
