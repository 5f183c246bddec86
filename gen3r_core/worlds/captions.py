"""Captions: what a world holds and how it is looked at, in varied words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from gen3r_core.worlds.floorplan import ROOM_NAMES, Room
from gen3r_core.worlds.materials import COLOR_NAMES, Material, pick
from gen3r_core.worlds.motion import PathKind
from gen3r_core.worlds.world import World, WorldObject

OBJECT_NAMES = (
    "armchair", "ball", "barrel", "bed", "bookshelf", "cabinet", "ceiling lamp", "chair", "closed door",
    "coffee table", "crate", "desk", "floor lamp", "kitchen counter", "office chair", "picture", "pile of boxes",
    "pillar", "plant", "round coffee table", "round table", "rug", "sofa", "statue", "stool", "table", "wardrobe",
    "window",
)  # fmt: skip
"""Everything that :class:`~gen3r_core.worlds.world.WorldObject` can be called."""
MATERIAL_WORDS = ("wooden", "marble", "brick", "plaster", "striped", "tiled", "checkered", "carpeted", "concrete")
_NUMBERS = ("two", "three", "four", "several")
_OPENINGS = (
    "{room}",
    "a view of {room}",
    "inside {room}",
    "the video shows {room}",
    "an indoor scene of {room}",
    "this is {room}",
    "looking around {room}",
)
_WITH = (
    "with {things}",
    "containing {things}",
    "where there is {things}",
    "with {things} in it",
)
_SURFACES = ("{walls} walls and {floor} floor", "{floor} floor and {walls} walls", "{walls} walls", "{floor} floor")
_SEEN: MappingProxyType[PathKind, tuple[str, ...]] = MappingProxyType(
    {
        "robot": ("seen by a robot", "filmed by a ground robot", "from a robot driving slowly", "a robot drives on"),
        "drone": ("seen by a drone", "filmed from a flying drone", "from a drone in the air", "a drone flies on"),
        "hand": ("seen by a person", "filmed by hand", "from a camera in a hand", "a person looks around"),
    }
)
_LEAVING = ("going from {first} to {last}", "moving into {last}", "through a doorway into {last}")
_SIZES = ("small", "large")
_GLUE = ("a", "an", "and", "the")


def caption(
    world: World, seen: Sequence[WorldObject], kind: PathKind, rooms: Sequence[int], rng: np.random.Generator
) -> str:
    """One sentence, lower case, without a full stop.

    Args:
        world: the world.
        seen: what the camera sees, the most prominent first; up to five kinds are named.
        kind: who looks.
        rooms: indices of the rooms that the camera is in, in order.
        rng: chooses words.
    """
    room = world.rooms[rooms[0]]
    parts = [pick(rng, _OPENINGS).format(room=_with_article(_size(room, rng) + room.name))]
    things = _things(seen, rng)
    if things:
        parts[0] += " " + pick(rng, _WITH).format(things=_listed(things))
    if rng.random() < 0.75:
        interior = world.interiors[rooms[0]]
        floor = _with_article(_word(interior.floor, "plain") + " floor").removesuffix(" floor")
        parts.append(pick(rng, _SURFACES).format(walls=_word(interior.walls[0], "plain"), floor=floor))
    if rooms[-1] != rooms[0]:
        first, last = (world.rooms[index].name for index in (rooms[0], rooms[-1]))
        target = "another " + last if last == first else _with_article(last)
        parts.append(pick(rng, _LEAVING).format(first="the " + first, last=target))
    if rng.random() < 0.8:
        parts.append(pick(rng, _SEEN[kind]))
    return ", ".join(parts)


def vocabulary() -> list[str]:
    """Every word that captions are made of, sorted; for training a tokenizer."""
    texts = [*_OPENINGS, *_WITH, *_SURFACES, *_LEAVING, *(text for texts in _SEEN.values() for text in texts)]
    texts += [*ROOM_NAMES, "corridor", *OBJECT_NAMES, *(_plural(name) for name in OBJECT_NAMES)]
    texts += [*COLOR_NAMES, *MATERIAL_WORDS, *_NUMBERS, *_SIZES, *_GLUE, "another", "plain", "full", "bright"]
    return sorted({word for text in texts for word in re.findall(r"[a-z]+", re.sub(r"\{.*?\}", "", text))})


def objects_seen(world: World, ids: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> list[WorldObject]:
    """Objects behind pixels or rays, those with most of them first.

    Args:
        world: the world.
        ids: any shape, indices into ``world.solids``; -1 is passed over. An object counts from two on.
    """
    owners = np.array([*world.owners, -1])[ids]
    counts = Counter(owners[owners >= 0].tolist())
    return [world.objects[index] for index, count in counts.most_common() if count > 1]


def rooms_visited(world: World, positions: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[int]:
    """Rooms over which cameras ``[F, 3]`` stand, in order, without repetitions in a row; at least one."""
    found = [world.room_at((float(x), float(y))) for x, y in positions[:, :2]]
    rooms = [room for room in found if room is not None] or [0]
    return rooms[:1] + [after for before, after in pairwise(rooms) if after != before]


def _things(seen: Sequence[WorldObject], rng: np.random.Generator) -> list[str]:
    """Up to five kinds of things, counted."""
    named = [one for one in seen if one.name != "ceiling lamp"]
    counts = Counter((one.name, one.word) for one in named)
    chosen = list(counts)[: int(rng.integers(2, 6))]
    things = []
    for name, word in chosen:
        count = counts[name, word]
        described = f"{word} " if word and rng.random() < 0.85 else ""
        if count == 1:
            things.append(_with_article(described + name))
        else:
            things.append(f"{_NUMBERS[min(count, 5) - 2]} {described}{_plural(name)}")
    return things


def _size(room: Room, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        return ""
    return "small " if room.area < 12 else ("large " if room.area > 26 else "")


def _word(material: Material, otherwise: str) -> str:
    return material.word or otherwise


def _with_article(text: str) -> str:
    return ("an " if text[0] in "aeiou" else "a ") + text


def _plural(name: str) -> str:
    if name.startswith("pile "):
        return "piles" + name.removeprefix("pile")
    if name.endswith("shelf"):
        return name.removesuffix("f") + "ves"
    return name + ("es" if name.endswith(("s", "ch")) else "s")


def _listed(things: Sequence[str]) -> str:
    return things[0] if len(things) == 1 else ", ".join(things[:-1]) + " and " + things[-1]
