"""Several recordings at once: what each one's process is told."""

import argparse
from pathlib import Path

import pytest

from gen3r_core.cli import build_parser
from gen3r_core.offline.several import command_line

NOT_HANDED_ON = {"run", "path", "output_dir", "device"}


def _parser():
    """That of the sub-command."""
    commands = next(one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction))
    return commands.choices["reconstruct"]


OPTIONS = [one for one in _parser()._actions if one.option_strings and one.dest not in {"help", *NOT_HANDED_ON}]


def _words(action, value):
    return [action.option_strings[-1]] if action.nargs == 0 else [f"{action.option_strings[-1]}={value}"]


def _value(action):
    return list(action.choices)[-1] if action.choices else {int: "7", float: "-0.25"}.get(action.type, "-some words")


def _handed_on(before, words):
    """What the command makes of words, and what a child's makes of those that it is given."""
    given = build_parser().parse_args([*before, "reconstruct", "one", "two", *words])
    line = command_line(_parser(), given, Path("-two"), Path("maps/two"), "cuda:1")
    assert line[1:3] == ["-m", "gen3r_core.cli"]
    heard = build_parser().parse_args(line[3:])
    assert (heard.path, heard.output_dir, heard.device) == ([Path("-two")], Path("maps/two"), ["cuda:1"])
    return [{name: value for name, value in vars(one).items() if name not in NOT_HANDED_ON} for one in (given, heard)]


@pytest.mark.parametrize("action", OPTIONS, ids=lambda action: action.dest)
def test_each_option_is_handed_on(action):
    given, heard = _handed_on([], ["--output_dir=maps", *_words(action, _value(action))])
    assert given == heard
    assert given[action.dest] != action.default


@pytest.mark.parametrize("action", [one for one in OPTIONS if one.type in (int, float)], ids=lambda action: action.dest)
def test_so_is_nought(action):
    given, heard = _handed_on([], ["--output_dir=maps", *_words(action, "0")])
    assert given == heard
    assert given[action.dest] == 0


def test_so_are_all_of_them_several_times_and_none():
    words = [word for one in OPTIONS for word in 2 * _words(one, _value(one))]
    for before, more in ((["--debug"], words), ([], []), ([], ["--prompt="])):
        given, heard = _handed_on(before, ["--output_dir=maps", "--device", "cpu", "cuda", *more])
        assert given == heard
