"""The chapter on what predicts the collapse: made-up scores and statistics by hand, and a tiny model as a whole."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from opened import SMALL, open_chapter

from prunelib.chapters import load_figures
from prunelib.chapters.predicting_collapse import figures as drawn
from prunelib.chapters.predicting_collapse import measure, page
from prunelib.measure import next_token
from prunelib.methods.apply import compress
from prunelib.report import figures, style
from prunelib.runs import sources
from prunelib.runs.profiles import PROFILES
from prunelib.runs.zoo import graded, one_step

load_figures("predicting-collapse")
SPECS = ["drop:attn:1", "drop:attn:2", "drop:mlp:1", "drop:mlp:2", "magnitude:0.3", "magnitude:0.6", "rtn:3:g32"]
RIGHT = [10, 8, 6, 1, 9, 3, 5]
"""Of 12 questions that the dense model answers."""


def made_up(right=RIGHT, specs=SPECS, dense=12):
    """Answers to 12 questions on 6 passages, and one-step rows whose KL grows with what is lost."""
    rows, steps = [], []
    for spec, count in [("dense", dense), *zip(specs, right, strict=True)]:
        made = measure.parse(spec)
        for i in range(12):
            place = (i % 2) * 6 + i // 2  # losses spread over the passages
            about = {"item_id": f"i{i}", "passage_id": f"p{i // 2}", "chance": 0.25, "spec": spec, "label": made.label}
            scored = float(place < count)
            rows.append(about | {"seed": 0} | dict.fromkeys(measure.shares.READOUTS, scored))
        if spec == "dense":
            continue
        for text in range(3):
            columns = dict.fromkeys([*measure.STATISTICS, "nll_dense"], 12.0 - count + 0.01 * text)
            columns |= {"nll_pruned": 2 * (12.0 - count), "agree": 1, "right_dense": True, "right_pruned": count > 5}
            columns |= {"spec": spec, "seed": 0, "label": made.label, "cluster": f"t{text}", "position": 1}
            del columns["top_changed"], columns["flips"], columns["nll_lost"]
            steps.append(columns)
    return pd.DataFrame(rows), pd.DataFrame(steps)


def reversed_kl(steps):
    return steps.assign(kl_dense_pruned=20 - steps["kl_dense_pruned"])


def test_models_have_the_means_of_their_texts_and_what_they_lost():
    models = measure.by_model(*made_up()).set_index("spec")
    assert models["kl_dense_pruned"].tolist() == pytest.approx([12 - n + 0.01 for n in RIGHT])
    assert models["generation"].tolist() == pytest.approx([n / 12 for n in RIGHT])
    assert models["generation_lost"].tolist() == pytest.approx([1 - n / 12 for n in RIGHT])
    halves = models[["generation_lost_even", "generation_lost_odd"]].mean(axis=1)
    assert halves.tolist() == pytest.approx(models["generation_lost"].tolist())
    assert models["top_changed"].eq(0).all() and models.loc["drop:mlp:2", "flips"] == 1
    assert models["method"].tolist() == ["Drop attention"] * 2 + ["Drop MLP"] * 2 + ["Magnitude"] * 2 + ["RTN"]


def test_a_kl_that_grows_with_the_loss_predicts_it_and_its_reverse_does_not():
    answers, steps = made_up()
    for rows, sign in ((steps, 1), (reversed_kl(steps), -1)):
        found = measure.correlations(measure.by_model(answers, rows)).set_index("statistic")
        assert found.loc["kl_dense_pruned", ["rho", "lo", "hi"]].tolist() == [sign] * 3
        assert found.loc["var_p", "rho"] == 1 and np.isnan(found.loc["kl_dense_pruned", "gap"])
    assert found.loc["var_p", "gap_lo"] > 0  # better than the reverse


def test_the_order_of_the_models_changes_nothing():
    answers, steps = made_up()
    again = made_up(RIGHT[::-1], SPECS[::-1])
    for table in (measure.correlations, measure.thresholds):
        one, other = table(measure.by_model(answers, steps)), table(measure.by_model(*again))
        pd.testing.assert_frame_equal(one, other)


def test_thresholds_part_the_two_sides():
    cuts = measure.thresholds(measure.by_model(*made_up())).set_index("statistic")
    kl = cuts.loc["kl_dense_pruned"]
    # Without the MLP drops the cut falls below one of them, without RTN it rises above it: two of seven.
    assert (
        6.01 < kl["cut"] < 7.01 and kl["wrong"] == pytest.approx(2 / 7) and kl["lowest"] <= kl["cut"] <= kl["highest"]
    )
    assert measure.thresholds(measure.by_model(*made_up([12, 11, 10, 9, 8, 7, 7]))).empty


def test_a_dense_model_that_writes_nothing_leaves_all_undefined():
    answers, steps = made_up([0] * 7, dense=0)
    models = measure.by_model(answers, steps)
    assert measure.correlations(models)[["rho", "lo", "hi", "gap"]].isna().all().all()
    assert measure.thresholds(models).empty
    data = measure.kl_and_kept(models, measure.thresholds(models))
    for function, table in ((drawn.against_kl, data), (drawn.statistics, measure.correlations(models))):
        found = function(table, style.light())
        assert "not defined to" not in found.caption + found.alt
        assert "nan" not in (found.caption + found.alt).lower() and "not defined" in found.caption + found.alt


def test_two_methods_have_no_interval():
    found = measure.correlations(measure.by_model(*made_up(RIGHT[:4], SPECS[:4]))).set_index("statistic")
    assert found.loc["kl_dense_pruned", "rho"] == 1 and found[["lo", "hi"]].isna().all().all()


# ---------------------------------------------------------------- a tiny model


@pytest.fixture
def ch(tiny, tmp_path, monkeypatch):
    texts = [(f"t{i}", [3 + (7 * i + 5 * n * n) % 90 for n in range(12 + i)]) for i in range(4)]
    monkeypatch.setattr(one_step, "held_out", lambda run: texts)
    lm = tiny("llama")
    order = pd.DataFrame(
        [
            (layer, kind, 1 - layer / 10 - (kind == "mlp") / 5)
            for layer in range(4)
            for kind in ("attn", "mlp", "block")
        ],
        columns=["layer", "kind", "cosine"],
    )
    monkeypatch.setattr("prunelib.runs.zoo.models.drop_order", lambda run, seed=None: order)
    settings = replace(SMALL, texts=4, site_tokens=8, step_positions=8, seeds=1)
    found = open_chapter(tmp_path, sources.of_chapter("predicting-collapse").id, lm, None, settings)
    found.texts = texts
    return found


def test_a_quick_run_of_the_default_depth_has_enough_models(ch):
    ch.options.__dict__["settings"] = PROFILES["quick"]
    ch.model = ch.model | {"n_layers": 30}
    specs = graded.graded_specs(ch)
    assert len(specs) + len(set(specs) & {"wanda:0.5"}) >= 25
    assert len({measure.method_of(spec) for spec in specs}) >= 9


def test_drops_are_scaled_and_each_model_stands_once(ch):
    specs = graded.graded_specs(ch)
    assert "drop:attn:1" in specs and len(specs) == len(set(specs))
    ch.options.__dict__["settings"] = replace(ch.settings, seeds=2)
    found = graded.models_of(ch, specs)
    assert len(found) == len(set(found)) and ("wanda:0.5", 1) in found and ("drop:mlp:1", 1) not in found


def test_sums_and_joint_kl_are_those_of_the_models(ch):
    found = measure.additivity(ch, ["drop:block:1"])
    sets = graded.joint_sets(ch, ["drop:block:1"])
    assert sets["drop:block:1"] == ["attn:0", "mlp:0"] and sets["drop:attn:2"] == ["attn:0", "attn:1"]
    assert found["spec"].tolist() == list(sets) and found["dropped"].iloc[0] == "attn"

    def kl(sites):
        made = compress(ch.lm, [f"sites:{sites}"])[f"sites:{sites}"]
        pieces = [(i, [*ids[:8], 5]) for i, (_, ids) in enumerate(ch.texts[:2])]
        rows = next_token.compare(ch.lm, ch.lm, pieces, within=lambda: made.applied(ch.lm))
        return rows[rows.groupby("cluster").cumcount().isin([2, 6])]["kl_dense_pruned"].mean()

    own = found.set_index("spec").loc["drop:block:1"]
    assert own["joint"] == pytest.approx(kl("attn:0+mlp:0"), rel=1e-3)
    assert own["sum"] == pytest.approx(kl("attn:0") + kl("mlp:0"), rel=1e-3)
    assert own["ratio"] == pytest.approx(own["sum"] / own["joint"])


def test_the_page_records_and_draws_everything(ch, tmp_path):
    answers, steps = made_up()
    models = measure.by_model(answers, steps)
    cuts, correlations = measure.thresholds(models), measure.correlations(models)
    additivity = measure.additivity(ch, SPECS[:2])
    page.record_texts(ch, steps)
    page.record(ch, answers, models, correlations, cuts, additivity)
    values = ch.record.part["values"]
    assert values["collapse.models"]["value"] == 7 and values["collapse.methods"]["value"] == 4
    assert ch.record.part["claims"]["C14"]["verdict"] == "supported"
    assert all(f"said.predicting-collapse.{name}" in values for name in ("answer", "best", "choice", "threshold"))
    assert len(page.by_model(ch, models)) == 7 and len(page.thresholds(ch, cuts)) == len(cuts)
    about = {"model": {"name": "tiny"}, "notebook": ch.notebook}
    data = {"kl": measure.kl_and_kept(models, cuts), "statistics": correlations, "additivity": additivity}
    for name, table in data.items():
        card = figures.draw(f"fig-collapse-{name}", table, tmp_path / "one", about)
        again = figures.draw(f"fig-collapse-{name}", table, tmp_path / "two", about)
        assert card.caption.startswith("**") and "nan" not in card.caption.lower()
        for suffix in figures.SUFFIXES:
            assert card.file(suffix).read_bytes() == again.file(suffix).read_bytes(), suffix
