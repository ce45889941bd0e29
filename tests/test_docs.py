"""The documentation does what it says."""

import re
import tomllib
from doctest import DocTestFinder, DocTestRunner
from pathlib import Path

import pytest
import torch

import fwp_rl
from fwp_rl import kernels

ROOT = Path(__file__).parents[1]


def test_the_python_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 5
    exec(compile("\n".join(blocks), "docs/python.md", "exec"), {})
    assert "games, mean return" in capsys.readouterr().out
    assert (tmp_path / "runs" / "mine" / "policy").is_dir()


@pytest.mark.parametrize("op", kernels.OPS)
def test_the_example_of_an_op_runs(op: str) -> None:
    function = getattr(kernels, op)
    (example,) = DocTestFinder().find(function, op, globs={"torch": torch, op: function})
    assert example.examples
    said: list[str] = []
    assert DocTestRunner().run(example, out=said.append).failed == 0, "".join(said)


def test_links_of_the_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)", prose):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_architecture_page_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for folder in ("fwp_rl", "agents", "configs"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml") and path.name != "__init__.py":
                assert path.name in text, f"docs/architecture.md does not name {path}"


def test_the_pages_state_the_order_of_imports_that_is_held() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = config["tool"]["importlinter"]["contracts"][0]
    held = [layer.split(" : ") for layer in contract["layers"] if layer != "__main__"]
    for page in ("CONTRIBUTING.md", "docs/architecture.md"):
        text = " ".join((ROOT / page).read_text().split())
        stated = re.search(r"\bcli → (?:\w+,? |→ )+", text)
        assert stated, page
        assert [layer.split(", ") for layer in stated[0].strip().split(" → ")] == held, page


def test_the_version_is_known() -> None:
    assert fwp_rl.__version__ != "0+uninstalled"
