"""Importance against a computation by hand; plans, labels and specifications."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.measure import removal
from prunelib.methods import parse
from prunelib.methods.criterion import importance, kinds_of
from prunelib.methods.drop import Drop
from prunelib.methods.sites import Sites
from prunelib.models import hooks
from prunelib.models.sublayers import DropPlan, Site


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(3, 97, (7, 10), generator=torch.Generator().manual_seed(3))


def cosine(a, b):
    a, b = a.double().numpy(), b.double().numpy()
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / norms).mean())


def test_importance_by_hand(tiny, tokens):
    """The stream of a Llama layer, recomputed from its modules without any hook."""
    lm = tiny("llama")
    body = lm.model.model
    h = body.embed_tokens(tokens)
    positions = torch.arange(tokens.shape[1])[None]
    rotary = body.rotary_emb(h, positions)
    rows = []
    for index, layer in enumerate(lm.layers):
        mid = h + layer.self_attn(
            layer.input_layernorm(h), position_embeddings=rotary, attention_mask=None
        )[0]  # fmt: skip
        post = mid + layer.mlp(layer.post_attention_layernorm(mid))
        pairs = {"attn": (h, mid), "mlp": (mid, post), "block": (h, post)}
        rows += [(index, kind, cosine(*pair)) for kind, pair in pairs.items()]
        h = post
    expected = pd.DataFrame(rows, columns=["layer", "kind", "cosine"])
    pd.testing.assert_frame_equal(importance(lm, tokens), expected, rtol=1e-6)


def test_importance_of_parallel_blocks(tiny, tokens):
    """Each sublayer's own output is added to what both of them read."""
    lm = tiny("gpt_neox")
    scores = importance(lm, tokens).set_index(["layer", "kind"])["cosine"]
    layer = lm.layers[0]
    h = lm.model.gpt_neox.embed_in(tokens)
    mlp = layer.mlp(layer.post_attention_layernorm(h))
    assert scores[0, "mlp"] == pytest.approx(cosine(h, h + mlp), rel=1e-6)


def test_importance_does_not_depend_on_the_batch(lm, tokens):
    whole = importance(lm, tokens, batch_size=7)
    assert list(whole.columns) == ["layer", "kind", "cosine"]
    assert len(whole) == 3 * lm.n_layers and whole["cosine"].abs().max() <= 1
    for batch_size in (1, 3, 100):
        pd.testing.assert_frame_equal(importance(lm, tokens, batch_size), whole, rtol=1e-5)
    pd.testing.assert_frame_equal(importance(lm, tokens, batch_size=7), whole, check_exact=True)


def test_importance_refuses_bad_tokens(tiny):
    for bad in (torch.arange(4), torch.empty(0, 5, dtype=torch.long)):
        with pytest.raises(PrunelibError, match="token ids"):
            importance(tiny("llama"), bad)
    with pytest.raises(PrunelibError, match="batch_size"):
        importance(tiny("llama"), torch.ones(1, 2, dtype=torch.long), batch_size=0)


SCORES = pd.DataFrame(
    [(layer, kind, value)
     for kind, values in {"attn": (0.5, 0.9, 0.9, 0.7), "mlp": (0.1, 0.2, 0.3, 0.4),
                          "block": (0.8, 0.8, 0.8, 0.8)}.items()
     for layer, value in enumerate(values)],
    columns=["layer", "kind", "cosine"],
)  # fmt: skip


def plan(scores, ranking, count):
    return Drop(ranking, count).choose(scores)


def names(chosen):
    return [str(site) for site in chosen.sites]


def test_plan_takes_the_highest_cosine_first():
    assert names(plan(SCORES, "attn", 3)) == ["attn:1", "attn:2", "attn:3"]
    assert names(plan(SCORES, "mlp", 2)) == ["mlp:3", "mlp:2"]
    assert plan(SCORES, "mlp", 1).scores == {
        "mlp:3": 0.4, "mlp:2": 0.3, "mlp:1": 0.2, "mlp:0": 0.1
    }  # fmt: skip


def test_ties_go_to_the_lower_layer_whatever_the_row_order():
    for seed in range(5):
        shuffled = SCORES.sample(frac=1, random_state=seed)
        assert names(plan(shuffled, "block", 2)) == ["block:0", "block:1"]
        assert names(plan(shuffled, "attn", 1)) == ["attn:1"]


@pytest.mark.parametrize(("kind", "letter"), [("attn", "A"), ("mlp", "M"), ("block", "B")])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_labels_and_specs_round_trip(kind, letter, count):
    method = Drop(kind, count)
    assert method.label == f"Drop-{count}{letter}" and method.spec == f"drop:{kind}:{count}"
    assert parse(method.spec) == method and len(method.choose(SCORES).sites) == count


@pytest.mark.parametrize(("text", "kind"), [("attn:3+attn:7", "attn"), ("mlp:0+block:2", "joint")])
def test_explicit_lists_round_trip(text, kind, tiny):
    method = parse(f"sites:{text}")
    assert method.sublayers == kind and method.count == 2
    assert method.label == f"Drop {text.replace('+', ', ')}" and method.spec == f"sites:{text}"
    assert Sites(method.sites) == method and DropPlan(method.sites).scores is None


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: plan(SCORES, "attn", 5), "cannot drop 5 attn sites: the model has 4 layers"),
        (lambda: plan(SCORES, "attn", -1), "cannot drop -1"),
        (lambda: plan(SCORES, "atn", 1), "did you mean 'attn'"),
        (lambda: Sites.parse("attn:3+attn:3"), "dropped twice in one plan: attn:3"),
        (lambda: Sites.parse("block:3+mlp:3"), "dropped twice in one plan: mlp:3"),
        (lambda: Sites.parse("attn:-1"), "written as attn:12"),
        (lambda: Sites.parse("attn"), "written as attn:12"),
        (lambda: Sites.parse("atn:1"), "did you mean 'attn'"),
        (lambda: Sites(()), "at least one site"),
        (lambda: Site("mlp", -2), "counted from 0"),
        (lambda: parse("drop:attn:x"), "written as drop:attn:8"),
        (lambda: parse("drop:attn:5").check(4), "cannot drop 5"),
        (lambda: parse("sites:attn:3+mlp:4").check(4), "there is no mlp:4 to drop: the model has 4 layers"),
    ],
)
def test_mistakes_are_one_line(call, reason):
    with pytest.raises(PrunelibError) as caught:
        call()
    assert reason in str(caught.value) and "\n" not in str(caught.value)


# ---------------------------------------------------------------- by what a removal does at the output


@pytest.mark.parametrize("spec", ["drop:kl:attn+mlp:5", "drop:tv:block:3", "drop:varp:attn:4"])
def test_a_greedy_plan_drops_what_does_least_then(lm, tokens, spec):
    """Every step by whole forward passes, the dense model being the reference throughout."""
    method, gone = parse(spec), []
    made = method.plan(lm, tokens)
    column = removal.COLUMNS.index(method.criterion.column)
    where = removal._places(torch.ones_like(tokens), removal.POSITIONS)
    with torch.no_grad():
        dense = lm.model(input_ids=tokens).logits[where]
    for chosen in made.sites:
        harm = {}
        for site in (Site(k, i) for i in range(lm.n_layers) for k in kinds_of(method.ranking)):
            if site not in gone:
                with torch.no_grad(), hooks.dropped(lm, [*gone, site]):
                    harm[site] = float(
                        removal.compare(dense, lm.model(input_ids=tokens).logits[where])[:, column].mean()
                    )
        assert harm[chosen] <= min(harm.values()) * (1 + 1e-3)
        assert made.scores[str(chosen)] == pytest.approx(harm[chosen], rel=1e-3)
        gone.append(chosen)
    assert len(made.sites) == method.count


def test_plans_of_smaller_counts_are_beginnings(tiny, tokens):
    for by in ("kl:mlp", "kl:attn+mlp", "varp:attn", "random:attn+mlp"):
        most = 8 if "+" in by else 4
        whole = parse(f"drop:{by}:{most}").plan(tiny("llama"), tokens)
        assert len(set(whole.sites)) == most
        for count in range(most):
            assert parse(f"drop:{by}:{count}").plan(tiny("llama"), tokens).sites == whole.sites[:count]


def test_once_ranks_by_single_removals(tiny, tokens):
    lm = tiny("llama")
    alone = removal.Removals(lm, tokens)
    harm = {f"mlp:{i}": float(alone.without(Site("mlp", i))[:, 0].mean()) for i in range(4)}
    made = parse("drop:kl:mlp:3:once").plan(lm, tokens)
    assert names(made) == sorted(harm, key=harm.get)[:3] and made.scores == pytest.approx(harm)
    assert names(parse("drop:kl:mlp:1").plan(lm, tokens)) == names(made)[:1]


def test_a_joint_ranking_begins_with_the_best_of_both(tiny, tokens):
    lm = tiny("qwen2")
    first = {by: parse(f"drop:kl:{by}:1").plan(lm, tokens) for by in ("attn", "mlp", "attn+mlp")}
    harm = {by: plan.scores[names(plan)[0]] for by, plan in first.items()}
    assert harm["attn+mlp"] == pytest.approx(min(harm["attn"], harm["mlp"]))


def test_random_drops_need_no_model_and_no_text_and_differ_by_seed():
    drawn = {seed: parse(f"drop:random:attn+mlp:6:seed{seed}").given(30).sites for seed in range(20)}
    assert all(len(set(sites)) == 6 for sites in drawn.values()) and len(set(drawn.values())) == 20
    assert parse("drop:random:attn+mlp:6:seed3").given(30).sites == drawn[3]
    kinds = [site.kind for sites in drawn.values() for site in sites]
    assert 40 <= kinds.count("attn") <= 80 and len({site.layer for sites in drawn.values() for site in sites}) > 25
    assert parse("drop:random:mlp:4").needs == frozenset()


def test_the_cosine_still_decides_where_nothing_else_is_named(tiny, tokens):
    method = parse("drop:mlp:2")
    assert method.by == "cosine" and method.chosen_at_once and method.criterion.name == "cosine"
    assert not parse("drop:kl:mlp:2").chosen_at_once and not parse("drop:random:mlp:2").chosen_at_once
    table = importance(tiny("llama"), tokens)
    expected = table[table["kind"] == "mlp"].nlargest(2, "cosine")["layer"].tolist()
    assert [site.layer for site in method.plan(tiny("llama"), tokens).sites] == expected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"by": "klx"}, "did you mean 'kl'"),
        ({"by": "kl", "seed": 3}, "only drop:random has a seed"),
        ({"by": "random", "iterative": True}, "no iterative form"),
    ],
)
def test_settings_that_mean_nothing(fields, reason):
    with pytest.raises(PrunelibError, match=reason):
        Drop("mlp", 2, **fields)


def test_plans_need_no_torch():
    code = "import sys, prunelib.methods as m; m.registry(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- what is dropped already

AGAIN = ["drop:mlp:2", "drop:mlp:2:iter", "drop:kl:mlp:2", "drop:varp:mlp:2:once", "drop:random:mlp:2:seed1"]


@pytest.mark.parametrize("spec", AGAIN)
def test_what_is_gone_is_not_dropped_again(tiny, tokens, spec):
    """Neither what a checkpoint lists nor what a first part took: a site that is gone costs nothing and came first."""
    from prunelib.methods.apply import compress

    lm, first = tiny("llama"), [Site("mlp", 1), Site("mlp", 3)]
    with hooks.dropped(lm, first):
        assert hooks.gone(lm) == {("mlp", 1), ("mlp", 3)}
        found = parse(spec).plan(lm, tokens).sites
        assert sorted(site.layer for site in found) == [0, 2]
        for more in (spec.replace(":2", ":3", 1), "drop:kl:mlp:3", "drop:mlp:3:iter"):
            with pytest.raises(PrunelibError, match="the model has 2 that are not dropped yet"):
                parse(more).plan(lm, tokens)
    assert hooks.gone(lm) == frozenset()
    joined = compress(lm, [f"sites:mlp:1+mlp:3+{spec}"], tokens)[f"sites:mlp:1+mlp:3+{spec}"]
    assert sorted(site.layer for site in joined.sites) == [0, 1, 2, 3]


def test_blocks_that_are_gone_are_not_chosen(tiny, tokens):
    lm = tiny("llama")
    with hooks.dropped(lm, [Site("block", 1), Site("attn", 2)]):
        assert hooks.gone(lm) == {("attn", 1), ("mlp", 1), ("block", 1), ("attn", 2)}
        assert {site.layer for site in parse("drop:block:3").plan(lm, tokens).sites} == {0, 2, 3}
        assert [site.layer for site in parse("drop:angular:2").plan(lm, tokens).sites] == [2, 3]
        with pytest.raises(PrunelibError, match="not dropped yet"):
            parse("drop:angular:3").plan(lm, tokens)
