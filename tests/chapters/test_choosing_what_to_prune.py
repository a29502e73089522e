"""The chapter on choosing: made-up scores by hand, and a tiny model as a whole."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from opened import SMALL, open_chapter

from prunelib.chapters import load_figures
from prunelib.chapters.choosing_what_to_prune import figures as drawn
from prunelib.chapters.choosing_what_to_prune import measure, page
from prunelib.measure.removal import COLUMNS, Removals
from prunelib.methods import parse
from prunelib.models.sublayers import Site
from prunelib.report import figures, style
from prunelib.report.sentences import Found
from prunelib.runs import sources
from prunelib.runs.profiles import PROFILES
from prunelib.runs.zoo import models as zoo
from prunelib.runs.zoo import one_step

load_figures("choosing-what-to-prune")
CARD = {"n_layers": 30, "name": "made up", "fingerprint": "0", "dtype": "float32", "device": "cpu"}
SETTINGS = replace(
    SMALL, seeds=2, removal_sequences=2, removal_tokens=8, random_draws=2, selection_seeds=2, criteria=("kl", "tv"),
    selected={"mlp": (8, 30), "joint": (16,), "block": (8,)},
)  # fmt: skip


# ---------------------------------------------------------------- made-up scores


def made_up(right: dict, models: pd.DataFrame, dense=12):
    """Answers to 12 questions on 6 passages by criterion, and one-step rows whose KL is 12 minus those right."""
    rows, steps = [], []
    for spec, criterion in [("dense", "dense"), *zip(models["spec"], models["criterion"], strict=True)]:
        count = dense if spec == "dense" else right[criterion]
        for i in range(12):
            place = (i % 2) * 6 + i // 2
            about = {"item_id": f"i{i}", "passage_id": f"p{i // 2}", "chance": 0.25, "spec": spec, "label": spec}
            rows.append(about | {"seed": 0} | dict.fromkeys(measure.shares.READOUTS, float(place < count)))
        if spec != "dense":
            steps += [
                {"spec": spec, "cluster": f"t{t}", "kl_dense_pruned": (1 + 0.1 * t) * (12 - count)} for t in range(3)
            ]
    return pd.DataFrame(rows), pd.DataFrame(steps)


@pytest.fixture
def planned(tmp_path):
    """A run of 30 layers that only its card describes, and its models."""
    settings = replace(SETTINGS, selected={"mlp": (4, 8), "joint": (4,)}, criteria=("kl",))
    run = open_chapter(tmp_path, sources.of_chapter("choosing-what-to-prune").id, None, CARD, settings)
    return run, measure.models(run)


def test_each_criterion_has_each_number(planned):
    run, models = planned
    assert list(models["spec"]) == [
        "drop:mlp:4", "drop:kl:mlp:4", "drop:mlp:8", "drop:kl:mlp:8", "drop:joint:4", "drop:kl:attn+mlp:4",
        "drop:random:mlp:4:seed1", "drop:random:mlp:4:seed2",
    ]  # fmt: skip
    assert all(parse(spec).spec == spec and parse(spec).count == n for spec, n in models[["spec", "count"]].values)
    drawn_ones = [f"drop:random:mlp:4:seed{seed}" for seed in (1, 2)]
    assert measure.pair_specs(models, "mlp", 4) == {
        "cosine": ["drop:mlp:4"],
        "kl": ["drop:kl:mlp:4"],
        "random": drawn_ones,
    }
    run.options.__dict__["settings"] = replace(run.settings, selected={"mlp": (4,), "block": (4,)})
    assert "drop:angular:4" in set(measure.models(run)["spec"])


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_has_the_pair_that_decides(profile, tmp_path):
    settings = replace(PROFILES[profile], texts=2)
    for layers in (4, 12, 30, 32):
        card = CARD | {"n_layers": layers}
        run = open_chapter(
            tmp_path / str(layers), sources.of_chapter("choosing-what-to-prune").id, None, card, settings
        )
        pair = measure.pair_specs(measure.models(run), *measure.pair_of(run))
        assert {"cosine", "kl"} <= set(pair)
        assert all(parse(spec).check(layers) is None for spec in measure.models(run)["spec"])


def test_models_differ_from_the_cosine_s_as_by_hand(planned):
    _, models = planned
    answers, steps = made_up({"cosine": 3, "kl": 9, "random": 1}, models)
    table = measure.by_model(models, answers, steps).set_index("spec")
    kl, cosine = table.loc["drop:kl:mlp:4"], table.loc["drop:mlp:4"]
    assert kl["generation"] == pytest.approx(9 / 12) and kl["generation_gap"] == pytest.approx(6 / 12)
    assert kl["choice"] == pytest.approx((9 / 12 - 0.25) / 0.75) and kl["choice_gap"] == pytest.approx(0.5 / 0.75)
    assert kl["kl"] == pytest.approx(1.1 * 3) and kl["kl_ratio"] == pytest.approx(3 / 9)
    assert np.isnan(cosine["generation_gap"]) and np.isnan(cosine["kl_ratio"])
    for name in ("generation", "generation_gap", "kl"):
        assert kl[f"{name}_lo"] <= kl[name] <= kl[f"{name}_hi"]
    swapped = measure.by_model(models, *made_up({"cosine": 9, "kl": 3, "random": 1}, models)).set_index("spec")
    assert swapped.loc["drop:kl:mlp:4", "generation_gap"] == pytest.approx(-kl["generation_gap"])
    assert swapped.loc["drop:kl:mlp:4", "kl_ratio"] == pytest.approx(1 / kl["kl_ratio"])


def test_random_drops_are_a_mean_over_draws(planned):
    _, models = planned
    answers, _ = made_up({"cosine": 3, "kl": 9, "random": 2}, models)
    found = measure.against_random(models, answers, "mlp", 4)
    assert found["kept"][0] == pytest.approx(2 / 12) and found["gap"][0] == pytest.approx(7 / 12)
    second = answers["spec"] == "drop:random:mlp:4:seed2"
    apart = answers.assign(generation=answers["generation"].where(~second, 1.0))
    wider = measure.against_random(models, apart, "mlp", 4)
    assert wider["kept"][2] - wider["kept"][1] > found["kept"][2] - found["kept"][1]
    none = measure.against_random(models[models["criterion"] != "random"], answers, "mlp", 4)
    assert np.isnan(none["kept"]).all() and np.isnan(none["gap"]).all()


def test_the_dense_score_may_leave_nothing(planned):
    run, models = planned
    answers, steps = made_up({"cosine": 0, "kl": 0, "random": 0}, models, dense=0)
    table = measure.by_model(models, answers, steps)
    random = measure.against_random(models, answers, "mlp", 4)
    assert table[["generation", "generation_gap"]].isna().all().all() and np.isnan(random["kept"]).all()
    found = drawn.kept(measure.kept(table, random["kept"]), style.light())
    assert "no share is defined" in found.caption and "nan" not in (found.caption + found.alt).lower()


# ---------------------------------------------------------------- a tiny model


@pytest.fixture
def ch(tiny, tmp_path, monkeypatch):
    texts = [(f"t{i}", [3 + (7 * i + 5 * n * n) % 90 for n in range(12 + i)]) for i in range(3)]
    monkeypatch.setattr(one_step, "held_out", lambda run: texts)
    tokens = {s: torch.randint(3, 97, (3, 12), generator=torch.Generator().manual_seed(s)) for s in range(3)}
    monkeypatch.setattr(zoo, "calibration", lambda run, seed=None: tokens[run.seed if seed is None else seed])
    run = open_chapter(
        tmp_path, sources.of_chapter("choosing-what-to-prune").id, tiny("llama"), None, replace(SETTINGS, texts=3)
    )
    run.tokens = tokens
    return run


def test_plans_of_a_run_are_those_of_the_method_and_kept_once(ch, monkeypatch):
    for spec in ("drop:kl:mlp:1", "drop:kl:mlp:4", "drop:kl:mlp:2", "drop:tv:attn+mlp:2", "drop:kl:mlp:2:once"):
        plan = zoo.plan_of(ch, spec)
        direct = parse(spec).plan(ch.lm, ch.tokens[0][:2, :8])
        assert plan.sites == direct.sites, spec
        assert plan.scores == pytest.approx({str(s): direct.scores[str(s)] for s in plan.sites})
    monkeypatch.setattr("prunelib.methods.drop.Drop.plan", None)
    assert len(zoo.plan_of(ch, "drop:kl:mlp:3").sites) == 3  # the beginning of what is kept
    assert zoo.plan_of(ch, "drop:random:mlp:2:seed4") == parse("drop:random:mlp:2:seed4").given(4)


def test_other_seeds_choose_on_other_text(ch):
    plan = zoo.plan_of(ch, "drop:kl:attn+mlp:3", seed=1)
    assert plan.sites == parse("drop:kl:attn+mlp:3").plan(ch.lm, ch.tokens[1][:2, :8]).sites
    assert len(zoo.removals(ch, "mlp", 1)) == 4 * 2


def test_rankings_are_those_of_single_removals(ch):
    table = measure.rankings(ch)
    assert len(table) == 8 and set(table["kind"]) == {"attn", "mlp"}
    alone = Removals(ch.lm, ch.tokens[0][:2, :8])
    for row in table.to_dict("records"):
        means = alone.without(Site(row["kind"], row["layer"])).mean(0)
        np.testing.assert_allclose([row[column] for column in COLUMNS], means, rtol=1e-6)
    once = zoo.plan_of(ch, "drop:kl:mlp:4:once").sites
    own = table[table["kind"] == "mlp"].sort_values("rank_kl_dense_pruned")
    assert own["layer"].tolist() == [site.layer for site in once]
    cosine = zoo.plan_of(ch, "drop:mlp:4").sites
    own = table[table["kind"] == "mlp"].sort_values("rank_cosine")
    assert own["layer"].tolist() == [site.layer for site in cosine]


def test_agreement_is_one_with_itself_and_turns_its_sign(ch, monkeypatch):
    table = measure.agreement(ch)
    assert set(table["with"]) == {"cosine", "text of seed 1"} and len(table) == 2 * (len(COLUMNS) + 1)
    own = zoo.removals(ch, "mlp").groupby("layer")["kl_dense_pruned"].mean()
    kinds = [(kind, layer, -own[layer]) for kind in ("attn", "mlp") for layer in range(4)]
    for sign in (1, -1):
        order = pd.DataFrame([(k, i, sign * v) for k, i, v in kinds], columns=["kind", "layer", "cosine"])
        monkeypatch.setattr(zoo, "drop_order", lambda run, order=order: order)
        found = measure.agreement(ch).set_index(["kind", "criterion", "with"])
        assert found.loc[("mlp", "kl_dense_pruned", "cosine"), "rho"] == pytest.approx(sign, abs=1e-6)


def test_overlap_by_hand(ch):
    models = measure.models(ch)
    plans = measure.plans(ch, models)
    table = measure.overlap(models, plans)
    assert set(table["criterion"]) == {"kl", "tv", "angular"}
    for row in table.itertuples():
        base = set(plans[measure.pair_specs(models, row.kinds, row.count)["cosine"][0]].sites)
        own = set(plans[measure.pair_specs(models, row.kinds, row.count)[row.criterion][0]].sites)
        assert row.shared == len(base & own) and row.jaccard == len(base & own) / len(base | own)
    whole = table[(table["kinds"] == "mlp") & (table["count"] == 4)]
    assert (whole["shared"] == 4).all() and (whole["jaccard"] == 1).all()  # all of them are gone


def test_the_page_records_and_draws_everything(ch, tmp_path):
    ch.options.__dict__["settings"] = replace(ch.settings, selected={"mlp": (4, 8), "joint": (16,)})
    models = measure.models(ch)
    plans, steps = measure.plans(ch, models), measure.steps(ch, models)
    answers, _ = made_up({"cosine": 3, "kl": 9, "tv": 5, "random": 1}, models)
    by_model = measure.by_model(models, answers, steps)
    random = measure.against_random(models, answers, *measure.pair_of(ch))
    page.record_setting(ch, models, answers, steps)
    rankings, agreement = measure.rankings(ch), measure.agreement(ch)
    overlap = measure.overlap(models, plans)
    page.record(ch, by_model, random, rankings, agreement, overlap, plans)
    values = ch.record.part["values"]
    assert values["select.pair.gap"]["value"] == pytest.approx(0.5) and values["select.count"]["value"] == 1
    assert values["select.more"]["value"] == values["select.all"]["value"] == 2
    said = {name.rpartition(".")[2] for name in values if name.startswith("said.choosing-what-to-prune.")}
    assert said == {"all", "output", "choice", "random", "ranks", "again", "seeds", "answer"}
    assert len(page.by_model(ch, by_model)) == len(models) and len(page.agreement(ch, agreement)) == len(agreement)
    assert "mlp:" in page.chosen(ch, models, plans, overlap).data
    about = {"model": {"name": "tiny"}, "notebook": ch.notebook}
    for name, table in {"kept": measure.kept(by_model, random["kept"]), "ranks": rankings}.items():
        card = figures.draw(f"fig-select-{name}", table, tmp_path / "one", about)
        again = figures.draw(f"fig-select-{name}", table, tmp_path / "two", about)
        assert card.caption.startswith("**") and not re.search(r"\bnan\b", card.caption.lower() + card.alt.lower())
        for suffix in figures.SUFFIXES:
            assert card.file(suffix).read_bytes() == again.file(suffix).read_bytes(), suffix


def test_the_figure_counts_both_ways(planned):
    _, models = planned
    for right, words in (({"cosine": 3, "kl": 9}, "at 3 of 3 numbers of sublayers, and less at 0"),
                         ({"cosine": 9, "kl": 3}, "at 0 of 3 numbers of sublayers, and less at 3")):  # fmt: skip
        answers, steps = made_up(right | {"random": 1}, models)
        table = measure.kept(measure.by_model(models, answers, steps), (0.1, 0.0, 0.2))
        assert words in drawn.kept(table, style.light()).caption
        assert (table["criterion"] == "random").sum() == 1


def test_the_furthest_sublayer_is_early_or_late():
    rows = pd.DataFrame({"kind": "mlp", "layer": range(4), "rank_cosine": [1, 2, 3, 4],
                         "rank_kl_dense_pruned": [4, 2, 1, 3]})  # fmt: skip
    table = drawn.apart(rows)
    assert table["layer"].tolist() == [0, 2, 3] and table["early"].tolist() == [3, -2, -1]
    assert drawn.apart(rows.assign(rank_kl_dense_pruned=rows["rank_cosine"])).empty


@pytest.mark.parametrize(
    ("gap", "surely", "word"),
    [
        ((0.3, 0.1, 0.5), {}, "Yes"),
        ((0.3, 0.1, 0.5), {"surely_less": 3}, "In part"),
        ((-0.3, -0.5, -0.1), {}, "No"),
        ((-0.3, -0.5, -0.1), {"surely_more": 1}, "In part"),
        ((0.1, -0.1, 0.3), {"surely_less": 3}, "Not decided"),
    ],
)
def test_an_answer_that_holds_in_one_place_alone_says_so(gap, surely, word):
    names = {"all": 9, "more": 4, "less": 5, "surely_more": 0, "surely_less": 0, "count": 4} | surely
    values = {f"select.{name}": {"value": number, "exact": True, "fmt": "d"} for name, number in names.items()}
    for name, three in (("gap", gap), ("kl", (0.3, 0.2, 0.5)), ("cosine", (0.1, 0.0, 0.2))):
        values[f"select.pair.{name}"] = dict(zip(("value", "lo", "hi"), three, strict=True)) | {"fmt": ".2f"}
    said = page.decided(Found(values, {}))
    assert said.startswith(f"{word}: with 4 MLP sublayers dropped")
