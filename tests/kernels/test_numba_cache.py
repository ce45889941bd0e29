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

DEVIATION = """
import torch
from fwp_rl.kernels import fast_rnn
z, k, v = torch.randn(3, 1, 2, 2, 8, generator=torch.Generator().manual_seed(0)).unbind()
state = torch.ones(2, 2, 8, 8), torch.arange(32.0).view(2, 2, 8) / 8
given = z, k.softmax(-1), v, torch.full((1, 2, 2), 0.5), state
y, expected = (fast_rnn(*given, backend=backend)[0] for backend in ("numba", "reference"))
print("deviation", float((y - expected).abs().max()))
"""


BITS = """
from hashlib import sha256
from fwp_rl.kernels import OPS
from fwp_rl.kernels.samples import flat, make_inputs, outcome
for name, op in OPS.items():
    found = outcome(op, make_inputs(op, {"T": 20, "B": 3, "H": 2, "K": 17, "V": 17}), "numba")
    print(name, sha256(b"".join(x.numpy().tobytes() for x in flat(found))).hexdigest())
"""


def execute(code: str, package: Path, cache: Path) -> tuple[str, str]:
    """What a new process prints and says, with a package's kernels in a cache."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(package)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=package, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def run(package: Path, cache: Path, *, before: str = "") -> tuple[float, str]:
    """How far an op on numba is from the reference in a new process, and what that said."""
    printed, said = execute(before + DEVIATION, package, cache)
    return float(printed.split()[-1]), said


@pytest.mark.slow
def test_the_process_that_compiles_has_the_bits_of_those_that_load(tmp_path):
    compiling, loading = (execute(BITS, PACKAGE.parent, tmp_path)[0] for _ in range(2))
    assert compiling == loading


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


FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no such limit there")
@pytest.mark.parametrize("what", ["full", "not writable"])
def test_a_cache_that_takes_nothing_is_a_warning(what, tmp_path):
    file = tmp_path / "file"
    file.touch()
    cache, before = (tmp_path / "cache", FULL) if what == "full" else (file / "folder", "")
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

    def folder(name: str, *, ours: bool, used: float) -> Path:
        made = tmp_path / name
        made.mkdir()
        file = made / (numba_cache.USED if ours else "anything")
        file.touch()
        os.utime(file, (used, used))
        return made

    folder("fwp_rl-0123", ours=True, used=long_ago)  # the one to go
    lately = folder("fwp_rl-4567", ours=True, used=time.time() - 29 * 24 * 3600)
    users_own = folder("fwp_rl-thesis", ours=False, used=long_ago)
    another = folder("kernels_1698f5a4", ours=True, used=long_ago)
    execute("from fwp_rl.kernels import numba_runtime", PACKAGE.parent, tmp_path)
    (new,) = set(tmp_path.iterdir()) - {lately, users_own, another}
    assert {lately, users_own, another} < set(tmp_path.iterdir())
    assert new.name.startswith("fwp_rl-")
    assert (new / numba_cache.USED).exists()
