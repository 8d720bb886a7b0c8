"""YAML to frozen dataclasses and back, strictly. The only file that knows pydantic and yaml.

A config holds values: numbers, words, paths as text. No import paths, no callables, no environment. Unions are written
`Annotated[A | B, Kind]` where each member has a field `kind: Literal["..."]`; the annotation is the registry.
What is read is held to its type: 1 and "yes" are no bool, true and "3" are no int.
"""

import dataclasses
import difflib
import hashlib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import pydantic
import pydantic.dataclasses
import pydantic_core
import yaml

T = TypeVar("T")

Kind = pydantic.Field(discriminator="kind")
# Beside Kind in an annotation: a word alone is the member of that kind with its defaults.
Named = pydantic.BeforeValidator(lambda given: {"kind": given} if isinstance(given, str) else given)


class ConfigError(ValueError):
    """A config that does not say what its reader needs; the message names the dotted path."""


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as people mean it; PyYAML asks for 1.0e-4."""


class _Dumper(yaml.SafeDumper):
    """The other way: the word "1e-4" is written in quotes."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """`cls` as a frozen, keyword-only dataclass that refuses unknown fields and wrong types."""
    settings = pydantic.ConfigDict(extra="forbid")
    return typing.cast("type[T]", pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=settings))


def load(cls: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """The `cls` that the YAML file at `path` describes, with overrides written `a.b=value` applied first."""
    try:
        tree = yaml.load(Path(path).read_text(), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"no config file at {path}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {type(tree).__name__}; a config is a mapping of fields")
    for override in overrides:
        _override(tree, override)
    try:
        return from_dict(cls, tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def from_dict(cls: type[T], tree: Mapping[str, Any]) -> T:
    """The `cls` that `tree` describes; ConfigError with the dotted path and the nearest valid name otherwise."""
    # By way of JSON, in which a list can be a tuple and a mapping a dataclass although nothing else is converted.
    text = pydantic_core.to_json(dict(tree), inf_nan_mode="constants")
    try:
        return pydantic.TypeAdapter(cls).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        raise ConfigError("; ".join(_explain(cls, line) for line in error.errors())) from None


def to_dict(value: Any) -> dict[str, Any]:
    """`value` as plain mappings, lists and scalars; `from_dict` of it is equal to `value`."""
    return typing.cast("dict[str, Any]", pydantic.TypeAdapter(type(value)).dump_python(value, mode="json"))


def dump(value: Any, path: Path) -> None:
    """Write `value` as YAML at `path`, in the order of its fields."""
    Path(path).write_text(yaml.dump(to_dict(value), Dumper=_Dumper, sort_keys=False))


def content_hash(value: Any) -> str:
    """Sixteen hexadecimal digits that change when any field does, for manifests and refusals."""
    text = json.dumps(to_dict(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(old: Any, new: Any) -> list[str]:
    """One line `a.b: old -> new` for every field in which two configs differ."""
    before, after = dict(_leaves(to_dict(old))), dict(_leaves(to_dict(new)))
    names = sorted(before.keys() | after.keys())
    missing = "(absent)"
    return [
        f"{name}: {before.get(name, missing)} -> {after.get(name, missing)}"
        for name in names
        if before.get(name, missing) != after.get(name, missing)
    ]


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, tree


def _override(tree: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ConfigError(f"override {override!r} is not of the form a.b=value")
    *parents, name = path.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent} holds a value, not a mapping")
    node[name] = yaml.load(text, _Loader)


def _explain(cls: type, line: Any) -> str:
    path, owner = _follow(cls, line["loc"])
    if line["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{path}: unknown field{_nearest(str(line['loc'][-1]), owner)}"
    if line["type"] in ("missing", "missing_argument"):
        return f"{path}: missing; it has no default"
    if line["type"] == "value_error":  # raised by a __post_init__, which says all: the whole mapping would drown it
        return f"{path}: {line['ctx']['error']}" if path else str(line["ctx"]["error"])
    return f"{path}: {line['msg']}, got {line['input']!r}"


def _follow(cls: type, location: Sequence[str | int]) -> tuple[str, Any]:
    """The dotted path of an error without union tags, and the dataclass that owns its last name."""
    owner: Any = cls
    names: list[str] = []
    for step in location:
        union = _members(owner)
        if step in union:
            owner = union[str(step)]
            continue
        names.append(str(step))
        if step != location[-1]:
            owner = _field_type(owner, step)
    return ".".join(names), owner


def _members(annotation: Any) -> dict[str, Any]:
    """The dataclasses of a tagged union by tag; empty for anything else."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return {}
    members = [m for m in typing.get_args(annotation) if dataclasses.is_dataclass(m)]
    hints = [(m, typing.get_type_hints(m).get("kind")) for m in members]
    return {tag: m for m, hint in hints if hint is not None for tag in typing.get_args(hint)}


def _field_type(owner: Any, step: str | int) -> Any:
    if isinstance(step, int):
        arguments = typing.get_args(owner)
        return arguments[0] if arguments else None
    if not dataclasses.is_dataclass(owner):
        return None
    hint = typing.get_type_hints(owner).get(step)
    present = [member for member in typing.get_args(hint) if member is not type(None)]
    return present[0] if isinstance(hint, types.UnionType) and len(present) == 1 else hint


def _nearest(name: str, owner: Any) -> str:
    if not dataclasses.is_dataclass(owner):
        return ""
    fields = [field.name for field in dataclasses.fields(owner)]
    close = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; valid are {', '.join(fields)}"
