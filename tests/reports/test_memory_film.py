"""The film of an agent's memory: for every core, on a toy task and without one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fwp_rl.cores import CORES, recording
from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.classic import ClassicConfig
from fwp_rl.envs.minigrid import MiniGridConfig
from fwp_rl.envs.toy import RecallConfig
from fwp_rl.models.encoders import MLPConfig
from fwp_rl.models.policy import Policy, PolicyConfig
from fwp_rl.reports.heatmap import DIVERGING, colours, tile_boxes
from fwp_rl.reports.memory_film import SIZE, MemoryFilm
from fwp_rl.reports.moments import Moment, bands_of, play, screen_of
from fwp_rl.reports.video import write_video
from fwp_rl.rl.collector import Actor


def an_actor(core: str) -> Actor:
    torch.manual_seed(0)
    env = RecallConfig()
    small = {} if core == "feedforward" else {"hidden_size": 16}
    config = PolicyConfig(encoder=MLPConfig(), core=CORES[core](**small))
    policy = Policy(config, env.spec())
    return Actor(policy, env.make(1, [1]), generator=torch.Generator().manual_seed(0))


def moments_of(core: str, *, games: int = 2) -> list[Moment]:
    return play(an_actor(core), lambda a: screen_of(a, films=False), games=games, limit=500)


def film_of(core: str) -> MemoryFilm:
    return MemoryFilm(moments_of(core), title="recall", core=core, actions=None)


@pytest.mark.parametrize("core", sorted(CORES.keys()))
def test_every_core_has_a_film(core: str) -> None:
    film = film_of(core)
    moments = film.moments
    assert bool(moments[0].bands) == (core != "feedforward")
    frames = [film.frame(0), film.frame(len(film) - 1)]
    for frame in frames:
        assert frame.shape == (SIZE[1], SIZE[0], 3)
        assert frame.dtype == np.uint8
    assert (frames[0] != frames[1]).any()
    for band, boxes in zip(moments[0].bands, film._boxes, strict=False):
        assert band.matrices.ndim == 3
        assert len(boxes) == len(band.matrices)
        for left, top, width, height in boxes:
            assert left >= 0
            assert top >= 0
            assert width > 0
            assert height > 0
            assert left + width <= SIZE[0]
            assert top + height <= SIZE[1]
    for _, (left, top, width, height) in film._charts:
        assert height >= 12
        assert left + width <= SIZE[0]
        assert top + height <= SIZE[1]


def test_a_moment_is_what_the_agent_saw_did_and_held() -> None:
    shown = moments_of("delta_net", games=1)
    actor = an_actor("delta_net")
    before = [torch.zeros_like(leaf) for leaf in actor.state]
    for moment in shown:
        with recording() as records:
            step = actor.step()
        assert moment.action == step.action.item()
        assert moment.value == pytest.approx(step.output.value.item())
        assert moment.reset == step.observation.reset.item()
        assert moment.preferences.sum() == pytest.approx(1)
        for band, W, old in zip(moment.bands, step.output.state, before, strict=True):
            np.testing.assert_allclose(band.matrices, W[0].numpy(), atol=2e-3, rtol=2e-3)
            if not moment.reset:
                assert moment.change[band.part] == pytest.approx((W - old).norm().item(), rel=1e-4)
            else:
                assert np.isnan(moment.change[band.part])
        rates = torch.cat([beta[0, 0] for beta in records["beta"]])
        np.testing.assert_allclose(moment.rates["beta"], rates.numpy())
        before = list(step.output.state)
    assert shown[-1].score == sum(moment.reward for moment in shown)


def test_memories_without_fast_weights_are_shown_by_their_leaves() -> None:
    assert [band.label for band in moments_of("lstm", games=1)[0].bands] == ["hidden", "cell"]
    window = moments_of("gtrxl", games=1)[0]
    assert window.bands[0].label == "window of layer 1"
    assert window.attention is not None
    assert window.attention.shape == (2 * 4, 65)
    odd = bands_of((torch.zeros(1, 7), torch.zeros(1, 2, 3, 4, 5)), {}, ())
    assert [band.label for band in odd] == ["state 1", "state 2"]
    assert [band.matrices.shape for band in odd] == [(1, 1, 7), (6, 4, 5)]


def test_the_scale_of_colours_is_the_whole_films() -> None:
    film = film_of("delta_net")
    numbers = np.concatenate([np.abs(b.matrices).ravel() for m in film.moments for b in m.bands])
    assert film.scale == pytest.approx(np.percentile(numbers.astype(np.float32), 99), rel=0.01)
    band, (left, top, width, height) = film.moments[-1].bands[0], film._boxes[0][0]
    tile = film.frame(len(film) - 1)[top : top + height, left : left + width]
    rows, columns = band.matrices.shape[1:]
    assert (height % rows, width % columns) == (0, 0)
    expected = colours(band.matrices[0], -film.scale, film.scale, DIVERGING)
    np.testing.assert_array_equal(tile[:: height // rows, :: width // columns], expected)


def test_colours_end_at_the_ends_of_the_scale() -> None:
    x = np.array([-9.0, -1.0, 0.0, 1.0, 9.0], np.float32)
    low, same_low, zero, same_high, high = colours(x, -1, 1, DIVERGING).tolist()
    assert (low, high) == (same_low, same_high)
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert max(zero) < 40


@pytest.mark.parametrize(
    "shape", [(1, 8, 32), (4, 32, 32), (12, 32, 32), (4, 128, 32), (7, 300, 700)]
)
def test_tiles_stay_in_their_area_and_apart(shape: tuple[int, int, int]) -> None:
    boxes = tile_boxes(*shape, (10, 20, 576, 140))
    taken = np.zeros((200, 600), int)
    for left, top, width, height in boxes:
        taken[top : top + height, left : left + width] += 1
    assert len(boxes) == shape[0]
    assert taken.max() == 1
    assert taken[:20].sum() == taken[160:].sum() == taken[:, :10].sum() == taken[:, 586:].sum() == 0


def test_a_gif_of_a_game_is_small_and_a_sheet_holds_four_frames(tmp_path: Path) -> None:
    film = film_of("delta_net")
    frames = map(film.frame, range(len(film)))
    path = write_video(frames, tmp_path / "film.gif", 4, gif_colours=film.samples())
    with Image.open(path) as image:
        assert (image.size, image.n_frames) == (SIZE, len(film))
    assert path.stat().st_size < 30_000 * len(film)
    sheet = film.sheet()
    assert sheet.shape == (2 * SIZE[1], 2 * SIZE[0], 3)
    np.testing.assert_array_equal(sheet[SIZE[1] :, SIZE[0] :], film.frame(len(film) - 1))


@pytest.mark.parametrize(
    "config",
    [
        lambda: AtariConfig(game="Breakout"),
        lambda: AtariConfig(game="Skiing", protocol="machado"),
        lambda: MiniGridConfig(),
        lambda: ClassicConfig(),
    ],
)
def test_actions_have_names(config: Callable[[], AtariConfig]) -> None:
    env = config()
    names = env.action_names()
    assert names is not None
    assert len(set(names)) == env.spec().num_actions


def test_breakouts_actions() -> None:
    assert AtariConfig(game="Breakout").action_names() == ("noop", "fire", "right", "left")
