"""Task scores: shares, paired intervals and claims by hand, on tables made up for it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from prunelib.chapters import load_figures
from prunelib.chapters.dropping_layers import figures as dropping_figures
from prunelib.chapters.dropping_layers import page as dropping
from prunelib.chapters.sparsity import figures as sparsity_figures
from prunelib.chapters.sparsity import page as sparsity
from prunelib.errors import PrunelibError
from prunelib.report import claims, figures, style
from prunelib.report import scores as task_tables
from prunelib.report.sentences import Found
from prunelib.runs.beside import Beside
from prunelib.runs.run import plain_numbers
from prunelib.tasks import shares as tasks

load_figures()
ABOUT = {"model": {"name": "tiny"}, "notebook": "08-dropping-layers"}
SPECS = {"dense": "dense", "drop:attn:8": "Drop-8A", "drop:mlp:4": "Drop-4M", "wanda:0.5": "Wanda 50%"}


def _scores(choice: dict, generation: dict, passages=8):
    """Three questions a passage; a model is right on the first n of them."""
    rows = []
    for spec, label in SPECS.items():
        for i in range(3 * passages):
            row = dict.fromkeys(tasks.READOUTS, 1.0) | {"choice": float(i % 12 < choice[spec])}
            row["generation"] = float(i % 12 < generation[spec])
            about = {"item_id": f"i{i}", "passage_id": f"p{i // 3}", "chance": 0.25, "spec": spec, "label": label}
            rows.append(about | {"seed": 0} | row)
    texts = pd.DataFrame(
        [
            {
                "spec": s,
                "label": label,
                "seed": 0,
                "prompt_id": f"t{n}",
                "repeated": 0.1 * n,
                "distinct": 0.5,
                "surprise": 1.0 + n,
                "length": 9,
                "ended": bool(n % 2),
            }
            for s, label in SPECS.items()
            for n in range(4)
        ]
    )
    return pd.DataFrame(rows), texts


@pytest.fixture
def scores():
    return _scores(
        {"dense": 12, "drop:attn:8": 12, "drop:mlp:4": 9, "wanda:0.5": 6},
        {"dense": 6, "drop:attn:8": 3, "drop:mlp:4": 0, "wanda:0.5": 6},
    )[0]


def test_shares_of_the_dense_score(scores):
    table = tasks.kept(scores).set_index(["spec", "readout"])
    assert table.loc[("drop:mlp:4", "choice"), "kept"] == pytest.approx((0.75 - 0.25) / 0.75)
    assert table.loc[("drop:attn:8", "generation"), "kept"] == 0.5
    assert table.loc[("dense", "generation"), ["kept", "lo", "hi"]].tolist() == [1, 1, 1]  # by definition
    assert (table["lo"] <= table["kept"]).all() and (table["kept"] <= table["hi"]).all()
    plain = tasks.kept(scores, corrected=False).set_index(["spec", "readout"])
    assert plain.loc[("drop:mlp:4", "choice"), "kept"] == 0.75
    assert plain.loc[("drop:attn:8", "generation"), "kept"] == 0.5  # nobody guesses a text


def test_chance_is_that_of_each_item(scores):
    """Two kinds of items, of two and of four options: guessing is right in a half and a quarter of them."""
    mixed = scores.assign(chance=np.where(scores["passage_id"].isin(["p0", "p1", "p2", "p3"]), 0.5, 0.25))
    row = tasks.kept(mixed).set_index(["spec", "readout"]).loc[("drop:mlp:4", "choice")]
    assert row["kept"] == pytest.approx((0.75 - 0.375) / (1 - 0.375))


def test_difference_by_hand(scores):
    value, lo, hi = tasks.difference(scores, ["drop:mlp:4"])
    assert value == pytest.approx(2 / 3) and lo <= value <= hi
    # (1 − 1/2 + 2/3 − 0 + 1/3 − 1) / 3; without chance (1 − 1/2 + 3/4 − 0 + 1/2 − 1) / 3
    assert tasks.difference(scores, list(SPECS)[1:])[0] == pytest.approx(1 / 6)
    assert tasks.difference(scores, list(SPECS)[1:], corrected=False)[0] == pytest.approx(0.25)
    with pytest.raises(PrunelibError, match="no scores of rtn:4"):
        tasks.difference(scores, ["rtn:4"])


def test_two_models_on_the_same_items_by_hand(scores):
    value, lo, hi = tasks.between(scores, ["drop:attn:8"], ["drop:mlp:4"], "generation")
    assert value == pytest.approx(0.5) and lo <= value <= hi
    back = tasks.between(scores, ["drop:mlp:4"], ["drop:attn:8"], "generation")
    assert back == pytest.approx((-value, -hi, -lo))
    assert tasks.between(scores, ["drop:mlp:4"], ["wanda:0.5"], "choice")[0] == pytest.approx(2 / 3 - 1 / 3)
    both = tasks.between(scores, ["drop:attn:8", "wanda:0.5"], ["drop:mlp:4"], "generation")[0]
    assert both == pytest.approx((0.5 + 1) / 2) and tasks.between(scores, ["dense"], ["dense"], "choice")[0] == 0


def test_nothing_kept_and_the_same_answers_have_an_exact_bound(scores):
    """Eight passages: none of them right, or none of them answered differently, bounds their share at 0.37."""
    bound = 1 - 0.025 ** (1 / 8)
    table = tasks.kept(scores).set_index(["spec", "readout"])
    none = table.loc[("drop:mlp:4", "generation")]
    assert none[["kept", "lo", "hi"]].tolist() == pytest.approx([0, 0, bound / 0.5])
    same = table.loc[("wanda:0.5", "generation")]
    assert same[["kept", "lo", "hi"]].tolist() == pytest.approx([1, 1 - bound / 0.5, 1 + bound / 0.5])


def test_a_dead_model_supports_no_claim(scores, ch):
    """Choice at chance and nothing written: the plain difference of shares would be above 0."""
    dead = _scores(dict.fromkeys(SPECS, 3) | {"dense": 12}, dict.fromkeys(SPECS, 0) | {"dense": 6}, passages=20)[0]
    assert tasks.difference(dead, list(SPECS)[1:], corrected=False)[0] == 0.25
    recorded = _Recorder()
    task_tables.record(recorded, dead, "dropping", "C8")
    assert recorded.claims["C8"] == "not supported"
    assert recorded.values["dropping.choice"][0] == 0 and recorded.values["dropping.not_supported"] == (3,)
    assert set(task_tables.by_model(dead, "C8")["C8"]) == {"not supported"}


class _Recorder:
    """Keeps what a chapter records, with the verdict that the rule gives."""

    def __init__(self):
        self.values, self.claims, self.said = {}, {}, {}
        self._entries, self._claims = {}, {}

    def value(self, key, *numbers, exact=False, fmt=".3g"):
        self.values[key] = numbers
        self._entries[key] = plain_numbers(*(*numbers, None, None)[:3]) | {"exact": exact, "fmt": fmt}

    @property
    def found(self):
        return Found(self._entries, self._claims)

    def say(self, sentences):
        self.said |= sentences

    def claim(self, name, *numbers, parts=None, over):
        claim = claims.CLAIMS[name]
        self._claims[name] = {"parts": {part: plain_numbers(*numbers) for part, numbers in (parts or {}).items()}}
        if not parts:
            self._claims[name] |= plain_numbers(*numbers) | {"verdict": claims.judge(claim, *numbers)}
        if parts:
            self.claims[name] = claims.whole(claims.judge(part, *parts[part.name]) for part in claim.parts)
        else:
            self.claims[name] = claims.judge(claim, *numbers)


def test_seeds_widen_nothing_but_are_shown(scores):
    more = scores[scores["spec"] == "wanda:0.5"].assign(seed=1, generation=0.0)
    both = pd.concat([scores, more], ignore_index=True)
    row = tasks.kept(both).set_index(["spec", "readout"]).loc[("wanda:0.5", "generation")]
    assert (row["seed_lo"], row["kept"], row["seed_hi"]) == (0, 0.5, 1)


def test_what_is_lost_where_choice_is_kept(scores):
    found, let_pass = tasks.lost_where_choice_is_kept(scores)
    # Drop-4M errs on odd passages only; there it is judged, and writes nothing, as Drop-8A does.
    assert let_pass == [["Drop-8A", "Drop-4M"], ["Drop-8A"]]
    assert found[0] == 0.5 and found[1] < 0.5 < found[2]
    worse = scores.assign(choice=scores["choice"].where(scores["spec"] == "dense", 0))
    none, let_pass = tasks.lost_where_choice_is_kept(worse)
    assert let_pass == [[], []] and np.isnan(none).all()


def test_a_model_that_one_half_chooses_is_judged_on_the_other():
    """Right in choice on even passages only, and writing on those only: luck there must not speak for it."""
    rows = []
    for spec in ("dense", "lucky"):
        for i in range(48):
            good = float(spec == "dense" or (i // 3) % 2 == 0)
            rows.append(
                {
                    "item_id": f"i{i}",
                    "passage_id": f"p{i // 3}",
                    "chance": 0.25,
                    "spec": spec,
                    "label": spec,
                    "seed": 0,
                    "choice": good,
                    "generation": 1 - good if spec == "lucky" else 1.0,
                }
            )
    found, let_pass = tasks.lost_where_choice_is_kept(pd.DataFrame(rows))
    assert let_pass == [["lucky"], []]
    assert found[0] == 0  # on the odd passages, which did not choose it, it loses nothing


NOTHING = {
    "no text is right": {"generation": 0},
    "choice is a guess": {"choice": 3},
    "choice is never right": {"choice": 0},
}


@pytest.mark.parametrize("dense", NOTHING.values(), ids=NOTHING)
def test_a_share_of_nothing_is_not_defined(dense, ch, tmp_path):
    """A dense model that writes no right answer, or guesses: tables, figures, captions, values and claims say so."""
    levels = {"choice": 12, "generation": 6} | dense
    some = _scores(
        {"dense": levels["choice"], "drop:attn:8": 12, "drop:mlp:4": 9, "wanda:0.5": 6},
        {"dense": levels["generation"], "drop:attn:8": 3, "drop:mlp:4": 0, "wanda:0.5": 6},
    )[0]
    missing = next(iter(dense))
    recorded = _Recorder()
    for chapter, claim in (("dropping", "C8"), ("sparsity", "C9")):
        task_tables.record(recorded, some, chapter, claim)
        assert recorded.claims[claim] in ("undecided", "not supported")
        assert np.isnan(recorded.values[f"{chapter}.{missing}"]).all()
        assert np.isnan(recorded.values[f"{chapter}.difference"]).all()
        assert "no share of it is defined" in recorded.values[f"{chapter}.undefined"][0]
    if missing == "generation":
        sparsity.record_proxy(recorded, some)
        assert recorded.claims["C16"] == "undecided"
    assert "not defined" in set(task_tables.by_model(some, "C8")[f"{missing} kept"])
    assert set(task_tables.by_model(some, "C8")["difference"]) == {"not defined"}
    drawn = {
        "fig-dropping-kept": dropping.kept(ch, some[some["spec"] != "wanda:0.5"]),
        "fig-sparsity-kept": sparsity.kept(ch, some[~some["spec"].str.startswith("drop")]),
        "fig-choice-generation": sparsity.proxy(ch, some),
    }
    for name, data in drawn.items():
        card = figures.draw(name, data, tmp_path, ABOUT)
        assert "nan" not in (card.caption + card.alt).lower() and "not defined" in card.alt


def test_a_dense_model_that_writes_nothing_leaves_retrieval_a_chapter(tmp_path):
    """Chapter 11 draws generation beside retrieval; and a dense nDCG of 0 leaves no share of it."""
    from prunelib.chapters.retrieval import measure, page
    from prunelib.tasks.retrieval import MEASURES

    answers = _scores(dict.fromkeys(SPECS, 6), dict.fromkeys(SPECS, 0))[0]
    answers = answers[answers["spec"] != "wanda:0.5"]
    rows = [
        {
            "query_id": str(i),
            "cluster": str(i // 3),
            "spec": spec,
            "label": spec,
            "documents": 8,
            "chance": 0.3,
            "layers": 30,
        }
        | dict.fromkeys(MEASURES, 0.0)
        for spec in ("dense", "drop:attn:8")
        for i in range(24)
    ]
    nothing = pd.DataFrame(rows)
    table = measure.curves(SimpleNamespace(), nothing, nothing, answers)
    card = figures.draw("fig-retrieval-kept", table, tmp_path, ABOUT)
    assert "nan" not in (card.caption + card.alt).lower() and "undefined share" in card.caption
    recorded = _Recorder()
    page.record(recorded, nothing, nothing)
    assert recorded.claims["C10"] == "undecided" and np.isnan(recorded.values["retrieval.kept"]).all()


def test_one_passage_defines_no_interval(ch, tmp_path):
    one = _scores(
        {"dense": 12, "drop:attn:8": 2, "drop:mlp:4": 1, "wanda:0.5": 0},
        {"dense": 3, "drop:attn:8": 1, "drop:mlp:4": 0, "wanda:0.5": 0},
        passages=1,
    )[0]
    recorded = _Recorder()
    task_tables.record(recorded, one, "dropping", "C8")
    value, lo, hi = recorded.values["dropping.generation"]
    assert value == pytest.approx(1 / 9) and np.isnan([lo, hi]).all() and recorded.claims["C8"] == "undecided"
    assert "one passage gives no interval" in recorded.values["dropping.undefined"][0].lower()
    sparsity.record_proxy(recorded, one)
    assert recorded.claims["C16"] == "undecided"
    figures.draw("fig-choice-generation", sparsity.proxy(ch, one), tmp_path, ABOUT)


@pytest.fixture
def ch():
    """What the figure tables ask of a chapter; no other run stands beside it."""
    return SimpleNamespace(seed=0, model={"n_layers": 30, "slug": "tiny"}, beside=[])


def test_figures_from_tables_alone(scores, ch, tmp_path):
    drops, sparse = scores[scores["spec"] != "wanda:0.5"], scores[~scores["spec"].str.startswith("drop")]
    texts = _scores(dict.fromkeys(SPECS, 6), dict.fromkeys(SPECS, 6))[1]
    tokens = pd.DataFrame(
        {
            "spec": ["dense"] * 3 + ["drop:mlp:4"] * 3,
            "label": ["dense"] * 3 + ["Drop-4M"] * 3,
            "position": [0, 1, 2] * 2,
            "p_own": 0.9,
            "p_dense": [0.9] * 3 + [0.2] * 3,
        }
    )
    drawn = {
        "fig-dropping-kept": dropping.kept(ch, drops),
        "fig-dropping-texts": tasks.texts_by_model(texts),
        "fig-sparsity-kept": sparsity.kept(ch, sparse),
        "fig-choice-generation": sparsity.proxy(ch, scores),
        "fig-case-tokens": tokens,
    }
    for name, data in drawn.items():
        card = figures.draw(name, data, tmp_path, ABOUT)
        assert card.caption.startswith("**") and "nan" not in card.caption + card.alt
    assert "keeps 100% of its dense score" not in figures.load_card(tmp_path, "fig-dropping-kept").caption


def test_the_reference_stands_beside_another_run(scores, ch, tmp_path, monkeypatch):
    drops, sparse = scores[scores["spec"] != "wanda:0.5"], scores[~scores["spec"].str.startswith("drop")]
    more = sparse[sparse["spec"] == "wanda:0.5"].assign(spec="wanda:4:8", label="Wanda 4:8")
    made = {"dropping": lambda: dropping.kept(ch, drops),
            "sparsity": lambda: sparsity.kept(ch, pd.concat([sparse, more]))}  # fmt: skip
    alone = {name: make() for name, make in made.items()}
    for name, table in alone.items():
        figures.draw(f"fig-{name}-kept", table, tmp_path / "figures", ABOUT)
    ch.beside = [Beside("reference", tmp_path)]
    for name, draw in (("dropping", dropping_figures.dropping), ("sparsity", sparsity_figures.sparsity)):
        both = made[name]()
        own, other = both[both["source"] != "reference"], both[both["source"] == "reference"]
        assert own.reset_index(drop=True)["kept"].tolist() == alone[name]["kept"].tolist()
        some = alone[name][(alone[name]["source"] == "this run") & (alone[name]["x"] > 0)]
        assert other["kept"].tolist() == some["kept"].tolist()
        assert "Hollow" in draw(both, style.light()).caption and "Hollow" not in draw(own, style.light()).caption
    less = sparsity.kept(ch, sparse)  # a pattern that this run does not have is not drawn
    assert "4:8" not in set(less["pattern"]) and "reference" in set(less["source"])


def test_shares_for_the_page(scores, ch):
    table = task_tables.by_model(scores, "C8").set_index("model")
    assert table.loc["Drop-4M", ["choice kept", "generation kept", "difference"]].tolist() == ["0.67", "0.00", "0.67"]
    assert list(table.index) == [*list(SPECS.values())[1:], "mean of all"]
    assert set(table["generation over seeds"]) == {""}
    more = scores[scores["spec"] == "wanda:0.5"].assign(seed=1, generation=0.0)
    table = task_tables.by_model(pd.concat([scores, more], ignore_index=True), "C8").set_index("model")
    assert table["generation over seeds"].tolist() == ["", "", "0.00 to 1.00 (2)", ""]


def test_sparsity_figure_draws_lines_and_patterns(scores, ch, tmp_path):
    """The CSV writes "no pattern" as an empty field: what is read back must be drawn as a line."""
    from prunelib.report import style
    from prunelib.runs.tables import read_csv

    sparse = scores[~scores["spec"].str.startswith("drop")]
    more = sparse[sparse["spec"] == "wanda:0.5"].assign(spec="wanda:2:4", label="Wanda 2:4")
    table = sparsity.kept(ch, pd.concat([sparse, more]))
    table.to_csv(tmp_path / "data.csv", index=False)
    drawn = sparsity_figures.sparsity(read_csv(tmp_path / "data.csv"), style.light())
    (axis,) = drawn.fig.axes
    lines = {line.get_label(): list(line.get_xdata()) for line in axis.get_lines() if len(line.get_xdata()) == 2}
    assert lines["generation"] == [0, 50] and lines["multiple choice"] == [0, 50]
    assert "2:4" in [text.get_text() for text in axis.texts]


# ---------------------------------------------------------------- the paper's curves


def test_the_papers_curves_stand_at_the_layers_of_their_own_model(scores, ch):
    """Qwen-2.5-7B has 28 layers: 8 of them are 29 %; guessing is 25 % of MMLU and nothing of GSM8K."""
    deep = scores[scores["spec"] != "wanda:0.5"].replace({"drop:attn:8": "drop:attn:16", "drop:mlp:4": "drop:mlp:16"})
    data = dropping.kept(ch, deep)
    curves = data[data["source"] == "paper"].set_index(["task", "kind"])
    mmlu = curves.loc[("paper: MMLU", "mlp")].set_index("x")["kept"]
    assert mmlu[100 * 8 / 28] == pytest.approx((33.0366 - 25) / (74.1846 - 25)) == pytest.approx(0.163, abs=1e-3)
    attention = curves.loc[("paper: MMLU", "attn")].set_index("x")["kept"]
    assert attention[100 * 8 / 28] == pytest.approx(0.776, abs=1e-3)
    written = curves.loc[("paper: GSM8K", "mlp")].set_index("x")["kept"]
    assert written[100 * 4 / 28] == pytest.approx(35.9363 / 75.5876) and written[0] == 1


def test_the_page_quotes_the_papers_curves_above_guessing():
    recorded = _Recorder()
    dropping.record_paper(recorded)
    assert recorded.values["paper.model"] == ("Qwen-2.5-7B-Instruct",) and recorded.values["paper.layers"] == (28,)
    shown = {key: round(number[0], 2) for key, number in recorded.values.items() if key.count(".") == 2}
    assert shown == {"paper.attn.choice": 0.78, "paper.attn.generation": 0.0,
                     "paper.mlp.choice": 0.16, "paper.mlp.generation": 0.01}  # fmt: skip


def test_the_caption_names_the_model_of_the_papers_data(scores, ch, monkeypatch):
    data = dropping.kept(ch, scores[scores["spec"] != "wanda:0.5"])
    assert "Qwen-2.5-7B-Instruct" in dropping_figures.dropping(data, style.light()).caption
    monkeypatch.setattr(dropping_figures, "source", lambda *_: ("Another-3B", 9))
    assert "Another-3B" in dropping_figures.dropping(data, style.light()).caption
