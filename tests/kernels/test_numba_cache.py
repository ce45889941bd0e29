"""Where numba's kernels are kept: a change of any kernel source is seen, and no cache is worth a
training. Each in processes of its own, on a copy of the package where its sources change."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fwp_rl
from fwp_rl.kernels import numba_cache

PACKAGE = Path(fwp_rl.__file__).parent

KERNEL = """
from fwp_rl.kernels.numba_math import exp
from fwp_rl.kernels.numba_runtime import compiled

@compiled
def exponentials(x, y):
    for i in range(len(x)):
        y[i] = exp(x[i])
"""
"""A kernel of one line: what is asked here is where it is kept, not what it takes to compile."""

DEVIATION = """
import numpy as np
from small_kernel import exponentials
x = np.linspace(-8, 8, 17, dtype=np.float32)
y = np.empty_like(x)
exponentials(x, y)
print("deviation", float(np.abs(y / np.exp(x) - 1).max()))
"""


BITS = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
logging.getLogger("numba").setLevel(logging.WARNING)
from hashlib import sha256
from fwp_rl.kernels import OPS
from fwp_rl.kernels.samples import flat, make_inputs, outcome
for name in OPS:
    if len(sys.argv) == 1 or name in sys.argv:
        op = OPS[name]
        found = outcome(op, make_inputs(op, {"T": 20, "B": 3, "H": 2, "K": 17, "V": 17}), "numba")
        print(name, sha256(b"".join(x.numpy().tobytes() for x in flat(found))).hexdigest())
"""


def execute(code: str, package: Path, cache: Path, *arguments: str) -> tuple[str, str]:
    """What a new process prints and says, with a package's kernels in a cache."""
    beside = cache.parent / "beside"
    beside.mkdir(exist_ok=True)
    if not (file := beside / "small_kernel.py").exists():
        file.write_text(KERNEL)
    path = os.pathsep.join([str(package), str(beside)])
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": path}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, cwd=package, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def run(package: Path, cache: Path, *, before: str = "") -> tuple[float, str]:
    """How far a kernel is from numpy, relative, in a new process, and what that said."""
    printed, said = execute(before + DEVIATION, package, cache)
    return float(printed.split()[-1]), said


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("fast_weight",), marks=pytest.mark.slow),  # the quickest to compile
        pytest.param((), id="all", marks=pytest.mark.long),
    ],
)
def test_the_process_that_compiles_has_the_bits_of_those_that_load(names, tmp_path):
    cache = tmp_path / "cache"
    compiling, said = execute(BITS, PACKAGE.parent, cache, *names)
    loading, said_later = execute(BITS, PACKAGE.parent, cache, *names)
    assert compiling == loading != ""
    told = said.splitlines()
    waits = [line for line in told if line.startswith("compiling the kernel ")]
    kernels = {line.split()[3].rstrip(",") for line in waits}
    assert {"fast_weight.forward", "fast_weight.backward"} <= {
        x.rpartition("_")[0] for x in kernels
    }
    for kernel in kernels:
        (began,) = [n for n, line in enumerate(told) if f" {kernel}, once on this ma" in line]
        (ended,) = [n for n, line in enumerate(told) if f"... {kernel} took " in line]
        assert began < ended
    assert said_later == "", "nobody waits any more"


@pytest.mark.slow
def test_a_change_of_a_shared_helper_takes_effect(tmp_path):
    """numba itself looks at the file of the kernel alone."""
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGE, copy / "fwp_rl", ignore=shutil.ignore_patterns("__pycache__"))
    helpers = copy / "fwp_rl" / "kernels" / "numba_math.py"
    right = helpers.read_text()
    wrong = right.replace("r = x - n * f(0.693147182)", "r = x / 2 - n * f(0.693147182)")
    assert wrong != right
    cache = tmp_path / "cache"
    helpers.write_text(wrong)
    assert run(copy, cache)[0] > 1e-3
    helpers.write_text(right)
    assert run(copy, cache)[0] < 1e-5
    helpers.write_text(wrong)
    assert run(copy, cache)[0] > 1e-3, "each finds its own"
    assert not list(copy.rglob("*.nbi")), "the package's folder is left alone"


@pytest.mark.slow
def test_a_checkout_at_another_place_finds_what_one_has_compiled(tmp_path):
    cache = tmp_path / "cache"
    inside = DEVIATION.replace("from small_kernel", "from fwp_rl.kernels.small_kernel")
    found = []
    for name in ("here", "there"):
        copied = tmp_path / name / "fwp_rl"
        shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
        (copied / "kernels" / "small_kernel.py").write_text(KERNEL)
        execute(inside, tmp_path / name, cache)
        found.append({path: path.stat().st_mtime_ns for path in cache.rglob("*.nb?")})
    assert found[0] == found[1] != {}


FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no such limit there")
@pytest.mark.parametrize("what", ["full", "not writable"])
def test_a_cache_that_takes_nothing_is_a_warning(what, tmp_path):
    cache, before = tmp_path / "cache", FULL if what == "full" else ""
    if what == "not writable":
        cache.touch()  # a file where a folder is needed
    deviation, said = run(PACKAGE.parent, cache, before=before)
    assert deviation < 1e-5
    assert said.count("numba kernels will be compiled anew in every process") == 1
    assert "point NUMBA_CACHE_DIR at" in said


@pytest.mark.slow
def test_a_damaged_cache_is_compiled_anew(tmp_path):
    cache = tmp_path / "cache"
    run(PACKAGE.parent, cache)
    files = [*cache.rglob("*.nbi"), *cache.rglob("*.nbc")]
    sizes = {path: path.stat().st_size for path in files}
    for n, path in enumerate(files):
        path.write_bytes(path.read_bytes()[:10] if n % 2 else b"not a pickle")
    deviation, said = run(PACKAGE.parent, cache)
    assert deviation < 1e-5
    assert "Warning" not in said
    used = [path for path in files if path.stat().st_size > 12]
    assert used, "what was compiled is kept again"
    assert all(abs(path.stat().st_size - sizes[path]) < 4096 for path in used)


def test_folders_that_nobody_used_for_thirty_days_are_removed(tmp_path):
    long_ago = time.time() - 31 * 24 * 3600
    parent = tmp_path / "cache"

    def folder(name: str, *, ours: bool, used: float) -> Path:
        made = parent / name
        made.mkdir(parents=True)
        file = made / (numba_cache.USED if ours else "anything")
        file.touch()
        os.utime(file, (used, used))
        return made

    folder("fwp_rl-0123", ours=True, used=long_ago)  # the one to go
    lately = folder("fwp_rl-4567", ours=True, used=time.time() - 29 * 24 * 3600)
    users_own = folder("fwp_rl-thesis", ours=False, used=long_ago)
    another = folder("kernels_1698f5a4", ours=True, used=long_ago)
    execute("from fwp_rl.kernels import numba_runtime", PACKAGE.parent, parent)
    (new,) = set(parent.iterdir()) - {lately, users_own, another}
    assert {lately, users_own, another} < set(parent.iterdir())
    assert new.name.startswith("fwp_rl-")
    assert (new / numba_cache.USED).exists()
