"""The choice of a backend."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from fwp_rl.kernels import (
    BACKENDS,
    BackendError,
    backend_status,
    dispatch,
    fast_weight,
    numba_threading_layer,
    use_backend,
)

ARGUMENTS = (*torch.ones(3, 2, 1, 1, 4), torch.ones(2, 1, 1), torch.zeros(1, 1, 4, 4))


def _took(**options):
    """Which of the CPU backends ran, told by what each leaves in the autograd graph."""
    leaf = ARGUMENTS[0].clone().requires_grad_()
    y, _ = fast_weight(leaf, *ARGUMENTS[1:], **options)
    node = type(y.grad_fn).__name__
    names = {"StackBackward0": "reference", "PermuteBackward0": "chunkwise"}
    return names.get(node, "numba" if "fast_weight" in node else node)


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_status_names_every_backend():
    status = backend_status()
    assert tuple(status) == BACKENDS == ("reference", "chunkwise", "numba", "cuda")
    for available, reason in status.values():
        assert available != bool(reason)
    assert status["reference"].available
    assert status["chunkwise"].available
    assert status["numba"].available


def test_threading_layer_has_a_name():
    assert numba_threading_layer() in ("tbb", "omp", "workqueue")


def test_the_order_of_wishes(monkeypatch):
    monkeypatch.delenv("FWP_RL_KERNELS", raising=False)
    assert _took() == "numba"
    monkeypatch.setenv("FWP_RL_KERNELS", "reference")
    assert _took() == "reference"
    with use_backend("chunkwise"):
        assert _took() == "chunkwise"
        with use_backend("auto"):
            assert _took() == "numba"
        assert _took(backend="reference") == "reference"
        assert _took() == "chunkwise"
    assert _took() == "reference"


def test_use_backend_holds_in_every_thread_and_ends_on_an_error(monkeypatch):
    monkeypatch.delenv("FWP_RL_KERNELS", raising=False)
    seen = []
    with pytest.raises(BackendError), use_backend("reference"):  # noqa: PT012
        thread = threading.Thread(target=lambda: seen.append(_took()))
        thread.start()
        thread.join()
        raise BackendError
    assert seen == ["reference"]
    assert _took() == "numba"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("way", ["argument", "context", "environment"])
def test_an_explicit_backend_never_falls_back(monkeypatch, way):
    reason = r"backend 'cuda' \(from .*\) is not available: torch finds no CUDA device"
    with pytest.raises(BackendError, match=reason):  # noqa: PT012
        if way == "argument":
            fast_weight(*ARGUMENTS, backend="cuda")
        elif way == "context":
            with use_backend("cuda"):
                fast_weight(*ARGUMENTS)
        else:
            monkeypatch.setenv("FWP_RL_KERNELS", "cuda")
            fast_weight(*ARGUMENTS)


def test_a_cpu_kernel_refuses_other_devices():
    arguments = [x.to("meta") for x in ARGUMENTS]
    with pytest.raises(BackendError, match="runs on cpu tensors, these are on meta"):
        fast_weight(*arguments, backend="numba")


def test_unknown_names_say_where_they_came_from(monkeypatch):
    with (
        pytest.raises(
            BackendError, match=r"use_backend: unknown backend 'nunba'. Did you mean 'numba"
        ),
        use_backend("nunba"),
    ):
        pass
    monkeypatch.setenv("FWP_RL_KERNELS", "gpu")
    with pytest.raises(
        BackendError, match=r"FWP_RL_KERNELS: unknown backend 'gpu'.* Known: auto, ref"
    ):
        fast_weight(*ARGUMENTS)


def test_without_numba_auto_says_once_that_it_falls_back():
    result = run(
        """
import sys, warnings
sys.modules["numba"] = None
import torch
from fwp_rl.kernels import BackendError, backend_status, fast_weight, numba_threading_layer
arguments = (*torch.ones(3, 2, 1, 1, 4), torch.ones(2, 1, 1), torch.zeros(1, 1, 4, 4))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    fast_weight(*arguments)
    fast_weight(*arguments)
assert len(caught) == 1, caught
print(caught[0].message)
print(backend_status()["numba"].reason, numba_threading_layer())
try:
    fast_weight(*arguments, backend="numba")
except BackendError as error:
    print(error)
""",
        FWP_RL_KERNELS="",
    )
    assert result.returncode == 0, result.stderr
    warning, status, error = result.stdout.splitlines()
    assert "numba cannot be imported" in warning
    assert "'chunkwise'" in warning
    assert "numba cannot be imported" in status
    assert status.endswith("None")
    assert "numba cannot be imported" in error


def test_kernels_and_cores_need_torch_numpy_and_numba_alone():
    result = run(
        """
import sys

class Refuse:
    names = {"gymnasium", "envpool", "tyro", "pydantic", "tensorboard", "yaml"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError(f"{name} must not be imported here")

sys.meta_path.insert(0, Refuse())
import fwp_rl.kernels
assert "numba" not in sys.modules, "numba must wait for its first use"
import fwp_rl.cores
import torch
torch.manual_seed(0)
x = torch.ones(2, 1, 1, 4)
fwp_rl.kernels.fast_weight(x, x, x, x[..., 0], torch.zeros(1, 1, 4, 4))
assert "numba" in sys.modules
assert len(fwp_rl.cores.CORES) > 0
"""
    )
    assert result.returncode == 0, result.stderr


def test_the_compiler_waits_for_its_first_use():
    """torch._dynamo takes as long to import as a second torch."""
    result = run(
        """
import sys
import fwp_rl.kernels
import fwp_rl.cores
import torch
x = torch.ones(2, 1, 1, 4, requires_grad=True)
y, _ = fwp_rl.kernels.fast_weight(x, x, x, x[..., 0], torch.zeros(1, 1, 4, 4))
y.sum().backward()
print(*sorted(m for m in sys.modules if m.startswith(("torch._dynamo", "torch._inductor"))))
"""
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_the_choice_is_marked_as_the_compiler_marks_it():
    """The mark is set by hand, without the compiler's import."""

    @torch.compiler.assume_constant_result
    def constant():
        pass

    assert vars(constant).items() <= vars(dispatch.choose_backend).items()
    assert vars(constant)
