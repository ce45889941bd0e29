"""The Atari games that envpool has: their names, and how many actions each has."""

import re

from fwp_rl.config import ConfigError
from fwp_rl.registry import shown, suggestion

__all__ = ["FULL_ACTIONS", "GAMES", "MINIMAL_ACTIONS", "canonical_game", "is_game"]

_GAMES_BY_ACTIONS = {
    3: "Backgammon Freeway Skiing",
    4: "Atlantis Atlantis2 Blackjack Breakout Casino Kaboom",
    5: "Frogger Pacman Surround Tetris VideoCheckers",
    6: "AirRaid BasicMath Bowling Carnival DemonAttack Galaxian KingKong NameThisGame Pong Pooyan "
    "Qbert SirLancelot SpaceInvaders UpNDown",
    7: "Assault",
    8: "Gopher Phoenix Tutankham",
    9: "Asterix BeamRider CrazyClimber Enduro Koolaid LostLuggage MsPacman VideoPinball",
    10: "Amidar MrDo Othello TicTacToe3d TimePilot VideoChess WizardOfWor",
    12: "Turmoil",
    14: "Asteroids KeystoneKapers KungFuMaster",
    16: "JourneyEscape",
    18: "Adventure Alien BankHeist BattleZone Berzerk Boxing Centipede ChopperCommand Crossbow "
    "Darkchambers Defender DonkeyKong DoubleDunk Earthworld ElevatorAction Entombed Et "
    "FishingDerby FlagCapture Frostbite Gravitar Hangman HauntedHouse Hero HumanCannonball "
    "IceHockey Jamesbond Kangaroo Klax Krull LaserGates MarioBros MiniatureGolf MontezumaRevenge "
    "Pitfall Pitfall2 PrivateEye Riverraid RoadRunner Robotank Seaquest Solaris SpaceWar "
    "StarGunner Superman Tennis Trondead Venture VideoCube WordZapper YarsRevenge Zaxxon",
}
MINIMAL_ACTIONS = {
    game: actions for actions, games in _GAMES_BY_ACTIONS.items() for game in games.split()
}
"""Game → how many actions of its own it has."""
FULL_ACTIONS = {"LostLuggage": 9, "Skiing": 9}
"""The console's 18 actions, but for these two games: envpool gives them no FIRE at all."""

GAMES: tuple[str, ...] = tuple(sorted(MINIMAL_ACTIONS))
"""Every game that envpool has, by its canonical name; importing envpool takes seconds."""

_GAME_OF_KEY = {game.lower(): game for game in GAMES}
_AFFIXES = re.compile(r"^(ALE|atari)/|(NoFrameskip|Deterministic)?[-_ ]v\d+$", re.IGNORECASE)
_PUNCTUATION = re.compile(r"[-_ .'’*:]")


def canonical_game(name: str) -> str:
    """``Pong`` for ``pong``, ``Pong-v5``, ``ALE/Pong-v5`` or ``PongNoFrameskip-v4``; ``MsPacman``
    for ``ms_pacman`` or ``Ms. Pac-Man``. Raises ConfigError for a game that envpool does not
    have."""
    key = _PUNCTUATION.sub("", _AFFIXES.sub("", name.strip())).lower()
    if key not in _GAME_OF_KEY:
        hint = suggestion(key, GAMES)
        raise ConfigError(
            f"game: got {shown(name)}, expected one of envpool's {len(GAMES)} Atari games."
            f"{' ' + hint if hint else ''}"
        )
    return _GAME_OF_KEY[key]


def is_game(name: str, game: str) -> bool:
    """Whether a name, however it is spelled, is that of the game."""
    try:
        return canonical_game(name) == canonical_game(game)
    except ConfigError:
        return False
