"""Mutations in a process with little memory and time: ``marathon.py SCRATCH COUNT``.

Prints what it is about to try, so that a process that is killed has said at what.
"""

import json
import random
import resource
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.mutations import KINDS, mutate
from faults.subjects import OLDER, check, make_run, weights_of

MEMORY = 512 << 20
"""Bytes of address space, beside those that the imports and an intact run take."""
SECONDS = 5
"""Of CPU, for all readers of one mutated run together."""


def main(scratch: Path, count: int) -> None:
    torch.set_num_threads(1)
    run, damaged = scratch / "run", scratch / "damaged"
    make_run(run)
    truth = weights_of(run)
    check(run, truth)  # whatever is compiled at first use is
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    done: Counter[str] = Counter()
    refused = older = 0
    for seed in range(count):
        shutil.copytree(run, damaged)
        what = mutate(damaged, random.Random(seed), spare=[damaged / OLDER])
        print(f"mutation {seed}: {what}", flush=True)
        allowed = int(time.process_time()) + SECONDS + 1
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.RLIM_INFINITY))
        outcome = check(damaged, truth)
        done[what.split()[0]] += 1
        refused += outcome.refused > 0
        older += outcome.older
        shutil.rmtree(damaged)
    assert done.keys() == KINDS.keys(), KINDS.keys() - done.keys()
    facts = {"mutations": count, "refused": refused, "older checkpoint": older, "kinds": len(done)}
    print(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
