"""What torch does around an op: checkpointing, torch.func, and derivatives that fused kernels go
without."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from fwp_rl.kernels import OPS
from fwp_rl.kernels.samples import flat, make_inputs

every_op = pytest.mark.parametrize("name", OPS)

SIZES = {"T": 3, "B": 2, "H": 2, "K": 4, "V": 4}

REFUSAL = '{}: the fused kernels have no {}.* backend="reference"'


def _floats(op, inputs):
    """Names of the float inputs beside the state."""
    return [
        k
        for k in op.inputs
        if k in inputs and k not in ("state", "reset") and inputs[k] is not None
    ]


def _of_one_input(name, backend="numba", horizon=None):
    """y as a function of the op's first input, and that input."""
    op = OPS[name]
    inputs = {**make_inputs(op, SIZES), "gradient_horizon": horizon}
    first = next(iter(op.inputs))
    return lambda x: op.run(**inputs | {first: x}, backend=backend)[0], inputs[first]


def _dual(x):
    return forward_ad.make_dual(x, torch.ones_like(x))


def _dual_numbers(run, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(run(_dual(x))).tangent


def _dual_cotangents(run, x):
    x.requires_grad_()
    y = run(x)
    with forward_ad.dual_level():
        (gradient,) = torch.autograd.grad(y, x, _dual(torch.ones_like(y)))
        return forward_ad.unpack_dual(gradient).tangent


FORWARD_MODE = {
    "jvp": lambda run, x: torch.func.jvp(run, (x,), (x,))[1],
    "jvp of no_grad": lambda run, x: torch.func.jvp(torch.no_grad()(run), (x,), (x,))[1],
    "jacfwd": lambda run, x: torch.func.jacfwd(run)(x),
    "dual numbers": _dual_numbers,
    "dual numbers with a gradient": lambda run, x: _dual_numbers(run, x.requires_grad_()),
    "dual cotangents": _dual_cotangents,
}


@every_op
@pytest.mark.parametrize("way", FORWARD_MODE)
def test_forward_mode_derivatives_are_refused(name, way):
    """torch by itself would make them zero."""
    with pytest.raises(NotImplementedError, match=REFUSAL.format(name, "forward-mode")):
        FORWARD_MODE[way](*_of_one_input(name))


@every_op
def test_forward_mode_is_refused_whichever_input_it_comes_from(name):
    op = OPS[name]
    inputs = make_inputs(op, SIZES)
    floats = [x for x in flat(inputs) if x.is_floating_point()]
    for n in range(len(floats)):
        with forward_ad.dual_level():
            given = iter([_dual(x) if i == n else x for i, x in enumerate(floats)])
            dual = {k: next(given) for k in _floats(op, inputs)}
            state = tuple(next(given) for _ in op.state)
            dual["state"] = state if len(state) > 1 else state[0]
            with pytest.raises(NotImplementedError, match="forward-mode"):
                op.run(**inputs | dual, backend="numba")


@every_op
def test_the_reference_has_forward_mode_derivatives(name):
    run, x = _of_one_input(name, "reference")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        v = torch.randn_like(x)
    tangent = torch.func.jvp(run, (x,), (v,))[1]
    (gradient,) = torch.autograd.grad(run(x.requires_grad_()).sum(), x)
    torch.testing.assert_close(tangent.sum(), (gradient * v).sum())


@every_op
def test_a_tangent_elsewhere_is_no_concern_of_the_op(name):
    run, x = _of_one_input(name)
    y, tangent = torch.func.jvp(lambda scale: scale * run(x), (x.new_ones(()),), (x.new_ones(()),))
    assert torch.equal(y, run(x))
    assert torch.equal(tangent, y)


@every_op
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev])
def test_gradients_inside_of_torch_func_are_refused(name, transform):
    run, x = _of_one_input(name)
    with pytest.raises(NotImplementedError, match=REFUSAL.format(name, "gradients inside of torc")):
        transform(lambda x: run(x).sum())(x)


@every_op
@pytest.mark.parametrize("horizon", [None, 2])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_is_a_loop(name, horizon):
    run, x = _of_one_input(name, horizon=horizon)
    xs = torch.stack([x, 2 * x]).requires_grad_()
    together, alone = torch.func.vmap(run)(xs), torch.stack([run(xs[0]), run(xs[1])])
    assert torch.equal(together, alone)
    (got,), (expected,) = (torch.autograd.grad(y.square().sum(), xs) for y in (together, alone))
    assert torch.equal(got, expected)


@every_op
@pytest.mark.parametrize("horizon", [None, 2])
@pytest.mark.parametrize("reentrant", [False, True])
def test_activations_can_be_recomputed(name, reentrant, horizon):
    op = OPS[name]
    inputs = {**make_inputs(op, SIZES), "gradient_horizon": horizon}
    leaves = [x.requires_grad_() for x in flat(inputs) if x.is_floating_point()]

    def results(*leaves):
        given = iter(leaves)
        named = {k: next(given) for k in _floats(op, inputs)}
        state = tuple(given)
        return tuple(
            flat(op.run(**inputs | named | {"state": state if len(state) > 1 else state[0]}))
        )

    def gradients(results):
        return torch.autograd.grad(sum(x.square().sum() for x in results), leaves)

    def backward(results):
        for x in leaves:
            x.grad = None
        sum(x.square().sum() for x in results).backward()
        return [x.grad for x in leaves]

    expected = gradients(results(*leaves))
    got = backward(checkpoint(results, *leaves, use_reentrant=reentrant))
    assert all(map(torch.equal, got, expected))
