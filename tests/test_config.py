"""The strict loader: what it reads comes back, what it cannot read is named by its dotted path."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from wm.config import ConfigError, Kind, config, content_hash, difference, dump, from_dict, load, to_dict

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@config
class Circle:
    kind: Literal["circle"] = "circle"
    radius: float = 1.0


@config
class Box:
    kind: Literal["box"] = "box"
    width: int = 2
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError(f"width is {self.width}; it must not be negative")


@config
class Paint:
    colour: Literal["red", "blue"] = "red"
    layers: int = 1


@config
class Drawing:
    title: str
    shape: Annotated[Circle | Box, Kind] = Circle()
    more: tuple[Annotated[Circle | Box, Kind], ...] = ()
    paint: Paint = Paint()
    varnish: Paint | None = None
    framed: bool = False


FULL: dict[str, Any] = {
    "title": "one",
    "shape": {"kind": "box", "width": 5, "names": ["a", "b"]},
    "more": [{"kind": "circle", "radius": 0.25}, {"kind": "box", "width": 1, "names": []}],
    "paint": {"colour": "blue", "layers": 3},
    "varnish": {"colour": "red", "layers": 2},
    "framed": True,
}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_round_trips_through_mappings_and_files(tmp_path: Path) -> None:
    for drawing in (from_dict(Drawing, FULL), Drawing(title="plain")):
        assert from_dict(Drawing, to_dict(drawing)) == drawing
        dump(drawing, tmp_path / "drawing.yaml")
        assert load(Drawing, tmp_path / "drawing.yaml") == drawing
    assert to_dict(from_dict(Drawing, FULL)) == FULL


def test_configs_are_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Drawing(title="a").title = "b"  # type: ignore[misc]
    with pytest.raises(Exception, match="positional"):
        Drawing("a")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titel": "x"}, r"^titel: unknown field; did you mean title\?$"),
        ({"paint": {"layer": 2}}, r"^paint\.layer: unknown field; did you mean layers\?$"),
        ({"shape": {"kind": "box", "widht": 2}}, r"^shape\.widht: unknown field; did you mean width\?$"),
        ({"more": [{"kind": "circle"}, {"kind": "box", "name": []}]}, r"^more\.1\.name: unknown .* mean names\?$"),
        ({"paint": {"zzz": 2}}, r"^paint\.zzz: unknown field; valid are colour, layers$"),
        ({"varnish": {"layer": 2}}, r"^varnish\.layer: unknown field; did you mean layers\?$"),
        ({"shape": {"kind": "bok"}}, r"^shape: .*'bok'.*'circle', 'box'"),
        ({"shape": {"width": 2}}, r"^shape: .*'kind'"),
        ({"paint": {"colour": "green"}}, r"^paint\.colour: .*'red' or 'blue'.*'green'"),
        ({"paint": {"layers": "three"}}, r"^paint\.layers: .*integer.*'three'"),
        ({"paint": {"layers": 2.5}}, r"^paint\.layers: .*integer.*2\.5"),
        ({"paint": 3}, r"^paint: .*3"),
        ({"title": 3}, r"^title: .*string.*3"),
        ({"title": None}, r"^title: .*string.*None"),
        ({"shape": {"kind": "box", "names": "abc"}}, r"^shape\.names: .*array.*'abc'"),
        ({"shape": {"kind": "box", "width": -1}}, r"^shape: width is -1; it must not be negative$"),
        ({"more": [{"kind": "box", "width": -1}]}, r"^more\.0: width is -1; it must not be negative$"),
        ({"framed": 1}, r"^framed: .*boolean, got 1$"),
        ({"framed": "yes"}, r"^framed: .*boolean, got 'yes'$"),
        ({"paint": {"layers": True}}, r"^paint\.layers: .*integer, got True$"),
        ({"paint": {"layers": "3"}}, r"^paint\.layers: .*integer, got '3'$"),
        ({"shape": {"kind": "circle", "radius": "1.0"}}, r"^shape\.radius: .*number, got '1\.0'$"),
        ({"shape": {"kind": "circle", "radius": True}}, r"^shape\.radius: .*number, got True$"),
        ({"paint": {"layer": 1}, "titel": "x"}, r"paint\.layer: .*; titel: "),
    ],
)
def test_a_mistake_is_named_by_its_dotted_path(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        from_dict(Drawing, {"title": "one", **change})
    assert "\n" not in str(caught.value)


def test_a_refusal_of_the_whole_is_its_message_alone() -> None:
    with pytest.raises(ConfigError, match=r"^width is -1; it must not be negative$"):
        from_dict(Box, {"width": -1})


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("-2E3", -2000.0), ("1.5e+2", 150.0), ("1.e1", 10.0), ("3", 3.0), (".inf", math.inf)],
)
def test_numbers_are_read_as_people_write_them(tmp_path: Path, text: str, value: float) -> None:
    circle = load(Circle, write(tmp_path / "c.yaml", f"radius: {text}\n"))
    assert circle.radius == value
    assert isinstance(circle.radius, float)
    assert load(Circle, write(tmp_path / "c.yaml", "kind: circle\n"), [f"radius={text}"]) == circle
    dump(circle, tmp_path / "again.yaml")
    assert load(Circle, tmp_path / "again.yaml") == circle


@pytest.mark.parametrize("word", ["1e-4", "3", "true", "null", "a: b", "1.5", "2020-01-01"])
def test_words_that_look_like_values_stay_words(tmp_path: Path, word: str) -> None:
    dump(Drawing(title=word), tmp_path / "drawing.yaml")
    assert load(Drawing, tmp_path / "drawing.yaml").title == word


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^title: missing"):
        from_dict(Drawing, {})


def test_overrides_reach_into_the_tree_and_are_read_as_yaml(tmp_path: Path) -> None:
    path = write(tmp_path / "d.yaml", "title: one\nshape: {kind: box, width: 5}\n")
    changed = load(Drawing, path, ["shape.width=7", "paint.layers=4", "framed=true", "shape.names=[a, b]", "title=a=b"])
    assert changed == Drawing(title="a=b", shape=Box(width=7, names=("a", "b")), paint=Paint(layers=4), framed=True)
    with pytest.raises(ConfigError, match=r"paint\.layer: unknown field; did you mean layers"):
        load(Drawing, path, ["paint.layer=4"])
    with pytest.raises(ConfigError, match=r"'paint\.layers' is not of the form a\.b=value"):
        load(Drawing, path, ["paint.layers"])
    with pytest.raises(ConfigError, match=r"title holds a value"):
        load(Drawing, path, ["title.x=4"])


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no config file at"), ("a: [1", "is not YAML"), ("- 1\n- 2\n", "holds list"), ("", "holds NoneType")],
)
def test_files_that_are_no_config_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "d.yaml"
    if text is not None:
        write(path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(Drawing, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_cannot_construct_objects(tmp_path: Path) -> None:
    path = write(tmp_path / "d.yaml", "title: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        load(Drawing, path)


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, (*path, key))
    else:
        yield path


def other_than(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case "red" | "blue":
            return "blue" if value == "red" else "red"
        case str():
            return value + "x"
        case _:
            return value + 1


def changed_at(path: tuple[Any, ...]) -> Drawing:
    tree = to_dict(from_dict(Drawing, FULL))
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = other_than(node[path[-1]])
    return from_dict(Drawing, tree)


@pytest.mark.parametrize("path", [p for p in leaves(FULL) if p[-1] != "kind"], ids=lambda p: ".".join(map(str, p)))
def test_the_hash_and_the_difference_see_every_field(path: tuple[Any, ...]) -> None:
    drawing, other = from_dict(Drawing, FULL), changed_at(path)
    assert content_hash(drawing) != content_hash(other)
    lines = difference(drawing, other)
    assert len(lines) == 1
    # A list is one value of a difference.
    dotted = ".".join(itertools.takewhile(lambda key: isinstance(key, str), path))
    assert lines[0].startswith(f"{dotted}: ")
    assert " -> " in lines[0]


def test_equal_configs_hash_alike_and_do_not_differ() -> None:
    again = from_dict(Drawing, to_dict(from_dict(Drawing, FULL)))
    assert content_hash(again) == content_hash(from_dict(Drawing, FULL))
    assert difference(again, from_dict(Drawing, FULL)) == []
    assert len(content_hash(again)) == 16


def test_a_difference_names_fields_that_only_one_side_has() -> None:
    lines = difference(Drawing(title="a", shape=Circle()), Drawing(title="a", shape=Box()))
    assert "shape.kind: circle -> box" in lines
    assert "shape.radius: 1.0 -> (absent)" in lines
    assert "shape.width: (absent) -> 2" in lines


@pytest.mark.skipif(not CONFIGS, reason="there are no files under configs/")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_every_run_file_loads_and_round_trips(path: Path, tmp_path: Path) -> None:
    from launch.run_config import RunConfig, load_run

    run = load_run(path)
    assert from_dict(RunConfig, to_dict(run)) == run
    dump(run, tmp_path / "resolved.yaml")
    again = load_run(tmp_path / "resolved.yaml")
    assert again == run
    assert content_hash(again) == content_hash(run)


@pytest.mark.skipif(not CONFIGS, reason="there are no files under configs/")
def test_every_world_has_a_file_for_every_stage() -> None:
    from launch.pipeline import ORDER

    worlds = {path.parent for path in CONFIGS if path.stem != "record"}  # some are only recorded
    missing = [
        f"{w.name}/{stage}.yaml" for w in sorted(worlds) for stage in ORDER if not (w / f"{stage}.yaml").exists()
    ]
    assert missing == ["shapes/distill.yaml"]  # a clip from a text is drawn by its teacher
