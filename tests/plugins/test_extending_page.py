"""docs/extending.md does what it says, as an installed package."""

import re
import tomllib
from pathlib import Path

import pytest

import fwp_rl
from fwp_rl.envs import ENVS

from .conftest import Site

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.slow
def test_the_package_of_the_page(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    files, script = {}, []
    for block in blocks("python"):
        name = re.match(r"# (\S+\.py)\n", block)
        if name:
            files[name[1]] = block
        else:
            script.append(block)
    (toml,) = blocks("toml")
    project = tomllib.loads(toml)["project"]
    site.install(project["name"], files, project["entry-points"])
    tests: dict[str, object] = {}
    exec(compile(files["tests/test_my_rl.py"], "tests/test_my_rl.py", "exec"), tests)
    site.forget()
    called = [test for name, test in tests.items() if name.startswith("test_")]
    assert len(called) == 2
    for test in called:
        test()  # type: ignore[operator]
    exec(compile("\n".join(script), "docs/extending.md", "exec"), {})
    games = re.search(r"(\d+) games, mean return (\S+)", capsys.readouterr().out)
    assert games
    assert int(games[1]) >= 20
    assert float(games[2]) > 5
    site.forget()  # which leaves the entry points
    policy = fwp_rl.load_policy("runs/cartpole")
    assert type(policy.core).__module__ == "my_rl.cores"
    assert ENVS["tap"].__module__ == "my_rl.envs"


def test_the_adapter_for_stable_baselines_is_python() -> None:
    (block,) = blocks("py")
    compile(block, "docs/extending.md", "exec")
