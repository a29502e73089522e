"""Three trajectories: what they are made of, twins, and that their parts add up."""

import itertools

import numpy as np
import pytest
import torch

from prunelib.engine.decode import Gumbel, most_likely
from prunelib.engine.prefix import can_share
from prunelib.measure import decode, rollouts
from prunelib.methods.apply import compress

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [13, 14]]
STEPS = 6


def both(lm, made, choose=most_likely, kept=False):
    """Texts of a dense and of a compressed model, and what both hold along them; ``kept``: prompts are read once."""
    first, second = ({}, {}) if kept else (None, None)
    with made.applied(lm):
        b = decode.write(lm, PROMPTS, STEPS, choose, memo=second)
    a = decode.write(lm, PROMPTS, STEPS, choose, memo=first)
    with made.applied(lm):
        pruned = decode.read(lm, PROMPTS, a, b, memo=second)
    dense = decode.read(lm, PROMPTS, a, b, memo=first)
    return [decode.Texts(*one) for one in zip((a, b), dense, pruned, strict=True)]


def logits(lm, prompt, text):
    """All of a text read at once, without a cache: [steps, V] in float64."""
    ids = torch.tensor([[*prompt, *text[:-1]]])
    with torch.no_grad():
        return lm.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :].double()


@pytest.fixture
def made(lm):
    return compress(lm, ["sites:attn:1+mlp:2"])["sites:attn:1+mlp:2"]


def test_forced_on_its_own_greedy_text_a_model_chooses_it_again(lm):
    ids = decode.write(lm, PROMPTS, STEPS, most_likely)
    held = decode.states(lm, PROMPTS, ids)
    again = decode.point(lm, held.h).z.argmax(-1).tolist()
    assert again == [token for text in ids for token in text]
    assert [len(text) for text in ids] == np.bincount(held.row).tolist()


@pytest.mark.parametrize("kept", [False, True])
def test_columns_are_those_of_plain_float64(lm, made, kept):
    a, b = both(lm, made, Gumbel(seed=2), kept)
    found = decode.trajectories(lm, a, b).set_index(["pair", "row", "step"])
    for row, prompt in enumerate(PROMPTS):
        with made.applied(lm):
            pruned = {name: logits(lm, prompt, t.ids[row]) for name, t in (("a", a), ("b", b))}
        dense = {name: logits(lm, prompt, t.ids[row]) for name, t in (("a", a), ("b", b))}
        sides = {
            "direct": (dense["a"], pruned["a"]),
            "own": (dense["b"], pruned["b"]),
            "free": (dense["a"], pruned["b"]),
            "history": (dense["a"], dense["b"]),
        }
        for pair, (one, other) in sides.items():
            for step in range(min(len(one), len(other))):
                p, q = torch.softmax(one[step], -1), torch.softmax(other[step], -1)
                here = found.loc[pair, row, step]
                # The logits are float32: each is off by some 1e-7 of its size.
                assert here.kl_dense_pruned == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-3, abs=1e-6)
                assert here.kl_pruned_dense == pytest.approx((q * (q / p).log()).sum().item(), rel=1e-3, abs=1e-6)
                tv = (p - q).abs().sum().item() / 2 if pair in ("direct", "own") else np.nan
                assert here.tv == pytest.approx(tv, rel=1e-3, abs=1e-5, nan_ok=True)
                dz = other[step] - one[step]
                assert here.rms_dz == pytest.approx(dz.square().mean().sqrt().item(), rel=1e-3, abs=1e-5)
                assert here.top1_same == (one[step].argmax() == other[step].argmax()).item()


def test_a_twin_differs_in_nothing_on_any_trajectory(lm):
    twin = compress(lm, ["dense"])["dense"]
    for choose, kept in itertools.product((most_likely, Gumbel(seed=1)), (False, True)):
        a, b = both(lm, twin, choose, kept)
        found = decode.trajectories(lm, a, b)
        assert a.ids == b.ids and set(found["pair"]) == {"direct", "own", "free", "history"}
        along = found["pair"].isin(["direct", "own"])
        assert found["top1_same"].all() and (found.loc[along, ["agree_best", "agree_common"]] == 1).all(axis=None)
        still = [name for name in decode.COLUMNS if not name.startswith(("top1", "agree", "tv"))]
        assert (found[still] == 0).all(axis=None) and (found.loc[along, "tv"] == 0).all()


def test_prompts_that_were_read_once_change_no_text_and_nothing_that_is_kept(lm):
    plain = decode.write(lm, PROMPTS, STEPS, most_likely)
    for size in (1, 2, 32):  # in passes of their own, in two, together
        memo = {}
        assert decode.write(lm, PROMPTS, STEPS, most_likely, memo=memo, batch_size=size) == plain
        before = {key: state.lengths.tolist() for key, state in memo.items()}
        first = decode.read(lm, PROMPTS, plain, memo=memo)[0]
        again = decode.read(lm, PROMPTS, plain, memo=memo)[0]
        assert torch.equal(first.h, again.h) and first.step.tolist() == again.step.tolist()
        assert before == {key: state.lengths.tolist() for key, state in memo.items()}
        assert bool(memo) == can_share(lm, max(map(len, PROMPTS)) + STEPS)  # a sliding window keeps no beginnings
        apart = decode.read(lm, PROMPTS, plain)[0].h
        # Sums in another order: float32 rounds to 6e-8 of the largest term, and each block sums some hundred of them.
        torch.testing.assert_close(first.h, apart, rtol=1e-4, atol=1e-5 * max(1.0, apart.abs().max().item()))


def test_texts_that_have_not_parted_differ_in_nothing_however_rows_round(lm):
    """Some machines round the rows of one product differently: here each row of a pass is off by its own little."""

    def off(block, inputs, out):
        h = out[0] if isinstance(out, tuple) else out
        h = h + 1e-4 * torch.arange(len(h), dtype=h.dtype)[:, None, None]
        return (h, *out[1:]) if isinstance(out, tuple) else h

    hook = lm.layers[-1].register_forward_hook(off)
    try:
        a, b = decode.read(lm, [PROMPTS[0]] * 2, [[5, 6, 7, 8], [9, 6]], [[5, 6, 9], [9, 6]])
    finally:
        hook.remove()
    assert torch.equal(a.h[:3], b.h[:3]) and torch.equal(a.h[4:], b.h[3:])  # [5, 6, 7, 8], [9, 6] and [5, 6, 9], [9, 6]


def test_causes_add_up_to_the_free_difference(lm, made):
    found = decode.trajectories(lm, *both(lm, made)).set_index(["row", "step", "pair"])["kl_dense_pruned"]
    found = found.unstack().dropna()
    direct, history = rollouts.shares(*(found[name].to_numpy() for name in ("free", "direct", "history")))
    assert len(found) >= STEPS and direct + history == pytest.approx(found["free"].to_numpy(), abs=1e-12)
    # Where the texts have not parted yet, all of it is direct.
    first = found.xs(0, level="step")
    assert (first["history"] == 0).all() and first["free"].to_numpy() == pytest.approx(
        first["direct"].to_numpy(), rel=1e-9
    )


def test_the_first_difference_is_the_first_step_at_which_forced_choices_differ(lm, made):
    a, b = both(lm, made)
    forced = decode.trajectories(lm, a, b).query("pair == 'direct'")
    for row, (one, other) in enumerate(zip(a.ids, b.ids, strict=True)):
        same = forced[forced["row"] == row].sort_values("step")["top1_same"].to_numpy()
        assert decode.first_difference(one, other) == (len(same) if same.all() else int((~same).argmax()))


def test_the_chain_rule_by_enumeration():
    """Three tokens, four steps: the KL of whole texts is the sum along the first model's texts, in each direction."""
    made = torch.Generator().manual_seed(7)
    size, steps = 3, 4
    kernel = {
        prefix: torch.log_softmax(torch.randn(2, size, generator=made, dtype=torch.float64), -1)
        for n in range(steps)
        for prefix in itertools.product(range(size), repeat=n)
    }

    def log_of(text, model):
        return sum(kernel[text[:s]][model][token].item() for s, token in enumerate(text))

    whole = list(itertools.product(range(size), repeat=steps))
    for first, second in ((0, 1), (1, 0)):
        exact = sum(np.exp(log_of(y, first)) * (log_of(y, first) - log_of(y, second)) for y in whole)
        summed = 0.0
        for prefix, both_models in kernel.items():
            one, other = both_models[first], both_models[second]
            h = torch.zeros(1, 1)
            points = [decode.of_logits(h + k, z[None]) for k, z in enumerate((one, other))]
            step = decode.compare(*points, torch.zeros(1, dtype=torch.long))
            kl = dict(zip(decode.COLUMNS, step[:, 0].tolist(), strict=True))["kl_dense_pruned"]
            summed += np.exp(log_of(prefix, first)) * kl
        assert summed == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize(("a", "b", "at"), [([1, 2], [1, 3], 1), ([1, 2], [1, 2], 2), ([4], [5, 1], 0)])
def test_first_difference(a, b, at):
    assert decode.first_difference(a, b) == at
