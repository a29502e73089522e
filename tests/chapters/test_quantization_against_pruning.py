"""The chapter on memory on a tiny model: its own twin, one model alone, grids that are known."""

import copy
import math
import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
from opened import SMALL, open_chapter

from prunelib.chapters import load_figures
from prunelib.chapters.quantization_against_pruning import measure, page
from prunelib.engine import text
from prunelib.measure import decode, stats
from prunelib.report import style
from prunelib.runs import sources
from prunelib.runs.zoo import decoding, greedy

PROFILE = replace(SMALL, decode_prompts=3, decode_tokens=5, decode_draws=2)
FIGURES = ("fig-quant-memory", "fig-quant-steps", "fig-quant-steps-free")


def prompts(monkeypatch):
    """Short prompts of tokens that the tiny model has."""
    asked = [text.Prompt(f"p{i}", "made up", f"{i}") for i in range(3)]
    monkeypatch.setattr(text, "load_prompts", lambda *_: asked)


@pytest.fixture
def ch(tiny, tmp_path, monkeypatch):
    lm = copy.copy(tiny("llama"))
    prompts(monkeypatch)
    object.__setattr__(lm, "encode_one", lambda asked, **_: [3 + int(asked), 7, 11, 13])
    return open_chapter(tmp_path, sources.of_chapter("quantization-against-pruning").id, lm, None, PROFILE)


def test_the_dense_model_is_its_own_twin(ch):
    table = greedy.greedy(ch, ["dense"])
    assert set(table["draw"]) == {0} and set(table["prompt_id"]) == {"p0", "p1", "p2"}
    direct = table[table["pair"] == "direct"]
    assert len(direct) == 3 * 5 and (direct["parted"] == 5).all()
    for column in ("kl_dense_pruned", "one_minus_cos_h", "one_minus_cos_z", "one_minus_cos_p", "rms_dz", "var_dz"):
        assert (direct[column].abs() < 1e-12).all(), column


def test_greedy_texts_are_those_of_the_decoding_chapter(ch):
    spec = "magnitude:0.5"
    whole = decoding.decoding(ch, [spec])
    alone = greedy.greedy(ch, [spec])
    expected = whole[whole["draw"] == 0].reset_index(drop=True)
    order = ["pair", "prompt_id", "step"]
    assert alone["kl_dense_pruned"].max() > 1e-4
    # Read together with other texts, a state is rounded otherwise, by some 1e-6 of float32.
    pd.testing.assert_frame_equal(
        *(one.sort_values(order, ignore_index=True) for one in (alone, expected)), rtol=1e-3, atol=1e-6
    )


def test_models_of_a_run_are_added_one_of_the_same_memory(ch):
    models = measure.chosen(ch)
    assert set(models.panels) <= set(models.read) <= set(models.scored)
    assert measure.same_memory(ch) in models.read and set(ch.settings.quantized) <= set(models.scored)
    assert measure.chosen(ch, "rtn:4:g64,wanda:4:8").scored == ["rtn:4:g64", "wanda:4:8"]
    assert measure.four_bit(["rtn:4:g64", "rtn:3:g64", "wanda:0.5", "drop:attn:4"]) == ["rtn:4:g64"]


def test_claim_c13_compares_what_needs_as_much_memory_up_to_four_of_eight(ch):
    specs = ["rtn:4:g64", "rtn:8:g64", "magnitude:0.3", "magnitude:0.5", "magnitude:0.9", "magnitude:4:8"]
    table = measure.sizes(ch, measure.Models(specs, specs, specs)).set_index("spec")
    assert table.index[table["similar"]].tolist() == ["magnitude:0.5", "magnitude:4:8"]
    assert table.index[table["four"]].tolist() == ["rtn:4:g64"]
    assert table.loc["magnitude:4:8", "share"] == table["most"].iloc[0] and table.loc["dense", "share"] == 1


def scored(specs) -> pd.DataFrame:
    rows = [
        (spec, spec, 0, f"i{i}", f"p{i}", 0.25, float(spec == "dense" or i % 2)) for spec in specs for i in range(8)
    ]
    return pd.DataFrame(rows, columns=["spec", "label", "seed", "item_id", "passage_id", "chance", "generation"])


@pytest.mark.parametrize("specs", [["rtn:4:g64"], ["magnitude:0.5"], ["rtn:4:g64", "magnitude:0.5", "magnitude:4:8"]])
def test_figures_and_page_of_any_models(ch, specs):
    models = measure.Models(specs, specs, specs)
    table, sizes, answers = measure.steps(ch, models), measure.sizes(ch, models), scored(["dense", *specs])
    data = measure.by_memory(answers, table, sizes)
    own = measure.along_steps(table, specs, "free")
    drawn = (data, measure.along_steps(table, specs, "direct"), page.beside_paper(ch, own))
    registry = load_figures("quantization-against-pruning")
    for figure_id, rows in zip(FIGURES, drawn, strict=True):
        for column in (False, True):
            made = registry[figure_id].function(rows, style.light(column))
            assert not re.search(r"\bnan\b", made.caption + made.alt), made.caption
    page.record(ch, models, answers, table, sizes)
    page.record_origin(ch, measure.rounding(ch), measure.on_origin(ch), table)
    said = page.say(ch.found)
    verdict = ch.found.verdict("C13")
    if len(specs) == 1:
        assert verdict == "undecided" and said["answer"].startswith("This run cannot tell.")
    else:
        assert ch.found.is_defined("quant.difference") and ch.found.number("quant.difference") == 0
    assert len(page.by_model(ch, data)) == 1 + len(specs)


def test_weights_on_a_grid_of_blocks_of_32_are_recognised(make_model, tmp_path):
    from prunelib.methods.weights import all_weights
    from prunelib.models.lm import LM

    model, made = make_model("llama", hidden_size=128, intermediate_size=192, head_dim=32), {}
    for name in ("free", "on a grid"):
        lm = LM.from_model(model)
        run = open_chapter(tmp_path / name, sources.of_chapter("quantization-against-pruning").id, lm, None, PROFILE)
        made[name] = measure.rounding(run).pivot(index="grid", columns="order", values="error")
        for weight in all_weights(lm):
            weight.set(measure.in_blocks(weight.get()))
    free, grid = made["free"], made["on a grid"]
    blocks, other = measure.BLOCKS, "rtn:4:g64"
    assert free.loc[blocks, "own"] == pytest.approx(free.loc[blocks, "mixed"], rel=0.02)  # random weights: no order
    assert grid.loc[blocks, "own"] < 1e-6 < page.ON_A_GRID * grid.loc[blocks, "mixed"]
    assert 0.05 < free.loc[blocks, "own"] < free.loc[other, "own"] < 0.12


def test_blocks_keep_their_ends_and_sixteen_levels():
    values = torch.randn(5, 80, generator=torch.Generator().manual_seed(1))  # two blocks of 32, one of 16
    rounded = measure.in_blocks(values)
    for start, end in ((0, 32), (32, 64), (64, 80)):
        own, made = values[:, start:end], rounded[:, start:end]
        step = (own.amax(1) - own.amin(1)) / 15
        assert torch.allclose(made.amax(1), own.amax(1)) and torch.equal(made.amin(1), own.amin(1))
        assert ((made - own).abs().amax(1) <= step / 2 + 1e-6).all()
        assert all(len(row.unique()) <= 16 for row in made)
    assert torch.equal(measure.in_blocks(torch.full((1, 32), 0.3)), torch.full((1, 32), 0.3))


def test_the_dense_model_on_such_a_grid_takes_five_bits_a_block_weight(ch):
    attn, mlp, plain = 4 * (2 * 32 * 32 + 2 * 16 * 32), 4 * 3 * 32 * 48, 2 * 97 * 32 + 9 * 32
    down = 4 * 32 * 48  # rows of 48: two blocks, the second half full
    bits = 5 * (attn + mlp - down) + (4 + 2 * 32 / 48) * down + 16 * plain
    assert measure.dense_in_blocks(ch) == pytest.approx(bits / (16 * (attn + mlp + plain)))


def test_the_paper_s_curves_are_read_as_far_as_they_can_be(ch):
    own = pd.DataFrame({"source": ["this run"], "spec": ["x"], "label": ["x"], "kind": ["drop"], "quantity": ["rms_dz"],
                        "step": [23], "mean": [1.0], "lo": [1.0], "hi": [1.0]})  # fmt: skip
    theirs = page.beside_paper(ch, own).query("source == 'paper'")
    first = theirs[theirs["step"] == 0].set_index(["label", "quantity"])["mean"]
    assert first["paper: quantized", "one_minus_cos_h"] == pytest.approx(1 - 0.97, abs=0.005)
    assert first["paper: 4:8", "kl_dense_pruned"] == pytest.approx(1.735, abs=0.005)
    assert theirs["step"].max() <= 23 and set(theirs["quantity"]) == set(measure.QUANTITIES)
    kl = theirs[theirs["quantity"] == "kl_dense_pruned"]["mean"]
    assert kl.isna().any() and kl.min() >= 0.01 * 42.28  # 1 % of the largest value of the panel


def test_the_panels_are_columns_of_the_table():
    assert decode.COLUMNS[:3] == measure.QUANTITIES[:3] and set(measure.QUANTITIES) <= set(decode.COLUMNS)


def test_no_interval_of_tokens_in_common_goes_below_none():
    steps = pd.DataFrame({"prompt_id": ["a", "b", "c", "d"], "parted": [0, 0, 0, 2]})
    assert stats.cluster_mean(steps["parted"], steps["prompt_id"])[1] < 0  # what a few prompts alone would say
    value, lo, hi = measure.mean_of(steps, "parted")
    assert (value, lo) == (0.5, 0.0) and hi > 0.5
    assert all(map(math.isnan, measure.mean_of(steps[:0], "parted")))
