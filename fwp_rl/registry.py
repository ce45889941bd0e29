"""A named dict of config classes that answers a typo with a suggestion, and how errors quote."""

import difflib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

__all__ = ["Registry", "UnknownNameError", "canonical", "named", "shown", "suggestion"]

T = TypeVar("T")
C = TypeVar("C")


class UnknownNameError(KeyError):
    """A name that is in no registry; the message lists what there is."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


def canonical(name: str) -> str:
    """How a registered name is written: ``delta_net`` for ``Delta-Net``."""
    return name.strip().lower().replace("-", "_")


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxstring = self.maxother = 120

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out more than 4,300 digits
        return repr(x) if x.bit_length() < 200 else f"<about {x.bit_length() * 3 // 10:,} digits>"


_short = _Short()


def shown(value: object) -> str:
    """``repr`` in one line of at most some 200 characters: what an error quotes may be long, or
    hold the same list many times over."""
    text = " ".join(_short.repr(value).split("\n"))
    return text if len(text) <= 200 else f"{text[:180]}..."


def named(name: object) -> str:
    """A field, a label or a file as an error names it: without quotes where it is a plain word."""
    plain = isinstance(name, str) and 0 < len(name) <= 120 and name.isprintable()
    return str(name) if plain else shown(name)


def suggestion(given: str, known: Iterable[str]) -> str:
    """``"Did you mean 'x'?"`` where a known name is likely meant by the given one, else ``""``."""
    if len(given) > 120:
        return ""
    by_key = {name.lower().replace("-", "_").lstrip("_"): name for name in known}
    meant = _meant(given.lower().replace("-", "_").lstrip("_"), list(by_key))
    return "" if meant is None else f"Did you mean {by_key[meant]!r}?"


_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "batch_size": ("minibatches",),
    "clip_coef": ("clip",),
    "clip_range": ("clip",),
    "clip_range_vf": ("value_clip",),
    "env_id": ("env.id", "env.game"),
    "eval_episodes": ("evaluation_games",),
    "eval_freq": ("evaluate_every",),
    "gamma": ("discount",),
    "lambda": ("gae_lambda", "lam"),
    "log_dir": ("run_dir",),
    "logdir": ("run_dir",),
    "lr": ("learning_rate",),
    "n_steps": ("rollout_length", "unroll_length"),
    "norm_adv": ("normalize_advantages",),
    "num_steps": ("rollout_length", "unroll_length"),
    "steps": ("total_steps",),
    "timesteps": ("total_steps",),
    "total_timesteps": ("total_steps",),
    "track": ("logger",),
    "update_epochs": ("epochs",),
    "vf_coef": ("value_coefficient",),
    "wandb": ("logger",),
}
"""What other libraries call it → what it may be called here."""


def _meant(given: str, known: Sequence[str]) -> str | None:
    """The name that is meant: another library's word for it, the last part of it (``game`` for
    ``env.game``), short for it (``lr``, ``ent_coef``), or else the nearest one."""
    for name in _ELSEWHERE.get(given, ()):
        if name in known:
            return name
    for alike in (_is_last_part, _is_short, _has_initials):
        for name in known:
            if len(given) > 1 and alike(given, name):
                return name
    return next(iter(difflib.get_close_matches(given, known, n=1, cutoff=0.5)), None)


def _is_last_part(given: str, name: str) -> bool:
    return name.endswith(f".{given}")


def _is_short(given: str, name: str) -> bool:
    """``max_grad_norm`` for ``max_gradient_norm``."""
    words, parts = name.split("_"), given.split("_")
    pairs = zip(words, parts, strict=False)
    return len(parts) == len(words) > 1 and all(word.startswith(part) for word, part in pairs)


def _has_initials(given: str, name: str) -> bool:
    """``lr`` for ``learning_rate``."""
    return "_" in name and given == "".join(word[:1] for word in name.split("_"))


class Registry(Mapping[str, type[T]], Generic[T]):
    """Name → config class. ``delta_net``, ``delta-net`` and ``Delta_Net`` are the same name.

    Filled at import by ``@REGISTRY.register("name")`` on the config class, read-only after.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[C]], type[C]]:
        """Class decorator that enters the class under ``name``."""
        key = canonical(name)

        def enter(cls: type[C]) -> type[C]:
            if key in self._classes:
                raise ValueError(f"there are two {self.kind}s named {key!r}")
            self._classes[key] = cls  # type: ignore[assignment]  # C is a T; Python has no way to say so
            return cls

        return enter

    def name_of(self, cls: type) -> str:
        """The name under which a class was entered."""
        for name, known in self._classes.items():
            if known is cls:
                return name
        raise UnknownNameError(f"{cls.__name__} is not a registered {self.kind}")

    def __getitem__(self, name: object) -> type[T]:
        if not isinstance(name, str) or name not in self:
            hint = suggestion(name, self._classes) if isinstance(name, str) else ""
            raise UnknownNameError(
                f"unknown {self.kind} {shown(name)}. {hint + ' ' if hint else ''}"
                f"Known: {', '.join(sorted(self._classes))}"
            )
        return self._classes[canonical(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and canonical(name) in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)
