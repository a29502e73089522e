"""Chapters 1 to 3: statistics on made-up traces, the wrappers, and what is recorded."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from opened import open_chapter

from prunelib.chapters import load_figures
from prunelib.chapters.cosine_theorem import measure as measure_1
from prunelib.chapters.cosine_theorem import page as page_1
from prunelib.chapters.kl_theorem import measure as measure_3
from prunelib.chapters.kl_theorem import page as page_3
from prunelib.chapters.softmax_theorem import measure as measure_2
from prunelib.chapters.softmax_theorem import page as page_2
from prunelib.errors import PrunelibError
from prunelib.measure import agreement, theorem_checks, theory
from prunelib.report import figures
from prunelib.report.theorems import CLAIM
from prunelib.runs.zoo.traces import Traces

load_figures()
MEASURES = {"T1": measure_1, "T2": measure_2, "T3": measure_3}
PAGES = {"T1": page_1, "T2": page_2, "T3": page_3}

KEYS = {"T1": "t1.z.normed.within10", "T2": "t2.normed.ratio", "T3": "t3.raw.reverse.inside"}


def made_up_traces(prompts=3, positions=5, layers=4, vocab=30, seed=0):
    """Trace tables of random states, exact in float64; layer 0 is moved the most."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    frames = {"h": [], "z": [], "p": []}
    for prompt in range(prompts):
        for layer in range(layers):
            index = {"prompt_id": f"p{prompt}", "kind": "made up", "position": range(positions)}
            index |= {"layer": layer, "sublayer": "attn"}
            size = 2.0 if layer == 0 else 0.1
            for lens in ("raw", "normed"):
                z, dz = 2 * normal(positions, vocab), size * normal(positions, vocab)
                alpha = (z * dz).sum(-1) / z.square().sum(-1)
                beta = (dz - alpha[:, None] * z).norm(dim=-1) / z.norm(dim=-1)
                turned = 1 - torch.cosine_similarity(z, z + dz, dim=-1)
                for space in ("h", "z") if lens == "raw" else ("z",):
                    names = (f"one_minus_cos_{space}", f"alpha_{space}", f"beta_{space}")
                    columns = dict(zip(names, (turned, alpha, beta), strict=True))
                    extra = {"lens": lens} if space == "z" else {}
                    frames[space].append(pd.DataFrame(index | extra | columns))
                for temperature in (0.5, 1.0) if lens == "normed" else (1.0,):
                    columns = probability_columns(z, dz, temperature)
                    extra = {"lens": lens, "temperature": temperature}
                    frames["p"].append(pd.DataFrame(index | extra | columns))
    return Traces(**{k: pd.concat(v, ignore_index=True) for k, v in frames.items()})


def probability_columns(z, dz, temperature):
    p, q = torch.softmax(z / temperature, -1), torch.softmax((z + dz) / temperature, -1)
    r = p.square() / p.square().sum(-1, keepdim=True)

    def variance(w):
        return (w * (dz - (w * dz).sum(-1, keepdim=True)).square()).sum(-1)

    return {
        "one_minus_cos_p": 1 - torch.cosine_similarity(p, q, dim=-1),
        "kl_dense_pruned": (p * (p / q).log()).sum(-1),
        "kl_pruned_dense": (q * (q / p).log()).sum(-1),
        "var_r": variance(r), "var_p": variance(p), "var_q": variance(q),
        "range_dz": dz.amax(-1) - dz.amin(-1),
        "resolution": torch.full(z.shape[:1], 1e-14),
    }  # fmt: skip


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    traces = made_up_traces()
    for one in (*MEASURES.values(), *PAGES.values()):
        monkeypatch.setattr(one, "layerwise", lambda ch: traces)
    for one in PAGES.values():
        monkeypatch.setattr(one, "trajectories", lambda ch: traces.h.drop_duplicates("prompt_id"))
    card = {"name": "made-up", "revision": None, "fingerprint": "0", "dtype": "float64"}
    return open_chapter(tmp_path, "01-cosine-theorem", card=card | {"device": "cpu", "n_layers": 4})


@pytest.mark.parametrize("theorem", list(agreement.PANELS))
def test_a_chapter_from_table_to_figures_to_claim(chapter, theorem):
    on_paper, on_model = (getattr(MEASURES[theorem], name)(chapter) for name in ("on_paper", "on_model"))
    name = theorem.lower()
    for kind, table in (("theory", on_paper), ("model", on_model)):
        card = chapter.figure(f"fig-{name}-{kind}", table)
        assert "nan" not in (card.caption + card.alt).lower()
        assert card.file(".csv").stat().st_size < 3e6
    shown = PAGES[theorem].record(chapter, on_paper, on_model)
    assert list(shown) == list(agreement.PANELS[theorem])
    values, claims = chapter.record.part["values"], chapter.record.part["claims"]
    assert list(claims) == [CLAIM[theorem][0]]
    assert claims[CLAIM[theorem][0]]["sample"] == [{"count": 3, "of": "prompts"}, {"count": 60, "of": "points"}]
    assert KEYS[theorem] in values and values[f"{name}.violations"]["value"] == 0
    assert values[f"{name}.search_violations"]["value"] == 0
    if theorem != "T1":
        panel = agreement.PANELS[theorem][0]
        widths = [values[f"{name}.{panel}.{word}"]["value"] for word in ("width", "loose_width")]
        assert 1 <= widths[0] < widths[1]
    worst = values[f"{name}.{CLAIM[theorem][1]}.worst_layer"]
    assert worst["value"] == 0 and worst["exact"]
    assert PAGES[theorem].furthest_off(chapter).index[0] == 0


def test_a_second_call_reads_the_table_back(chapter):
    first = MEASURES["T2"].on_model(chapter)
    computed = chapter.record.units_computed
    pd.testing.assert_frame_equal(MEASURES["T2"].on_model(chapter), first)
    assert chapter.record.units_computed == computed


@pytest.mark.parametrize("theorem", list(agreement.PANELS))
def test_every_exact_trace_is_inside_its_interval(theorem):
    traces = made_up_traces(seed=1)
    for panel in agreement.PANELS[theorem]:
        rows = agreement.on_model(traces, theorem, panel)
        assert len(rows) == 3 * 5 * 4  # one temperature, one lens
        valid = rows[rows["upper"].notna()]
        slack = 1e-12
        assert (valid["measured"] >= valid["lower"] - slack).all()
        assert (valid["measured"] <= valid["upper"] + slack).all()
        stats = agreement.summarise(rows).set_index("statistic")
        assert stats.loc["inside", "value"] == 1
        assert (stats["lo"] <= stats["hi"]).all()


def test_the_looser_interval_is_the_one_that_was_used_before():
    variance, spread = np.array([0.3, 1e-4, 0.0]), np.array([2.0, 0.5, 0.0])
    v, r = variance[:2], spread[:2]
    most = np.minimum(v * (np.exp(r) - 1 - r) / r**2, r**2 / 8)
    least = v * (np.exp(-r) - 1 + r) / r**2
    found = agreement._loose_width("T3", np.maximum(variance, 1e-28), spread)
    assert found == pytest.approx(np.array([*(most / least), 1]))
    ends = [1 - np.exp(-v / 2 * (np.expm1(s * r) / r) ** 2) for s in (1, -1)]
    most = np.minimum(ends[0], 1 - 1 / np.cosh(r / 2))
    assert agreement._loose_width("T2", v, r) == pytest.approx(most / ends[1])


def test_on_model_uses_the_temperature():
    traces = made_up_traces()
    half = agreement.on_model(traces, "T3", "normed", temperature=0.5)
    p = traces.p[(traces.p["lens"] == "normed") & (traces.p["temperature"] == 0.5)]
    np.testing.assert_allclose(half["estimate"], p["var_p"] / (2 * 0.5**2))
    np.testing.assert_allclose(half["size"], p["range_dz"] / 0.5)
    assert ((half["measured"] >= half["lower"]) & (half["measured"] <= half["upper"])).all()


def test_a_variance_lost_to_underflow_does_not_break_the_interval():
    """All probability on one token, another overtakes it: seen once on a real model."""
    index = {"prompt_id": ["a"], "position": 0, "layer": 0, "sublayer": "mlp", "lens": "raw"}
    columns = {"temperature": 1.0, "one_minus_cos_p": 0.92, "var_r": 0.0, "range_dz": 315.0}
    columns |= {"resolution": 1e-5}
    rows = agreement.on_model(SimpleNamespace(p=pd.DataFrame(index | columns)), "T2", "raw")
    assert rows["lower"][0] <= 0.92 <= rows["upper"][0]


def rows_from(estimate, measured, layer=0, prompts=None):
    n = len(estimate)
    frame = pd.DataFrame({"estimate": estimate, "measured": measured, "layer": layer})
    prompts = prompts if prompts is not None else [f"p{i % 5}" for i in range(n)]
    frame = frame.assign(prompt_id=prompts, lower=0.0, upper=1.0, size=frame["estimate"])
    return frame.assign(resolution=2e-6, slack=2e-6, sublayer="mlp")


def test_summary_statistics_are_the_plain_ones():
    rng = np.random.default_rng(0)
    measured = 10 ** rng.uniform(-4, 0, 400)
    estimate = measured * np.exp(0.1 * rng.normal(size=400))
    rows = rows_from(estimate, measured, layer=np.arange(400) % 3)
    found = agreement.summarise(rows).set_index("statistic")
    expected = {
        "pearson": np.corrcoef(estimate, measured)[0, 1],
        "pearson_log": np.corrcoef(np.log10(estimate), np.log10(measured))[0, 1],
        "spearman": rows["estimate"].corr(rows["measured"], method="spearman"),
        "ratio": np.median(estimate / measured),
        "within10": np.mean(np.abs(estimate / measured - 1) <= 0.1),
        "compared": 1.0,
    }
    for name, value in expected.items():
        assert found.loc[name, "value"] == pytest.approx(value)
        assert found.loc[name, "lo"] <= found.loc[name, "value"] <= found.loc[name, "hi"]


def test_each_point_is_judged_by_its_own_resolution():
    """Large logits lose more: what is a deviation at one point is rounding at another."""
    rows = rows_from([1e-3, 1e-3], [2e-3, 2e-3])
    rows = rows.assign(resolution=[1e-4, 1e-2], upper=1e-3, lower=0.0, slack=[1e-4, 1e-2])
    assert agreement.comparable(rows).tolist() == [True, False]
    assert agreement.inside(rows).tolist() == [False, True]


def test_two_sites_of_sixty_do_not_decide():
    """Sixty sites off by a factor of 1.2; then the two of the first layer by a factor of 1000."""
    rng = np.random.default_rng(0)
    layer = np.repeat(np.arange(60) // 2, 50)
    measured = 10 ** rng.uniform(-4, -1, 3000)
    noise = rng.choice([1 / 1.3, 1 / 1.2, 1.2, 1.1], 3000)
    rows = rows_from(measured * noise, measured, layer)
    rows["sublayer"] = np.where(np.repeat(np.arange(60) % 2, 50), "mlp", "attn")
    worse = rows.assign(estimate=np.where(layer == 0, 1e-3, 1) * rows["estimate"])
    plain, moved = (agreement.summarise(f).set_index("statistic")["value"] for f in (rows, worse))
    assert plain["factor"] == moved["factor"] == moved["later_factor"] == pytest.approx(1.2)
    assert plain["within2"] == 1 and moved["within2"] == pytest.approx(58 / 60)
    assert moved["later_pearson_log"] == pytest.approx(plain["later_pearson_log"])
    assert moved["pearson_log"] < plain["pearson_log"] - 0.1


def test_every_site_has_the_same_weight():
    """By hand: medians of the sites are 2, 4 and 8 times, however many points each has."""
    estimate = [0.2, 0.2, 0.4, 0.1 / 8, 0.1 / 8, 0.1 / 8, 0.1 / 8]
    rows = rows_from(estimate, [0.1] * 7, layer=[0, 0, 1, 2, 2, 2, 2], prompts=list("abababa"))
    value, lo, hi = agreement.site_factor(rows)
    assert value == pytest.approx(4) and 2 <= lo <= value <= hi <= 8 + 1e-9
    two = rows_from([0.2, 0.8, 0.1], [0.1] * 3, layer=[0, 0, 1], prompts=list("aba"))
    assert agreement.site_factor(two)[0] == pytest.approx(2)  # √(4·1), 4 = √(2·8)


def test_an_estimate_that_misses_a_large_deviation_is_not_left_out():
    """Both tiny: not compared. Estimate tiny, deviation large: a failure that must count."""
    rows = rows_from([1e-9, 1e-9, 0.1, 0.1, 0.2], [1e-9, 0.5, 0.1, 0.1, 0.2])
    kept = agreement.resolved(rows)
    assert kept["measured"].tolist() == [0.5, 0.1, 0.1, 0.2]
    assert kept["estimate"].iloc[0] == 2e-6
    found = agreement.summarise(rows).set_index("statistic")["value"]
    assert found["compared"] == pytest.approx(0.8) and found["within10"] == pytest.approx(0.75)


def test_a_turn_past_the_right_angle_is_outside_the_domain():
    index = {"prompt_id": ["a", "b"], "position": 0, "layer": 0, "sublayer": "mlp"}
    columns = {"alpha_h": [-1.5, 0.1], "beta_h": [0.2, 0.2], "one_minus_cos_h": [1.9, 0.0163]}
    rows = agreement.on_model(SimpleNamespace(h=pd.DataFrame(index | columns)), "T1", "h")
    assert rows["upper"].isna().tolist() == [True, False]
    stats = agreement.summarise(rows).set_index("statistic")["value"]
    assert stats["domain"] == 0.5 and stats["inside"] == 1 and stats["refined_within10"] == 0.5


def test_the_histogram_holds_every_compared_point():
    rng = np.random.default_rng(1)
    measured = 10 ** rng.uniform(-7, 1, 500)
    rows = rows_from(measured * 1.3, measured)
    cells = agreement.density(rows)
    assert cells["count"].sum() == agreement.comparable(rows).sum()
    assert set(cells) == {"estimate", "measured", "count"}
    strips = agreement.strips(rows)
    assert (strips["lo"] <= strips["measured"]).all() and (strips["measured"] <= strips["hi"]).all()


def test_outside_shows_each_failure():
    vectors = theorem_checks.outside("T1").set_index(["quantity", "case"])["exact_over_estimate"]
    assert vectors["paper", "h shrinks: α = −0.8, β = 0.05"] > 20
    assert vectors["refined", "h shrinks: α = −0.8, β = 0.05"] == pytest.approx(1, abs=0.05)
    assert vectors["refined", "large: α = 0, β = 3"] < 0.2
    for theorem in ("T2", "T3"):
        cases = theorem_checks.outside(theorem).drop_duplicates("case").set_index("case")
        assert (cases.loc["uniform shift", ["estimate", "exact", "upper"]] == 0).all()
        assert cases.loc["saturated, top token overtaken", "exact_over_estimate"] > 1e6
        assert cases.loc["large, but T = 20", "exact_over_estimate"] == pytest.approx(1, abs=0.05)


def test_the_envelope_is_the_extreme_of_the_interval_over_the_variance():
    for spread in (0.3, 2.0, 6.0):
        variance = np.geomspace(1e-12, spread**2 / 4, 200)
        for theorem, bounds in (("T2", theory.softmax_bounds), ("T3", theory.kl_bounds)):
            estimate, lower, upper = bounds(variance, np.full(200, spread))
            quantity = theorem_checks.quantities(theorem)[0]
            low, high = theorem_checks.envelope(theorem, quantity, spread)
            assert (lower / estimate).min() == pytest.approx(low, rel=1e-6)
            assert (upper / estimate).max() == pytest.approx(high, rel=1e-6)


def test_nothing_to_compare_is_said_in_one_line():
    with pytest.raises(PrunelibError, match="nothing to compare"):
        agreement.summarise(rows_from([1e-9], [1e-9]))


def test_an_unknown_theorem_is_refused():
    with pytest.raises(PrunelibError, match="T1, T2, T3"):
        theorem_checks.remainder("T4")


def test_figures_are_drawn_from_their_table_alone(chapter, tmp_path):
    table = MEASURES["T3"].on_model(chapter)
    once, again = (figures.draw("fig-t3-model", table, tmp_path / x, {"notebook": "03-kl-theorem"}) for x in "ab")
    for suffix in (".light.svg", ".dark.svg", ".pdf", ".png"):
        assert once.file(suffix).read_bytes() == again.file(suffix).read_bytes()
