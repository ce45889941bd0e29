"""The launcher against a stub of the driver's library: what it packs, what it calls."""

import ctypes
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import torch

from fwp_rl.kernels import OPS, BackendError, backend_status, cuda_driver, dispatch, nvrtc, op
from fwp_rl.kernels.fast_weight import cuda
from fwp_rl.kernels.fast_weight_channels import cuda as channels

KERNEL = nvrtc.Kernel("fast_weight.cuh", "some_kernel", (16, 32), threads=64, shared=100)
STREAM = 0x7FFF00000400


@pytest.fixture(scope="module")
def stub_library(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("the stub of the driver needs g++")
    library = tmp_path_factory.mktemp("stub") / "libcuda_stub.so"
    source = Path(__file__).parent / "stub_driver.cpp"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@pytest.fixture
def stub(stub_library, monkeypatch):
    """The stub in the place of the driver, with no kernel loaded and no NVRTC asked."""
    monkeypatch.setattr(cuda_driver, "_driver_library", lambda: str(stub_library))
    monkeypatch.setattr(cuda_driver, "_current_stream", lambda device: STREAM + device)
    monkeypatch.setattr(cuda_driver, "_functions", {})
    monkeypatch.setattr(
        cuda_driver,
        "cubin",
        lambda *kernel: nvrtc.Cubin("_Z_symbol", b"\x7fELF" + repr(kernel).encode()),
    )
    cuda_driver.driver.cache_clear()
    cuda_driver.refusal.cache_clear()
    library = ctypes.CDLL(str(stub_library))
    library.stub_calls.restype = ctypes.c_char_p
    library.stub_packed.restype = ctypes.c_void_p
    library.stub_set(0, 0, 101376)
    yield library
    library.stub_capability(90)
    cuda_driver.driver.cache_clear()
    cuda_driver.refusal.cache_clear()


def _calls(stub):
    return stub.stub_calls().decode().splitlines()


def _packed(stub, launch, count):
    """What a function returns, and the arguments of the launch in it."""
    stub.stub_expect(ctypes.c_size_t(count))
    result = launch()
    return result, list((ctypes.c_longlong * count).from_address(stub.stub_packed()))


def test_a_launch(stub):
    x, y = torch.zeros(5), torch.zeros(7)
    arguments = [x, None, y, True, 5, 1 << 40]
    _, packed = _packed(stub, lambda: cuda_driver.launch(KERNEL, x, 12, arguments), 6)
    assert packed == [x.data_ptr(), 0, y.data_ptr(), 1, 5, 1 << 40]
    assert _calls(stub) == [
        "init 0",
        "retain 0",
        "push 0x7fff00000100",
        "load ELF",
        "function 0x7fff00000200 _Z_symbol",
        "attribute 0x7fff00000300 8 400",
        "pop",
        "push 0x7fff00000100",
        "launch 0x7fff00000300 grid 12 1 1 block 64 1 1 shared 400 stream 0x7fff00000400",
        "pop",
    ]


def test_a_kernel_is_loaded_once_for_each_dtype(stub):
    x = torch.zeros(5)
    for like in (x, x, x.bfloat16(), x.bfloat16(), x):
        cuda_driver.launch(KERNEL, like, 1, [x])
    calls = [call.split()[0] for call in _calls(stub)]
    assert (calls.count("load"), calls.count("launch"), calls.count("retain")) == (2, 5, 2)


def test_threads_load_a_kernel_once(stub):
    x = torch.zeros(5)
    barrier = threading.Barrier(4)

    def work():
        barrier.wait()
        cuda_driver.launch(KERNEL, x, 1, [x])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calls = [call.split()[0] for call in _calls(stub)]
    assert (calls.count("load"), calls.count("launch")) == (1, 4)


def test_what_fast_weight_packs(stub):
    """Field by field as the structs of fast_weight.cuh have them."""
    q, k = torch.randn(2, 5, 3, 4, 7).unbind()
    v, state = torch.randn(5, 3, 4, 33), torch.randn(3, 4, 33, 7)
    beta, op = torch.rand(5, 3, 4), OPS["fast_weight"]
    arguments = (q, k, v, beta, state, None, None, "delta")
    y, last, u = results = op.results(arguments)
    _, packed = _packed(stub, lambda: cuda.forward(arguments, results), 16)
    pointers = [x.data_ptr() for x in (q, k, v, beta, state)]
    inputs = [*pointers, 0, 0, 1, 5, 3, 4, 7, 33]
    assert packed == [*inputs, y.data_ptr(), last.data_ptr(), u.data_ptr()]
    assert "grid 12 1 1 block 32 1 1 shared" in _calls(stub)[-2]
    dq, dk, dv, dbeta, dstate, _ = gradients = op.gradients(arguments)
    _, packed = _packed(stub, lambda: cuda.backward(arguments, [u], [y, last], gradients, 3), 25)
    given = [x.data_ptr() for x in (u, y, last)]
    made = [x.data_ptr() for x in (dq, dk, dv, dbeta, dstate)]
    *packed, dlog_decay, p, dk_part = packed
    assert packed == [*inputs, 3, *given, *made]
    assert (dlog_decay, dk_part) == (0, dk.data_ptr())
    assert p not in (0, *pointers, *given, *made)


def test_what_fast_weight_channels_packs(stub):
    """Behind what ``fast_weight`` packs, whose one decay is null."""
    q, k, erase, log_decay = torch.randn(4, 5, 3, 4, 7).unbind()
    v, state, beta = torch.randn(5, 3, 4, 33), torch.randn(3, 4, 33, 7), torch.rand(5, 3, 4)
    op = OPS["fast_weight_channels"]
    arguments = (q, k, v, beta, state, erase, log_decay, None, "delta")
    y, last, u = results = op.results(arguments)
    _, packed = _packed(stub, lambda: channels.forward(arguments, results), 18)
    inputs = [*(x.data_ptr() for x in (q, k, v, beta, state)), 0, 0, 1, 5, 3, 4, 7, 33]
    own = [erase.data_ptr(), log_decay.data_ptr()]
    assert packed == [*inputs, *(x.data_ptr() for x in (y, last, u)), *own]
    dq, dk, dv, dbeta, dstate, derase, dlog = gradients = op.gradients(arguments)
    _, packed = _packed(
        stub, lambda: channels.backward(arguments, [u], [y, last], gradients, 3), 29
    )
    made = [x.data_ptr() for x in (dq, dk, dv, dbeta, dstate)]
    assert packed[:22] == [*inputs, 3, *(x.data_ptr() for x in (u, y, last)), *made]
    null, p, *packed = packed[22:]
    assert packed == [dk.data_ptr(), *own, derase.data_ptr(), dlog.data_ptr()]
    assert not null
    assert p not in (0, *own, *made)


def test_the_context_is_popped_when_a_launch_fails(stub):
    x = torch.zeros(5)
    stub.stub_set(700, 0, 101376)
    with pytest.raises(
        BackendError, match="CUDA driver: launching some_kernel: CUDA_ERROR_ILLEGAL_ADDRESS"
    ):
        cuda_driver.launch(KERNEL, x, 1, [x])
    assert _calls(stub)[-1] == "pop"
    stub.stub_set(999, 0, 101376)
    with pytest.raises(BackendError, match="launching some_kernel: error 999"):
        cuda_driver.launch(KERNEL, x, 1, [x])


def test_a_first_use_inside_a_graph_capture_is_refused(stub):
    x = torch.zeros(5)
    stub.stub_set(0, 1, 101376)
    with pytest.raises(BackendError, match="call the op once with these sizes before the capture"):
        cuda_driver.launch(KERNEL, x, 1, [x])
    stub.stub_set(0, 0, 101376)
    cuda_driver.launch(KERNEL, x, 1, [x])
    stub.stub_set(0, 1, 101376)
    cuda_driver.launch(KERNEL, x, 1, [x])  # loaded already: a launch can be captured


def test_too_much_shared_memory_is_refused(stub):
    x = torch.zeros(5)
    stub.stub_set(0, 0, 399)
    with pytest.raises(
        BackendError, match="needs 400 bytes of shared memory a block, this GPU has 399"
    ):
        cuda_driver.launch(KERNEL, x, 1, [x])


@pytest.mark.parametrize("capability", [70, 149])
def test_an_architecture_that_nvrtc_does_not_know_is_refused(stub, capability):
    stub.stub_capability(capability)
    x = torch.zeros(5)
    with pytest.raises(
        BackendError,
        match=rf"is compiled by NVRTC .* for sm_\d+ to .*, this GPU is an sm_{capability}",
    ):
        cuda_driver.launch(KERNEL, x, 1, [x])
    assert "load" not in stub.stub_calls().decode()


def test_where_there_is_no_driver(stub, monkeypatch):
    monkeypatch.setattr(cuda_driver, "_driver_library", lambda: "libcuda.so.none")
    with pytest.raises(BackendError, match=r"the CUDA driver cannot be loaded: libcuda\.so\.none"):
        cuda_driver.check_available()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_the_status_says_what_is_missing():
    assert backend_status()["cuda"] == (False, "torch finds no CUDA device")


SMALL_GPU = 65_536
"""Bytes of shared memory that a block has on a T4."""


def test_an_op_that_a_gpu_has_no_room_for_is_refused_before_it_begins(stub):
    stub.stub_set(0, 0, SMALL_GPU)
    op._device_refusal.cache_clear()

    def refusal(name, *sizes):
        return op.device_refusal(f"fwp_rl.kernels.{name}", sizes, 0)

    try:
        assert refusal("srwm", 64, 64) == (
            "needs 68,992 bytes of shared memory a block, this GPU has 65,536"
        ), "its backward pass does, and the forward pass is of no use without"
        assert refusal("srwm", 32, 32) == ""
        for name, sizes in {
            "fast_weight": (128, 128),
            "fast_weight_channels": (128, 128),
            "recurrent_delta": (64, 64),
            "fast_rnn": (64,),
            "fast_lstm": (64,),
        }.items():
            assert refusal(name, *sizes) == ""
        compiled = torch.compile(lambda: refusal("srwm", 64, 64), fullgraph=True, backend="eager")
        assert compiled().startswith("needs 68,992 bytes")
    finally:
        op._device_refusal.cache_clear()


def test_auto_goes_without_the_kernels_of_such_a_gpu(monkeypatch):
    """What ``choose_backend`` makes of the refusal."""
    monkeypatch.setattr(dispatch, "_status", lambda _: dispatch.BackendStatus(True))
    reason = "needs 68,992 bytes of shared memory a block, this GPU has 65,536"
    with pytest.warns(UserWarning, match="backend 'cuda' needs 68,992 bytes .* taking 'reference'"):
        chosen = dispatch.choose_backend("srwm", OPS["srwm"].backends, "cuda", refusal=reason)
    assert chosen == "reference"
