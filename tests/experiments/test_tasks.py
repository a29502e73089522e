"""Task scores: shares, paired intervals and claims by hand, on tables made up for it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from prunelib import committed, figures
from prunelib.errors import PrunelibError
from prunelib.experiments import tasks

SPECS = {"dense": "dense", "drop:attn:8": "Drop-8A", "drop:mlp:4": "Drop-4M", "wanda:0.5": "Wanda 50%"}


def _scores(choice: dict, generation: dict, passages=8):
    """Three questions a passage; a model is right on the first n of them."""
    rows = []
    for spec, label in SPECS.items():
        for i in range(3 * passages):
            row = dict.fromkeys(tasks.READOUTS, 1.0) | {"choice": float(i % 12 < choice[spec])}
            row["generation"] = float(i % 12 < generation[spec])
            rows.append({"item_id": f"i{i}", "passage_id": f"p{i // 3}", "spec": spec, "label": label, "seed": 0} | row)
    texts = pd.DataFrame([{"spec": s, "label": label, "seed": 0, "prompt_id": f"t{n}", "repeated": 0.1 * n,
                           "distinct": 0.5, "surprise": 1.0 + n, "length": 9, "ended": bool(n % 2)}
                          for s, label in SPECS.items() for n in range(4)])  # fmt: skip
    return pd.DataFrame(rows), texts


@pytest.fixture
def scores():
    return _scores({"dense": 12, "drop:attn:8": 12, "drop:mlp:4": 9, "wanda:0.5": 6},
                   {"dense": 6, "drop:attn:8": 3, "drop:mlp:4": 0, "wanda:0.5": 6})[0]  # fmt: skip


def test_shares_of_the_dense_score(scores):
    table = tasks.kept(scores).set_index(["spec", "readout"])
    assert table.loc[("drop:mlp:4", "choice"), "kept"] == 0.75
    assert table.loc[("drop:attn:8", "generation"), "kept"] == 0.5
    assert table.loc[("dense", "generation"), ["kept", "lo", "hi"]].tolist() == [1, 1, 1]
    assert (table["lo"] <= table["kept"]).all() and (table["kept"] <= table["hi"]).all()


def test_difference_by_hand(scores):
    value, lo, hi = tasks.difference(scores, ["drop:mlp:4"])
    assert value == 0.75 and 0 < lo <= value <= hi
    # (1 − 1/2 + 3/4 − 0 + 1/2 − 1) / 3
    assert tasks.difference(scores, list(SPECS)[1:])[0] == pytest.approx(0.25)
    with pytest.raises(PrunelibError, match="no scores of rtn:4"):
        tasks.difference(scores, ["rtn:4"])


def test_an_interval_is_paired(scores):
    """A model that is right exactly where dense is keeps all of it in every resample."""
    same = tasks.kept(scores).set_index(["spec", "readout"]).loc[("wanda:0.5", "generation")]
    assert same[["kept", "lo", "hi"]].tolist() == [1, 1, 1]


def test_interval_covers_the_truth():
    """Models right by chance with known rates: the 95 % interval of the share holds it about as often."""
    rng, hits, trials = np.random.default_rng(0), 0, 200
    for _ in range(trials):
        base = rng.random(240) < 0.8
        some = base & (rng.random(240) < 0.5)
        pairs = np.stack([some, base], 1).astype(float)
        _, lo, hi = tasks.of_sums(pairs, np.arange(240) // 3, lambda s: s[..., 0] / s[..., 1], n=400)
        hits += lo <= 0.5 <= hi
    assert hits / trials > 0.90  # 95 % minus three standard errors of 1.5 %


def test_seeds_widen_nothing_but_are_shown(scores):
    more = scores[scores["spec"] == "wanda:0.5"].assign(seed=1, generation=0.0)
    both = pd.concat([scores, more], ignore_index=True)
    row = tasks.kept(both).set_index(["spec", "readout"]).loc[("wanda:0.5", "generation")]
    assert (row["seed_lo"], row["kept"], row["seed_hi"]) == (0, 0.5, 1)


def test_what_is_lost_where_choice_is_kept(scores):
    found, labels = tasks.lost_where_choice_is_kept(scores)
    assert labels == ["Drop-8A"] and found[0] == 0.5
    none, labels = tasks.lost_where_choice_is_kept(scores, enough=2)
    assert labels == [] and np.isnan(none).all()


@pytest.fixture
def ch(monkeypatch):
    """What the figure tables ask of a chapter; no reference run is committed."""
    monkeypatch.setattr(tasks, "chance", lambda ch: 0.25)
    monkeypatch.setattr(committed, "beside", lambda slug, profile: None)
    run = SimpleNamespace(part={"profile": "smoke"})
    return SimpleNamespace(seed=0, model={"n_layers": 30, "slug": "tiny"}, run=run)


def test_figures_from_tables_alone(scores, ch, tmp_path):
    from prunelib.experiments import task_tables

    drops, sparse = scores[scores["spec"] != "wanda:0.5"], scores[~scores["spec"].str.startswith("drop")]
    texts = _scores(dict.fromkeys(SPECS, 6), dict.fromkeys(SPECS, 6))[1]
    tokens = pd.DataFrame({"label": ["dense"] * 3 + ["Drop-4M"] * 3, "position": [0, 1, 2] * 2,
                           "p_own": 0.9, "p_dense": [0.9] * 3 + [0.2] * 3})  # fmt: skip
    drawn = {
        "fig-dropping-kept": task_tables.dropping(ch, drops),
        "fig-dropping-texts": tasks.texts_by_model(texts),
        "fig-sparsity-kept": task_tables.sparsity(ch, sparse),
        "fig-choice-generation": task_tables.proxy(ch, scores),
        "fig-case-tokens": tokens,
    }
    for name, data in drawn.items():
        card = figures.draw(name, data, tmp_path, {"model": {"name": "tiny"}})
        assert card.caption.startswith("**") and "nan" not in card.caption + card.alt
    assert "keeps 100% of its dense score" not in figures.load_card(tmp_path, "fig-dropping-kept").caption


def test_the_reference_stands_beside_another_run(scores, ch, tmp_path, monkeypatch):
    from prunelib.experiments import task_tables
    from prunelib.figures import style
    from prunelib.figures.tasks import dropping, sparsity

    drops, sparse = scores[scores["spec"] != "wanda:0.5"], scores[~scores["spec"].str.startswith("drop")]
    more = sparse[sparse["spec"] == "wanda:0.5"].assign(spec="wanda:4:8", label="Wanda 4:8")
    made = {"dropping": lambda: task_tables.dropping(ch, drops),
            "sparsity": lambda: task_tables.sparsity(ch, pd.concat([sparse, more]))}  # fmt: skip
    alone = {name: make() for name, make in made.items()}
    for name, table in alone.items():
        figures.draw(f"fig-{name}-kept", table, tmp_path / "figures", {"model": {"name": "tiny"}})
    monkeypatch.setattr(committed, "beside", lambda slug, profile: tmp_path)
    for name, draw in (("dropping", dropping), ("sparsity", sparsity)):
        both = made[name]()
        own, other = both[both["source"] != "reference"], both[both["source"] == "reference"]
        assert own.reset_index(drop=True)["kept"].tolist() == alone[name]["kept"].tolist()
        some = alone[name][(alone[name]["source"] == "this run") & (alone[name]["x"] > 0)]
        assert other["kept"].tolist() == some["kept"].tolist()
        assert "Hollow" in draw(both, style.light()).caption and "Hollow" not in draw(own, style.light()).caption
    less = task_tables.sparsity(ch, sparse)  # a pattern that this run does not have is not drawn
    assert "4:8" not in set(less["pattern"]) and "reference" in set(less["source"])


def test_shares_for_the_page(scores, ch):
    from prunelib.experiments import task_tables

    table = task_tables.shares(ch, scores).set_index("model")
    assert table.loc["Drop-4M", ["choice kept", "generation kept", "difference"]].tolist() == [0.75, 0, 0.75]
    assert list(table.index) == list(SPECS.values())[1:]
    assert set(table["generation over seeds"]) == {""}
    more = scores[scores["spec"] == "wanda:0.5"].assign(seed=1, generation=0.0)
    table = task_tables.shares(ch, pd.concat([scores, more], ignore_index=True)).set_index("model")
    assert table["generation over seeds"].tolist() == ["", "", "0.00 to 1.00 (2)"]


def test_sparsity_figure_draws_lines_and_patterns(scores, ch, tmp_path):
    """The CSV writes "no pattern" as an empty field: what is read back must be drawn as a line."""
    from prunelib.experiments import task_tables
    from prunelib.figures import style
    from prunelib.figures.tasks import sparsity
    from prunelib.store import read_csv

    sparse = scores[~scores["spec"].str.startswith("drop")]
    more = sparse[sparse["spec"] == "wanda:0.5"].assign(spec="wanda:2:4", label="Wanda 2:4")
    table = task_tables.sparsity(ch, pd.concat([sparse, more]))
    table.to_csv(tmp_path / "data.csv", index=False)
    drawn = sparsity(read_csv(tmp_path / "data.csv"), style.light())
    (axis,) = drawn.fig.axes
    lines = {line.get_label(): list(line.get_xdata()) for line in axis.get_lines() if len(line.get_xdata()) == 2}
    assert lines["generation"] == [0, 50] and lines["multiple choice"] == [0, 50]
    assert "2:4" in [text.get_text() for text in axis.texts]
