"""What is read of YAML, by presets and ablations alike."""

import os
from pathlib import Path

import pytest

from fwp_rl import agents
from fwp_rl.ablation.grid import load_grid
from fwp_rl.config import ConfigError
from fwp_rl.runs.plain_yaml import parse_yaml
from fwp_rl.runs.yaml_files import read_yaml


def nested_anchors(item: str, use: str) -> str:
    """A kilobyte that stands for 9 to the 9th of an item."""
    lines = [f"b0: &b0 {item}"]
    lines += [f"b{i}: &b{i} {use % ', '.join([f'*b{i - 1}'] * 9)}" for i in range(1, 9)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nagent: ppo\nseed: 2", "line 3: seed: is given twice, first in line 1"),
        ("agent: ppo\ncore: {name: lstm, name: gru}", "line 2: name: is given twice"),
        ("a: [{b: [{c: 1,\n  'c': 2}]}]", "line 2: c: is given twice, first in line 1"),
        ("yes: 1\non: 2", "line 2: True: is given twice"),
        ("? [a]\n: 1", "line 1: a list or mapping is no key"),
        ("a: &a [*a]", "line 1: an alias stands inside of what it stands for"),
        ("a: *b", "line 1: found undefined alias"),
        ("a: [", "line 1: expected the node content"),
        ("a: !!int x", "line 1: got 'x', expected a value of type int"),
        ("a: !!int 0100", "expected a value of type int"),
        ("a: !!float x", "expected a value of type float"),
        ("a: !!float 0x10", "expected a value of type float"),
        ("a: !!bool x", "expected a value of type bool"),
        ("a: !!null x", "expected a value of type null"),
        ("a: !!timestamp 2001-01-01", "got the tag"),
        ("a: !!python/name:os.system", "got the tag"),
        ("a: !!set {b}", "got the tag"),
        ("a: !!binary aGk=", "got the tag"),
        ("a: <<", "got the tag"),
        ("<<: 5", "line 1: expected a mapping"),
        ("a: " + "9" * 5000, "line 1: got '999"),
        ("a: " + "1." + "0" * 5000, "line 1: got '1.0"),
        ("a: " + "[" * 100 + "]" * 100, "is nested too deeply"),
        ("a: " + "[" * 500, "is nested too deeply"),
        ("\n".join(" " * i + "a:" for i in range(300)), "is nested too deeply"),
        (nested_anchors("[1, 2]", "[%s]"), "stands for too much"),
        (nested_anchors("{a: 1, b: 2}", "{<<: [%s]}"), "stands for too much"),
        ("\n".join(["b0: &b0 [1]", *(f"b{i}: &b{i} [*b{i - 1}]" for i in range(1, 99))]), "deeply"),
        ("a: '\0'", "special characters are not allowed"),
        ("--- {}\n--- {}", "found another document"),
        ("- 1", "expected a mapping of fields, found list"),
        ("", "expected a mapping of fields, found NoneType"),
        ("a: 1\n" * 40_000, "has more than 131,072 bytes"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    for read in (read_yaml, agents.load_preset, load_grid):
        with pytest.raises(ConfigError) as error:
            read(path)
        said = str(error.value)
        assert message in said
        assert said.startswith(f"{path}: ")
        assert "\n" not in said
        assert len(said) < 400 + len(str(path))


def test_merge_keys_stay() -> None:
    text = """
base: &base {seed: 1, heads: 2}
more: &more {<<: *base, heads: 4}
both: {<<: [*more, *base], seed: 3}
"""
    data = parse_yaml(text, source="x")
    assert data["more"] == {"seed": 1, "heads": 4}
    assert data["both"] == {"seed": 3, "heads": 4}


def test_plain_values() -> None:
    text = """
numbers: [0, -3, +4, 1_000, 0x1F, 0b11, 1.5, .5, 1.5e+3, -.inf]
words: [0100, 10:00, 2001-01-02, 1e6, none, None, 1.2.3, =]
truth: [yes, No, TRUE, off]
nothing: [null, ~, ]
"""
    assert parse_yaml(text, source="x") == {
        "numbers": [0, -3, 4, 1000, 31, 3, 1.5, 0.5, 1500.0, -float("inf")],
        "words": ["0100", "10:00", "2001-01-02", "1e6", "none", "None", "1.2.3", "="],
        "truth": [True, False, True, False],
        "nothing": [None, None],
    }


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe, huge, text = tmp_path / "pipe.yaml", tmp_path / "huge.yaml", tmp_path / "text.yaml"
    os.mkfifo(pipe)
    huge.touch()
    os.truncate(huge, 1 << 40)
    text.write_bytes(b"a: \xff")
    for path, message in ((pipe, "is no file"), (huge, "has more than"), (text, "no UTF-8 text")):
        with pytest.raises(ConfigError, match=message):
            read_yaml(path)
    for name in ("a" * 5000, "a\0b"):
        with pytest.raises(ConfigError, match=r"cannot be read|is not valid YAML") as error:
            agents.load_preset(f"{name}.yaml")
        assert len(str(error.value)) < 400
