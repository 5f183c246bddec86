import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.worlds.captions import (
    OBJECT_NAMES,
    caption,
    objects_seen,
    rooms_visited,
    vocabulary,
)
from gen3r_core.worlds.clips import plan_clip
from gen3r_core.worlds.splits import SPLITS, WORLDS_PER_SPLIT, split_of, world_seed
from gen3r_core.worlds.world import WorldObject

indices = st.integers(0, WORLDS_PER_SPLIT - 1)
splits = st.sampled_from(SPLITS)


@given(splits, indices, splits, indices)
def test_splits_never_overlap(split, index, other, another):
    a, b = world_seed(split, index), world_seed(other, another)
    assert (a == b) == ((split, index) == (other, another))
    assert split_of(a) == split


def test_the_ends_of_the_splits():
    assert world_seed("train", 0) == 0
    for before, after in itertools.pairwise(SPLITS):
        assert world_seed(before, WORLDS_PER_SPLIT - 1) + 1 == world_seed(after, 0)


def test_what_is_in_no_split():
    with pytest.raises(InputError, match="worlds are split into train, val, test, got 'dev'"):
        world_seed("dev", 0)
    with pytest.raises(InputError, match="the index of a world lies between 0 and"):
        world_seed("train", WORLDS_PER_SPLIT)
    with pytest.raises(InputError, match="the index of a world lies between 0 and"):
        world_seed("test", -1)
    with pytest.raises(InputError, match="seed -1 belongs to no split"):
        split_of(-1)
    with pytest.raises(InputError, match="belongs to no split"):
        split_of(3 * WORLDS_PER_SPLIT)


def words_of(text):
    return re.findall(r"[a-z]+", text)


def test_captions_use_known_words_and_differ():
    plans = [plan_clip("val", index, 5, (16, 16)) for index in range(30)]
    known = set(vocabulary())
    texts = [plan.caption for plan in plans]
    for text in texts:
        assert set(words_of(text)) <= known
        assert re.fullmatch(r"[a-z ,]+", text)
        assert "  " not in text
        assert 3 <= len(words_of(text)) < 60
        assert not re.search(r"\ba [aeiou]", text)
        assert not re.search(r"\ban [^aeiou]", text)
    assert len(set(texts)) == len(texts)


def test_captions_name_the_room_and_only_what_is_there():
    for index in range(20):
        plan = plan_clip("val", index, 5, (16, 16))
        world = plan.world
        rooms = rooms_visited(world, plan.path.T_world_cam[:, :3, 3])
        assert world.rooms[rooms[0]].name in plan.caption
        named = plan.caption
        there = {one.name for one in world.objects}
        for name in sorted(OBJECT_NAMES, key=len, reverse=True):
            found = re.search(
                rf"\b({name}|{name}s|{name.replace('shelf', 'shelves')}|{name.replace('pile', 'piles')})\b", named
            )
            if found:
                assert name in there, (plan.caption, there)
                named = named.replace(found.group(), "")


def test_every_object_of_a_world_has_a_name_that_is_known(world_of):
    for seed in range(24):
        assert {one.name for one in world_of(seed).objects} <= set(OBJECT_NAMES)


def test_what_is_seen_is_said(world_of):
    world = world_of(2)
    seen = [WorldObject("sofa", "red", 0), WorldObject("chair", "blue", 0), WorldObject("chair", "blue", 0)]
    texts = [caption(world, seen, "drone", [0], np.random.default_rng(seed)) for seed in range(40)]
    assert all(re.search(r"a (red )?sofa and two (blue )?chairs", text) for text in texts)
    assert sum("a red sofa" in text for text in texts) > 25
    assert sum("drone" in text for text in texts) > 20
    assert len(set(texts)) > 20
    many = [WorldObject("bookshelf", "", 0)] * 7 + [WorldObject("pile of boxes", "", 0)] * 3
    text = caption(world, many, "hand", [0], np.random.default_rng(0))
    assert "several bookshelves and three piles of boxes" in text
    assert "with" not in caption(world, [], "hand", [0], np.random.default_rng(0)).split(",")[0].split()


def test_going_through_a_door_is_said(world_of):
    world = world_of(4)
    texts = [caption(world, [], "robot", [0, 1], np.random.default_rng(seed)) for seed in range(20)]
    assert all(world.rooms[1].name in text for text in texts)
    twins = [index for index, room in enumerate(world.rooms) if room.name == "living room"]
    assert "another living room" in caption(world, [], "robot", twins, np.random.default_rng(0))


def test_objects_are_seen_by_their_solids(world_of):
    world = world_of(2)
    owner = next(index for index, one in enumerate(world.objects) if one.name != "ceiling lamp")
    solid = world.owners.index(owner)
    shell = world.owners.index(-1)
    assert objects_seen(world, np.array([[solid, solid, -1], [shell, shell, shell]])) == [world.objects[owner]]
    assert objects_seen(world, np.array([solid, -1, -1])) == []


def test_rooms_are_visited_in_order(world_of):
    world = world_of(4)
    middles = [np.array([*(np.array(room.cell[:2]) + room.cell[2:]) / 2, 1.0]) for room in world.rooms]
    way = np.stack([middles[0], middles[0], middles[1], middles[0]])
    assert rooms_visited(world, way) == [0, 1, 0]
    assert rooms_visited(world, np.full((2, 3), -99.0)) == [0]


def test_the_vocabulary_is_a_sorted_list_of_words():
    words = vocabulary()
    assert words == sorted(set(words))
    assert {"robot", "sofa", "bookshelves", "red", "doorway", "two"} <= set(words)
    assert 100 < len(words) < 400
    assert all(re.fullmatch(r"[a-z]+", word) for word in words)
