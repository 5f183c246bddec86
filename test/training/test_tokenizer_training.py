"""A tokenizer of our own: special ids, round trip, files."""

import pytest
from room_clips import room_batch

from gen3r_core.errors import InputError
from gen3r_core.models.text_encoder import Tokenizer
from gen3r_core.training.tokenizer import read_captions, train_tokenizer

CAPTIONS = [
    f"a {size} {kind} with {what}, seen by a {who}"
    for size in ("small", "large", "narrow")
    for kind in ("kitchen", "living room", "corridor")
    for what in ("a red sofa", "two chairs and a wooden table", "brick walls")
    for who in ("robot", "drone")
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CAPTIONS, 120)


def test_special_ids_are_umt5s(tokenizer):
    assert tokenizer.pad_id == 0
    assert tokenizer("", 10) == ([1], False)
    ids, cut = tokenizer(CAPTIONS[0], 64)
    assert ids[-1] == 1
    assert not cut
    assert 0 not in ids
    assert 2 not in ids
    assert max(ids) < 120
    assert 2 in tokenizer("a ☃", 64)[0]


def test_words_of_the_captions_are_few_pieces(tokenizer):
    ids, _ = tokenizer(CAPTIONS[0], 64)
    assert len(ids) < len(CAPTIONS[0]) / 3
    assert tokenizer(CAPTIONS[0].upper(), 64)[0] == ids


def test_text_is_cut_with_its_end_token(tokenizer):
    ids, cut = tokenizer(" ".join(CAPTIONS), 12)
    assert cut
    assert len(ids) == 12
    assert ids[-1] == 1


def test_saved_files_are_read_back(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    loaded = Tokenizer.from_folder(tmp_path / "tokenizer")
    assert loaded.pad_id == 0
    for caption in [*CAPTIONS, "", "something else"]:
        assert loaded(caption, 40) == tokenizer(caption, 40)
    decoded = loaded._tokenizer.decode(loaded(CAPTIONS[0], 64)[0], skip_special_tokens=True)
    assert decoded.strip() == CAPTIONS[0]


def test_training_does_not_depend_on_the_order(tokenizer):
    again = train_tokenizer(reversed(CAPTIONS), 120)
    assert [again(c, 64) for c in CAPTIONS] == [tokenizer(c, 64) for c in CAPTIONS]


def test_the_stand_in_captions_work():
    captions = [c for seed in range(20) for c in room_batch(seed, 2, 1, (1, 1)).captions]
    ids, _ = train_tokenizer(captions, 64)(captions[0], 40)
    assert 2 not in ids


def test_bad_captions():
    with pytest.raises(InputError, match="all captions are empty"):
        train_tokenizer(["", "  "], 100)
    with pytest.raises(
        InputError, match=r"a vocabulary of 5 is too small: .* hold 3 different characters; give at least 7"
    ):
        train_tokenizer(["ab b"], 5)


def test_captions_from_a_file(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("\ufeffa room\n\n two rooms \n", encoding="utf-8")
    assert read_captions(path) == ["a room", "two rooms"]
    path.write_text("\n\n")
    with pytest.raises(InputError, match=r"captions .*captions.txt are empty; write one caption a line"):
        read_captions(path)
    with pytest.raises(InputError, match=r"captions .*nowhere.txt cannot be read"):
        read_captions(tmp_path / "nowhere.txt")
    path.write_bytes(b"\xff\xfe\x00caf\xe9")
    with pytest.raises(InputError, match="cannot be read"):
        read_captions(path)
