"""The chapter on recovery: repaired models of a run are kept and read again, and its ladder is what they are."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from opened import SMALL, open_chapter
from tiny_files import tokenizer

from prunelib.chapters import load_figures
from prunelib.chapters.recovery import figures as drawn
from prunelib.chapters.recovery import measure, page
from prunelib.errors import PrunelibError
from prunelib.measure.distances import kl
from prunelib.methods import apply
from prunelib.models.lm import LM
from prunelib.report import figures, style
from prunelib.runs import sources
from prunelib.runs.profiles import PROFILES
from prunelib.runs.zoo import models, one_step, repairs, scores

load_figures("recovery")
RUNGS = ("temperature", "norm", "linear", "head:2", "lora:2", "full:1")
SETTINGS = replace(
    SMALL, training=6, training_tokens=10, calibration=2, calibration_tokens=10, texts=3, seeds=1, rungs=RUNGS,
    repaired=("drop:mlp:15", "wanda:0.5"), compared=("wanda:0.5", "drop:mlp:15+linear"),
)  # fmt: skip


def opened(tmp_path, lm, settings=SETTINGS):
    return open_chapter(tmp_path, sources.of_chapter("recovery").id, lm, None, settings)


@pytest.fixture
def ch(tiny, tmp_path):
    return opened(tmp_path, tiny("llama"))


def made_up(specs, right, items=24):
    """Answers to ``items`` questions, three a passage; ``right``: how many each model gets, from the front of each."""
    rows = []
    for spec, count in zip(specs, right, strict=True):
        for i in range(items):
            place = (i % 3) * (items // 3) + i // 3  # losses spread over the passages
            about = {"item_id": f"i{i}", "passage_id": f"p{i // 3}", "chance": 0.25, "spec": spec, "seed": 0}
            about |= {"label": measure.parse(spec).label} | dict.fromkeys(
                ("choice", "generation"), float(place < count)
            )
            rows.append(about)
    return pd.DataFrame(rows)


def test_bases_are_scaled_and_have_the_repairs_that_they_can_have(ch):
    found = measure.chosen(ch)
    assert list(found) == ["drop:mlp:2", "wanda:0.5"]  # 15 of 30 layers are 2 of 4
    assert [spec.partition("+")[2] for spec in found["drop:mlp:2"]] == list(RUNGS)
    assert [spec.partition("+")[2] for spec in found["wanda:0.5"]] == [r for r in RUNGS if r != "linear"]
    assert list(measure.chosen(ch, "drop:attn:1")) == ["drop:attn:1"]
    trained, plain = (measure.by_kind(found, side) for side in (True, False))
    assert [s.partition("+")[2] for s in trained["drop:mlp:2"]] == ["head:2", "lora:2", "full:1"]
    assert [s.partition("+")[2] for s in plain["wanda:0.5"]] == ["temperature", "norm"]


def test_a_repair_that_the_model_cannot_take_is_left_out(tiny, tmp_path):
    ch = opened(tmp_path, tiny("gemma2"))
    assert [spec.partition("+")[2] for spec in measure.chosen(ch)["drop:mlp:2"]] == [
        "norm",
        "head:2",
        "lora:2",
        "full:1",
    ]
    assert not repairs.fits(ch, "drop:mlp:2+linear") and repairs.fits(ch, "wanda:0.5")


def test_text_to_learn_from_is_no_text_that_is_judged(ch):
    texts = [models.calibration(ch), models.training(ch), models.held_samples(ch)]
    assert [list(one.shape) for one in texts] == [[2, 10], [6, 10], [3, 10]]
    rows = [tuple(row.tolist()) for one in texts for row in one]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("rung", RUNGS)
def test_a_repaired_model_is_kept_and_read_again(ch, rung, monkeypatch):
    spec = f"drop:mlp:2+{rung}"
    made = models.compressed_model(ch, spec)
    assert made.sites == models.compressed_model(ch, "drop:mlp:2").sites and made.spec == spec
    again = apply.repaired(
        ch.lm, models.compressed_model(ch, "drop:mlp:2"), measure.parse(spec).parts[-1], models.training(ch)
    )
    monkeypatch.setattr(apply, "repaired", None)  # read, not computed
    read = models.compressed_model(ch, spec)
    for other in (read, again):
        assert made.weights.keys() == other.weights.keys()
        assert all(torch.equal(value, other.weights[name]) for name, value in made.weights.items())
        pd.testing.assert_frame_equal(other.repairs[0].curve, made.repairs[0].curve, check_dtype=False)
        assert (other.repairs[0].trained, other.repairs[0].tokens) == (made.repairs[0].trained, made.repairs[0].tokens)
    assert models.repair_seconds(ch, spec) == made.repairs[0].seconds > 0
    assert np.isnan(models.repair_seconds(ch, "drop:mlp:1+norm"))


def test_other_text_to_learn_from_is_another_repair(ch):
    spec = "drop:mlp:2+full:1"
    own = models.compressed_model(ch, spec)
    ch.options.__dict__["settings"] = replace(SETTINGS, training=5)
    other = models.compressed_model(ch, spec)
    assert any(not torch.equal(value, other.weights[name]) for name, value in own.weights.items())


def test_repairs_follow_repairs(ch):
    both = models.compressed_model(ch, "drop:mlp:2+linear+norm")
    assert len(both.repairs) == 2
    assert all(
        torch.equal(value, both.weights[name])
        for name, value in models.compressed_model(ch, "drop:mlp:2+linear").weights.items()
    )


def test_kl_is_that_of_the_models(ch):
    specs = ["drop:mlp:2", "drop:mlp:2+head:2", "drop:mlp:2+norm"]
    found = repairs.kl_to_dense(ch, specs)
    ids = models.held_samples(ch)
    with torch.no_grad():
        z = ch.lm.model(ids).logits
        for spec in specs:
            with models.compressed_model(ch, spec).applied(ch.lm):
                own = kl(z, ch.lm.model(ids).logits).mean(-1)
            assert found.loc[found["spec"] == spec, "kl"].tolist() == pytest.approx(own.tolist(), rel=1e-3)


def test_the_ladder_by_hand(ch):
    found = {"drop:mlp:2": ["drop:mlp:2+norm", "drop:mlp:2+lora:2"]}
    specs = ["dense", *measure.models(found)]
    answers = made_up(specs, [24, 6, 9, 18])
    kls = pd.DataFrame(
        [(spec, i, one + i / 100) for spec, one in zip(specs[1:], (1.0, 0.9, 0.25), strict=True) for i in range(4)],
        columns=["spec", "sequence", "kl"],
    )
    about = pd.DataFrame({"spec": specs[2:], "trained": [32, 600], "tokens": [50, 100]})
    table = measure.ladder(answers, kls, about, found).set_index("rung")
    assert table["generation"].tolist() == pytest.approx([1 / 4, 9 / 24, 18 / 24])
    assert table.loc[["final norm", "LoRA 2"], "regained"].tolist() == pytest.approx([3 / 18, 12 / 18])
    assert table.loc["LoRA 2", "kl_gone"] == pytest.approx(1 - 0.265 / 1.015)
    assert table["parameters"].tolist() == [0, 32, 600] and table["trained"].tolist() == [False, False, True]
    assert np.isnan(table.loc["pruned", ["regained", "kl_gone"]].astype(float)).all()
    assert measure.best(answers, found, True).regained[0] == pytest.approx(12 / 18)
    assert measure.lost(answers, found)[0] == pytest.approx(0.75)


def test_two_texts_of_equal_size(ch, monkeypatch):
    monkeypatch.setattr(repairs, "_passage_tokens", lambda run: [3 + i % 90 for i in range(57)])
    own, given = repairs.equal_texts(ch)
    assert own.ids(ch).shape == given.ids(ch).shape == (2, 10) and repairs.is_whole(ch)
    made = {text.name: models.compressed_model(ch, "drop:mlp:2+linear", None, text) for text in (own, given)}
    assert made["own"].sites == made["given"].sites
    name = next(iter(made["own"].weights))
    assert not torch.equal(made["own"].weights[name], made["given"].weights[name])
    wanda = [models.compressed_model(ch, "wanda:0.5", None, text) for text in (own, None)]
    assert all(torch.equal(value, wanda[1].weights[key]) for key, value in wanda[0].weights.items())


def test_half_of_what_is_learned_from_are_answers_and_a_third_text_of_equal_size(make_model, tmp_path):
    lm = LM.from_model(make_model("llama", max_position_embeddings=1024), tokenizer())
    sizes = {"training": 9, "training_tokens": 20, "calibration": 5, "calibration_tokens": 16}
    ch = opened(tmp_path, lm, replace(SETTINGS, **sizes))
    ids = models.training(ch)
    assert ids.shape == (9, 20) and repairs.answered_places(ch) == [1, 3, 5, 7] and measure.answered(ch) == 4
    assert [len(text.ids(ch).flatten()) for text in repairs.equal_texts(ch)] == [80, 80, 80]
    assert torch.equal(repairs.equal_texts(ch)[2].ids(ch), ids[[1, 3, 5, 7]])


def test_the_given_text_is_of_passages_that_no_item_is_about(tmp_path):
    from prunelib.tasks.items import load_items

    asked = {
        item.passage_id for item in load_items(scores._items_file(), max(p.passages for p in PROFILES.values()), 0)
    }
    assert not asked & {name for name, _ in one_step.passages()}


def test_profiles_name_what_can_be_joined():
    for profile in PROFILES.values():
        for spec in (*profile.repaired, *profile.compared):
            assert measure.parse(spec).spec == spec
        for rung in profile.rungs:
            assert measure.parse(f"drop:mlp:2+{rung}").parts[-1].kind == "recover"


# ---------------------------------------------------------------- the page


@pytest.mark.parametrize("dense", [24, 0], ids=["scores", "nothing to lose"])
def test_the_page_records_and_draws_everything(ch, tmp_path, dense, monkeypatch):
    monkeypatch.setattr(repairs, "_passage_tokens", lambda run: [3 + i % 90 for i in range(57)])
    ch.options.__dict__["settings"] = replace(SETTINGS, repaired=("drop:mlp:15",))
    found = measure.chosen(ch)
    specs = ["dense", *measure.models(found)]
    answers = made_up(specs, [dense, *(n * dense // 24 for n in (6, 6, 7, 12, 9, 18, 24))])
    about, curves = measure.histories(ch, found)
    table = measure.ladder(answers, measure.kl(ch, found), about, found)
    page.record(ch, answers, table, found)
    both = pd.concat(
        [made_up(["dense", "wanda:0.5", "drop:mlp:2+linear"], [dense, dense // 2 + shift, dense // 4]).assign(text=text)
         for text, shift in (("own", 2), ("given", 0), ("answers", 4))]
    )  # fmt: skip
    data = measure.by_text(both)
    page.record_texts(ch, data)
    part = ch.record.part
    assert part["claims"]["C15"]["verdict"] == ("supported" if dense else "undecided")
    assert all(
        f"said.recovery.{n}" in part["values"] for n in ("answer", "why", "calibration", "closed", "left", "text")
    )
    assert all(
        "nan" not in str(part["values"][f"said.recovery.{n}"]["value"]).lower() for n in ("answer", "left", "text")
    )
    written = re.findall(r"\{val\}`((?:said\.)?recovery\.[^`:]+)", sources.of_chapter("recovery").file.read_text())
    assert len(written) > 10 and set(written) <= set(part["values"])
    seconds = measure.seconds(ch, found)
    assert set(seconds) == set(found["drop:mlp:2"]) and len(page.ladder(ch, table, seconds)) == 7
    assert len(page.texts(ch, data)) == len(data) == 12
    about = {"model": {"name": "tiny"}, "notebook": ch.notebook}
    for name, frame in (("ladder", table), ("curves", measure.final_curve(curves)), ("text", data)):
        card = figures.draw(f"fig-recovery-{name}", frame, tmp_path / "one", about)
        again = figures.draw(f"fig-recovery-{name}", frame, tmp_path / "two", about)
        assert card.caption.startswith("**") and "nan" not in card.caption.lower()
        for suffix in figures.SUFFIXES:
            assert card.file(suffix).read_bytes() == again.file(suffix).read_bytes(), suffix


def test_several_pruned_models_stand_below_each_other(ch):
    found = measure.chosen(ch)
    specs = ["dense", *measure.models(found)]
    about, curves = measure.histories(ch, found)
    answers = made_up(specs, [24, *range(6, 6 + len(specs) - 1)])
    table = measure.ladder(answers, measure.kl(ch, found), about, found)
    for sheet in (style.light(), style.dark(column=True)):
        assert "Wanda 50%" in drawn.ladder(table, sheet).alt
        assert "Wanda 50%" in drawn.curves(measure.final_curve(curves), sheet).alt


def test_repairs_alone_are_no_models_of_this_chapter(ch):
    with pytest.raises(PrunelibError, match="temperature repairs a compressed model"):
        measure.chosen(ch, "temperature")


@pytest.mark.parametrize(
    ("regained", "gone", "said"),
    [
        (0.4, 0.44, ("brings back most: 40%", "takes away the largest share of the KL: 44%")),
        (-0.2, -0.1, ("no repair brings anything back, linear map loses least: −20%", "raises the KL least of all")),
    ],
)
def test_the_caption_of_the_ladder_says_what_the_numbers_do(regained, gone, said):
    scores = {name: 0.5 for base in ("generation", "choice") for name in (base, f"{base}_lo", f"{base}_hi")}
    kl = {"kl": 0.3, "kl_lo": 0.2, "kl_hi": 0.4}
    rows = [
        {"base": "drop:mlp:2", "base_label": "Drop-2M", "rung": rung, "parameters": 9, "trained": False, **scores, **kl}
        | {f"regained{end}": back for end in ("", "_lo", "_hi")}
        | {f"kl_gone{end}": less for end in ("", "_lo", "_hi")}
        for rung, back, less in ((drawn.PRUNED, np.nan, np.nan), ("linear map", regained, gone))
    ]
    with style.applied(style.light(), salt="x"):
        caption = drawn.ladder(pd.DataFrame(rows), style.light()).caption
    assert all(part in caption for part in said), caption
