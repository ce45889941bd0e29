"""YAML as people mean it: what YAML 1.1 takes for something else is text, or refused.

- A key that is given twice in one mapping is an error. Merge keys (``<<: *base``) are no second
  time: what a mapping says itself stands over what it merges.
- ``0100`` is no octal number and ``10:00`` no number of sixtieths, nor is a date a date: as text
  they are refused wherever a number is expected.
- Tags name plain types alone: ``!!float 1e7`` is a number, ``!!timestamp`` and ``!!python/...``
  are errors.
- Aliases written out, a file has a largest size and depth. A kilobyte of them can stand for more
  than fits into memory.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fwp_rl.config import ConfigError
from fwp_rl.registry import named, shown

__all__ = ["parse_yaml"]

MOST_TEXT: Final = 1 << 20
"""Characters and items of a document, with its aliases written out."""
DEEPEST: Final = 40
LONGEST_NUMBER: Final = 100
"""Characters; Python refuses to read thousands of digits."""

_TAG: Final = "tag:yaml.org,2002:"
_MERGE: Final = _TAG + "merge"
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]*[01]|0x[0-9a-fA-F_]*[0-9a-fA-F])")
# the dumper of PyYAML, which writes config.yaml, quotes a text that one of these would take
_FLOAT: Final = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_TAGGED_FLOAT: Final = re.compile(
    rf"{_FLOAT.pattern}|[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?"
)
_FORMS: Final = {
    "int": _INT,
    "float": _TAGGED_FLOAT,
    "bool": re.compile("yes|no|true|false|on|off", re.IGNORECASE),
    "null": re.compile("~|null|", re.IGNORECASE),
    "str": re.compile(".*", re.DOTALL),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's, without its dates, octal and sexagesimal numbers."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, form) for tag, form in forms if tag.removeprefix(_TAG) in ("bool", "null", "merge")
    ]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _TAG + "int", re.compile(f"(?:{_INT.pattern})$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    _TAG + "float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+0123456789.")
)


def parse_yaml(text: str, *, source: str) -> Any:
    """The data in a YAML text, or a ConfigError of one line that names the source and the place."""
    loader = None
    try:
        loader = _Loader(text)  # reads already
        node = loader.get_single_node()
        if node is None:
            return None
        _Check(loader, source).measure(node)
        return loader.construct_document(node)
    except RecursionError:
        raise ConfigError(f"{source}: is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: is not valid YAML: {_explain(error)}") from None
    finally:
        if loader is not None:
            loader.dispose()


class _Check:
    """Goes through the nodes of a document before anything is made of them."""

    def __init__(self, loader: _Loader, source: str) -> None:
        self.loader, self.source = loader, source
        self.known: dict[int, tuple[int, int]] = {}
        self.within: set[int] = set()

    def measure(self, node: Node) -> tuple[int, int]:
        """Size and depth of a node with its aliases written out; ConfigError for what is wrong."""
        if id(node) in self.known:  # an alias
            return self.known[id(node)]
        if id(node) in self.within:
            raise self.wrong(node, "an alias stands inside of what it stands for")
        self.within.add(id(node))
        size, depth = 1, 0
        for child in self.children(node):
            more, below = self.measure(child)
            size, depth = size + more, max(depth, below + 1)
        if isinstance(node, ScalarNode):
            self.check_scalar(node)
            size += len(node.value)
        if size > MOST_TEXT:
            raise self.wrong(node, "stands for too much, its aliases written out")
        if depth > DEEPEST:
            raise self.wrong(node, "is nested too deeply")
        self.within.remove(id(node))
        self.known[id(node)] = size, depth
        return size, depth

    def children(self, node: Node) -> Iterator[Node]:
        if isinstance(node, SequenceNode):
            self.check_tag(node, "seq")
            yield from node.value
        elif isinstance(node, MappingNode):
            self.check_tag(node, "map")
            lines: dict[Any, int] = {}
            for key, value in node.value:
                if key.tag != _MERGE:
                    yield key
                    self.check_key(key, lines)
                yield value

    def check_key(self, key: Node, lines: dict[Any, int]) -> None:
        if not isinstance(key, ScalarNode):
            raise self.wrong(key, "a list or mapping is no key")
        name = self.loader.construct_object(key)
        if name in lines:
            raise self.wrong(key, f"{named(name)}: is given twice, first in line {lines[name]}")
        lines[name] = key.start_mark.line + 1

    def check_scalar(self, node: ScalarNode) -> None:
        kind = node.tag.removeprefix(_TAG)
        form = _FORMS.get(kind)
        if form is None:
            raise self.wrong(node, f"got the tag {shown(node.tag)}, expected a plain value")
        too_long = kind in ("int", "float") and len(node.value) > LONGEST_NUMBER
        if too_long or form.fullmatch(node.value) is None:
            raise self.wrong(node, f"got {shown(node.value)}, expected a value of type {kind}")

    def check_tag(self, node: Node, kind: str) -> None:
        if node.tag != _TAG + kind:
            raise self.wrong(node, f"got the tag {shown(node.tag)}, expected none")

    def wrong(self, node: Node, what: str) -> ConfigError:
        return ConfigError(f"{self.source}: line {node.start_mark.line + 1}: {what}")


def _explain(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())[:200]
    return f"line {mark.line + 1}: {problem[:200]}"
