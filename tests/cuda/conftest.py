"""The ops with the sizes of their CUDA kernels, what a backend makes of their inputs, and the
emulator. A test that asks for ``case`` runs for every op."""

import ctypes
import hashlib
import itertools
import os
import shutil
import subprocess
from importlib import import_module
from typing import NamedTuple

import pytest
import torch
from filelock import FileLock

from fwp_rl.kernels import OPS, cuda_driver, dispatch, samples
from fwp_rl.kernels.op import Op
from fwp_rl.resources import cuda_dir

SCALARS = {torch.float64: "double", torch.float32: "float", torch.bfloat16: "bf16"}
GUARD = 1 << 16
RESETS = ("never", "some", "first", "last", "every step")


class Case(NamedTuple):
    """An op, as a test that asks for ``case`` sees it.

    sizes      every size that a kernel is made for
    odd_sizes  sizes that are padded, the last one to ``small``
    small      a size whose blocks have several warps
    """

    op: Op
    sizes: list[dict[str, int]]
    odd_sizes: list[dict[str, int]]
    small: dict[str, int]

    @property
    def name(self):
        return self.op.name

    @property
    def variants(self):
        return samples.variants(self.op)

    @property
    def cuda(self):
        """The op's CUDA module."""
        return import_module(f"{self.op.package}.cuda")


def _pairs(*pairs):
    return [{"K": K, "V": V} for K, V in pairs]


def _square(*sizes):
    return _pairs(*((size, size) for size in sizes))


CASES = [
    Case(
        OPS["diagonal"],
        sizes=[{"V": 128}],
        odd_sizes=[{"V": V} for V in (1, 300)],
        small={"V": 100},  # several blocks where there are several heads
    ),
    Case(
        OPS["fast_weight"],
        sizes=_pairs(*itertools.product((16, 32, 64, 128), repeat=2)),
        odd_sizes=_pairs((1, 1), (33, 7), (100, 65), (33, 47)),
        small={"K": 64, "V": 64},
    ),
    Case(
        OPS["fast_weight_channels"],
        sizes=_square(16, 32, 64),
        odd_sizes=_pairs((1, 1), (7, 33), (33, 7)),
        small={"K": 64, "V": 64},
    ),
    Case(
        OPS["recurrent_delta"],
        sizes=_square(16, 32, 64),
        odd_sizes=_pairs((1, 1), (7, 33), (29, 17)),
        small={"K": 32, "V": 32},
    ),
    Case(
        OPS["fast_rnn"],
        sizes=[{"V": V} for V in (16, 32, 64)],
        odd_sizes=[{"V": V} for V in (1, 7, 33)],
        small={"V": 64},
    ),
    Case(
        OPS["fast_lstm"],
        sizes=[{"V": V} for V in (16, 32, 64)],
        odd_sizes=[{"V": V} for V in (1, 7, 33)],
        small={"V": 64},  # where the next chunk is staged by other warps than the first too
    ),
    Case(
        OPS["srwm"],
        sizes=_pairs(*itertools.product((16, 32, 64), repeat=2)),
        odd_sizes=_pairs((1, 1), (7, 33), (16, 1), (33, 7)),
        small={"K": 16, "V": 32},
    ),
]


def pytest_configure(config):
    config.cuda_cases = CASES


def pytest_generate_tests(metafunc):
    """``case`` is every op; with ``sizes``, every op at all its sizes."""
    if "sizes" in metafunc.fixturenames:
        pairs = [(case, sizes) for case in CASES for sizes in (*case.sizes, *case.odd_sizes)]
        ids = [f"{case.name}-{'x'.join(map(str, sizes.values()))}" for case, sizes in pairs]
        metafunc.parametrize(("case", "sizes"), pairs, ids=ids)
    elif "case" in metafunc.fixturenames:
        metafunc.parametrize("case", CASES, ids=lambda case: case.name)


class Emulator:
    """Takes the place of ``cuda_driver.launch``: runs kernels on CPU tensors, under g++.

    Each tensor is copied between two guard bands of NaN, which have to be intact after the
    kernel. seed fixes the schedule; skipped names a barrier, as "file:line", to leave out.
    """

    def __init__(self, folder):
        self.folder = folder
        self.functions = {}
        self.seed = 0
        self.skipped = ""

    def prepare(self, kernels, scalar="double"):
        """Compile kernels in one go; others are compiled when they are launched."""
        wanted = sorted({(kernel.source, kernel.expression(scalar)) for kernel in kernels})
        if self.functions.keys() >= set(wanted):
            return
        lines = [
            '#include "host/emulator.h"',
            *sorted({f'#include "{source}"' for source, _ in wanted}),
            "const emulator::Kernel emulator::kernels[] = {",
            *(f'emulator::kernel<&{name}>("{name}"),' for _, name in wanted),
            "};",
            f"const size_t emulator::kernel_count = {len(wanted)};",
        ]
        self.functions |= dict.fromkeys(wanted, self._compile("\n".join(lines)))

    def _compile(self, text):
        """Once for all workers of a run of the tests."""
        stem = self.folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        source, library = stem.with_suffix(".cpp"), stem.with_suffix(".so")
        host = self.folder / "emulator.o"
        with FileLock(host.with_suffix(".lock")):
            if not host.exists():
                _compile("-c", cuda_dir() / "host" / "emulator.cpp", "-o", host)
        with FileLock(stem.with_suffix(".lock")):
            if not library.exists():
                source.write_text(text)
                # what a kernel forgets to set is -1.7e38
                _compile("-shared", "-ftrivial-auto-var-init=pattern", source, host, "-o", library)
        function = ctypes.CDLL(str(library)).emulate
        function.restype = ctypes.c_char_p
        return function

    def launch(self, kernel, like, blocks, arguments):
        scalar = SCALARS[like.dtype]
        self.prepare([kernel], scalar)
        tensors = {x.data_ptr(): x for x in arguments if isinstance(x, torch.Tensor)}
        guarded = {pointer: _Guarded(x) for pointer, x in tensors.items()}
        fields = (ctypes.c_longlong * len(arguments))(
            *[
                guarded[x.data_ptr()].pointer if isinstance(x, torch.Tensor) else x or 0
                for x in arguments
            ]
        )
        error = self.functions[kernel.source, kernel.expression(scalar)](
            kernel.expression(scalar).encode(),
            fields,
            ctypes.c_size_t(ctypes.sizeof(fields)),
            ctypes.c_uint(blocks),
            ctypes.c_uint(kernel.threads),
            ctypes.c_size_t(kernel.shared * (8 if scalar == "double" else 4)),
            ctypes.c_uint(self.seed),
            self.skipped.encode(),
        ).decode()
        assert not error, f"{kernel.name}: {error}"
        for pointer, x in tensors.items():
            place = [y is x for y in arguments].index(True)
            assert guarded[pointer].intact(), f"{kernel.name} writes outside of argument {place}"
            x.copy_(guarded[pointer].tensor)


def _compile(*arguments):
    warnings = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
    command = ("g++", "-std=c++17", "-O1", "-fPIC", *warnings, "-I", cuda_dir(), *arguments)
    subprocess.run(command, check=True)


class _Guarded:
    """A copy of a tensor between two bands of bytes that make a NaN in every floating type, with
    the alignment of the original."""

    def __init__(self, original):
        assert original.is_contiguous(), "a kernel takes contiguous tensors"
        start = GUARD + original.data_ptr() % 64
        self.memory = torch.full((start + original.nbytes + GUARD,), 0xFF, dtype=torch.uint8)
        middle = self.memory[start : start + original.nbytes]
        self.bands = self.memory[:start], self.memory[start + original.nbytes :]
        self.tensor = middle.view(original.dtype).view(original.shape)
        self.tensor.copy_(original.detach())
        self.pointer = self.tensor.data_ptr()

    def intact(self):
        return all(bool((band == 0xFF).all()) for band in self.bands)


@pytest.fixture(scope="session")
def emulator_build(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("the emulator needs g++")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    folder = folder / "emulator"
    folder.mkdir(exist_ok=True)
    return Emulator(folder)


@pytest.fixture
def emulator(emulator_build, monkeypatch):
    """backend="cuda" takes CPU tensors, float64 among them, and runs in the emulator; memory that
    torch leaves uninitialised holds NaN."""
    emulator_build.seed, emulator_build.skipped = 0, ""
    monkeypatch.setattr(cuda_driver, "launch", emulator_build.launch)
    monkeypatch.setattr(dispatch, "_FUSED", {"cpu": "cuda"})
    monkeypatch.setattr(dispatch, "_status", lambda _: dispatch.BackendStatus(True))
    for case in CASES:  # the CPU's kernels, to torch
        cpu = import_module(f"{case.op.package}.numba_cpu")
        monkeypatch.setattr(cpu, "forward", case.cuda.forward)
        monkeypatch.setattr(cpu, "backward", case.cuda.backward)
    torch.use_deterministic_algorithms(True)
    yield emulator_build
    torch.use_deterministic_algorithms(False)


def _make_inputs(case, T=5, B=2, H=2, *, variant, reset="some", seed=0, **sizes):
    """Arguments of a case's op, in float64."""
    sizes = {"T": T, "B": B, "H": H, **sizes}
    inputs = samples.make_inputs(
        case.op, sizes, case.variants[variant], dtype=torch.float64, seed=seed
    )
    return {**inputs, "reset": _reset(T, B, reset)}


def _reset(T, B, kind):
    """The columns differ, where the kind leaves them room to."""
    reset = torch.zeros(T, B, dtype=torch.bool)
    if kind == "never":
        return None
    if kind == "some":
        reset = torch.rand(T, B, generator=torch.Generator().manual_seed(T)) < 0.2
    elif kind == "every step":
        reset[:] = True
    else:
        reset[0 if kind == "first" else T - 1, ::2] = True
    return reset


def _leaves(tree, name):
    """Name and tensor of every tensor in an argument or a result."""
    if isinstance(tree, torch.Tensor):
        yield name, tree
    elif isinstance(tree, tuple | list):
        for n, x in enumerate(tree):
            yield from _leaves(x, f"{name}[{n}]")


def _cast(x, dtype, device):
    if isinstance(x, tuple):
        return tuple(_cast(y, dtype, device) for y in x)
    if not isinstance(x, torch.Tensor):
        return x
    if x.is_floating_point():
        return x.detach().to(device, dtype).requires_grad_()
    return x.to(device)


def _outcome(case, inputs, *, backend, dtype=torch.float64, device="cpu", rounded_to=None):
    """The outputs of an op and the gradients of a loss on all of them, by name, in float64.

    rounded_to  a dtype that the inputs are rounded to, whatever they are then computed in
    """
    if rounded_to is not None:
        inputs = {name: _cast(x, rounded_to, "cpu") for name, x in inputs.items()}
    inputs = {name: _cast(x, dtype, device) for name, x in inputs.items()}
    results = dict(_leaves(case.op.run(**inputs, backend=backend), "output"))
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (x * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)).sum()
        for x in results.values()
    )
    named = dict(leaf for name, x in inputs.items() for leaf in _leaves(x, name))
    named = {name: x for name, x in named.items() if x.requires_grad}
    gradients = torch.autograd.grad(
        loss, list(named.values()), allow_unused=True, materialize_grads=True
    )
    results |= {f"gradient of {n}": g for n, g in zip(named, gradients, strict=True)}
    return {name: x.detach().cpu().double() for name, x in results.items()}


def _assert_close(got, expected, *, outputs, gradients):
    """Each tensor agrees to a tolerance relative to the largest entry of the expected one."""
    assert got.keys() == expected.keys()
    for name, truth in expected.items():
        tolerance = gradients if name.startswith("gradient") else outputs
        error = float((got[name] - truth).abs().max())
        bound = tolerance * max(float(truth.abs().max()), 1e-6)
        assert error <= bound, f"{name}: off by {error:.1e}, allowed {bound:.1e}"


@pytest.fixture(scope="session")
def make_inputs():
    return _make_inputs


@pytest.fixture(scope="session")
def outcome():
    return _outcome


@pytest.fixture(scope="session")
def assert_close():
    return _assert_close
