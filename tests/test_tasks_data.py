"""The offline benchmark items: schema, answers, distractors, balance, and the datasheet's numbers."""

import itertools
import json
import math
import re
from collections import Counter

import pytest

from prunelib.paths import data_dir

FOLDER = data_dir() / "tasks"
RAW = (FOLDER / "passages.jsonl").read_text(encoding="utf-8")
PASSAGES = [json.loads(line) for line in RAW.splitlines()]
ITEMS = [(p, q) for p in PASSAGES for q in p["questions"]]
PROMPTS = [json.loads(line) for line in (FOLDER / "prompts_long.jsonl").read_text(encoding="utf-8").splitlines()]
SHEET = (FOLDER / "DATASHEET.md").read_text(encoding="utf-8")

PHRASE_TYPES = {"reason", "action"}
TYPES = {"person", "place", "number", "time", "object", "colour", "material"} | PHRASE_TYPES
KINDS = ["explain", "story", "letter", "how-to", "list", "dialogue", "summarise", "compare"]


def norm(text: str) -> str:
    """Lower case, letters, digits and single spaces, no articles."""
    words = re.sub(r"[^a-z0-9 ]", " ", text.lower().replace("'", "")).split()
    return " ".join(w for w in words if w not in {"a", "an", "the"})


def within(part: str, whole: str) -> bool:
    """`part` is a run of whole words of `whole`, both normalised."""
    return f" {norm(part)} " in f" {norm(whole)} "


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    words = norm(text).split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b)


def share(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def options(question: dict) -> list[str]:
    return [question["answer"], *question["distractors"]]


def longest(question: dict) -> bool:
    return len(question["answer"]) > max(map(len, question["distractors"]))


def shortest(question: dict) -> bool:
    return len(question["answer"]) < min(map(len, question["distractors"]))


def offered_by_passage(passage: dict, question: dict) -> bool:
    return any(within(d, passage["text"]) for d in question["distractors"])


def overlap_ranks() -> list[int]:
    """Rank of the right passage under BM25 (k1 1.2, b 0.75); ties count against it."""
    docs = [norm(p["text"]).split() for p in PASSAGES]
    mean = sum(map(len, docs)) / len(docs)
    counts = [Counter(d) for d in docs]
    df = Counter(w for c in counts for w in c)

    def score(words, i):
        penalty = 1.2 * (0.25 + 0.75 * len(docs[i]) / mean)
        return sum(
            math.log(1 + (len(docs) - df[w] + 0.5) / (df[w] + 0.5)) * counts[i][w] * 2.2 / (counts[i][w] + penalty)
            for w in words
            if w in counts[i]
        )

    ranks = []
    for gold, passage in enumerate(PASSAGES):
        for question in passage["questions"]:
            words = norm(question["question"]).split()
            scores = [score(words, i) for i in range(len(docs))]
            ranks.append(1 + sum(s >= scores[gold] for i, s in enumerate(scores) if i != gold))
    return ranks


# ---------------------------------------------------------------- passages


def test_fields_ids_and_order():
    for number, passage in enumerate(PASSAGES, 1):
        assert list(passage) == ["id", "subject", "text", "questions"]
        assert re.fullmatch(rf"p{number:03d}(-[a-z]+)+", passage["id"])
        assert len(passage["questions"]) == 3
        for k, question in enumerate(passage["questions"], 1):
            assert list(question) == ["id", "question", "answer", "aliases", "distractors", "type"]
            assert question["id"] == f"p{number:03d}-q{k}"
            assert question["type"] in TYPES
            assert isinstance(question["aliases"], list) and len(question["distractors"]) == 3
            assert question["question"].endswith("?") and question["question"][0].isupper()


def test_size_and_variety():
    assert len(PASSAGES) >= 84 and len(ITEMS) >= 252
    subjects = Counter(p["subject"] for p in PASSAGES)
    assert len(subjects) >= 12 and min(subjects.values()) >= 2
    assert {q["type"] for _, q in ITEMS} == TYPES
    assert all(60 <= len(p["text"].split()) <= 110 for p in PASSAGES)


def test_plain_text():
    allowed = re.compile(r"[A-Za-z0-9 .,:;?'\-]+")
    strings = [s for p in PASSAGES for s in (p["subject"], p["text"])]
    strings += [s for _, q in ITEMS for s in (q["question"], *options(q), *q["aliases"])]
    for text in strings:
        assert text == text.strip() and "  " not in text and allowed.fullmatch(text), text
    assert RAW.isascii() and RAW.endswith("\n")


def test_nothing_is_said_twice():
    assert len({p["text"] for p in PASSAGES}) == len({p["id"] for p in PASSAGES}) == len(PASSAGES)
    assert len({q["id"] for _, q in ITEMS}) == len({norm(q["question"]) for _, q in ITEMS}) == len(ITEMS)
    grams = [ngrams(p["text"], 5) for p in PASSAGES]
    assert max(jaccard(a, b) for a, b in itertools.combinations(grams, 2)) < 0.1
    words = [ngrams(q["question"], 1) for _, q in ITEMS]
    assert max(jaccard(a, b) for a, b in itertools.combinations(words, 2)) < 0.8


# ---------------------------------------------------------------- answers and distractors


@pytest.mark.parametrize("passage", PASSAGES, ids=lambda p: p["id"])
def test_answers_and_distractors(passage):
    for question in passage["questions"]:
        answer, accepted = question["answer"], [question["answer"], *question["aliases"]]
        words = len(answer.split())
        assert answer.lower() in passage["text"].lower()
        assert 3 <= words <= 8 if question["type"] in PHRASE_TYPES else words <= 3
        assert len({norm(s) for s in options(question)}) == 4 and all(map(norm, options(question)))
        assert len({s.lower() for s in accepted}) == len(accepted)
        for text in accepted:
            assert not within(text, question["question"])
        for wrong in map(norm, question["distractors"]):
            assert wrong not in norm(answer) and norm(answer) not in wrong
            assert not any(within(wrong, text) or within(text, wrong) for text in accepted)


def test_types_are_balanced_enough():
    phrases = share(q["type"] in PHRASE_TYPES for _, q in ITEMS)
    assert 0.25 <= phrases <= 0.5
    assert min(Counter(q["type"] for _, q in ITEMS).values()) >= 8


@pytest.mark.parametrize("group", ["all", "short", "phrase"])
def test_length_gives_no_answer_away(group):
    chosen = [q for _, q in ITEMS if group == "all" or (q["type"] in PHRASE_TYPES) == (group == "phrase")]
    assert 0.15 <= share(map(longest, chosen)) <= 0.35
    assert 0.15 <= share(map(shortest, chosen)) <= 0.35


def test_choice_needs_reading():
    """The passage itself offers a wrong option in most items, so finding a familiar word is not enough."""
    assert share(offered_by_passage(p, q) for p, q in ITEMS) >= 0.6


def test_word_overlap_finds_the_passage():
    ranks = overlap_ranks()
    assert share(r <= 5 for r in ranks) >= 0.85
    assert max(ranks) <= 20  # a question that words alone put far away is ambiguous


# ---------------------------------------------------------------- prompts


def test_long_prompts():
    assert len(PROMPTS) == 44
    assert len({p["id"] for p in PROMPTS}) == len({p["text"] for p in PROMPTS}) == len(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        assert list(prompt) == ["id", "kind", "text"]
        assert re.fullmatch(rf"long-{prompt['kind']}-\d\d", prompt["id"])
        assert prompt["text"].isascii() and prompt["text"] == prompt["text"].strip()
        assert 15 <= len(prompt["text"].split()) <= 120
        if i < 40:  # any first n prompts hold min(n, 8) kinds
            assert prompt["kind"] == KINDS[i % 8]
    assert min(Counter(p["kind"] for p in PROMPTS).values()) >= 5


def test_long_prompts_share_no_text_with_each_other_or_the_other_prompts():
    others = [json.loads(line)["text"] for line in (data_dir() / "prompts.jsonl").read_text().splitlines()]
    texts = [p["text"] for p in PROMPTS] + others + [p["text"] for p in PASSAGES]
    seen = Counter(gram for text in texts for gram in ngrams(text, 8))
    assert [gram for gram, n in seen.items() if n > 1] == []


# ---------------------------------------------------------------- datasheet


def table(heading: str) -> dict[str, str]:
    """The rows of the two-column table under a heading of the datasheet."""
    section = SHEET.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", section, flags=re.M)
    return {k: v for k, v in rows if not set(k) <= {"-"}}


def test_datasheet_counts():
    words = [len(p["text"].split()) for p in PASSAGES]
    ranks = overlap_ranks()
    expected = {
        "passages": len(PASSAGES),
        "questions": len(ITEMS),
        "subjects": len({p["subject"] for p in PASSAGES}),
        "words in a passage": f"{min(words)} to {max(words)}, {sum(words)} in all",
        "short answers": sum(q["type"] not in PHRASE_TYPES for _, q in ITEMS),
        "phrase answers": sum(q["type"] in PHRASE_TYPES for _, q in ITEMS),
        "answer is the longest option": f"{share(longest(q) for _, q in ITEMS):.1%}",
        "answer is the shortest option": f"{share(shortest(q) for _, q in ITEMS):.1%}",
        "a distractor stands in the passage": f"{share(offered_by_passage(p, q) for p, q in ITEMS):.1%}",
        "right passage first by word overlap": f"{share(r == 1 for r in ranks):.1%}",
        "right passage in the first five": f"{share(r <= 5 for r in ranks):.1%}",
        "long prompts": len(PROMPTS),
    }
    stated = table("Counts")
    assert {k: stated.get(k) for k in expected} == {k: str(v) for k, v in expected.items()}


def test_datasheet_types_and_subjects():
    types = Counter(q["type"] for _, q in ITEMS)
    stated = table("Question types")
    assert {k: stated[k] for k in types} == {k: str(v) for k, v in types.items()}
    for subject in {p["subject"] for p in PASSAGES}:
        assert subject in " ".join(SHEET.split())
    assert "Apache-2.0" in SHEET
