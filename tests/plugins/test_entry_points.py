"""Cores and their kin from installed packages."""

import pytest

from fwp_rl.registry import Registry, UnknownNameError
from fwp_rl.runs.presets import policy_config_from_dict

from .conftest import REGISTRIES, Site

MODULE = """
from dataclasses import dataclass
from {module} import {registry} as REGISTRY, {base} as Base


@REGISTRY.register("{name}")
@dataclass(frozen=True, kw_only=True)
class Config(Base):
    \"\"\"Made for a test.\"\"\"
"""
WHERE = {
    "fwp_rl.cores": ("fwp_rl.cores", "CORES", "CoreConfig"),
    "fwp_rl.encoders": ("fwp_rl.models", "ENCODERS", "EncoderConfig"),
    "fwp_rl.envs": ("fwp_rl.envs", "ENVS", "EnvConfig"),
    "fwp_rl.agents": ("fwp_rl.runs.config", "AGENTS", "RunConfig"),
    "fwp_rl.tasks": ("fwp_rl.tasks", "TASKS", "TaskConfig"),
}
CORES = REGISTRIES["fwp_rl.cores"]


def source(group: str, name: str) -> str:
    module, registry, base = WHERE[group]
    return MODULE.format(module=module, registry=registry, base=base, name=name)


def cores(**points: str) -> dict[str, dict[str, str]]:
    return {"fwp_rl.cores": points}


def refusal(registry: Registry, name: str) -> str:
    with pytest.raises(UnknownNameError) as error:
        registry[name]
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("group", WHERE)
def test_a_name_that_nobody_registered_is_loaded(site: Site, group: str) -> None:
    registry = REGISTRIES[group]
    site.install("my-plugin", {"mine.py": source(group, "mine")}, {group: {"mine": "mine:Config"}})
    assert "mine" in registry
    assert "mine" in registry.names()
    assert "mine" not in list(registry), "asking loads nothing"
    found = registry["Mine"]
    assert found.__module__ == "mine"
    assert registry.name_of(found) == "mine"
    assert registry.load_all() == []


def test_a_config_finds_it(site: Site) -> None:
    points = cores(my_core="mine:Config")
    site.install("my-plugin", {"mine.py": source("fwp_rl.cores", "my_core")}, points)
    config = policy_config_from_dict({"core": "my-core"})
    assert type(config.core).__module__ == "mine"


def test_only_the_one_that_is_asked_for_is_loaded(site: Site) -> None:
    files = {"mine.py": source("fwp_rl.cores", "mine"), "other.py": "raise ValueError('loaded')"}
    site.install("my-plugin", files, cores(mine="mine", other="other"))
    assert CORES["mine"].__module__ == "mine"


def test_one_that_does_not_import_is_named_with_its_package_once(site: Site) -> None:
    text = "from pathlib import Path\nPath('tries').open('a').write('x')\nimport no_such\n"
    site.install("broken-plugin", {"broken.py": text}, cores(broken="broken:Config"))
    said = refusal(CORES, "broken")
    assert "broken:Config of the package broken-plugin 1.0 cannot be loaded" in said
    assert "ModuleNotFoundError: No module named 'no_such'" in said
    assert refusal(CORES, "broken") == said
    assert CORES.load_all() == [said]
    assert (site.path.parent / "tries").read_text() == "x"
    assert CORES["lstm"].__name__ == "LSTMConfig"


def test_what_it_registered_before_it_failed_is_gone(site: Site) -> None:
    text = source("fwp_rl.cores", "half") + "\nimport sys\nsys.exit('enough')\n"
    site.install("half-plugin", {"half.py": text}, cores(half="half"))
    assert "SystemExit: enough" in refusal(CORES, "half")
    assert "SystemExit: enough" in refusal(CORES, "half")


def test_a_name_of_two_packages_is_refused(site: Site) -> None:
    for number in (1, 2):
        files = {f"mine{number}.py": source("fwp_rl.cores", "mine")}
        site.install(f"plugin-{number}", files, cores(mine=f"mine{number}:Config"))
    said = refusal(CORES, "mine")
    assert "plugin-1 1.0" in said
    assert "plugin-2 1.0" in said
    assert "uninstall one of them" in said


def test_a_name_that_is_taken_is_left_out(site: Site) -> None:
    points = cores(lstm="mine:Config", lucky="mine:Config")
    site.install("my-plugin", {"mine.py": source("fwp_rl.cores", "lstm")}, points)
    assert CORES["lstm"].__module__ == "fwp_rl.cores.rnn"
    taken, clash = CORES.load_all()
    assert taken.startswith("core 'lstm': mine:Config of the package my-plugin 1.0 is left out")
    assert "there are two cores named 'lstm': fwp_rl.cores.rnn.LSTMConfig and mine.Config" in clash


def test_one_that_registers_another_name_is_refused(site: Site) -> None:
    points = cores(mine="mine:Config")
    site.install("my-plugin", {"mine.py": source("fwp_rl.cores", "other")}, points)
    assert "registers no core of that name" in refusal(CORES, "mine")


@pytest.mark.parametrize("group", WHERE)
def test_an_unknown_name_is_told_both_ways(group: str) -> None:
    said = refusal(REGISTRIES[group], "no_such_name")
    assert "--import its module" in said
    assert f"an entry point in {group}" in said


def test_a_cell_of_a_notebook_may_run_again(site: Site) -> None:
    namespace: dict[str, object] = {"__name__": "cell"}
    for _ in range(2):
        exec(source("fwp_rl.cores", "mine"), namespace)
    assert CORES["mine"] is namespace["Config"]
