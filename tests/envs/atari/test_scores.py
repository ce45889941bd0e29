import envpool
import pytest

from fwp_rl.envs.atari.scores import SCORES, human_normalized


def test_the_57_games_are_all_there_and_can_be_played():
    assert len(SCORES) == 57
    assert {f"{game}-v5" for game in SCORES} <= set(envpool.list_all_envs())


def test_the_scale():
    for game, (random, human) in SCORES.items():
        assert random < human
        assert human_normalized(game, random) == 0
        assert human_normalized(game, human) == 1


@pytest.mark.parametrize(
    ("game", "score", "expected"),
    [
        ("Breakout", 401.2, (401.2 - 1.7) / (30.5 - 1.7)),  # 13.87: DQN in Mnih et al. 2015
        ("Pong", 20.9, (20.9 + 20.7) / (14.6 + 20.7)),
        ("Skiing", -9000.0, (-9000.0 + 17098.1) / (-4336.9 + 17098.1)),
        ("MontezumaRevenge", 0.0, 0.0),
        ("YarsRevenge", 3092.9, 0.0),
    ],
)
def test_by_hand(game, score, expected):
    assert human_normalized(game, score) == pytest.approx(expected)


@pytest.mark.parametrize(
    "name",
    [
        "MsPacman",
        "ms_pacman",
        "mspacman",
        "atari/MsPacman",
        "ALE/MsPacman-v5",
        "MsPacmanNoFrameskip-v4",
        "MsPacman-v5",
        "Ms Pacman",
        "MsPacmanDeterministic-v4",
    ],
)
def test_names(name):
    assert human_normalized(name, 6951.6) == 1


@pytest.mark.parametrize("name", ["recall", "CartPole-v1", "Adventure", ""])
def test_other_games_have_no_scale(name):
    assert human_normalized(name, 1.0) is None
