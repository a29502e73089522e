"""A run in shards gives the tables of one run, and nothing is computed twice when they are put together."""

import re
import subprocess
import sys

import pandas as pd
import pytest
import tiny_files
from refusals import refused

from prunelib.files import read_json
from prunelib.runs import shards, sources

CHAPTERS = ("05", "06")
OPTIONS = ("--model", "tiny", "--profile", "smoke", "--device", "cpu", "-p", "limit=2")


def run(folder, *words) -> tuple[str, str]:
    command = [sys.executable, "-m", "prunelib.cli", "run", *CHAPTERS, *OPTIONS, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def computed(told: str) -> int:
    return sum(map(int, re.findall(r"\((\d+) units computed", told)))


def test_shards_give_the_tables_of_one_run(make_model, tmp_path):
    tiny_files.write_folder(make_model("llama"), tmp_path / "tiny")
    _, told = run(tmp_path, "--out", "whole")
    assert computed(told) > 2
    for number in (1, 2):
        out, told = run(tmp_path, "--out", "split", "--shard", f"{number}/2")
        assert out.strip().endswith(f"split/shards/{number}-of-2") and computed(told) > 0
    _, told = run(tmp_path, "--out", "split")
    assert computed(told) == 0
    whole, split = (set((tmp_path / one / "tables").glob("*.parquet")) for one in ("whole", "split"))
    parts = set((tmp_path / "split" / "shards").glob("*/tables/*.parquet"))
    # What stands between, such as the tokens that were read, is not asked for once the tables are there.
    assert {file.name for file in whole} == {file.name for file in parts} >= {file.name for file in split}
    assert len(split) > 2
    for one in (*split, *parts):
        same = pd.read_parquet(tmp_path / "whole" / "tables" / one.name)
        pd.testing.assert_frame_equal(pd.read_parquet(one), same, check_exact=True)
    # What a chapter cost is what computing it took, not what putting it together did.
    costs = [entry["cost"] for entry in read_json(tmp_path / "split" / "manifest.json")["notebooks"].values()]
    assert all(cost["computed"] > 0 for cost in costs)
    run(tmp_path, "--out", "split")  # nothing is done again


@pytest.mark.parametrize("of", [1, 2, 5, 19])
def test_every_chapter_is_in_one_shard(of):
    books = sources.select([])
    found = [shards.share(books, number, of) for number in range(1, of + 1)]
    assert sorted(book.id for one in found for book in one) == sorted(book.id for book in books)
    assert all(found)


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2", "1/2/3", "²/3"])
def test_what_is_no_shard(text):
    with refused("a shard is written as 2/4", text):
        shards.parse(text)


def test_more_shards_than_chapters():
    with refused("2 chapters cannot be split into 3 shards"):
        shards.share(sources.select(["05", "06"]), 1, 3)
