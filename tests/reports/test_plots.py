import io
import json
import math
import sys

import numpy as np
import pytest
from PIL import Image

from fwp_rl.reports.plots import (
    compare_learning_curves,
    draw_learning_curve,
    evaluation_curve,
    learning_curve,
    moving_average,
)

BLUE, VERMILION, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)

EVALUATION = {
    "step": 900,
    "summary": {"mean": 20.0, "interval": [15.0, 26.0]},
    "protocol": {"games": 30},
}


def rows(count: int) -> list[dict[str, float]]:
    return [{"step": 10 * i, "charts/episode_return": math.sqrt(i)} for i in range(count)]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def count(image: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((image == np.array(color)).all(axis=-1).sum())


@pytest.fixture
def run(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "config.yaml").touch()
    return tmp_path


def test_curve_png_of_a_run(run):
    lines = "".join(json.dumps(row) + "\n" for row in rows(100))
    (run / "metrics.jsonl").write_text(lines + '{"step": 1000, "charts/epis')
    assert learning_curve(run) == run / "curve.png"
    plain = pixels((run / "curve.png").read_bytes())
    assert plain.shape[1] >= 800
    assert count(plain, BLUE) > 500
    assert count(plain, VERMILION) == 0
    learning_curve(run, evaluation=EVALUATION)
    assert count(pixels((run / "curve.png").read_bytes()), VERMILION) > 50
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("number", [0, 1, 2, 39, 40, 41])
def test_any_number_of_points(number):
    pytest.importorskip("matplotlib")
    image = pixels(draw_learning_curve(rows(number), title="x"))
    assert (count(image, BLUE) > 0) == (number > 0)


def test_rows_without_a_return_are_left_out():
    pytest.importorskip("matplotlib")
    known = rows(30)
    extra = [{"step": 5}, {"step": 6, "charts/episode_return": math.nan}]
    with_extra = draw_learning_curve(extra + known, title="x")
    assert with_extra == draw_learning_curve(known, title="x")


def test_comparison_gives_a_colour_to_each_variant_and_a_line_to_each_run():
    pytest.importorskip("matplotlib")
    low = [{**row, "charts/episode_return": 1.0} for row in rows(50)]
    one = pixels(compare_learning_curves({"a": [rows(50)]}, title="x"))
    both = pixels(compare_learning_curves({"a": [rows(50)], "b": [low, rows(20)]}, title="x"))
    assert count(one, VERMILION) == 0
    assert (np.abs(both.astype(int) - np.array(VERMILION)).sum(-1) < 120).sum() > 100
    with pytest.raises(ValueError, match="got 8 variants, expected 7 or fewer"):
        compare_learning_curves({str(i): [] for i in range(8)}, title="x")


def test_an_evaluation_of_one_game_has_no_interval():
    pytest.importorskip("matplotlib")
    evaluation = EVALUATION | {"summary": {"mean": 3.0, "interval": None}}
    image = pixels(draw_learning_curve([], title="x", evaluation=evaluation))
    assert count(image, VERMILION) > 20


def an_evaluation_row(step: int, **changes: float) -> dict[str, float]:
    names = {"mean_return": 1.0, "interval_low": 0.5, "interval_high": 1.75} | changes
    return {"step": step, **{f"evaluation/{name}": value for name, value in names.items()}}


def test_evaluations_made_while_training_are_points_with_bars(run):
    training, evaluations = rows(100), [an_evaluation_row(step) for step in (0, 400, 800)]
    lines = [json.dumps(row) for row in sorted(training + evaluations, key=lambda r: r["step"])]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    learning_curve(run)
    image = pixels((run / "curve.png").read_bytes())
    assert count(image, GREEN) > 100
    assert count(image, BLUE) > 500
    assert count(image, VERMILION) == 0


@pytest.mark.parametrize(
    "row",
    [
        an_evaluation_row(100, interval_low=math.nan, interval_high=math.nan),
        {"step": 100, "evaluation/mean_return": 1.0},
        an_evaluation_row(100, interval_low=2.0),  # above its mean
    ],
)
def test_an_evaluation_row_may_lack_its_interval(row):
    pytest.importorskip("matplotlib")
    assert count(pixels(draw_learning_curve([row], title="x")), GREEN) > 20
    lacking = {"step": 100, "evaluation/interval_low": 1.0}
    assert count(pixels(draw_learning_curve([lacking], title="x")), GREEN) == 0


def test_evaluations_of_several_checkpoints_are_one_curve(tmp_path):
    pytest.importorskip("matplotlib")
    made = [EVALUATION | {"step": step} for step in (900, 100, None, 500)]
    made.append(EVALUATION | {"step": 700, "summary": {"mean": 3.0, "interval": None}})
    path = tmp_path / "new" / "evaluations.png"
    assert evaluation_curve(made, path, "$x^$") == path
    whole = pixels(path.read_bytes())
    assert count(whole, VERMILION) > 500
    evaluation_curve(made[:1], path, "one")
    assert 20 < count(pixels(path.read_bytes()), VERMILION) < count(whole, VERMILION)
    evaluation_curve([], path, "none")
    assert count(pixels(path.read_bytes()), VERMILION) == 0


def test_without_matplotlib_the_message_names_the_extra(run, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'fwp-rl\[reports\]'"):
        learning_curve(run)


@pytest.mark.parametrize(("length", "window"), [(10, 3), (11, 4), (5, 5), (7, 1), (40, 2)])
def test_moving_average_is_the_mean_of_a_window(length, window):
    values = np.random.default_rng(0).normal(size=length)
    smooth = moving_average(values, window)
    for i in range(length):
        first = i - window // 2
        assert smooth[i] == pytest.approx(values[max(first, 0) : first + window].mean())
