"""The guide: options by hand, sizes and speeds of a tiny model, page and figure."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from opened import SMALL, open_chapter

from prunelib.chapters import load_figures
from prunelib.chapters.guide import figures as drawn
from prunelib.chapters.guide import measure, page
from prunelib.methods.apply import compress
from prunelib.methods.save import save
from prunelib.report import figures, style
from prunelib.runs import sources
from prunelib.runs.zoo import memory
from prunelib.tasks.retrieval import MEASURES

load_figures("guide")
SPECS = ["drop:attn:1", "wanda:0.5", "rtn:4:g32"]
SHARES = {"drop:attn:1": 0.9, "wanda:0.5": 0.6, "rtn:4:g32": 0.4}


def made_up(kept: dict[str, float], width=0.05) -> pd.DataFrame:
    """Every model keeps the same in every task type."""
    rows = [
        (task, spec, spec, measure.parse(spec).kind, SHARES[spec], 0.9 if "drop" in spec else 1.0,
         kept[spec], kept[spec] - width, kept[spec] + width, measure.FLOOR)
        for task in measure.TASKS for spec in SPECS
    ]  # fmt: skip
    names = ["task", "spec", "label", "kind", "share", "plain_share", "kept", "lo", "hi", "floor"]
    return pd.DataFrame(rows, columns=names)


def speeds(drop=1.5, other=1.0) -> pd.DataFrame:
    rows = [(spec, spec, 10 * x, 9 * x, 11 * x, x, x - 0.1, x + 0.1)
            for spec, x in (("dense", 1.0), ("drop:attn:1", drop), ("wanda:0.5", other))]  # fmt: skip
    names = ["spec", "label", "rate", "rate_lo", "rate_hi", "faster", "faster_lo", "faster_hi"]
    return pd.DataFrame(rows, columns=names)


# ---------------------------------------------------------------- the rule


def test_the_smallest_whose_whole_interval_lies_above_the_floor_is_named():
    found = made_up({"drop:attn:1": 0.99, "wanda:0.5": 0.96, "rtn:4:g32": 0.94})
    assert measure.smallest(found, "short")["spec"] == "wanda:0.5"  # 0.94 − 0.05 is below 0.9
    assert measure.smallest(found, "short", floor=0.8)["spec"] == "rtn:4:g32"
    assert measure.smallest(found.assign(lo=0.5), "short") is None
    assert measure.smallest(found.assign(lo=np.nan), "short") is None


def test_a_changed_table_changes_what_is_named():
    good = made_up({"drop:attn:1": 0.99, "wanda:0.5": 0.2, "rtn:4:g32": 0.99})
    bad = good.assign(lo=np.where(good["spec"] == "rtn:4:g32", 0.1, good["lo"]))
    assert measure.smallest(good, "choice")["spec"] == "rtn:4:g32"
    assert measure.smallest(bad, "choice")["spec"] == "drop:attn:1"


def test_of_equal_sizes_the_one_that_keeps_more():
    found = made_up({"drop:attn:1": 0.97, "wanda:0.5": 0.99, "rtn:4:g32": 0.98}).assign(share=0.5)
    assert measure.smallest(found, "long")["spec"] == "wanda:0.5"


def test_a_budget_names_what_keeps_most_within_it():
    found = made_up({"drop:attn:1": 0.99, "wanda:0.5": 0.3, "rtn:4:g32": 0.7})
    assert measure.within(found, "short", 0.95)["spec"] == "drop:attn:1"
    assert measure.within(found, "short", 0.75)["spec"] == "rtn:4:g32"
    assert measure.within(found, "short", 0.3) is None
    assert measure.within(found.assign(kept=np.nan), "short", 0.9) is None


# ---------------------------------------------------------------- shares from tables


def test_shares_by_task_type_are_those_of_the_items():
    skills = pd.DataFrame(
        [
            (f"i{i}", spec, spec, float(i < right))
            for spec, right in (("dense", 20), ("wanda:0.5", 10))
            for i in range(30)
        ],
        columns=["item_id", "spec", "label", "free"],
    )
    row = measure.of_skills(skills).iloc[0]
    assert row["kept"] == pytest.approx(0.5) and row["lo"] < 0.5 < row["hi"]
    texts = pd.DataFrame({"spec": "wanda:0.5", "label": "w", "cluster": ["a", "a", "b", "b"],
                          "nll_dense": [1.0, 1.0, 2.0, 2.0], "nll_pruned": [1.5, 1.5, 2.5, 2.5]})  # fmt: skip
    row = measure.of_texts(texts).iloc[0]
    assert row[["kept", "lo", "hi"]].astype(float).tolist() == pytest.approx([np.exp(-0.5)] * 3)
    found = pd.DataFrame([(f"q{i}", f"d{i // 2}", spec, spec, *[score] * len(MEASURES))
                          for spec, score in (("dense", 0.8), ("wanda:0.5", 0.4)) for i in range(8)],
                         columns=["query_id", "cluster", "spec", "label", *MEASURES])  # fmt: skip
    assert measure.of_searches(found)[["task", "kept"]].to_numpy().tolist() == [["retrieval", 0.5]]


# ---------------------------------------------------------------- a tiny model


@pytest.fixture
def ch(tiny, tmp_path, monkeypatch):
    lm = tiny("llama")
    order = pd.DataFrame(
        [(layer, kind, 1 - layer / 10) for layer in range(4) for kind in ("attn", "mlp", "block")],
        columns=["layer", "kind", "cosine"],
    )
    monkeypatch.setattr("prunelib.runs.zoo.models.drop_order", lambda run, seed=None: order)
    settings = replace(SMALL, speed_tokens=2, speed_repeats=2)
    return open_chapter(tmp_path / "run", sources.of_chapter("guide").id, lm, None, settings)


def test_a_sparse_checkpoint_in_floats_is_as_large_as_the_dense_one(ch, tmp_path, make_model):
    """What is counted is what lies on the disk, but for the file's head."""
    from prunelib.models.lm import LM

    found = measure.sizes(ch, ["magnitude:0.5", "rtn:4:g32", "drop:attn:1"]).set_index("spec")
    assert found.loc["magnitude:0.5", "plain_share"] == found.loc["rtn:4:g32", "plain_share"] == 1
    assert found.loc["drop:attn:1", "plain_share"] == found.loc["drop:attn:1", "share"] < 1
    assert (found["share"] <= found["plain_share"]).all()
    lm = LM.from_model(make_model("llama").half(), name="half")
    for spec in ("magnitude:0.5", "rtn:4:g32"):
        save(lm, compress(lm, [spec])[spec], tmp_path / spec.replace(":", "-"))
        weights = tmp_path / spec.replace(":", "-") / "model.safetensors"
        assert 0 <= weights.stat().st_size - found.loc[spec, "plain"] < 8192


def test_a_joined_method_drops_what_its_parts_drop(ch):
    own = memory.memory(ch, ["wanda:0.5", "wanda:0.5+drop:attn:1"]).set_index("spec")["bytes"]
    assert own["wanda:0.5+drop:attn:1"] < own["wanda:0.5"]


def test_speeds_are_tables_of_the_run_and_of_the_right_models(ch, monkeypatch):
    monkeypatch.setattr("prunelib.models.lm.LM.encode_one", lambda self, text, **options: [3, 4, 5])
    assert measure.timed(ch, ["drop:attn:1", "drop:mlp:1", "magnitude:0.5", "magnitude:0.7", "rtn:4:g32"]) == [
        "drop:attn:1", "drop:mlp:1", "magnitude:0.5", "rtn:4:g32"]  # fmt: skip
    times = measure.times(ch, ["drop:attn:1", "magnitude:0.5"])
    assert times.groupby("spec", sort=False).size().to_dict() == {"dense": 2, "drop:attn:1": 2, "magnitude:0.5": 2}
    assert {"speed_dense", "speed_drop-attn-1", "speed_magnitude-0.5"} <= set(ch.record.part["tables"])
    computed = ch.record.units_computed
    pd.testing.assert_frame_equal(times, measure.times(ch, ["drop:attn:1", "magnitude:0.5"]))
    assert ch.record.units_computed == computed
    found = measure.speeds(times).set_index("spec")
    assert (found["rate"] > 0).all() and found["faster_lo"].isna().all()  # two repeats have no interval


def test_the_page_records_and_draws_everything(ch, tmp_path):
    sizes = measure.sizes(ch, SPECS)
    options = made_up({"drop:attn:1": 0.99, "wanda:0.5": 0.2, "rtn:4:g32": 0.99}).drop(columns=["share", "plain_share"])
    options = measure.options(options[measure._COLUMNS], sizes)
    page.record(ch, options, sizes, speeds())
    values = ch.record.part["values"]
    assert values["guide.short.option"]["value"] == "rtn:4:g32" and values["guide.plain"]["value"] == 1
    assert values["guide.speed.drop.faster"]["lo"] == pytest.approx(1.4)
    assert "dropped sublayers write faster" in values["said.guide.answer"]["value"]
    assert set(page.by_task(ch, options, speeds())["smallest model"]) == {"rtn:4:g32"}
    table = page.by_model(ch, options, sizes, speeds()).set_index("model")
    assert table.loc["RTN-4 g32", "tokens a second"] == "not timed" and "1.50" in table.loc["Drop-1A", "times as fast"]
    assert page._faster("wanda:2:4", speeds()) == page._rate("sparsegpt:0.5", speeds()) == "as wanda:0.5"
    assert page.by_budget(ch, options).shape == (5, 1 + len(measure.BUDGETS))
    about = {"model": {"name": "tiny"}, "notebook": ch.notebook}
    for data in (options, options.assign(kept=np.nan, lo=np.nan, hi=np.nan)):
        card = figures.draw("fig-guide-kept", data, tmp_path / "one", about)
        again = figures.draw("fig-guide-kept", data, tmp_path / "two", about)
        assert card.caption.startswith("**") and "nan" not in (card.caption + card.alt).lower()
        for suffix in figures.SUFFIXES:
            assert card.file(suffix).read_bytes() == again.file(suffix).read_bytes(), suffix


def test_the_figure_names_what_the_rule_names():
    options = made_up({"drop:attn:1": 0.99, "wanda:0.5": 0.2, "rtn:4:g32": 0.99})
    options.loc[options["task"] == "short", ["kept", "lo", "hi"]] = [0.1, 0.0, 0.2]
    options.loc[options["task"] == "long", ["kept", "lo", "hi"]] = np.nan
    found = drawn.kept(options, style.light()).caption
    assert "multiple" not in found and "choosing among options: rtn:4:g32 (40% of the bytes)" in found
    assert "No model keeps 90% with its whole interval for short generation." in found
    assert "Not defined: reading long text." in found
