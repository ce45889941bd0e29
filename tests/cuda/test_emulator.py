"""The emulator finds what it is there to find."""

from pathlib import Path

import pytest
import torch

from fwp_rl.kernels.nvrtc import Kernel

# Each row of x is summed into y by one block of 64 threads, through shared memory.
GOOD = """
#include "common.cuh"
struct Arguments {
  const double* x;
  double* y;
  long long size;
};
template <class S> __global__ void row_sum(const Arguments a) {
  struct Layout {
    S x[64], halves[2];
  };
  Layout& now = shared<Layout>();
  const int i = threadIdx.x;
  now.x[i] = i < a.size ? a.x[blockIdx.x * a.size + i] : S(0);
  __syncthreads();  // staged
  const S sum = sum_over_lanes<32>(now.x[63 - i]);
  if (i % 32 == 0) now.halves[i / 32] = sum;
  __syncthreads();  // halved
  if (i == 0) a.y[blockIdx.x] = now.halves[0] + now.halves[1];
}
"""


READ = "i < a.size ? a.x[blockIdx.x * a.size + i] : S(0)"

# name → what to replace in GOOD, by what, what the emulator says
FAULTS = {
    "barrier": (
        "__syncthreads();  // staged",
        "if (i < 32) __syncthreads();",
        r"a divergent barrier at faulty_\d+.cuh:\d+: 32 of 64 threads came",
    ),
    "early end": (
        "if (i % 32 == 0) now",
        "if (i > 40) return;\n  now",
        r"a divergent barrier at faulty_\d+.cuh:\d+: 41 of 64 threads came",
    ),
    "shuffle": (
        "const S sum = sum_over_lanes<32>(now.x[63 - i]);",
        "const S sum = i % 2 ? sum_over_lanes<32>(now.x[i]) : S(0);",
        r"a divergent shuffle at common.cuh:\d+: 16 of 32 threads came",
    ),
    "mask": (
        "sum_over_lanes<32>(now.x[63 - i])",
        "__shfl_xor_sync(0xffu, now.x[i], 1)",
        r"a shuffle with a partial mask at faulty_\d+.cuh:\d+",
    ),
    "bounds of shared memory": (
        "now.x[i] = i <",
        "now.x[i + 8] = i <",
        "shared memory was written outside of its bounds",
    ),
    "bounds of an output": ("if (i == 0) a.y[", "a.y[i * 99 + ", "writes outside of argument 1"),
}
# the same, of what shows as NaN
UNSET = {
    "read beyond the end": (READ, "a.x[blockIdx.x * a.size + i]"),
    "shared memory that was never set": ("now.x[i] = i", "if (i < a.size) now.x[i] = i"),
    "result that was never set": ("if (i == 0) a.y", "if (i > 999) a.y"),
}
DELETED = {
    f"{barrier} deleted": (f"__syncthreads();  // {barrier}", "")
    for barrier in ("staged", "halved")
}


@pytest.fixture(scope="module")
def kernels(emulator_build, tmp_path_factory):
    """GOOD, and GOOD with each of the changes."""
    folder = tmp_path_factory.mktemp("sources")
    changes = {"good": ("", "")} | FAULTS | UNSET | DELETED
    kernels = {}
    for n, (name, (old, new, *_)) in enumerate(changes.items()):
        assert not old or GOOD.count(old) == 1
        path = folder / f"faulty_{n}.cuh"
        text = GOOD.replace(old, new) if old else GOOD
        for word in ("row_sum", "Arguments"):
            text = text.replace(word, f"{word}_{n}")
        path.write_text(text)
        kernels[name] = Kernel(str(path), f"row_sum_{n}", (), threads=64, shared=66)
    emulator_build.prepare(kernels.values())
    return kernels


@pytest.fixture
def run(emulator, kernels):
    """The sums of the rows of x by a kernel."""

    def run(x, name="good", **launch):
        y = x.new_empty(len(x))
        emulator.launch(kernels[name]._replace(**launch), x, len(x), [x, y, x.shape[1]])
        return y

    return run


@pytest.fixture
def rows():
    return torch.randn(3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("seed", range(4))
def test_runs_a_kernel(run, rows, emulator, seed):
    emulator.seed = seed
    torch.testing.assert_close(run(rows), rows.sum(1))


@pytest.mark.parametrize("barrier", ["staged", "halved"])
@pytest.mark.parametrize("how", ["skipped", "deleted"])
def test_a_missing_barrier_shows(run, rows, emulator, kernels, barrier, how):
    line = next(n for n, text in enumerate(GOOD.splitlines(), 1) if f"// {barrier}" in text)
    wrong = 0
    for seed in range(3):
        emulator.seed = seed
        if how == "skipped":
            emulator.skipped = f"{Path(kernels['good'].source).name}:{line}"
        got = run(rows, "good" if how == "skipped" else f"{barrier} deleted")
        wrong += not torch.allclose(got, rows.sum(1))
    assert wrong > 0


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(run, rows, fault):
    with pytest.raises(AssertionError, match=FAULTS[fault][2]):
        run(rows, fault)


@pytest.mark.parametrize("fault", UNSET)
def test_what_was_never_set_is_nan(run, rows, fault):
    assert run(rows, fault)[-1].isnan()


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ({"shared": 65}, r"wants 528 bytes of shared memory, its launch gives 520"),
        ({"threads": 65}, r"a block has whole warps, not 65 threads"),
    ],
)
def test_launches_are_checked(run, rows, launch, message):
    with pytest.raises(AssertionError, match=message):
        run(rows, **launch)


def test_arguments_are_counted(emulator, kernels, rows):
    with pytest.raises(AssertionError, match="arguments have 24 bytes, 32 were given"):
        emulator.launch(kernels["good"], rows, 3, [rows, rows.sum(1), 40, 0])
