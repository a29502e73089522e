"""Files that a user writes, damaged in every way we know: one line that names file and line, nothing else."""

import copy
import json
import os

import pytest
import tiny_files

from prunelib.engine import text
from prunelib.errors import PrunelibError
from prunelib.files import read_jsonl
from prunelib.models.lm import LM
from prunelib.tasks.harness import LOCAL, _local
from prunelib.tasks.items import load_items
from prunelib.tasks.retrieval import load_corpus

QUESTION = {"id": "q1", "question": "Which colour?", "answer": "red", "distractors": ["blue", "green", "grey"]}
ITEM = {"id": "p1", "text": "The hat is red.", "questions": [QUESTION]}
PROMPT = {"id": "a", "kind": "user", "text": "Hello"}
DEEP = '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"


def line(row) -> bytes:
    return row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode()


def changed(row: dict, **fields) -> dict:
    """The row with other fields; ``None`` is a null, ``...`` takes a field out."""
    return {name: value for name, value in (row | fields).items() if value is not ...}


def asked(**fields) -> dict:
    return changed(ITEM, id="p2", questions=[changed(QUESTION, id="q2", **fields)])


# What no line of JSON may be, whatever it is about.
LINES = {
    "cut short": ('{"text": "a', "not JSON"), "not JSON": ("text: a", "not JSON"), "a list": ("[1]", "needs an object"),
    "a number": ("3", "needs an object"), "null": ("null", "needs an object"), "not UTF-8": (b"\xff\xfe", "not UTF-8"),
    "UTF-16": ('{"text": "a"}'.encode("utf-16"), "not UTF-8"), "NaN": ('{"text": NaN}', "not JSON"),
    "Infinity": ('{"text": -Infinity}', "not JSON"), "half a character": (r'{"text": "\ud800"}', "half a character"),
    "deep": (DEEP, "nested too deeply"), "endless digits": ('{"text": ' + "9" * 5000 + "}", "not JSON"),
    "two objects": ('{"text": "a"} {"text": "b"}', "not JSON"), "no text": ('{"txt": "a"}', 'no field "text"'),
}  # fmt: skip

ITEMS = {
    "text is null": (changed(ITEM, text=None), '"text" must be text, not null'),
    "text is a list": (changed(ITEM, text=["a"]), '"text" must be text, not'),
    "text is empty": (changed(ITEM, text=" "), '"text" is empty'),
    "text is true": (changed(ITEM, text=True), '"text" must be text, not true'),
    "no id": (changed(ITEM, id=...), 'no field "id"'),
    "id is null": (changed(ITEM, id=None), '"id" must be text'),
    "id is a share": (changed(ITEM, id=1.5), '"id" must be text, not 1.5'),
    "passage twice": (ITEM, "the passage id 'p1' is used twice"),
    "question twice": (changed(ITEM, id="p2"), "the question id 'q1' is used twice"),
    "questions are null": (changed(ITEM, questions=None), '"questions" must be a list, not null'),
    "questions are an object": (changed(ITEM, questions={"q": 1}), '"questions" must be a list'),
    "no question": (changed(ITEM, questions=[]), '"questions" is empty'),
    "a question is text": (changed(ITEM, id="p2", questions=["Why?"]), "question 1: needs an object, got str"),
    "a question without words": (asked(question=None), 'question 1: "question" must be text, not null'),
    "an answer that is null": (asked(answer=None), '"answer" must be text, not null'),
    "an answer that is empty": (asked(answer=""), '"answer" is empty'),
    "an answer that is a list": (asked(answer=["red"]), '"answer" must be text'),
    "no distractors": (asked(distractors=...), 'no field "distractors"'),
    "distractors of nothing": (asked(distractors=[]), '"distractors" is empty'),
    "a distractor that is null": (asked(distractors=["a", None]), '"distractors" must be a list of texts'),
    "a distractor that is empty": (asked(distractors=["a", " "]), '"distractors" must be a list of texts'),
    "distractors that are text": (asked(distractors="blue"), '"distractors" must be a list'),
    "a distractor twice": (asked(distractors=["blue", "blue"]), "options must differ"),
    "the answer among them": (asked(distractors=["red"]), "options must differ"),
    "the answer but for a blank": (asked(distractors=["red "]), "options must differ"),
    "too many": (asked(distractors=list("abcdefgh")), "at most 8"),
    "aliases that are text": (asked(aliases="crimson"), '"aliases" must be a list of texts'),
    "an alias that is null": (asked(aliases=[None]), '"aliases" must be a list of texts'),
}


@pytest.fixture(scope="module")
def reader(make_model):
    return LM.from_model(make_model("llama"), tiny_files.tokenizer(), "tiny")


@pytest.mark.parametrize("damage", [*LINES, *ITEMS])
def test_items(damage, tmp_path):
    content, words = (LINES | ITEMS)[damage]
    file = tmp_path / "items.jsonl"
    file.write_bytes(line(ITEM) + b"\n\n" + line(content) + b"\n")
    with pytest.raises(PrunelibError, match=r"items\.jsonl, line 3") as caught:
        load_items(file)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    assert words in message or damage == "no text"  # of items, the id is asked for first


@pytest.mark.parametrize("damage", LINES)
def test_prompts_and_calibration(damage, tmp_path, reader):
    content, words = LINES[damage]
    file = tmp_path / "texts.jsonl"
    file.write_bytes(line(PROMPT) + b"\n" + line(content))
    for read in (text.load_prompts, lambda name: text.calibration(reader, name, n=1, length=4)):
        with pytest.raises(PrunelibError, match=r"texts\.jsonl, line 2") as caught:
            read(str(file))
        assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("row", "words"), [
    (changed(PROMPT, text=None), '"text" must be text, not null'), (changed(PROMPT, text=["a"]), '"text" must be text'),
    (changed(PROMPT, text=""), '"text" is empty'), (PROMPT, "the id 'a' is used twice"),
])  # fmt: skip
def test_prompts(row, words, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(line(PROMPT) + b"\n" + line(row))
    with pytest.raises(PrunelibError, match="line 2") as caught:
        text.load_prompts(str(file))
    assert words in str(caught.value)


def test_null_fields_that_may_be_absent_are_absent(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(line({"id": None, "kind": None, "text": "Hello"}))
    assert text.load_prompts(str(file)) == [text.Prompt("line-1", "user", "Hello")]


def test_a_text_file_that_is_no_text(tmp_path, reader):
    file = tmp_path / "texts.txt"
    file.write_bytes(b"one\ntwo \xff\n")
    for read in (text.load_prompts, lambda name: text.calibration(reader, name, n=1, length=4)):
        with pytest.raises(PrunelibError, match=r"texts\.txt, line 2: not UTF-8 text"):
            read(str(file))


@pytest.mark.parametrize("suffix", [b"", b"\n", b"\r\n", b"\n\n"])
def test_what_editors_leave_in_a_file_is_no_damage(suffix, tmp_path):
    """A byte order mark, ends of lines of another system, blank lines at the end."""
    file = tmp_path / "items.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + line(ITEM) + b"\r\n" + line(asked()) + suffix)
    assert [item.id for item in load_items(file)] == ["q1", "q2"]
    numbers = changed(ITEM, id=7, questions=[changed(QUESTION, id=3, answer=40, distractors=["41"])])
    file.write_bytes(line(numbers))
    assert [(item.passage_id, item.id, item.answer) for item in load_items(file)] == [("7", "3", "40")]


@pytest.mark.parametrize("kind", ["empty", "folder", "absent", "unreadable"])
def test_files_that_are_none(kind, tmp_path):
    file = tmp_path / "items.jsonl"
    if kind == "empty":
        file.write_bytes(b"\xef\xbb\xbf\n")
    elif kind == "folder":
        file.mkdir()
    elif kind == "unreadable":
        if os.geteuid() == 0:
            pytest.skip("root reads everything")
        file.touch(mode=0)
    with pytest.raises(PrunelibError, match="items.jsonl") as caught:
        read_jsonl(file)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- corpora in BEIR's layout

CORPUS = {"corpus.jsonl": [{"_id": "d1", "title": "", "text": "a"}, {"_id": "d2", "title": "B", "text": ""}],
          "queries.jsonl": [{"_id": "q1", "text": "a?"}, {"_id": "q2", "text": "b?"}],
          "qrels/test.tsv": ["query-id\tcorpus-id\tscore", "q1\td1\t1", "q2\td2\t0"]}  # fmt: skip


def corpus(folder, name=None, number=0, content=None):
    """The corpus with line ``number`` (from 1) of file ``name`` in another form; 0 adds one."""
    files = copy.deepcopy(CORPUS)
    if name:
        rows = files[name]
        rows[number - 1 : number or None] = [content] if number else [*rows[-1:], content]
    (folder / "qrels").mkdir()
    for file, rows in files.items():
        (folder / file).write_bytes(b"\n".join(map(line, rows)) + b"\n")
    return str(folder)


def test_a_corpus(tmp_path):
    found = load_corpus(corpus(tmp_path))
    assert found.documents == {"d1": "a", "d2": "B"} and found.asked == ["q1"]


@pytest.mark.parametrize(("name", "number", "content", "words"), [
    ("corpus.jsonl", 2, "{", "not JSON"), ("corpus.jsonl", 2, {"_id": "d2"}, 'no field "text"'),
    ("corpus.jsonl", 2, {"_id": "d2", "text": None}, '"text" must be text, not null'),
    ("corpus.jsonl", 2, {"_id": "d2", "text": ""}, '"text" is empty'),
    ("corpus.jsonl", 2, {"_id": "d2", "text": "x", "title": ["a"]}, '"title" must be text'),
    ("corpus.jsonl", 2, {"_id": None, "text": "x"}, '"_id" must be text, not null'),
    ("corpus.jsonl", 2, {"_id": "d1", "text": "x"}, "the id 'd1' is used twice"),
    ("queries.jsonl", 2, {"_id": "q2", "text": 3.5}, '"text" must be text, not 3.5'),
    ("queries.jsonl", 2, {"_id": "q1", "text": "again"}, "the id 'q1' is used twice"),
    ("queries.jsonl", 2, b"\xff", "not UTF-8"),
    ("qrels/test.tsv", 2, "q1 d1 1", "expected query, document and a whole grade"),
    ("qrels/test.tsv", 2, "q1\td1", "expected query, document and a whole grade"),
    ("qrels/test.tsv", 2, "q1\td1\t0.5", "expected query, document and a whole grade"),
    ("qrels/test.tsv", 2, "q1\td1\tyes", "expected query, document and a whole grade"),
    ("qrels/test.tsv", 2, "q1\td1\t99999999999999999999", "expected query, document and a whole grade"),
    ("qrels/test.tsv", 2, b"q1\td1\xff\t1", "not UTF-8"),
])  # fmt: skip
def test_a_damaged_corpus(name, number, content, words, tmp_path):
    with pytest.raises(PrunelibError, match=rf"{name}, line {number}") as caught:
        load_corpus(corpus(tmp_path, name, number, content))
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("row", "words"), [
    ("q1\td9\t1", "the judgements name the document 'd9', which is not there"),
    ("q9\td1\t1", "the judgements name the query 'q9', which is not there"),
    ("q1\td1\t0", "has no judged query"),
])  # fmt: skip
def test_judgements_of_what_is_not_there(row, words, tmp_path):
    with pytest.raises(PrunelibError, match=words):
        load_corpus(corpus(tmp_path, "qrels/test.tsv", 2, row))


def test_two_grades_of_one_pair(tmp_path):
    with pytest.raises(PrunelibError, match="line 4: query 'q1', document 'd1' has two grades"):
        load_corpus(corpus(tmp_path, "qrels/test.tsv", 0, "q1\td1\t2"))


# ---------------------------------------------------------------- benchmarks in a folder

CHOICES = {"label": list("ABCDE"), "text": ["a", "b", "c", "d", "e"]}


@pytest.mark.parametrize(("task", "row", "words"), [
    ("gsm8k", {"question": None, "answer": "#### 3"}, '"question" needs a text, got NoneType'),
    ("gsm8k", {"question": "1 + 2?"}, 'no field "answer"'),
    ("gsm8k", {"question": " ", "answer": "#### 3"}, '"question" is empty'),
    ("gsm8k", {"question": ["1 + 2?"], "answer": "#### 3"}, '"question" needs a text, got list'),
    ("multiarith", {"question": "1 + 2?", "final_ans": True}, '"final_ans" needs a text, got bool'),
    ("commonsense_qa", {"question": "?", "choices": None, "answerKey": "A"}, '"choices" needs the labels A to E'),
    ("commonsense_qa", {"question": "?", "choices": {**CHOICES, "text": list("abcd")}, "answerKey": "A"}, "five texts"),
    ("commonsense_qa", {"question": "?", "choices": {**CHOICES, "text": [None, *"bcde"]}, "answerKey": "A"}, "is none"),
    ("commonsense_qa", {"question": "?", "choices": CHOICES, "answerKey": "F"}, '"answerKey" needs one of A to E'),
])  # fmt: skip
def test_a_damaged_benchmark(task, row, words, tmp_path):
    file = tmp_path / LOCAL[task].file
    file.write_bytes(b"\n" + line(row))
    with pytest.raises(PrunelibError, match=rf"{LOCAL[task].file}, line 2") as caught:
        _local(task, tmp_path, 0)
    assert words in str(caught.value) and "\n" not in str(caught.value)
