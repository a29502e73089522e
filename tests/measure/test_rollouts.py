"""Numbers over the steps of texts: exact on small tables, and the survival law on texts that are really drawn."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from prunelib.engine.decode import Gumbel
from prunelib.measure import rollouts, survival
from prunelib.measure.decode import first_difference


def table(kl: dict[str, list[float]], prompts=3, draws=2, label="m") -> pd.DataFrame:
    """Texts that are all alike: ``kl[pair]`` is the KL of each step."""
    rows = [
        (label, f"p{p}", draw, step, pair, value, 2 * value)
        for p, draw in itertools.product(range(prompts), range(draws + 1))
        for pair, values in kl.items()
        for step, value in enumerate(values)
    ]
    return pd.DataFrame(
        rows, columns=["label", "prompt_id", "draw", "step", "pair", "kl_dense_pruned", "kl_pruned_dense"]
    )


def test_rise_and_excess_are_ratios_of_means_and_geometric_over_models():
    some = table({"direct": [1, 1, 1, 1, 1, 1, 1, 1], "own": [1, 1, 2, 2, 2, 2, 3, 3]})
    other = table({"direct": [1] * 8, "own": [4, 4, 4, 4, 4, 4, 48, 48]}, label="n")
    assert rollouts.rise(some[some["pair"] == "own"]) == pytest.approx((3, 3, 3))
    both = pd.concat([some, other], ignore_index=True)
    assert rollouts.rise(both[both["pair"] == "own"])[0] == pytest.approx(6)  # √(3 · 12)
    assert rollouts.excess(some) == pytest.approx((1, 1, 1))  # a mean of 2 over one of 1
    assert rollouts.late(some[some["pair"] == "own"])[0] == 3
    assert rollouts.means(some)["own"][0] == 2


def test_errors_that_only_add_up_do_not_rise():
    flat = table({"direct": [1] * 4, "own": [1] * 4})
    assert rollouts.rise(flat[flat["pair"] == "own"])[0] == 1 and rollouts.excess(flat)[0] == pytest.approx(0)
    assert rollouts.whole_texts(flat)["dense_pruned"][0] == 4  # although the sum grows with every token


def test_each_direction_of_whole_texts_is_summed_along_the_texts_of_its_first_model():
    found = rollouts.whole_texts(table({"direct": [1, 2], "own": [10, 20]}))
    assert (found["dense_pruned"][0], found["pruned_dense"][0]) == (3, 60)  # kl_pruned_dense is twice the other


def test_parts_add_up_at_every_step():
    some = table({"direct": [1, 2, 3], "history": [0, 5, 6], "free": [1, 6, 9]})
    wide = rollouts.causes(some).pivot(index="step", columns="cause", values="mean")
    assert (wide["direct"] + wide["history"]).to_numpy() == pytest.approx(wide["free"].to_numpy())
    assert wide.loc[0].to_dict() == {"direct": 1, "history": 0, "free": 1}
    assert rollouts.history_share(some)[0] == pytest.approx(wide["history"].sum() / wide["free"].sum())


# ---------------------------------------------------------------- the law, on texts that are drawn

SIZE, STEPS, END = 4, 5, 3


def kernels(seed: int):
    """Next-token distributions of two models after every prefix, [2, SIZE] in nats."""
    made = torch.Generator().manual_seed(seed)
    found = {}
    for n in range(STEPS):
        for prefix in itertools.product(range(SIZE), repeat=n):
            z = torch.randn(SIZE, generator=made, dtype=torch.float64)
            other = z + 0.8 * torch.randn(SIZE, generator=made, dtype=torch.float64)
            found[prefix] = torch.log_softmax(torch.stack([z, other]), -1)
    return found


def drawn(prompts: int, draws: int, ends: bool) -> pd.DataFrame:
    """The table of :mod:`prunelib.runs.zoo.decoding` for texts of a small chain; with ``ends`` a token ends them."""
    rows, noise = [], Gumbel(seed=11)
    for p in range(prompts):
        kernel = kernels(p)
        for draw in range(draws + 1):
            texts = []
            for model in (0, 1):
                text: tuple[int, ...] = ()
                while len(text) < STEPS and not (ends and text and text[-1] == END):
                    z = kernel[text][model]
                    shaken = z + noise.noise(p * 1000 + draw, len(text), SIZE) if draw else z
                    text = (*text, int(shaken.argmax()))
                texts.append(text)
            a, b = texts
            for step, token in enumerate(a):
                log_p, log_q = kernel[a[:step]]
                agree = survival.agreement(log_p[None], log_q[None], torch.tensor([token])).common.item()
                same = bool(log_p.argmax() == log_q.argmax())
                about = (first_difference(a, b), min(len(a), len(b)))
                rows.append((f"p{p}", draw, step, "direct", agree, same, *about))
    names = ["prompt_id", "draw", "step", "pair", "agree_common", "top1_same", "parted", "ended"]
    return pd.DataFrame(rows, columns=names)


@pytest.mark.parametrize("ends", [False, True])
def test_free_texts_agree_as_long_as_the_law_says(ends):
    some = drawn(prompts=60, draws=20, ends=ends)
    found = rollouts.survival(some)
    sampled, greedy = (found[found["how"] == how] for how in ("sampled", "greedy"))
    # 95 % intervals of five steps, not independent: one may miss, by little.
    assert ((sampled["gap_lo"] <= 0.01) & (sampled["gap_hi"] >= -0.01)).all()
    assert sampled["seen"].is_monotonic_decreasing and sampled["seen"].iloc[-1] < 0.6
    assert (greedy["gap"] == 0).all() and (greedy["seen"] == greedy["law"]).all()
    value, lo, hi = rollouts.agreed(some)["gap"]
    assert lo <= 0 <= hi and hi - lo < 0.5


def test_the_law_that_takes_total_variation_along_dense_texts_is_another_number():
    kernel = kernels(0)
    law, other, weight = 0.0, 0.0, 0.0
    for text in itertools.product(range(SIZE), repeat=STEPS):
        p = np.exp(sum(kernel[text[:s]][0][t].item() for s, t in enumerate(text)))
        found = [survival.agreement(*kernel[text[:s]][:, None], torch.tensor([token])) for s, token in enumerate(text)]
        law += p * np.prod([one.best.item() for one in found])
        other += p * np.prod([1 - one.tv.item() for one in found])
        weight += p
    assert weight == pytest.approx(1) and abs(law - other) > 0.02 * law


def test_a_text_that_has_ended_alike_in_both_models_still_agrees():
    some = pd.DataFrame(
        {"prompt_id": ["p0"] * 2 + ["p1"] * 4, "draw": 1, "step": [0, 1, 0, 1, 2, 3], "pair": "direct",
         "agree_common": [0.5, 0.5, 1, 1, 1, 1], "top1_same": True, "parted": [2, 2, 1, 1, 1, 1],
         "ended": [2, 2, 4, 4, 4, 4]}
    )  # fmt: skip
    found = rollouts.survival(some)
    assert found["seen"].tolist() == [1, 0.5, 0.5, 0.5] and found["law"].tolist() == [0.75, 0.625, 0.625, 0.625]
