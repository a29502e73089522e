"""Options and profiles: one list, checked where it is made."""

from dataclasses import fields, replace

import pytest

from prunelib.errors import PrunelibError
from prunelib.runs import profiles
from prunelib.runs.options import FLAGS, NAMES, RunOptions


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"profile": "quik"}, "unknown profile 'quik' .did you mean 'quick'"),
        ({"limit": -1}, "limit must be 0 or a number of prompts, got -1"),
        ({"seed": 2**32}, "seed must be a whole number from 0 to 4294967295"),
        ({"temperatures": "1,0"}, "temperature must be above 0, got 0"),
        ({"temperatures": "1;2"}, "temperatures must be numbers separated by commas"),
    ],
)
def test_a_bad_option_is_one_line(given, line):
    with pytest.raises(PrunelibError, match=line):
        RunOptions.of(given)


def test_options_are_taken_from_anything_that_has_them():
    options = RunOptions.of({"seed": 3, "limit": 5, "drop_count": 4, "__name__": "__main__"})
    assert (options.seed, options.settings.prompts) == (3, 5)
    assert options.settings == replace(profiles.PROFILES["quick"], prompts=5)
    assert set(FLAGS) < set(NAMES) and all(one.metadata["about"] for one in fields(RunOptions))


def test_every_field_of_a_profile_says_what_it_counts():
    about = profiles.about()
    assert list(about) == [one.name for one in fields(profiles.Profile)] and all(about.values())
    smoke, quick, full = profiles.PROFILES.values()
    for name in about:
        sizes = [getattr(one, name) for one in (smoke, quick, full)]
        if all(isinstance(size, int) for size in sizes):
            assert sizes == sorted(sizes), name


def test_specifications_of_a_profile_are_valid_for_the_chapter_that_shows_them():
    from prunelib.chapters import checks
    from prunelib.methods import parse

    for profile in profiles.PROFILES.values():
        checks.parse_specs("sparsity", ",".join(profile.sparse))
        assert all(parse(spec).needs for spec in profile.seeded)
        for kind, counts in profile.drops.items():
            checks.parse_specs("dropping-layers", ",".join(f"drop:{kind}:{count}" for count in counts))
