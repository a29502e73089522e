"""Choices of sites against greedy search and computation by hand."""

import numpy as np
import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.methods import parse
from prunelib.methods.criterion import angular_distances, importance
from prunelib.methods.drop import Drop
from prunelib.models import hooks
from prunelib.models.lm import LM
from prunelib.models.sublayers import Site


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(3, 97, (5, 9), generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("spec", ["attn:2", "mlp:2", "block:2", "joint:3", "attn:2:iter", "joint:3:iter", "angular:2"])
def test_every_family_can_be_ranked_every_way(lm, tokens, spec):
    made = Drop.parse(spec)
    plan = made.plan(lm, tokens)
    assert len(plan.sites) == made.count and made.spec == f"drop:{spec}"
    assert plan.sites == made.plan(lm, tokens, batch_size=2).sites
    with hooks.dropped(lm, plan):
        assert torch.isfinite(lm.model(input_ids=tokens).logits).all()


def test_joint_ranks_both_kinds_in_one_list(tiny, tokens):
    lm = tiny("llama")
    scores = importance(lm, tokens)
    both = scores[scores["kind"] != "block"].sort_values("cosine", ascending=False)
    expected = [f"{r.kind}:{r.layer}" for r in both.head(5).itertuples()]
    assert [str(s) for s in Drop("joint", 5).plan(lm, tokens).sites] == expected
    assert parse("drop:joint:5").label == "Drop-5AM"


@pytest.mark.parametrize("kind", ["attn", "mlp", "block", "joint"])
def test_iterative_is_greedy(tiny, tokens, kind):
    """Each step by hand: drop what was chosen, capture the stream, take the highest cosine left."""
    lm, chosen = tiny("qwen2"), []
    points = {
        "attn": ("resid_pre", "resid_mid"),
        "mlp": ("resid_mid", "resid_post"),
        "block": ("resid_pre", "resid_post"),
    }
    for _ in range(3):
        with hooks.dropped(lm, chosen), hooks.captured(lm) as cap, torch.no_grad():
            lm.model(input_ids=tokens)
        best = max(
            (torch.cosine_similarity(cap[a][layer].double(), cap[b][layer].double(), dim=-1).mean().item(), one, layer)
            for one, (a, b) in points.items() if one == kind or (kind == "joint" and one != "block")
            for layer in range(lm.n_layers) if Site(one, layer) not in chosen
        )  # fmt: skip
        chosen.append(Site(*best[1:]))
    assert list(Drop(kind, 3, iterative=True).plan(lm, tokens).sites) == chosen


@pytest.mark.parametrize("count", [1, 2, 4])
def test_angular_distance_by_hand(tiny, tokens, count):
    lm = tiny("gpt_neox")
    with torch.no_grad():
        states = lm.model(input_ids=tokens, output_hidden_states=True).hidden_states
    # Its last entry is after the final norm: take the stream itself.
    with hooks.captured(lm, ("resid_post",)) as cap, torch.no_grad():
        lm.model(input_ids=tokens)
    states = [*states[:-1], cap["resid_post"][lm.n_layers - 1]]
    table = angular_distances(lm, tokens, count)
    for first, found in zip(table["first"], table["distance"], strict=True):
        a, b = states[first][:, -1].double().numpy(), states[first + count][:, -1].double().numpy()
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert found == pytest.approx(float(np.mean(np.arccos(cosine) / np.pi)), rel=1e-6)
    plan = Drop("angular", count).plan(lm, tokens)
    first = int(table["first"][table["distance"].idxmin()])
    assert [s.layer for s in plan.sites] == list(range(first, first + count))


def test_block_influence_is_one_minus_the_block_cosine(tiny, tokens):
    """ShortGPT, eq. 1, from the hidden states."""
    lm = tiny("llama")
    with hooks.captured(lm, ("resid_pre", "resid_post")) as cap, torch.no_grad():
        lm.model(input_ids=tokens)
    scores = importance(lm, tokens).set_index(["kind", "layer"])["cosine"]
    for layer in range(lm.n_layers):
        x, y = (cap[p][layer].double() for p in ("resid_pre", "resid_post"))
        influence = 1 - ((x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))).mean()
        assert 1 - scores["block", layer] == pytest.approx(influence.item(), abs=1e-9)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("attn:5", "cannot drop 5 attn sites: the model has 4 layers"),
        ("joint:9", "cannot drop 9 attention and MLP sites"),
        ("angular:5", "cannot drop 5 block sites"),
        ("angular:2:iter", "no iterative form"),
        ("atn:2", "did you mean 'attn'"),
        ("attn:two", "written as drop:attn:8"),
        ("attn:2:iterate", "unknown option 'iterate' of drop .did you mean 'iter'"),
    ],
)
def test_bad_drops(tiny, tokens, spec, problem):
    with pytest.raises(PrunelibError, match=problem):
        Drop.parse(spec).plan(tiny("llama"), tokens)


def test_nothing_to_drop_is_the_dense_model(tiny, tokens):
    for spec in ("attn:0", "attn:0:iter", "angular:0"):
        assert Drop.parse(spec).plan(tiny("llama"), tokens).sites == ()


def padded_rows(tokens, side):
    """Two of the rows, the second cut to 5 tokens, padded with a token that would matter."""
    ids, mask = tokens[:2].clone(), torch.ones_like(tokens[:2])
    gone, kept = (slice(4), slice(4, 9)) if side == "left" else (slice(5, 9), slice(5))
    ids[1, gone], ids[1, kept], mask[1, gone] = 50, tokens[1, :5], 0
    return ids, mask


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_never_counted(lm, tokens, side):
    ids, mask = padded_rows(tokens, side)
    whole, cut = importance(lm, tokens[:1]), importance(lm, tokens[1:2, :5])
    expected = (9 * whole["cosine"] + 5 * cut["cosine"]) / 14
    for batch_size in (1, 2):
        found = importance(lm, ids, batch_size, attention_mask=mask)["cosine"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        table = angular_distances(lm, ids, 2, batch_size, mask)["distance"]
        alone = [angular_distances(lm, rows, 2)["distance"] for rows in (tokens[:1], tokens[1:2, :5])]
        np.testing.assert_allclose(table, sum(alone) / 2, rtol=1e-4, atol=1e-6)
    for spec in ("attn:2", "attn:2:iter", "angular:2"):
        assert Drop.parse(spec).plan(lm, ids, attention_mask=mask).sites


def test_angular_table(lm, tokens):
    """Every start has its row; whatever the batch, the numbers are the same."""
    for count in (1, lm.n_layers):
        table = angular_distances(lm, tokens, count)
        assert list(table.columns) == ["first", "count", "distance"] and set(table["count"]) == {count}
        assert list(table["first"]) == list(range(lm.n_layers - count + 1)) and table["distance"].between(0, 1).all()
        other = angular_distances(lm, tokens, count, batch_size=2)
        np.testing.assert_allclose(other["distance"], table["distance"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "sites"), [("attn", 4), ("mlp", 4), ("block", 4), ("joint", 8)])
def test_the_last_candidate_is_not_measured(tiny, tokens, kind, sites, monkeypatch):
    lm, passes = tiny("llama"), []
    forward = type(lm.model.model).forward
    monkeypatch.setattr(type(lm.model.model), "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    plan = Drop(kind, sites, iterative=True).plan(lm, tokens)
    assert len(passes) == sites - 1 and len(set(plan.sites)) == sites and len(plan.scores) == sites
    passes.clear()
    one = Drop(kind, 1, iterative=True).plan(lm, tokens)
    assert len(passes) == 1 and one.sites == Drop(kind, 1).plan(lm, tokens).sites == plan.sites[:1]


def test_a_dropped_site_turns_nothing(lm, tokens):
    scores = importance(lm, tokens, without=[Site("attn", 1), Site("mlp", 2)]).set_index(["kind", "layer"])["cosine"]
    assert scores["attn", 1] == pytest.approx(1) and scores["mlp", 2] == pytest.approx(1)
    assert scores["mlp", 1] < 1 - 1e-6 and scores["attn", 2] < 1 - 1e-6


def test_bad_calibration(make_model, tokens):
    lm = LM.from_model(make_model("llama"))
    mask = torch.ones_like(tokens)
    mask[2] = 0
    for call in (
        lambda **more: importance(lm, tokens, **more),
        lambda **more: angular_distances(lm, tokens, 1, **more),
        lambda **more: Drop("attn", 2).plan(lm, tokens, **more),
    ):
        with pytest.raises(PrunelibError, match="batch_size"):
            call(batch_size=0)
        with pytest.raises(PrunelibError, match=r"attention_mask must be \[5, 9\]"):
            call(attention_mask=mask[:2])
        with pytest.raises(PrunelibError, match="a calibration sequence is empty"):
            call(attention_mask=mask)
    with pytest.raises(PrunelibError, match="token ids"):
        angular_distances(lm, tokens[0], 1)
    lm.layers[1].mlp.down_proj.weight.fill_(float("inf"))
    for spec in ("mlp:1", "angular:2", "joint:2:iter"):
        with pytest.raises(PrunelibError, match="NaN or Inf in the residual stream"):
            Drop.parse(spec).plan(lm, tokens)


def test_importance_is_that_of_the_stream_and_not_of_the_normed_input(tiny, tokens):
    """LLM-Drop's score with ``layer_drop_norm``; without it, the normed input against the output alone."""
    lm = tiny("llama")
    seen = {}
    block = lm.model.model.layers[1]
    hooks_ = [
        block.input_layernorm.register_forward_hook(lambda _, args, out: seen.update(x=args[0], normed=out)),
        block.self_attn.register_forward_hook(lambda _, args, out: seen.update(out=out[0])),
    ]
    with torch.no_grad():
        lm.model(input_ids=tokens)
    for hook in hooks_:
        hook.remove()
    x, normed, out = (seen[name].double() for name in ("x", "normed", "out"))
    scores = importance(lm, tokens).set_index(["layer", "kind"])["cosine"]
    with_norm = torch.cosine_similarity(x, x + out, dim=-1).mean().item()
    without = torch.cosine_similarity(normed, out, dim=-1).mean().item()
    assert scores[1, "attn"] == pytest.approx(with_norm, rel=1e-6) and abs(with_norm - without) > 0.1
