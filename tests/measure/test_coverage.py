"""How often the 95 % intervals of chapters 8, 9 and 11 hold the truth, at the clusters of ``quick`` and ``full``.

The committed reference's passages are the population: a sample draws whole passages from them, with the
answers of the dense model and of every compressed one, so that questions on one passage stay as alike as
they are. ``pytest -s`` prints the table.
"""

from functools import cache

import numpy as np
import pandas as pd
import pytest

from prunelib.measure import stats
from prunelib.paths import data_dir
from prunelib.tasks import shares as tasks

REFERENCE = data_dir() / "reference" / "smollm2-135m-instruct" / "tables"
PASSAGES = {"quick": 12, "full": 60}
SAMPLES = 3000
ENOUGH = 0.93 - 3 * (0.93 * 0.07 / SAMPLES) ** 0.5
"""0.93 less three standard errors of the simulation (0.014)."""
CHANCE = 0.25


@cache
def population() -> tuple[dict, dict]:
    """Scores ``[passages, questions]`` in choice and generation, by model."""
    found = {file.stem.removeprefix("answers_"): pd.read_parquet(file) for file in REFERENCE.glob("answers_*")}
    choice, written = (
        {name: rows[readout].to_numpy(float).reshape(-1, 3) for name, rows in sorted(found.items())}
        for readout in ("choice", "generation")
    )
    return choice, written


def sample(clusters: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, len(population()[0]["dense"]), (SAMPLES, clusters))


def sums(own: np.ndarray, dense: np.ndarray, chance: float, drawn: np.ndarray) -> np.ndarray:
    return stats.compared(own, dense, chance).sum(1)[drawn]


def covered(found, truth) -> float:
    """Share of the samples in which the number is defined whose interval holds the truth."""
    value, lo, hi = found
    defined = np.isfinite(value)
    assert defined.mean() > 0.95
    assert (lo <= value)[defined].all() and (value <= hi)[defined].all()
    return float(((lo <= truth + 1e-9) & (truth - 1e-9 <= hi))[defined].mean())


def share(own, dense, chance=0.0) -> float:
    return (own.mean() - chance) / (dense.mean() - chance)


def groups() -> dict[str, list[str]]:
    models = [name for name in population()[0] if name != "dense"]
    return {name: [name] for name in models} | {
        "mean over drop plans": [name for name in models if name.startswith("sites")],
        "mean over sparsities": [name for name in models if not name.startswith("sites")],
    }


def task_rows(profile: str):
    """Name of the number, models, coverage: each model, and the means that decide C8 and C9."""
    choice, written = population()
    drawn = sample(PASSAGES[profile])
    for name, models in groups().items():
        c, g = (np.mean([scores[one] for one in models], 0) for scores in (choice, written))
        in_choice = sums(c, choice["dense"], CHANCE, drawn), share(c, choice["dense"], CHANCE)
        in_writing = sums(g, written["dense"], 0.0, drawn), share(g, written["dense"])
        yield "choice kept", name, in_choice[1], covered(stats.kept_of(in_choice[0]), in_choice[1])
        yield "generation kept", name, in_writing[1], covered(stats.kept_of(in_writing[0]), in_writing[1])
        gap = in_choice[1] - in_writing[1]
        yield "difference", name, gap, covered(stats.difference_of(in_choice[0], in_writing[0]), gap)
        plain, gap = sums(c, choice["dense"], 0.0, drawn), share(c, choice["dense"]) - in_writing[1]
        yield "uncorrected difference", name, gap, covered(stats.difference_of(plain, in_writing[0]), gap)
        yield "score in choice", name, c.mean(), covered(stats.share_of(in_choice[0][..., [0, 5]]), c.mean())


@pytest.mark.parametrize("profile", PASSAGES)
def test_shares_kept_and_their_difference(profile):
    table = pd.DataFrame(task_rows(profile), columns=["number", "models", "truth", "coverage"])
    print(f"\n{profile}\n", table.groupby("number")["coverage"].agg(["min", "median", "max"]).round(3))
    print(table.round(3).to_string(index=False))
    low = table[table["coverage"] < ENOUGH]
    assert low.empty, low


@pytest.mark.parametrize("profile", PASSAGES)
def test_scores_near_zero(profile):
    """A generated answer right with p = 0.02 to 0.1, by passages that differ; dense is right with 0.3."""
    rng = np.random.default_rng(1)
    for p in (0.02, 0.05, 0.1):
        passage = rng.beta(2, 2, (SAMPLES, PASSAGES[profile], 1)) * 2  # mean 1
        luck = rng.random((SAMPLES, PASSAGES[profile], 3))
        own, dense = (luck < p * passage).astype(float), (luck < 0.3 * passage).astype(float)
        found = stats.kept_of(stats.compared(own, dense).sum(2))
        got = covered(found, p / 0.3), covered(stats.share_of(stats.compared(own, dense).sum(2)[..., [0, 5]]), p)
        print(f"\n{profile} p = {p}: share kept {got[0]:.3f}, score {got[1]:.3f}")
        assert min(got) > ENOUGH


@pytest.mark.parametrize("profile", PASSAGES)
def test_what_is_lost_where_choice_is_kept(profile):
    """C16: models chosen on one half of the passages, judged on the other, both ways."""
    choice, written = population()
    models = [name for name in choice if name != "dense"]
    drawn = sample(PASSAGES[profile])
    scores = np.stack([sums(choice[one], choice["dense"], CHANCE, drawn) for one in models])
    texts = np.stack([written[one] for one in models])
    own, judged, truth = (np.full((SAMPLES, PASSAGES[profile], 3), np.nan), *np.zeros((2, SAMPLES)))
    for half in tasks.halves(PASSAGES[profile]):
        chosen = tasks.passing(scores[:, :, ~half])
        weight = chosen / np.maximum(chosen.sum(0), 1)
        text = np.einsum("ms,mspq->spq", weight, texts[:, drawn[:, half]])
        own[:, half] = np.where(chosen.any(0)[:, None, None], text, np.nan)
        judged += chosen.any(0)
        loss = 1 - (weight * texts.mean((1, 2))[:, None]).sum(0) / written["dense"].mean()
        truth += np.where(chosen.any(0), loss, 0)
    hits = defined = 0
    for half in (slice(None), *tasks.halves(PASSAGES[profile])):  # both are judged, or one where the other passes none
        some = np.isfinite(own[:, half]).all((1, 2)) & (judged == (2 if isinstance(half, slice) else 1))
        found = stats.compared(own[some][:, half], written["dense"][drawn[some][:, half]])
        value, lo, hi = (1 - one for one in stats.kept_of(found.sum(2)))
        true = truth[some] / judged[some]
        hits += ((hi <= true + 1e-9) & (true - 1e-9 <= lo)).sum()
        defined += np.isfinite(value).sum()
    print(f"\n{profile}: C16 {hits / defined:.3f}, defined in {defined / SAMPLES:.2f}")
    assert hits / defined > ENOUGH and defined / SAMPLES > 0.85


@pytest.mark.parametrize("profile", PASSAGES)
def test_ndcg_kept(profile):
    """nDCG of the language model's searches: a number between 0 and 1 a query."""
    found = {
        file.stem: pd.read_parquet(file)["ndcg"].to_numpy(float).reshape(-1, 3)
        for file in REFERENCE.glob("retrieval_*")
    }
    encoder = {
        file.stem: pd.read_parquet(file)["ndcg"].to_numpy(float).reshape(-1, 3)
        for file in REFERENCE.glob("encoder_all-minilm-l6-v2_*")
    }
    for scores, name in ((found, "retrieval_dense"), (encoder, "encoder_all-minilm-l6-v2_dense")):
        dense = scores.pop(name)
        drawn = np.random.default_rng(2).integers(0, len(dense), (SAMPLES, PASSAGES[profile]))
        for plan, own in scores.items():
            got = covered(stats.kept_of(sums(own, dense, 0.0, drawn)), share(own, dense))
            print(f"\n{profile} {plan}: nDCG kept {got:.3f}", end="")
            assert got > ENOUGH, plan


@pytest.mark.parametrize(("clusters", "q"), [(12, 50), (32, 5)])
def test_quantiles_of_prompts(clusters, q, monkeypatch):
    """Median and 5th percentile of a skewed number, 20 tokens a prompt, prompts half as far apart as tokens."""
    monkeypatch.setattr(stats, "DRAWS", 200)
    rng, trials, hits = np.random.default_rng(3), 100, 0
    truth = np.percentile(np.exp(0.5 * rng.normal(size=1_000_000) + rng.normal(size=1_000_000)), q)
    who = np.arange(clusters).repeat(20)
    for _ in range(trials):
        x = np.exp(0.5 * rng.normal(size=(clusters, 1)) + rng.normal(size=(clusters, 20))).ravel()
        frame = pd.DataFrame({"prompt_id": who, "x": x})
        _, lo, hi = stats.bootstrap(frame, lambda f: np.percentile(f["x"].to_numpy(), q))
        hits += lo <= truth <= hi
    print(f"\n{clusters} prompts, {q}th percentile: {hits / trials:.2f}")
    assert hits / trials > 0.93 - 3 * (0.93 * 0.07 / trials) ** 0.5


def test_means_of_prompts():
    rng = np.random.default_rng(4)
    for clusters in (12, 32):
        x = rng.normal(size=(SAMPLES, clusters))
        value, error = stats.jackknife(np.stack([x, np.ones_like(x)], -1), lambda s: s[..., 0] / s[..., 1])
        _, lo, hi = stats.cluster_mean(x[0], np.arange(clusters))
        reach = (hi - lo) / 2 / error[0] * error
        assert abs((abs(value) <= reach).mean() - 0.95) < 3 * (0.95 * 0.05 / SAMPLES) ** 0.5
