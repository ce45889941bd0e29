"""A named dict of config classes that answers a typo with a suggestion, and how errors quote."""

import difflib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

__all__ = ["Registry", "UnknownNameError", "canonical", "in_a_line", "named", "shown", "suggestion"]

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


def in_a_line(error: BaseException) -> str:
    """The kind of an error and what it says, without its line ends."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


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

    Filled at import by ``@REGISTRY.register("name")`` on the config class, read-only after. A name
    that nobody has registered is looked for among the entry points of installed packages: the one
    of that name in the registry's group is loaded, and what it loads has to register it. Iteration
    goes over what is registered; ``names`` and ``load_all`` know the others too.
    """

    def __init__(self, kind: str, group: str) -> None:
        """
        kind   what it holds, for errors
        group  of entry points
        """
        self.kind = kind
        self.group = group
        self._classes: dict[str, type[T]] = {}
        self._loaded: set[str] = set()
        self._failed: dict[str, str] = {}

    def register(self, name: str) -> Callable[[type[C]], type[C]]:
        """Class decorator that enters the class under ``name``. ValueError where another class has
        it; a class that is defined anew, as a notebook's cell does, takes its own place."""
        key = canonical(name)

        def enter(cls: type[C]) -> type[C]:
            other = self._classes.get(key)
            if other is not None and _full_name(other) != _full_name(cls):
                raise ValueError(
                    f"there are two {self.kind}s named {key!r}: {_full_name(other)} and "
                    f"{_full_name(cls)}; rename one of them"
                )
            self._classes[key] = cls  # type: ignore[assignment]  # C is a T; Python has no way to say so
            return cls

        return enter

    def name_of(self, cls: type) -> str:
        """The name under which a class was entered."""
        for name, known in self._classes.items():
            if known is cls:
                return name
        raise UnknownNameError(f"{cls.__name__} is not a registered {self.kind}")

    def names(self) -> list[str]:
        """All names that may be asked for, those of plug-ins among them, which are not loaded."""
        return sorted({*self._classes, *self._offered()})

    def load_all(self) -> list[str]:
        """Load the plug-ins of all installed packages; what is wrong with those that are left out,
        a line each."""
        problems = []
        for name, offers in self._offered().items():
            if name not in self._classes:
                problem = self._load(name, offers)
                problems += [] if problem is None else [problem]
            elif name not in self._loaded:
                own = _top(self._classes[name].__module__)
                problems += [
                    f"{self.kind} {name!r}: {_offer(offer)} is left out: there is one of the name"
                    for offer in offers
                    if _top(offer.module) != own
                ]
        return problems

    def __getitem__(self, name: object) -> type[T]:
        if not isinstance(name, str):
            raise self._unknown(name)
        key = canonical(name)
        if key not in self._classes:
            offers = self._offered().get(key)
            if offers is None:
                raise self._unknown(name)
            if problem := self._load(key, offers):
                raise UnknownNameError(problem)
        return self._classes[key]

    def __contains__(self, name: object) -> bool:
        """Whether there is such a name. Nothing is loaded to find out."""
        return isinstance(name, str) and (
            canonical(name) in self._classes or canonical(name) in self._offered()
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def _offered(self) -> dict[str, list[EntryPoint]]:
        """The group's entry points by name; there should be one of each."""
        offered: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            offered.setdefault(canonical(point.name), []).append(point)
        return offered

    def _load(self, key: str, offers: list[EntryPoint]) -> str | None:
        """Load the plug-in of a name; what is wrong with it, None where it is registered now."""
        if key not in self._failed:
            problem = self._problem(key, offers)
            if problem is None:
                self._loaded.add(key)
                return None
            self._failed[key] = f"{self.kind} {key!r}: {problem}"
        return self._failed[key]

    def _problem(self, key: str, offers: list[EntryPoint]) -> str | None:
        if len(offers) > 1:
            both = " and ".join(map(_offer, offers))
            return f"there are two of the name: {both}; uninstall one of them"
        try:
            offers[0].load()
        except (Exception, SystemExit) as error:
            self._classes.pop(key, None)  # registered before it failed
            return f"{_offer(offers[0])} cannot be loaded: {in_a_line(error)}"
        if key in self._classes:
            return None
        return f"{_offer(offers[0])} registers no {self.kind} of that name when it is imported"

    def _unknown(self, name: object) -> UnknownNameError:
        known = self.names()
        hint = suggestion(name, known) if isinstance(name, str) else ""
        return UnknownNameError(
            f"unknown {self.kind} {shown(name)}. {hint + ' ' if hint else ''}"
            "Your own: --import its module (in Python, import it), or install a package with an "
            f"entry point in {self.group}. Known: {', '.join(known)}"
        )


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _top(module: str) -> str:
    return module.partition(".")[0]


def _offer(point: EntryPoint) -> str:
    """``leaky_cores:LeakyConfig of the package leaky-cores 1.0``."""
    package = f" of the package {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"{point.value}{package}"
