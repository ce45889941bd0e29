"""What an op takes and refuses; dtypes, autocast, torch.compile, registration."""

from itertools import cycle

import pytest
import torch

from fwp_rl.kernels import BackendError, fast_rnn, fast_weight

from .cases import (
    EVERY_CASE,
    EVERY_OP,
    assert_close,
    changed,
    every_backend,
    fast,
    floats,
    gradients_of,
    in_float64,
    over,
    weighted_sum,
)

HALF = (torch.float16, torch.bfloat16)


def brackets(letters):
    return rf"\[{', '.join(letters)}\]"


def faults_of(case, name, x):
    """What an input can be given by mistake, and what is said of it."""
    letters = case.sizes[name]
    names = list(case.sizes)
    first, before = names[0], names[: names.index(name)]
    bound = {"2", "3", "4", *(x for n in before for x in case.sizes[n])}
    expected = rf"expected a tensor {brackets(letters)}"
    if not case.op.inputs[name].startswith("?"):
        yield None, TypeError, rf"{name} is None, {expected}"
    yield [1.0], TypeError, rf"{name} is of type list, {expected}"
    yield x[0], ValueError, rf"{name} has shape .*expected {brackets(letters)}"
    yield x[:0], ValueError, rf"{name} has shape .* all sizes >= 1"
    for place, letter in enumerate(letters):
        larger = torch.cat([x, x.narrow(place, 0, 1)], place)
        shape = ", ".join(map(str, x.shape))
        # a size that nothing before it says is taken as given, and what comes after is refused
        told = letter in bound or letter in letters[:place]
        who = rf"{name} has shape .* = \({shape}\)$" if told else r" has shape .*, expected \["
        yield larger, ValueError, who
    if name == "reset":
        yield x.float(), TypeError, r"reset has dtype torch.float32, expected torch.bool"
    else:
        yield x.int(), TypeError, rf"{name} has dtype torch.int32, expected"
        if name != first:
            yield (
                x.double(),
                TypeError,
                rf"{name} has dtype torch.float64, expected torch.float32 beside {first}'s",
            )
            yield x.half(), TypeError, rf"{name} has dtype torch.float16, expected torch.float32"
    if name != first:
        yield x.to("meta"), ValueError, rf"{name} is on meta, expected cpu, where {first} is"


@pytest.mark.parametrize(
    ("case", "name"),
    [pytest.param(case, name, id=f"{case.id}-{name}") for case in EVERY_OP for name in case.sizes],
)
def test_bad_inputs_are_named(case, name):
    inputs = case.inputs(dtype=torch.float32, reset="middle")
    for wrong, error, message in faults_of(case, name, inputs[name].detach()):
        with pytest.raises(error, match=message) as raised:
            case.run(inputs | {name: wrong})
        assert "\n" not in str(raised.value)


@over(EVERY_OP)
def test_other_mixtures_of_dtypes_are_refused(case):
    halves = changed(case.inputs(), torch.Tensor.bfloat16, case.steps + case.shared)
    halves = changed(halves, torch.Tensor.float, case.state)
    case.run(changed(halves, torch.Tensor.bfloat16, case.state[:1]))
    first, second = list(case.sizes)[:2]
    expected = r"has dtype torch.float64, expected torch.bfloat16 or torch.float32 beside"
    for name in case.state:
        with pytest.raises(TypeError, match=f"{name} {expected} {first}'s"):
            case.run(changed(halves, torch.Tensor.double, [name]))
    with pytest.raises(TypeError, match=rf"{second} has dtype torch.float32, expected torch.bf"):
        case.run(changed(halves, torch.Tensor.float, [second]))


@over([case for case in EVERY_OP if len(case.state) > 1])
def test_the_state_has_all_its_parts(case):
    inputs = case.inputs()
    given = {n: x for n, x in inputs.items() if n not in case.state}
    parts = tuple(inputs[n] for n in case.state)
    expected = rf"expected a tuple \({', '.join(case.state)}\)"
    for state, what in [
        (None, "of type NoneType"),
        (parts[0], "of type Tensor"),
        (parts[:-1], f"of {len(parts) - 1}"),
        (list(parts), "of type list"),
    ]:
        with pytest.raises(TypeError, match=rf"state is {what}, {expected}"):
            case.op.run(**given, state=state)


@pytest.mark.parametrize(
    ("op", "options", "message"),
    [
        (
            fast_weight,
            {"rule": "Delta"},
            r"unknown rule 'Delta'. Did you mean 'delta'\? Known: delt",
        ),
        (fast_weight, {"rule": "delta", "beta": None}, r"beta is None, .*rule=\"sum\""),
        (fast_rnn, {"query": "soft"}, r"unknown query 'soft'. .*Known: softmax, identity"),
        (fast_rnn, {"output": "tanh"}, r"unknown output 'tanh'. .*Known: softmax, identity"),
    ],
)
def test_bad_options_are_named(op, options, message):
    (case,) = (x for x in EVERY_OP if x.op.run is op)
    inputs = case.inputs()
    parts = tuple(inputs.pop(name) for name in case.state)
    state = parts if len(parts) > 1 else parts[0]
    with pytest.raises(ValueError, match=message) as raised:
        op(**inputs | {"state": state} | options)
    assert "\n" not in str(raised.value)


@over(EVERY_OP)
def test_backends_that_an_op_goes_without_are_named(case):
    with pytest.raises(BackendError, match=r"unknown backend 'chunk'. Did you mean 'chunkwise'\?"):
        case.run(case.inputs(), "chunk")
    if "chunkwise" not in case.op.backends:
        with pytest.raises(BackendError, match=rf"{case.name}: backend 'chunkwise' .* no such"):
            case.run(case.inputs(), "chunkwise")


@over(EVERY_OP)
def test_auto_takes_the_fused_kernel(case, monkeypatch):
    monkeypatch.delenv("FWP_RL_KERNELS", raising=False)
    y, step_by_step = (case.run(case.inputs(), name)["y"] for name in ("auto", "reference"))
    assert case.name in type(y.grad_fn).__name__
    assert case.name not in type(step_by_step.grad_fn).__name__


PAPERS = {
    "fast_weight": {"rule": "delta"},
    "fast_weight_channels": {"rule": "delta"},
    "fast_rnn": {"query": "softmax", "output": "identity"},
}


@over([x for x in EVERY_CASE if x.options == PAPERS.get(x.name, {})])
def test_the_defaults_are_the_papers(case):
    inputs = case.inputs()
    parts = {n: x for n, x in inputs.items() if n not in case.state}
    state = tuple(inputs[n] for n in case.state)
    y, _ = case.op.run(**parts, state=state if len(state) > 1 else state[0])
    assert torch.equal(y, case.run(inputs)["y"])


@pytest.mark.parametrize("dtype", HALF)
@over(EVERY_OP, every_backend)
def test_half_precision(case, backend, dtype):
    inputs = case.inputs(dtype=dtype, reset="random")
    got = case.outcome(inputs, backend)
    assert {x.dtype for x in got.values()} == {dtype}
    expected = case.outcome(in_float64(inputs), "reference")
    assert_close(got, expected, 8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", HALF)
@over(EVERY_OP, every_backend)
def test_the_state_stays_in_float32(case, backend, dtype):
    inputs = case.inputs(dtype=torch.float32, reset="random")
    inputs = changed(inputs, lambda x: x.to(dtype), case.steps + case.shared)
    results = case.run(inputs, backend)
    truth = case.run(in_float64(inputs), "reference")
    for name, x in results.items():
        assert x.dtype == (dtype if name == "y" else torch.float32)
    assert_close(results, truth, 4 * torch.finfo(dtype).eps)
    assert_close(*({n: x[n] for n in case.state} for x in (results, truth)), 1e-5)
    doubles = in_float64(inputs)
    truth = gradients_of(weighted_sum(case.run(doubles, "reference")), doubles)
    gradients = gradients_of(weighted_sum(results), inputs)
    assert all(gradients[n].dtype == inputs[n].dtype for n in gradients)
    assert_close(gradients, truth, 4 * torch.finfo(dtype).eps)


@over(EVERY_OP)
def test_a_chain_of_calls_loses_nothing_between_them(case):
    """In bfloat16 a small write into a large state would be rounded away."""
    inputs = case.inputs(dtype=torch.float32)
    inputs = changed(inputs, torch.Tensor.bfloat16, case.steps + case.shared)
    whole, state = case.run(inputs), {n: inputs[n] for n in case.state}
    for t in range(5):
        state = case.run(case.over(inputs, steps=slice(t, t + 1)) | state)
        state.pop("y")
    assert_close(state, {n: whole[n] for n in case.state}, 1e-6)


@over(EVERY_OP, every_backend)
def test_autocast_computes_in_float32(case, backend):
    inputs, dtypes = case.inputs(reset="random"), cycle([torch.bfloat16, torch.float32, *HALF])
    for name, dtype in zip(floats(inputs), dtypes, strict=False):
        inputs = changed(inputs, lambda x, dtype=dtype: x.to(dtype), [name])
    with torch.autocast("cpu", torch.bfloat16):
        results = case.run(inputs, backend)
        assert torch.is_autocast_enabled("cpu")
    assert {x.dtype for x in results.values()} == {torch.float32}
    assert_close(results, case.run(in_float64(inputs), "reference"), 1e-5)
    gradients = gradients_of(results["y"].sum(), inputs)
    assert all(gradients[n].dtype == inputs[n].dtype for n in gradients)


@over([x for x in EVERY_CASE if x.main or x.id == "fast_weight-sum-no_log_decay"], fast)
def test_compiles_into_one_graph(case, backend):
    torch.compiler.reset()
    inputs = case.inputs(T=2, reset="middle")

    def layer(*values):
        given = dict(zip(inputs, values, strict=True))
        return case.run(given | {n: given[n].sin() for n in case.steps}, backend)

    def outcome(run):
        results = run(*inputs.values())
        return results | gradients_of(weighted_sum(results), inputs)

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(outcome(compiled), outcome(layer), 1e-12)


@pytest.mark.parametrize(("reset", "horizon"), [("random", ()), ("never", (2,))])
@over([x for x in EVERY_CASE if x.main or x.last])
def test_registration(case, reset, horizon):
    """What was exported before there was a horizon has none among its arguments."""
    arguments = case.arguments(case.inputs(T=3, reset=reset))
    forward, backward, results = registered(case)
    torch.library.opcheck(forward, (*arguments, *horizon))
    made = [x.detach() for x in forward(*arguments, *horizon)]
    arguments = [x.detach() if isinstance(x, torch.Tensor) else x for x in arguments]
    arguments += horizon or (0,)
    torch.library.opcheck(backward, (*arguments, *made[results:], *made[:results]))


def registered(case):
    """The op and its backward pass in torch's library, and how many outputs are not saved ones."""
    ops = torch.ops.fwp_rl
    forward, backward = (getattr(ops, case.name + x).default for x in ("", "_backward"))
    return forward, backward, 1 + len(case.state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@over(EVERY_CASE)
def test_meta_tensors_get_shapes_and_dtypes(case, dtype):
    """bfloat16 beside a state of float32 is what CUDA kernels are given."""
    inputs = case.inputs(reset="middle")
    fakes = changed(inputs, lambda x: x.to("meta"))
    fakes = changed(fakes, lambda x: x.to(dtype), case.steps + case.shared)
    wide = torch.promote_types(dtype, torch.float32)
    fakes = changed(fakes, lambda x: x.to(wide), case.state)
    forward, backward, results = registered(case)
    made, expected = forward(*case.arguments(fakes)), forward(*case.arguments(inputs))
    assert [x.shape for x in made] == [x.shape for x in expected]
    assert [x.dtype for x in made] == [dtype] + [wide] * (len(made) - 1)
    assert {x.device.type for x in made} == {"meta"}
    gradients = backward(*case.arguments(fakes), 2, *made[results:], *made[:results])
    for name, gradient in zip((n for n in fakes if n != "reset"), gradients, strict=True):
        x = fakes[name]
        assert gradient.shape == ((0,) if x is None else x.shape), name
        assert x is None or gradient.dtype == x.dtype, name
    of_op = case.run(fakes)
    assert [(x.shape, x.dtype) for x in of_op.values()] == [
        (x.shape, x.dtype) for x in made[:results]
    ]


@over(EVERY_OP, every_backend)
def test_gradients_of_gradients(case, backend):
    inputs = case.inputs(T=2, B=1, H=1, K=2, V=2)
    leaves = list(floats(inputs).values())
    loss = weighted_sum(case.run(inputs, backend))
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    again = sum(x.square().sum() for x in first)
    if backend == "numba":
        with pytest.raises(NotImplementedError, match=f"{case.name}: .*no gradient of a gradient"):
            again.backward()
    else:
        assert all(x.isfinite().all() for x in torch.autograd.grad(again, leaves))


@over(EVERY_OP, fast)
def test_inference_mode(case, backend):
    with torch.inference_mode():
        inputs = changed(case.inputs(T=1), torch.clone)
        assert_close(case.run(inputs, backend), case.run(inputs, "reference"), 1e-12)
