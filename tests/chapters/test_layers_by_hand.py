"""Chapters 4 to 6 on a tiny model, every number computed again in plain float64, and the verdicts on made-up tables.

The second computation shares nothing with the package: the model in float64, one projection set to zero at a time,
the stream read by a hook, every distance by its definition.
"""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from opened import SMALL, open_chapter

from prunelib.chapters.layerwise import measure as layers
from prunelib.chapters.layerwise import page as layers_page
from prunelib.chapters.lm_head import measure as head
from prunelib.chapters.lm_head import page as head_page
from prunelib.chapters.theory_meets_measurement import page as middle
from prunelib.runs.zoo import traces as zoo

TEMPERATURES = (0.5, 1.0, 2.0)
LAYERS, MIDDLE = 4, (1, 2)  # the middle half of four layers
PROFILE = replace(SMALL, prompts=6, new_tokens=6, layer_positions=20)
CLOSE = {"rel": 2e-3, "abs": 1e-6}  # the trace is float32 up to the stream, the second computation float64


def made_up_paths() -> pd.DataFrame:
    """Six continuations of six new tokens after three to eight tokens of prompt."""
    rng = torch.Generator().manual_seed(3)
    rows = []
    for i in range(6):
        n = 3 + i
        ids = torch.randint(3, 97, (n + 6,), generator=rng).tolist()
        rows.append({"prompt_id": f"p{i}", "kind": "made up", "n_prompt": n, "input_ids": ids, "text": ""})
    return pd.DataFrame(rows)


def opened(folder, lm=None, card=None, temperatures="0.5,1,2"):
    return open_chapter(folder, "05-layerwise", lm, card, PROFILE, temperatures=temperatures)


@pytest.fixture
def ch(tiny, tmp_path, monkeypatch):
    paths = made_up_paths()
    monkeypatch.setattr(zoo, "trajectories", lambda ch: paths)
    monkeypatch.setattr(head, "trajectories", lambda ch: paths)
    return opened(tmp_path, tiny("llama"))


# ---------------------------------------------------------------- the second computation


def stream_after(model, ids, layer, sublayer):
    """The stream right after a sublayer, [tokens, d]: what the next norm reads, or what the block gives."""
    seen = {}
    block = model.model.layers[layer]
    hooks = [
        block.post_attention_layernorm.register_forward_pre_hook(lambda _, args: seen.update(attn=args[0][0])),
        block.register_forward_hook(lambda _, args, out: seen.update(mlp=(out[0] if isinstance(out, tuple) else out)))
    ]  # fmt: skip
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen[sublayer].reshape(len(ids), -1)


def one_minus_cos(a, b):
    return 1 - (a @ b) / np.sqrt((a @ a) * (b @ b))


def across(a, b):
    """Length of the part of b − a that is orthogonal to a, over the length of a."""
    d = b - a
    rest = d - (d @ a) / (a @ a) * a
    return np.sqrt((rest @ rest) / (a @ a))


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def variance(weights, x):
    mean = (weights * x).sum()
    return (weights * (x - mean) ** 2).sum()


@pytest.fixture(scope="module")
def by_hand(tiny) -> pd.DataFrame:
    """A row a prompt, position, layer, sublayer, lens and temperature; ``h`` and ``dh`` are the vectors."""
    dense = copy.deepcopy(tiny("llama").model).double()
    unembed, norm = dense.lm_head.weight.detach().numpy(), dense.model.norm
    rows = []
    for path in made_up_paths().itertuples():
        for layer, sublayer in itertools.product(range(LAYERS), ("attn", "mlp")):
            cut = copy.deepcopy(dense)
            block = cut.model.layers[layer]
            (block.self_attn.o_proj if sublayer == "attn" else block.mlp.down_proj).weight.data.zero_()
            before, after = (stream_after(m, path.input_ids, layer, sublayer) for m in (dense, cut))
            for t in range(path.n_prompt - 1, len(path.input_ids) - 1):
                for lens in ("raw", "normed"):
                    with torch.no_grad():
                        read = [norm(x[t]) if lens == "normed" else x[t] for x in (before, after)]
                    z, y = (unembed @ x.numpy() for x in read)
                    h, g = before[t].numpy(), after[t].numpy()
                    index = {"prompt_id": path.prompt_id, "position": t - path.n_prompt + 1, "layer": layer,
                             "sublayer": sublayer, "lens": lens}  # fmt: skip
                    of_state = {"h": h, "dh": g - h, "cos_h": 1 - one_minus_cos(h, g), "turn_z": one_minus_cos(z, y),
                                "centred_z": one_minus_cos(z - z.mean(), y - y.mean()), "beta_h": across(h, g),
                                "beta_z": across(z, y), "offset": z.mean() ** 2 * len(z) / (z @ z)}  # fmt: skip
                    for T in TEMPERATURES:
                        p, q = softmax(z / T), softmax(y / T)
                        r = p**2 / (p**2).sum()
                        of_p = {"T": T, "turn_p": one_minus_cos(p, q), "kl": (p * np.log(p / q)).sum(),
                                "pmax": p.max(), "var_r": variance(r, y - z), "var_p": variance(p, y - z)}  # fmt: skip
                        rows.append(index | of_state | of_p)
    return pd.DataFrame(rows)


def recorded(ch) -> dict[str, float]:
    return {key: entry["value"] for key, entry in ch.record.part["values"].items()}


def claimed(ch) -> dict[str, float]:
    return {key: entry["value"] for key, entry in ch.record.part["claims"].items() if "parts" not in entry}


def parts_of(ch, claim: str) -> dict[str, float]:
    return {name: part["value"] for name, part in ch.record.part["claims"][claim]["parts"].items()}


# ---------------------------------------------------------------- chapters 4, 5 and 6


def test_chapter_5_by_hand(ch, by_hand):
    layers_page.record(ch)
    found, one = recorded(ch), by_hand[by_hand["T"] == 1]
    assert found["layerwise.n_points"] == 6 * 6 * LAYERS * 2 and found["layerwise.n_prompts"] == 6
    assert (found["layerwise.middle_first"], found["layerwise.middle_last"]) == MIDDLE
    inner = one[one["layer"].isin(MIDDLE)]
    for (sublayer, lens), part in inner.groupby(["sublayer", "lens"]):
        cosines = {"z": 1 - part["turn_z"], "p": 1 - part["turn_p"]} | ({"h": part["cos_h"]} if lens == "raw" else {})
        for space, cosine in cosines.items():
            name = f"layerwise.{sublayer}.{lens}.cos_{space}"
            assert found[name] == pytest.approx(cosine.mean(), **CLOSE)
            assert found[f"{name}_q05"] == pytest.approx(np.percentile(cosine, 5), **CLOSE)
    raw = inner[inner["lens"] == "raw"]
    gap = np.percentile(1 - raw["turn_z"], 5) - np.percentile(1 - raw["turn_p"], 5)
    assert claimed(ch)["C4"] == pytest.approx(gap, **CLOSE) and gap > 0.01
    for lens, part in one.groupby("lens"):
        ratio = part["turn_p"] / part["turn_z"]
        assert found[f"amplification.{lens}.share"] == pytest.approx((ratio > 1).mean())
        assert found[f"amplification.{lens}.median"] == pytest.approx(ratio.median(), **CLOSE)
        for name, some in (("saturated", ratio[part["pmax"] > 0.95]), ("open", ratio[part["pmax"] <= 0.95])):
            expected = pytest.approx((some > 1).mean()) if len(some) else None
            assert found[f"amplification.{lens}.share_{name}"] == expected
    for lens, part in one.groupby("lens"):
        share = (part["turn_p"] > part["turn_z"]).mean()
        assert parts_of(ch, "C6")[f"{lens} lens"] == pytest.approx(share)
    inner = by_hand[(by_hand["lens"] == "normed") & by_hand["layer"].isin(MIDDLE)]
    means = inner.groupby("T")["turn_p"].mean()
    wide = inner.pivot(index=["prompt_id", "position", "layer", "sublayer"], columns="T", values="turn_p")
    for name, T in (("low", 0.5), ("high", 2.0)):
        assert found[f"temperature.{name}"] == T
        assert found[f"temperature.{name}_ratio"] == pytest.approx(means[T] / means[1.0], **CLOSE)
        assert found[f"temperature.{name}_share_worse"] == pytest.approx((wide[T] > wide[1.0]).mean())
    assert parts_of(ch, "C7") == pytest.approx(
        {"mean": means[0.5] / means[1.0], "share of points": (wide[0.5] > wide[1.0]).mean()}, **CLOSE
    )


def test_the_figures_of_chapter_5_by_hand(ch, by_hand):
    one = by_hand[by_hand["T"] == 1]
    for sublayer in ("attn", "mlp"):
        table = layers_page.layer_bands(ch, sublayer)
        own = table[table["source"] == "this model"]
        pooled, own = own[own["part"] == "middle"], own[own["part"] == "layer"]
        for row in pooled.itertuples():
            part = one[(one["sublayer"] == sublayer) & one["layer"].isin(MIDDLE) & (one["lens"] == row.lens)]
            cosine = part["cos_h"] if row.space == "h" else 1 - part[f"turn_{row.space}"]
            expected = (cosine.mean(), np.percentile(cosine, 5), cosine.min())
            assert (row.mean, row.q05, row.min) == pytest.approx(expected, **CLOSE)
        assert len(pooled) == 5
        for row in own.itertuples():
            part = one[(one["sublayer"] == sublayer) & (one["layer"] == row.layer) & (one["lens"] == row.lens)]
            cosine = part["cos_h"] if row.space == "h" else 1 - part[f"turn_{row.space}"]
            assert (row.mean, row.min, row.max) == pytest.approx((cosine.mean(), cosine.min(), cosine.max()), **CLOSE)
        assert len(own) == LAYERS * 5
        theirs = table[table["source"] == "paper"]
        assert theirs["layer"].max() == LAYERS - 1  # the last of their layers lies on the last of ours
    for row in layers_page.by_site(ch).itertuples():
        part = one[(one["sublayer"] == row.sublayer) & (one["layer"] == row.layer) & (one["lens"] == "raw")]
        turned = 1 - part["cos_h"] if row.space == "h" else part[f"turn_{row.space}"]
        assert row.mean == pytest.approx(turned.mean(), **CLOSE)
    spread = layers_page.deviation_spread(ch)
    near = one[(one["lens"] == "normed") & one["layer"].isin(MIDDLE)]
    for (sublayer, quantity), rows in spread.groupby(["sublayer", "quantity"]):
        cells, summary = rows[rows["part"] == "count"], rows[rows["part"] == "summary"].iloc[0]
        values = near.loc[near["sublayer"] == sublayer].assign(turn_h=lambda f: 1 - f["cos_h"])
        values = values["kl" if quantity == "kl" else f"turn_{quantity}"]
        assert cells["share"].sum() == pytest.approx(1)
        assert summary["median"] == pytest.approx(values.median(), **CLOSE)
        middle = cells.iloc[len(cells) // 2]
        if middle["left"] > cells["left"].min():
            inside = (values >= middle["left"]) & (values < middle["right"])
            assert middle["share"] == pytest.approx(inside.mean())
    for row in layers.amplification(ch).itertuples():
        part = one[(one["sublayer"] == row.sublayer) & (one["layer"] == row.layer) & (one["lens"] == row.lens)]
        ratio = part["turn_p"] / part["turn_z"]
        assert (row.q25, row.median, row.q75) == pytest.approx(np.percentile(ratio, [25, 50, 75]), **CLOSE)
        assert row.share == pytest.approx((ratio > 1).mean())
    inner = by_hand[(by_hand["lens"] == "normed") & by_hand["layer"].isin(MIDDLE)]
    for row in layers.temperature_curves(ch).itertuples():
        part = inner[(inner["sublayer"] == row.sublayer) & (inner["T"] == row.temperature)]
        column = {"one_minus_cos_p": "turn_p", "kl_dense_pruned": "kl"}[row.measure]
        assert row.mean == pytest.approx(part[column].mean(), **CLOSE)


def test_chapter_4_by_hand(ch, by_hand, tiny):
    head_page.record(ch)
    found = recorded(ch)
    raw = by_hand[(by_hand["T"] == 1) & (by_hand["lens"] == "raw")]
    raw = raw.assign(ratio=raw["beta_z"] / raw["beta_h"])
    assert claimed(ch)["C5"] == pytest.approx(raw["ratio"].median(), **CLOSE)
    weight = tiny("llama").model.lm_head.weight.detach().double().numpy()
    left, sigma, right = np.linalg.svd(weight, full_matrices=False)
    table = head.spectrum(ch)
    assert table["sigma"].to_numpy() == pytest.approx(sigma, rel=1e-9)
    assert table["offset_share"].to_numpy() == pytest.approx(len(weight) * left.mean(0) ** 2, rel=1e-6, abs=1e-12)
    power = sigma**2
    assert found["head.top_share"] == pytest.approx(power[0] / power.sum())
    assert found["head.top_over_rms"] == pytest.approx(sigma[0] / np.sqrt(power.mean()))
    assert found["head.top_offset_share"] == pytest.approx(len(weight) * left[:, 0].mean() ** 2)

    def energies(vectors):
        shares = (np.stack(vectors) @ right.T) ** 2
        return shares / shares.sum(1, keepdims=True)

    rest = [d - (d @ h) / (h @ h) * h for h, d in zip(raw["h"], raw["dh"], strict=True)]
    of_h, of_dh = energies(raw["h"].tolist()), energies(rest)
    assert found["head.top_energy_h"] == pytest.approx(of_h[:, 0].mean(), **CLOSE)
    assert found["head.top_energy_dh"] == pytest.approx(of_dh[:, 0].mean(), **CLOSE)
    attenuation = head.attenuation(ch).set_index(["sublayer", "layer", "kind"])["median"]
    flat = np.full(len(power), 1 / len(power))
    for (sublayer, layer), part in raw.reset_index(drop=True).groupby(["sublayer", "layer"]):
        assert attenuation[sublayer, layer, "measured"] == pytest.approx(part["ratio"].median(), **CLOSE)
        h = of_h[part.index].mean(0)
        for kind, dh in (("profile", of_dh[part.index].mean(0)), ("isotropic", flat)):
            overlap = (power**2 * h * dh).sum() / ((power * h).sum() * (power * dh).sum())
            expected = np.sqrt((power * dh).sum() / (power * h).sum() * (1 - overlap))
            assert attenuation[sublayer, layer, kind] == pytest.approx(expected, **CLOSE)
    # Gain and angle by hand, from the two vectors that the head makes: their product is the ratio.
    states, across_h = np.stack(raw["h"].tolist()), np.stack(rest)
    made_of_h, made_of_dh = states @ weight.T, across_h @ weight.T
    lengths = [np.linalg.norm(x, axis=1) for x in (states, across_h, made_of_h, made_of_dh)]
    gain = (lengths[3] / lengths[1]) / (lengths[2] / lengths[0])
    cosines = (made_of_h * made_of_dh).sum(1) / (lengths[2] * lengths[3])
    by_gain = raw.reset_index(drop=True).assign(gain=gain, sine=np.sqrt(1 - cosines**2))
    product = (by_gain["gain"] * by_gain["sine"]).to_numpy()
    np.testing.assert_allclose(product, by_gain["ratio"].to_numpy(), rtol=1e-6)
    parts = head.parts(ch).set_index(["sublayer", "layer", "part"])["median"]
    for (sublayer, layer), part in by_gain.groupby(["sublayer", "layer"]):
        for name in ("ratio", "gain", "sine"):
            assert parts[sublayer, layer, name] == pytest.approx(part[name].median(), **CLOSE)
    for sublayer, part in raw.groupby("sublayer"):
        assert found[f"head.{sublayer}.ratio"] == pytest.approx(part["ratio"].median(), **CLOSE)
        assert found[f"head.{sublayer}.share_below_1"] == pytest.approx((part["ratio"] < 1).mean())
        assert found[f"head.{sublayer}.layers_below_1"] == (part.groupby("layer")["ratio"].median() < 1).sum()
        for kind in ("profile", "isotropic"):
            logs = [
                abs(np.log(attenuation[sublayer, n, kind] / attenuation[sublayer, n, "measured"]))
                for n in range(LAYERS)
            ]
            assert found[f"head.{sublayer}.{kind}_error"] == pytest.approx(np.exp(np.median(logs)) - 1)
    inner = by_hand[(by_hand["T"] == 1) & by_hand["layer"].isin(MIDDLE)]
    for lens, part in inner.groupby("lens"):
        assert found[f"head.{lens}.offset_energy"] == pytest.approx(part["offset"].mean(), **CLOSE)
        times = part["centred_z"].mean() / part["turn_z"].mean()
        assert found[f"head.{lens}.centred_times"] == pytest.approx(times, **CLOSE)


def test_chapter_6_by_hand(ch, by_hand):
    tables = {quantity: middle.beside_paper(ch, quantity) for quantity in middle.STATISTICS}
    middle.record(ch, tables)
    found = recorded(ch)
    assert (found["middle.layer"], found["middle.positions"], found["middle.prompts"]) == (2, 36, 6)
    some = by_hand[(by_hand["layer"] == 2) & (by_hand["sublayer"] == "attn") & (by_hand["T"] == 1)]
    for measure, (measured, weighted) in {"cosine": ("turn_p", "var_r"), "kl": ("kl", "var_p")}.items():
        for lens, part in some.groupby("lens"):
            own = tables[measure]
            own = own[(own["source"] == "this model") & (own["lens"] == lens)].sort_values(["prompt_id", "step"])
            part = part.sort_values(["prompt_id", "position"])
            x, estimate = part[measured].to_numpy(), part[weighted].to_numpy() / 2
            assert own["measured"].to_numpy() == pytest.approx(x, **CLOSE)
            assert own["estimated"].to_numpy() == pytest.approx(estimate, **CLOSE)
            assert (own["lower"] <= own["measured"] + own["slack"]).all()
            name = f"middle.{measure}.{lens}"
            assert found[f"{name}.ratio"] == pytest.approx(np.median(estimate / x), **CLOSE)
            pearson = np.corrcoef(x, estimate)[0, 1]
            assert found[f"{name}.pearson"] == pytest.approx(pearson, **CLOSE)
            assert found[f"{name}.inside"] == 1


# ---------------------------------------------------------------- the verdicts


def made_up_traces(**changes) -> zoo.Traces:
    """Every row says: h and z hardly turn, p turns far, more so at low T, and the head shrinks what is across h.

    What a claim does not read says the opposite: the outer layers, the other lens, the other temperatures.
    ``changes`` are the values of the rows that count; ``z_outer`` and ``p_outer`` those of the outer layers (raw lens).
    """
    value = {
        "z": 0.01,
        "p": 0.3,
        "z_outer": changes.get("p", 0.3),
        "p_outer": changes.get("z", 0.01),
        "p_low": 0.6,
        "beta_h": 0.4,
        "beta_z": 0.2,
        "z_normed": 0.01,
        "p_normed": 0.3,
    }
    value |= changes
    h, z, p = [], [], []
    for prompt, position, layer, sublayer in itertools.product(range(6), range(3), range(LAYERS), ("attn", "mlp")):
        index = {"prompt_id": f"p{prompt}", "kind": "made up", "position": position, "layer": layer,
                 "sublayer": sublayer}  # fmt: skip
        inner = layer in MIDDLE
        h.append(index | {"one_minus_cos_h": 0.01, "alpha_h": 0.0, "beta_h": value["beta_h"]})
        about = {"one_minus_cos_z_centred": 0.02, "mean_z": 1.0, "norm_z": 10.0, "alpha_z": 0.0}
        z.append(
            index
            | about
            | {"lens": "raw", "beta_z": value["beta_z"], "one_minus_cos_z": value["z"] if inner else value["z_outer"]}
        )
        z.append(
            index
            | about
            | {
                "lens": "normed",
                "beta_z": 0.4 * value["beta_h"] / value["beta_z"],
                "one_minus_cos_z": value["z_normed"],
            }
        )
        p.append(
            index | {"lens": "raw", "temperature": 1.0, "one_minus_cos_p": value["p"] if inner else value["p_outer"]}
        )
        low = value["p_low"]
        low = low[position] if isinstance(low, tuple) else low
        for T, turned in ((0.5, low), (1.0, value["p_normed"]), (2.0, value["p_normed"])):
            if T == 0.5 and not inner:  # as far on the other side of T = 1
                turned = 2 * value["p_normed"] - low
            p.append(index | {"lens": "normed", "temperature": T, "one_minus_cos_p": turned})
    return zoo.Traces(*(pd.DataFrame(rows) for rows in (h, z, pd.DataFrame(p).assign(pmax_dense=0.5))))


BOTH = {"z_outer": 0.01, "p_outer": 0.3}
"""Softmax amplifies in the outer layers of the raw lens too."""


@pytest.mark.parametrize(
    "claim, changes, value, verdict",
    [
        ("C4", {}, 0.29, "supported"),
        ("C4", {"z": 0.3, "p": 0.01}, -0.29, "not supported"),
        ("C4", {"z": 0.1, "p": 0.1}, 0, "not supported"),  # the threshold itself
        ("C5", {}, 0.5, "supported"),
        ("C5", {"beta_z": 0.8}, 2, "not supported"),
        ("C5", {"beta_z": 0.4}, 1, "not supported"),
        ("C6", BOTH, {"normed lens": 1, "raw lens": 1}, "supported"),
        ("C6", BOTH | {"z_normed": 0.4}, {"normed lens": 0, "raw lens": 1}, "not supported"),
        ("C6", BOTH | {"z_normed": 0.3}, {"normed lens": 0, "raw lens": 1}, "not supported"),
        ("C6", BOTH | {"z": 0.4, "z_outer": 0.4}, {"normed lens": 1, "raw lens": 0}, "not supported"),
        ("C7", {}, {"mean": 2, "share of points": 1}, "supported"),
        ("C7", {"p_low": 0.15}, {"mean": 0.5, "share of points": 0}, "not supported"),
        ("C7", {"p_low": 0.3}, {"mean": 1, "share of points": 0}, "not supported"),
        # Two thirds of the points move less, the others so much more that the mean rises.
        ("C7", {"p_low": (0.2, 0.2, 0.8)}, {"mean": 4 / 3, "share of points": 1 / 3}, "not supported"),
    ],
)
def test_a_made_up_table_gives_the_known_verdict(tmp_path, monkeypatch, claim, changes, value, verdict):
    traces = made_up_traces(**changes)
    card = {"name": "made-up", "revision": None, "fingerprint": "0", "n_layers": LAYERS, "vocab_size": 100}
    ch = opened(tmp_path, card=card | {"dtype": "float64", "device": "cpu"})
    for module in (layers, layers_page, head, head_page):
        monkeypatch.setattr(module, "layerwise", lambda ch: traces)
    spectrum = pd.DataFrame({"index": [0, 1], "sigma": [2.0, 1.0], "offset_share": [0.5, 0.1]})
    sites = [
        {"prompt_id": f"p{n}", "sublayer": s, "layer": i}
        for n in range(6)
        for s in ("attn", "mlp")
        for i in range(LAYERS)
    ]
    profiles = pd.DataFrame([site | {"index": i, "energy_h": 0.5, "energy_dh": 0.5} for site in sites for i in (0, 1)])
    monkeypatch.setattr(head, "spectrum", lambda ch: spectrum)
    monkeypatch.setattr(head, "energy_profiles", lambda ch: profiles)
    (head_page if claim == "C5" else layers_page).record(ch)
    entry = ch.record.part["claims"][claim]
    found = parts_of(ch, claim) if "parts" in entry else entry["value"]
    assert found == pytest.approx(value, abs=1e-9) and entry["verdict"] == verdict


def test_without_a_lower_temperature_nothing_is_claimed_of_it(tmp_path, monkeypatch):
    traces = made_up_traces()
    monkeypatch.setattr(layers_page, "layerwise", lambda ch: traces)
    card = {"name": "made-up", "revision": None, "fingerprint": "0", "n_layers": LAYERS, "vocab_size": 100}
    ch = opened(tmp_path, card=card, temperatures="1,2")
    layers_page.record(ch)
    assert set(ch.record.part["claims"]) == {"C4", "C6"}
