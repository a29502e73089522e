"""Items: shuffled options, judging of written answers, errors that name the line."""

import json

import pytest

from prunelib.errors import PrunelibError
from prunelib.files import read_jsonl
from prunelib.tasks.items import contains, load_items, matches, normalize, token_f1
from prunelib.tasks.readouts import demonstration

ROW = {
    "id": "p1",
    "text": "A red hat.",
    "questions": [{"id": "q1", "question": "Which hat?", "answer": "red", "distractors": ["blue", "green", "black"]}],
}


def test_the_committed_items_load_whole():
    items = load_items()
    assert len({item.passage_id for item in items}) >= 80 and len(items) >= 240
    assert all(item.options[item.correct] == item.answer and len(item.options) == 4 for item in items)


def test_options_are_shuffled_by_seed_and_question_alone():
    whole, few = load_items(seed=3), load_items(limit=2, seed=3)
    assert [item.options for item in whole[: len(few)]] == [item.options for item in few]
    assert [item.options for item in load_items(seed=4)] != [item.options for item in whole]
    places = [item.correct for item in whole]
    # 264 items, a quarter each expected: four standard deviations are 28.
    assert all(abs(places.count(place) - len(places) / 4) < 28 for place in range(4))


def test_the_example_is_no_item():
    shown = demonstration()
    assert len(shown) == 3 and not {item.passage for item in shown} & {item.passage for item in load_items()}


@pytest.mark.parametrize(
    ("text", "accepted", "equal", "inside", "f1"),
    [
        (" The Red Hat.", ("red hat",), True, True, 1.0),
        ("it was a red hat, I think", ("red hat",), False, True, 0.5),  # 2 shared of 6 and 2 words
        ("redhat", ("red hat",), False, False, 0.0),
        ("hatred", ("red",), False, False, 0.0),
        ("", ("red",), False, False, 0.0),
        ("forty", ("40", "forty"), True, True, 1.0),
        ("red red", ("red",), False, True, 2 / 3),  # a repeated word counts once
    ],
)
def test_judging(text, accepted, equal, inside, f1):
    assert matches(text, accepted) == equal
    assert contains(text, accepted) == inside
    assert token_f1(text, accepted) == pytest.approx(f1)


def test_normalize():
    assert normalize("An  Apple-pie, the BEST!") == ["apple", "pie", "best"]


def _file(tmp_path, *lines):
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: needs an object, got list"),
        ({"id": "p2", "text": "x"}, 'line 2: no field "questions"'),
        ({**ROW, "id": "p2", "questions": [{"id": "q2", "question": "?", "answer": "a"}]}, 'no field "distractors"'),
        ({**ROW, "id": "p2"}, "the question id 'q1' is used twice"),
        ({**ROW, "id": "p2", "questions": [{**ROW["questions"][0], "id": "q3", "distractors": ["red"]}]}, "differ"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, line, words):
    with pytest.raises(PrunelibError, match=words) as error:
        load_items(_file(tmp_path, ROW, line))
    assert "items.jsonl" in str(error.value) and "\n" not in str(error.value)


def test_empty_and_missing_files_are_one_line(tmp_path):
    with pytest.raises(PrunelibError, match="holds no row"):
        read_jsonl(_file(tmp_path, "", ""))
    with pytest.raises(PrunelibError, match="cannot read"):
        read_jsonl(tmp_path / "none.jsonl")
