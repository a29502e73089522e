"""The methods chapter on a tiny model: units, weights kept and read back, figures from tables alone."""

import numpy as np
import pandas as pd
import pytest
import torch
from opened import open_chapter as opened_chapter

from prunelib.chapters import load_figures
from prunelib.chapters.methods import measure as methods
from prunelib.chapters.methods import page
from prunelib.methods import parse
from prunelib.report import figures
from prunelib.runs.tables import ArrayFile, read_arrays
from prunelib.runs.zoo import models as zoo
from prunelib.runs.zoo.models import plan_of

load_figures()
ABOUT = {"model": {"name": "tiny"}, "notebook": "07-methods"}


@pytest.fixture
def open_chapter(tiny, tmp_path, monkeypatch):
    """``open_chapter()`` is a chapter of a tiny Llama in one run folder, as a notebook would open it."""
    lm = tiny("llama")
    texts = [
        (f"t{i}", torch.randint(3, 97, (9 + i,), generator=torch.Generator().manual_seed(i)).tolist()) for i in range(3)
    ]
    monkeypatch.setattr(methods, "held_out", lambda ch: texts)
    few = ["magnitude:0.5", "wanda:0.5", "sparsegpt:0.5", "rtn:4:g8"]
    monkeypatch.setattr(methods, "default_specs", lambda profile: few)

    return lambda: opened_chapter(tmp_path / "run", "07-methods", lm)


def test_from_tables_to_figures_and_values(open_chapter):
    ch = open_chapter()
    tables = methods.measured(ch)
    assert ch.record.units_computed >= 4  # dense and drops, two families, one more seed
    memory = methods.memory(tables)
    assert set(memory["kind"]) == {"dense", "drop", "sparsify", "quantize"}
    assert (memory["lo"] <= memory["ratio"]).all() and (memory["ratio"] <= memory["hi"]).all()
    assert memory.set_index("spec").loc["dense", ["bits", "ratio"]].tolist() == [16, 1]
    stable = methods.stability(ch, tables)
    assert ((stable["overlap"] > stable["chance"]) & (stable["overlap"] < 1)).all()
    drawn = {"fig-methods-memory": memory, "fig-methods-error": methods.errors_by_layer(tables),
             "fig-methods-stream": methods.stream_by_layer(tables), "fig-methods-seeds": stable}  # fmt: skip
    for name, data in drawn.items():
        card = figures.draw(name, data, ch.folder / "again", ABOUT)
        assert card.caption.startswith("**") and "nan" not in card.caption + card.alt
    page.record(ch, tables, stable)
    assert {"methods.wanda-05.ratio", "methods.dense.perplexity"} <= set(ch.record.part["values"])


def test_a_second_notebook_computes_nothing_again(open_chapter):
    first = methods.measured(open_chapter())
    again = open_chapter()
    second = methods.measured(again)
    assert again.record.units_computed == 0
    for name in methods.TABLES:
        pd.testing.assert_frame_equal(first[name], second[name])


@pytest.mark.parametrize("spec", ["wanda:0.5", "sparsegpt:0.5", "gptq:4:g8"])
def test_weights_are_kept_to_the_bit(open_chapter, spec, monkeypatch):
    made = zoo.compressed_model(open_chapter(), spec)
    monkeypatch.setattr("prunelib.methods.apply.compress", None)  # not needed again
    read = zoo.compressed_model(open_chapter(), spec)
    assert made.weights.keys() == read.weights.keys()
    assert all(torch.equal(made.weights[n], read.weights[n]) for n in made.weights)


def test_edited_weights_are_not_read_back(open_chapter):
    ch = open_chapter()
    first = zoo.compressed_model(ch, "wanda:0.5").weights
    file = ch.folder / "weights" / "wanda-0.5.seed0.parquet"
    key = zoo._key(ch, "wanda:0.5", 0)
    with ArrayFile(file, key) as target:  # other weights under the old key
        for name, weight in first.items():
            target.add(name, weight.shape, "float32", torch.zeros_like(weight).numpy().tobytes())
    assert read_arrays(file, key) is not None
    second = zoo.compressed_model(open_chapter(), "wanda:0.5").weights
    assert all(torch.equal(first[name], second[name]) for name in first)


ANY_DROP = ("drop:attn:2:iter", "drop:angular:2", "drop:joint:3", "sites:attn:3+mlp:0")


def test_every_kind_of_drop_has_a_plan_that_is_measured_once(open_chapter, tiny):
    for spec in ANY_DROP:
        made = zoo.compressed_model(open_chapter(), spec)
        plan = parse(spec).plan(tiny("llama"), zoo.calibration(open_chapter()))
        assert (made.sites, made.spec, made.label) == (plan.sites, spec, parse(spec).label)
    ch = open_chapter()
    ch._loader = None  # planned without the model, the second time
    assert [len(plan_of(ch, spec).sites) for spec in ANY_DROP] == [2, 2, 3, 2]
    assert ch.record.units_computed == 0


def test_every_kind_of_drop_goes_through_chapters_7_and_8(open_chapter, tmp_path, monkeypatch):
    from prunelib.chapters.dropping_layers import measure as dropping
    from prunelib.chapters.dropping_layers import page as dropping_page
    from prunelib.runs.zoo import scores
    from prunelib.tasks.shares import READOUTS

    ch = open_chapter()
    tables = methods.measured(ch, ",".join(ANY_DROP))
    assert list(dict.fromkeys(methods.memory(tables)["spec"])) == ["dense", *ANY_DROP]
    assert tuple(dropping.chosen(ch, ",".join(ANY_DROP))) == ANY_DROP

    def ask(spec):
        rows = [
            dict.fromkeys(READOUTS, float(n % 3 > 0)) | {"item_id": f"i{n}", "passage_id": f"p{n}"} for n in range(9)
        ]
        return pd.DataFrame(rows)

    found = scores.each_model(ch, "answers", [("dense", 0), *((spec, 0) for spec in ANY_DROP)], lambda spec: {}, ask)
    table = dropping_page.kept(ch, found.assign(chance=0.25))
    own = table[(table["source"] == "this run") & (table["x"] > 0)]
    drawn = {(row.kind, row.x) for row in own.itertuples()}
    assert drawn == {("attn", 50), ("block", 50), ("joint", 75), ("joint", 50)}
    card = figures.draw("fig-dropping-kept", table, tmp_path, ABOUT)
    assert "nan" not in card.caption + card.alt
    shown = dropping_page.drop_lists(ch, ANY_DROP).data
    assert "attn:3, mlp:0" in shown and "Drop-2B angular" in shown


def test_measured_and_single_weights_agree(open_chapter):
    """What the walk of a family keeps is what ``compressed`` computes alone."""
    ch = open_chapter()
    alone = zoo.compressed_model(ch, "sparsegpt:0.5")
    (ch.folder / "weights" / "sparsegpt-0.5.seed0.parquet").unlink()
    methods.measured(ch)
    kept = dict(zoo.saved_weights(ch, "sparsegpt:0.5", 0))
    assert all(torch.equal(kept[n], alone.weights[n]) for n in kept)


def test_a_user_names_the_methods(open_chapter):
    ch = open_chapter()
    tables = methods.measured(ch, "wanda:2:4, drop:mlp:1")
    assert set(tables["method_nll"]["spec"]) == {"dense", "wanda:2:4", "drop:mlp:1"}
    assert (tables["method_weights"]["zeros"] * 2 == tables["method_weights"]["numel"]).all()


def test_perplexity_ratios_by_hand(open_chapter):
    tables = methods.measured(open_chapter())
    nll = tables["method_nll"].query("seed == 0").pivot(index="text_id", columns="spec", values="nll")
    tokens = tables["method_nll"].query("spec == 'dense'")["tokens"].sum()
    ratios = methods.memory(tables).set_index("spec")["ratio"]
    for spec in ("wanda:0.5", "magnitude:0.5"):
        assert ratios[spec] == pytest.approx(np.exp((nll[spec] - nll["dense"]).sum() / tokens))


def test_quantizers_alone_have_no_mask_to_compare(open_chapter, tmp_path):
    """Nothing is repeated over seeds; the page still draws and records what there is."""
    ch = open_chapter()
    tables = methods.measured(ch, "rtn:3:g8,gptq:3:g8")
    stable = methods.stability(ch, tables)
    assert not len(stable) and set(tables["method_nll"]["seed"]) == {ch.seed}
    card = figures.draw("fig-methods-seeds", stable, tmp_path, {"notebook": "07-methods"})
    assert "None of these" in card.caption
    page.record(ch, tables, stable)


def test_a_user_s_pruning_methods_are_repeated_over_seeds(open_chapter):
    walks = methods.walks_of(open_chapter(), "wanda:2:4,magnitude:0.5,gptq:3:g8")
    assert [(w.specs, w.seed) for w in walks if w.seed != 0] == [(("wanda:2:4",), 1)]


def test_perplexity_on_a_public_corpus(open_chapter, tiny, tmp_path, monkeypatch):
    """Corpus, split, window and stride stand beside the number; nothing is computed twice."""
    import json

    from prunelib.chapters.methods import perplexity as perplexities
    from prunelib.models.lm import LM
    from prunelib.tasks import corpora

    class Letters:
        chat_template = None

        def __call__(self, text, **_):
            return {"input_ids": [3 + ord(letter) % 90 for letter in text]}

    file = tmp_path / "wikitext2_test.jsonl"
    file.write_text("".join(json.dumps({"text": f" Line {n} of a text .\n"}) + "\n" for n in range(20)))
    monkeypatch.setenv(corpora.FOLDER, str(tmp_path))
    ch = open_chapter()
    lm = LM.from_model(tiny("llama").model, Letters())
    ch._loader = lambda: lm
    found = perplexities.measured(ch, "wikitext2", "magnitude:0.5")
    shown = perplexities.table(found)
    length = len("\n\n".join(f" Line {n} of a text .\n" for n in range(20)))
    assert list(shown) == perplexities.COLUMNS and shown["model"].tolist() == ["dense", "Magnitude 50%"]
    row = shown.iloc[0]
    assert row[["corpus", "split", "window", "stride"]].tolist() == ["WikiText-2 raw v1", "test", 64, 64]
    assert (row["windows"], row["tokens"]) == (length // 64, length // 64 * 63)
    nll = found.pivot(index="number", columns="spec", values="nll").sum()
    expected = np.exp(nll[["dense", "magnitude:0.5"]] / row["tokens"])
    assert shown["perplexity"].tolist() == pytest.approx(expected.tolist())
    assert shown["ratio"].tolist() == pytest.approx([1, shown["perplexity"][1] / shown["perplexity"][0]])
    said = f"WikiText-2 raw v1, test split: {length // 64} windows of 64 tokens, stride 64"
    assert page.caption(shown).startswith(said)
    again = open_chapter()
    perplexities.measured(again, "wikitext2", "magnitude:0.5")
    assert again.record.units_computed == 0
    file.write_text('{"text": "' + "other " * 40 + '"}\n')
    changed = open_chapter()
    changed._loader = lambda: lm
    perplexities.measured(changed, "wikitext2", "magnitude:0.5")
    assert changed.record.units_computed == 2
    assert "perplexity_on=wikitext2,c4" in page.public_corpora(ch, "").data
