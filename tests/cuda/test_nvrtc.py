"""Compiling the kernels for every kind of GPU, where there is none; the cache of what was made."""

import itertools
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fwp_rl.kernels import BackendError, nvrtc
from fwp_rl.kernels.fast_weight import cuda
from fwp_rl.resources import cuda_dir

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
SHARED_MEMORY = 99 * 1024  # of a block on sm_120, which has the least
KERNEL = next(cuda.kernels())


@pytest.fixture(scope="module", autouse=True)
def _needs_nvrtc():
    try:
        nvrtc.nvrtc_version()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache folder, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fwp_rl" / "cuda"


@pytest.fixture
def compilations(monkeypatch):
    """What was compiled, in order."""
    seen = []
    compile_kernel = nvrtc.compile_kernel
    monkeypatch.setattr(nvrtc, "compile_kernel", lambda *x: seen.append(x) or compile_kernel(*x))
    return seen


def _check(made, what):
    assert made.code.startswith(b"\x7fELF"), what
    assert re.search(
        r"\b0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", made.log
    ), f"{what}: {made.log}"


def test_compiles_without_spills():
    made = nvrtc.compile_kernel(KERNEL, "float", "sm_90")
    _check(made, KERNEL)
    assert KERNEL.name in made.symbol


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_without_spills(case, architecture):
    """Each on one architecture, in float32 or, by turns, bfloat16. By hand all on all, below."""
    turn = ARCHITECTURES.index(architecture)
    kernels = list(case.cuda.kernels())
    scalars = itertools.cycle(("float", "bf16") if turn % 2 else ("bf16", "float"))
    work = list(zip(kernels[turn::4], scalars, strict=False))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = pool.map(lambda x: nvrtc.compile_kernel(*x, architecture), work)
        for (kernel, scalar), cubin in zip(work, made, strict=True):
            _check(cubin, kernel.expression(scalar))
            assert 4 * kernel.shared <= SHARED_MEMORY


@pytest.mark.long
@pytest.mark.parametrize("scalar", ["float", "bf16"])
def test_every_kernel_compiles_on_every_architecture(case, scalar):
    for kernel, architecture in itertools.product(case.cuda.kernels(), ARCHITECTURES):
        _check(nvrtc.compile_kernel(kernel, scalar, architecture), kernel.expression(scalar))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on the PATH")
def test_nvcc_compiles_too(case, tmp_path):
    kernels = list(case.cuda.kernels())
    kernels = kernels[:2] + kernels[-2:]
    lines = sorted({f'#include "{kernel.source}"' for kernel in kernels})
    for n, kernel in enumerate(kernels):
        lines.append(f"const void* use_{n} = (const void*)&{kernel.expression('float')};")
    (tmp_path / "all.cu").write_text("\n".join(lines))
    command = [
        "nvcc",
        "-std=c++17",
        "-arch=sm_90",
        "-cubin",
        "-Xptxas=-v",
        "-I",
        cuda_dir(),
        "all.cu",
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", result.stderr)
    assert len(spills) >= len(set(kernels))
    assert set(spills) == {("0", "0")}


def test_a_compiler_error_is_shown():
    broken = KERNEL._replace(template=(16, 16, 48, 16))
    with pytest.raises(
        BackendError, match=r"NVRTC .* cannot compile .*<float, 16, 16, 48, 16> of "
    ):
        nvrtc.compile_kernel(broken, "float", "sm_90")
    with pytest.raises(BackendError, match="threads do not divide the tile"):
        nvrtc.compile_kernel(broken, "float", "sm_90")
    with pytest.raises(BackendError, match=r"for sm_12345: .*gpu-architecture"):
        nvrtc.compile_kernel(KERNEL, "float", "sm_12345")


def test_a_kernel_is_compiled_once(cache, compilations):
    first = nvrtc.cubin(KERNEL, "float", "sm_90")
    again = nvrtc.cubin(KERNEL, "float", "sm_90")
    assert (again.symbol, again.code) == (first.symbol, first.code)
    assert len(compilations) == 1
    assert len(list(cache.iterdir())) == 1


def test_the_key_has_all_that_matters(cache, compilations, monkeypatch, tmp_path):
    nvrtc.cubin(KERNEL, "float", "sm_90")
    nvrtc.cubin(KERNEL, "bf16", "sm_90")
    nvrtc.cubin(KERNEL, "float", "sm_80")
    copied = tmp_path / "copied.cuh"
    copied.write_text((cuda_dir() / KERNEL.source).read_text() + "// changed")
    nvrtc.cubin(KERNEL._replace(source=str(copied)), "float", "sm_90")
    monkeypatch.setattr(nvrtc, "nvrtc_version", lambda: "99.9")
    nvrtc.cubin(KERNEL, "float", "sm_90")
    assert len(compilations) == len(list(cache.iterdir())) == 5


@pytest.mark.parametrize(
    "damage", [lambda x: x[:-9], lambda x: b"", lambda x: x[:99] + b"?" + x[100:]]
)
def test_a_damaged_file_is_made_anew(cache, compilations, damage):
    first = nvrtc.cubin(KERNEL, "float", "sm_90")
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert nvrtc.cubin(KERNEL, "float", "sm_90").code == first.code
    assert nvrtc.cubin(KERNEL, "float", "sm_90").code == first.code
    assert len(compilations) == 2


def test_half_a_file_is_never_seen(cache, monkeypatch):
    seen = []

    def crash(source, target):
        seen.append((os.path.getsize(source), os.path.exists(target)))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        nvrtc.cubin(KERNEL, "float", "sm_90")
    ((size, replaced),) = seen
    assert size > 1000
    assert not replaced
    assert list(cache.iterdir()) == []


def test_without_a_cache_folder_a_warning_says_so_once(tmp_path, monkeypatch, recwarn):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert nvrtc.cubin(KERNEL, "float", "sm_90").code
    (warning,) = recwarn
    assert "point XDG_CACHE_HOME at a writable folder" in str(warning.message)


@pytest.mark.skipif(shutil.which("g++") is None, reason="makes a library with g++")
@pytest.mark.parametrize(("version", "folder"), [("12.8", "cuda_nvrtc"), ("13.0", "cu13")])
def test_finds_the_one_that_torch_brings(tmp_path, monkeypatch, version, folder):
    major, minor = version.split(".")
    place = tmp_path / "nvidia" / folder / "lib"
    place.mkdir(parents=True)
    (tmp_path / "stub.cpp").write_text(
        f'extern "C" int nvrtcVersion(int* x, int* y) {{ *x = {major}; *y = {minor}; return 0; }}'
        'extern "C" const char* nvrtcGetErrorString(int) { return ""; }'
    )
    library = place / f"libnvrtc.so.{major}"
    subprocess.run(["g++", "-shared", "-fPIC", tmp_path / "stub.cpp", "-o", library], check=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.version, "cuda", version)
    nvrtc._library.cache_clear()
    try:
        assert nvrtc.nvrtc_version() == version
    finally:
        nvrtc._library.cache_clear()


def test_where_there_is_no_nvrtc(monkeypatch):
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter(["libnvrtc.so.none"]))
    nvrtc._library.cache_clear()
    try:
        with pytest.raises(
            BackendError, match=r"NVRTC, .* is not found \(looked for libnvrtc.so.none"
        ):
            nvrtc.compile_kernel(KERNEL, "float", "sm_90")
    finally:
        nvrtc._library.cache_clear()
