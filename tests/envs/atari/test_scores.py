import envpool
import pytest

from fwp_rl.envs.atari import AtariConfig
from fwp_rl.envs.atari.scores import PUBLISHED, SCORES, published_scores
from fwp_rl.reports.statistics import normalized_score


def test_the_57_games_are_all_there_and_can_be_played():
    assert len(SCORES) == 57
    assert {f"{game}-v5" for game in SCORES} <= set(envpool.list_all_envs())


def test_the_scale():
    for game, (random, human) in SCORES.items():
        assert random < human
        assert normalized_score(AtariConfig(game=game), random) == 0
        assert normalized_score(AtariConfig(game=game), human) == 1


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
    assert normalized_score(AtariConfig(game=game), score) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "game"),
    [
        ("Ms Pacman", "MsPacman"),
        ("Video Pinball", "VideoPinball"),
        ("chopper_command", "ChopperCommand"),
        ("PongDeterministic-v4", "Pong"),
        ("ALE/Up-N-Down-v5", "UpNDown"),
    ],
)
def test_scores_know_a_game_by_every_name_that_training_takes(given, game):
    assert AtariConfig(game=given).human_scores() == SCORES[game]


def test_published_scores_are_of_tasks_that_can_be_trained():
    for entry in PUBLISHED:
        assert AtariConfig(game=entry.task.removeprefix("atari/")).spec().name == entry.task


@pytest.mark.parametrize("name", ["Alien", "alien", "AlienNoFrameskip-v4", "ALE/Alien-v5"])
def test_published_scores_are_found_by_any_spelling(name):
    assert published_scores(name) == PUBLISHED  # all that is known is of this game
    assert published_scores("Pong") == ()
    assert published_scores("no game") == ()
