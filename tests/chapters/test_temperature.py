"""The chapter on temperature on a tiny model, its tables computed again in plain float64, and its page."""

import copy
import itertools
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from opened import SMALL, open_chapter

from prunelib.chapters import load_figures
from prunelib.chapters.temperature import measure, page
from prunelib.measure import temperature as along
from prunelib.runs import sources
from prunelib.runs.zoo import traces as zoo

LAYERS = [1, 2]  # the middle half of four layers has no third
PROFILE = replace(SMALL, prompts=4, new_tokens=5, layer_positions=20)
CLOSE = {"rel": 3e-3, "abs": 3e-6}  # the trace is float32 up to the stream


def made_up_paths() -> pd.DataFrame:
    rng = torch.Generator().manual_seed(5)
    ids = [torch.randint(3, 97, (3 + i + 5,), generator=rng).tolist() for i in range(4)]
    rows = [{"prompt_id": f"p{i}", "kind": "made up", "n_prompt": 3 + i, "input_ids": x, "text": ""}
            for i, x in enumerate(ids)]  # fmt: skip
    return pd.DataFrame(rows)


def sharpened(lm, factor):
    """The same model with a head that is ``factor`` times as steep, so that it is sure of some tokens."""
    from prunelib.models.lm import LM

    model = copy.deepcopy(lm.model)
    model.lm_head.weight.data.mul_(factor)
    return LM.from_model(model)


@pytest.fixture(scope="module")
def steep(tiny):
    return sharpened(tiny("llama"), 3.0)


@pytest.fixture
def ch(steep, tmp_path, monkeypatch):
    paths = made_up_paths()
    monkeypatch.setattr(zoo, "trajectories", lambda ch: paths)
    return open_chapter(tmp_path, sources.of_chapter("temperature").id, steep, None, PROFILE)


# ---------------------------------------------------------------- the second computation


def stream_after(model, ids, layer, sublayer):
    """The stream right after a sublayer, [tokens, d]."""
    seen = {}
    block = model.model.layers[layer]
    hooks = [
        block.post_attention_layernorm.register_forward_pre_hook(lambda _, args: seen.update(attn=args[0][0])),
        block.register_forward_hook(lambda _, args, out: seen.update(mlp=(out[0] if isinstance(out, tuple) else out))),
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen[sublayer].reshape(len(ids), -1)


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def turned(a, b):
    return 1 - (a @ b) / np.sqrt((a @ a) * (b @ b))


@pytest.fixture(scope="module")
def by_hand(steep) -> pd.DataFrame:
    """A row a point and temperature, through the normed lens."""
    dense = copy.deepcopy(steep.model).double()
    unembed, norm, rows = dense.lm_head.weight.detach().numpy(), dense.model.norm, []
    for path in made_up_paths().itertuples():
        for layer, sublayer in itertools.product(LAYERS, ("attn", "mlp")):
            cut = copy.deepcopy(dense)
            block = cut.model.layers[layer]
            (block.self_attn.o_proj if sublayer == "attn" else block.mlp.down_proj).weight.data.zero_()
            before, after = (stream_after(m, path.input_ids, layer, sublayer) for m in (dense, cut))
            for t in range(path.n_prompt - 1, len(path.input_ids) - 1):
                with torch.no_grad():
                    z, y = (unembed @ norm(x[t]).numpy() for x in (before, after))
                change = y - z
                index = {"prompt_id": path.prompt_id, "position": t - path.n_prompt + 1, "layer": layer,
                         "sublayer": sublayer, "sure": softmax(z).max(), "kept": z.argmax() == y.argmax()}  # fmt: skip
                for T in along.GRID:
                    p, q = softmax(z / T), softmax(y / T)
                    length, spread = np.linalg.norm(change - change.mean()), change.max() - change.min()
                    r = p**2 / (p @ p)
                    rows.append(index | {
                        "temperature": T, "one_minus_cos_p": turned(p, q), "kl_dense_pruned": (p * np.log(p / q)).sum(),
                        "kl_pruned_dense": (q * np.log(q / p)).sum(), "norm_dp": np.linalg.norm(q - p),
                        "ratio": turned(p, q) / turned(z, y), "lipschitz": length / (2 * T), "gain": 1 / length,
                        "range": np.sqrt(2) * np.tanh(spread / (4 * T)),
                        "t2": (r * (change - r @ change) ** 2).sum() / (2 * T**2),
                        "t3": (p * (change - p @ change) ** 2).sum() / (2 * T**2),
                    })  # fmt: skip
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- tables


def test_the_points_are_those_of_the_second_computation(ch, by_hand):
    rows = measure.points(ch)
    index = ["prompt_id", "position", "layer", "sublayer", "temperature"]
    both = rows.merge(by_hand, on=index, suffixes=("", "_hand"), validate="one_to_one")
    assert len(both) == len(rows) == len(by_hand)
    for name in along.DEVIATIONS[:3]:
        assert both[name].to_numpy() == pytest.approx(both[f"{name}_hand"].to_numpy(), **CLOSE), name
    assert both["norm_dp"].to_numpy() == pytest.approx(both["norm_dp_hand"].to_numpy(), rel=3e-3, abs=2e-3)
    assert both["lipschitz"].to_numpy() == pytest.approx(both["lipschitz_hand"].to_numpy(), rel=1e-4)
    assert both["range_limit"].to_numpy() == pytest.approx(both["range"].to_numpy(), rel=1e-4)
    assert (both["top"] == np.where(both["kept"], "kept", "overtaken")).all()
    assert (both["band"] == pd.cut(both["sure"], [0, 0.2, 0.5, 0.9, 1], labels=list(along.BANDS))).all()
    assert both["top"].nunique() == 2 and both["band"].nunique() >= 3  # the test sees every kind


def test_the_raw_lens_is_measured_at_one_temperature(ch):
    raw = measure.points(ch, "raw")
    assert set(raw["temperature"]) == {1.0} and len(raw) == 4 * 5 * 2 * len(LAYERS)


def test_means_by_top_and_band_are_means_of_their_points(ch, by_hand):
    table = measure.regimes(measure.points(ch)).set_index(["top", "band", "sublayer", "temperature"])
    for T in (0.1, 1.0, 4.0):
        some = by_hand[(by_hand["sublayer"] == "mlp") & (by_hand["temperature"] == T)]
        kept = some[some["kept"]]
        assert table.loc[("kept", "all", "mlp", T), "mean"] == pytest.approx(kept["one_minus_cos_p"].mean(), **CLOSE)
        found = table.loc[(measure.ALL, "all", "mlp", T)]
        assert found["mean"] == pytest.approx(some["one_minus_cos_p"].mean(), **CLOSE)
        assert found["points"] == len(some)
        open_ = some[(some["sure"] >= 0.2) & (some["sure"] < 0.5)]
        mean = table.loc[(measure.ALL, "0.2 to 0.5", "mlp", T), "mean"]
        assert mean == pytest.approx(open_["one_minus_cos_p"].mean(), **CLOSE)


def test_shares_and_quartiles_of_the_ratio(ch, by_hand):
    table = measure.amplification(measure.points(ch)).set_index(["sublayer", "band", "temperature"])
    for T in (0.4, 1.0):
        some = by_hand[(by_hand["sublayer"] == "attn") & (by_hand["temperature"] == T)]
        some = some[(some["sure"] >= 0.5) & (some["sure"] < 0.9)]
        found = table.loc[("attn", "0.5 to 0.9", T)]
        assert found["median"] == pytest.approx(some["ratio"].median(), rel=1e-2)
        assert found["share"] == pytest.approx((some["ratio"] > 1).mean())


def test_shares_used_of_the_bounds(ch, by_hand):
    table = measure.absolute(measure.points(ch)).set_index(["quantity", "sublayer", "temperature"])
    some = by_hand[(by_hand["sublayer"] == "mlp") & (by_hand["temperature"] == 1.0)]
    used = some["norm_dp"] / some["range"]
    assert table.loc[("range", "mlp", 1.0), "median"] == pytest.approx(used.median(), rel=1e-2)
    assert table.loc[("lipschitz", "mlp", 1.0), "max"] == pytest.approx(
        (some["norm_dp"] / some["lipschitz"]).max(), rel=1e-2
    )
    gain = table.loc["gain", "max"].to_numpy()
    bound = 1 / (2 * table.loc["gain"].index.get_level_values("temperature").to_numpy())
    assert (gain <= bound).all()
    assert (table.loc["lipschitz", "max"] <= 1).all() and (table.loc["range", "max"] <= 1.001).all()


def test_peaks_are_counted_once_a_point(ch, by_hand):
    table = measure.peaks(measure.points(ch))
    assert table.groupby("quantity")["share"].sum().to_numpy() == pytest.approx(1)
    wide = by_hand.pivot_table(
        index=["prompt_id", "position", "layer", "sublayer"], columns="temperature", values="kl_dense_pruned"
    )
    counts = wide.idxmax(axis=1).value_counts(normalize=True)
    found = table[table["quantity"] == "kl_dense_pruned"].groupby("peak")["share"].sum()
    for T in along.GRID:
        assert found[T] == pytest.approx(counts.get(T, 0), abs=0.02)  # two near-equal values may swap


def test_theorems_along_the_temperature(ch, by_hand):
    table = measure.theorems(ch).set_index(["quantity", "sublayer", "temperature"])
    assert (table["inside"] == 1).all()
    for T in (0.2, 1.0, 4.0):
        some = by_hand[(by_hand["sublayer"] == "attn") & (by_hand["temperature"] == T)]
        for quantity, estimate in (("one_minus_cos_p", "t2"), ("kl_dense_pruned", "t3")):
            found = table.loc[(quantity, "attn", T)]
            assert found["mean"] == pytest.approx(some[quantity].mean(), **CLOSE)
            assert found["estimate"] == pytest.approx(some[estimate].mean(), **CLOSE)
            assert found["lower"] <= found["mean"] * 1.001 and found["mean"] <= found["upper"] * 1.001


# ---------------------------------------------------------------- the page


def test_every_value_of_the_notebook_is_recorded_and_every_sentence_said(ch):
    page.record(ch, measure.points(ch))
    book = sources.of_chapter("temperature").file.read_text()
    named = set(re.findall(r"\{val\}`([^`:]+)`", book))
    missing = {key for key in named if key not in ch.record.part["values"]}
    assert not missing
    values = ch.record.part["values"]
    unused = {key for key in values if key.startswith("heat.") and key not in named}
    assert {key.rpartition(".")[2] for key in unused} <= {"all_cold", "one", "inside"}
    assert values["heat.lipschitz.beyond"]["value"] == values["heat.range.beyond"]["value"] == 0
    assert values["heat.inside"]["value"] == 1


def test_a_group_without_points_is_not_defined_and_figures_are_drawn_all_the_same(ch):
    rows = measure.points(ch)
    rows = rows[(rows["top"] == "kept") & (rows["band"] != "above 0.9")]
    page._record_tops(ch, rows)
    page._record_angle(ch, rows)
    assert ch.record.part["values"]["heat.overtaken.low_ratio"]["value"] is None
    assert ch.record.part["values"]["heat.normed.sure.share"]["value"] is None
    load_figures("temperature")
    for name, table in (("regimes", measure.regimes(rows)), ("amplification", measure.amplification(rows)),
                        ("absolute", measure.absolute(rows)), ("peaks", measure.peaks(rows)),
                        ("theorems", measure.theorems(ch))):  # fmt: skip
        ch.figure(f"fig-heat-{name}", table)


def test_one_prompt_has_no_intervals_and_the_page_says_so(ch):
    rows = measure.points(ch)
    one = rows[rows["prompt_id"] == "p0"]
    page._record_tops(ch, one)
    page._record_angle(ch, one)
    page._record_size(ch, one)
    page._record_peaks(ch, one)
    page._record_theorems(ch)
    for name in page.ENDS:
        ch.value(f"heat.{name}", page.ENDS[name], exact=True, fmt="g")
    said = page.say(ch.found)
    assert "is not defined where the top token is kept" in said["answer"] and "sorts the points" not in said["answer"]
    assert "is not told apart from what it was at T = 1 (times not defined)" in said["mean"]
