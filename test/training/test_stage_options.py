"""Options: types, unknown keys, ranges."""

from dataclasses import dataclass
from typing import Any

import pytest

from gen3r_core.errors import InputError
from gen3r_core.training.options import check_range, choose, read_options


@dataclass(frozen=True)
class Options:
    count: int = 1
    rate: float = 0.5
    name: str = "a"
    flag: bool = False
    sizes: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    config: dict[str, Any] | None = None
    limit: int | None = None


def test_values_are_read():
    values = {"count": 3, "rate": 2, "flag": True, "sizes": [1, 2], "pair": [1, 2.5], "config": {"a": 1}, "limit": None}
    options = read_options(Options, values, "stage")
    assert options == Options(3, 2.0, "a", flag=True, sizes=(1, 2), pair=(1.0, 2.5), config={"a": 1})
    assert isinstance(options.rate, float)
    assert read_options(Options, {}, "stage") == Options()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 1}, "stage: unknown option 'cuont'; did you mean 'count'. known are config, count"),
        ({"zzz": 1}, "unknown option 'zzz'; known are"),
        ({"count": 1.5}, "option 'count' must be a whole number, got 1.5"),
        ({"count": True}, "option 'count' must be a whole number, got True"),
        ({"rate": "fast"}, "option 'rate' must be a number, got 'fast'"),
        ({"flag": 1}, "option 'flag' must be true or false, got 1"),
        ({"name": 3}, "option 'name' must be a text, got 3"),
        ({"sizes": 3}, "option 'sizes' must be a list, got 3"),
        ({"sizes": ["a"]}, "option 'sizes' must be a whole number, got 'a'"),
        ({"pair": [1]}, "option 'pair' must be a list of 2 values"),
        ({"config": [1]}, "option 'config' must be a table of keys and values"),
        ({"limit": "x"}, "option 'limit' must be a whole number, got 'x'"),
        ({"count": None}, "option 'count' must be a whole number, got None"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(InputError, match=message):
        read_options(Options, values, "stage")


def test_ranges_and_choices():
    check_range("x", None, 1)
    check_range("x", 1, 1, 2)
    choose("x", "a", ("a", "b"))
    with pytest.raises(InputError, match="option 'x' must be between 1 and 2, got 3"):
        check_range("x", 3, 1, 2)
    with pytest.raises(InputError, match="option 'x' must be at least 1, got nan"):
        check_range("x", float("nan"), 1)
    with pytest.raises(InputError, match="option 'x' is 'c'; choose one of: a, b"):
        choose("x", "c", ("a", "b"))
