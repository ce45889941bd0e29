"""The contracts that cores and environments keep, as functions that anybody's tests may call.

    from fwp_rl.testing import check_core, check_env

    def test_my_core() -> None:
        check_core(LeakyConfig(heads=2, hidden_size=8))

What does not hold is an AssertionError that begins with the name of the check. ``CORE_CHECKS``,
``MEMORY_CHECKS`` and ``ENV_CHECKS`` have the checks one by one, for tests that report each of them;
the tests of this package run the same ones.
"""

from fwp_rl.testing.cores import CORE_CHECKS, MEMORY_CHECKS, check_core
from fwp_rl.testing.envs import ENV_CHECKS, Stream, check_env, record_stream

__all__ = [
    "CORE_CHECKS",
    "ENV_CHECKS",
    "MEMORY_CHECKS",
    "Stream",
    "check_core",
    "check_env",
    "record_stream",
]
