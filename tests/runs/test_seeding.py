import itertools

import torch

from fwp_rl.runs.seeding import derive_seed, env_seeds, seed_everything


def test_env_seeds_are_int32_and_different():
    seeds = env_seeds(7, 4096, stream="train")
    assert len(set(seeds)) == 4096
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert max(seeds) > 2**30, "the whole range is used"


def test_neighbouring_runs_and_streams_share_no_environment_seed():
    runs = [set(env_seeds(run, 64, stream="train")) for run in range(200)]
    assert all(a.isdisjoint(b) for a, b in itertools.pairwise(runs))
    streams = ("train", "evaluation", "resume-100", "resume-1000", "video")
    for a, b in itertools.combinations(streams, 2):
        assert not set(env_seeds(3, 64, stream=a)) & set(env_seeds(3, 64, stream=b))


def test_more_environments_keep_the_seeds_of_fewer():
    assert env_seeds(5, 64, stream="train")[:16] == env_seeds(5, 16, stream="train")


def test_seeds_stay_the_same_over_versions():
    """Changing them would silently change what every stored run command means."""
    assert env_seeds(1, 2, stream="train") == [1128105992, 369696845]
    assert derive_seed(1, "action") == 1710158993690491924


def test_derived_seeds_differ():
    seeds = {derive_seed(run, stream) for run in range(100) for stream in ("a", "b", "aa")}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seed_everything_fixes_torchs_global_stream():
    seed_everything(3)
    first = torch.rand(4)
    seed_everything(4)
    other = torch.rand(4)
    seed_everything(3)
    assert torch.equal(torch.rand(4), first)
    assert not torch.equal(other, first)
