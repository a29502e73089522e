"""Drops are exact, compute nothing, and decode right with a key–value cache."""

import copy

import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.methods import parse
from prunelib.models.hooks import captured, dropped
from prunelib.models.sublayers import Site

KINDS = ("attn", "mlp", "block")


def logits(lm, batch):
    return lm.model(**batch).logits


def sites(kind, layers):
    return [Site(kind, layer) for layer in layers]


def logits_by_hook(lm, chosen, batch):
    """The same drop, computed and then multiplied away."""

    def zero(module, args, output):
        if isinstance(output, tuple):
            return (torch.zeros_like(output[0]), *output[1:])
        return torch.zeros_like(output)

    handles = []
    for site in chosen:
        for kind in ("attn", "mlp") if site.kind == "block" else (site.kind,):
            handles.append(getattr(lm, kind)(site.layer).register_forward_hook(zero))
    try:
        return logits(lm, batch)
    finally:
        for handle in handles:
            handle.remove()


def logits_by_weights(lm, chosen, batch):
    """The same drop, by zeroed output projections, bias included."""
    other = copy.copy(lm)
    other.model = copy.deepcopy(lm.model)
    for site in chosen:
        for kind in ("attn", "mlp") if site.kind == "block" else (site.kind,):
            experts = other.experts(site.layer) if kind == "mlp" else None
            path = getattr(lm.arch, f"{kind}_proj")
            if experts:
                written = [slot.value() for slot in experts.outputs]
            else:
                written = other.layers[site.layer].get_submodule(path).parameters()
            for weight in written:
                weight.zero_()
    return logits(other, batch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [(1,), (0, 3), (0, 1, 2, 3)])
def test_three_ways_to_drop_agree_to_the_bit(lm, padded, kind, layers):
    chosen = sites(kind, layers)
    with dropped(lm, chosen):
        stub = logits(lm, padded)
    assert torch.equal(stub, logits_by_hook(lm, chosen, padded))
    assert torch.equal(stub, logits_by_weights(lm, chosen, padded))
    assert (stub - logits(lm, padded)).abs().max() > 1e-3


def test_all_blocks_dropped_leaves_the_embedding(lm, padded):
    everything = sites("block", range(lm.n_layers))
    with captured(lm, ["resid_pre", "resid_post"]) as cap, dropped(lm, everything):
        logits(lm, padded)
    assert torch.equal(cap["resid_pre"][0], cap["resid_post"][lm.n_layers - 1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_dropped_sublayer_computes_nothing(lm, padded, kind):
    calls = []
    kinds = ("attn", "mlp") if kind == "block" else (kind,)
    handles = []
    for name in kinds:
        for module in getattr(lm, name)(2).modules():
            if module is not getattr(lm, name)(2):
                handles.append(module.register_forward_hook(lambda m, *_: calls.append(m)))
    with dropped(lm, sites(kind, [2])):
        logits(lm, padded)
    for handle in handles:
        handle.remove()
    assert not calls


def test_twin_is_exactly_equal_and_a_plan_is_not(lm, padded):
    twin = copy.copy(lm)
    twin.model = copy.deepcopy(lm.model)
    step = {"input_ids": torch.full((3, 1), 5), "position_ids": padded["position_ids"][:, -1:] + 1}
    step["attention_mask"] = torch.nn.functional.pad(padded["attention_mask"], (0, 1), value=1)

    def run(model, plan):
        with dropped(model, plan):
            prefill = model.model(**padded, use_cache=True)
            decode = model.model(**step, past_key_values=prefill.past_key_values)
        return prefill.logits, decode.logits

    dense = run(lm, [])
    for ours, theirs in zip(dense, run(twin, []), strict=True):
        assert torch.equal(ours, theirs)
    for kind in KINDS:
        for ours, theirs in zip(dense, run(twin, sites(kind, [2])), strict=True):
            assert (ours - theirs).abs().max() > 1e-3


def test_sites_outside_the_model(tiny):
    for site in (Site("attn", 4), Site("block", 99)):
        reason = f"{site} is out of range: tiny-llama has 4 layers"
        with pytest.raises(PrunelibError, match=reason), dropped(tiny("llama"), [site]):
            pass


def test_drop_plan_is_accepted_whole(tiny, padded):
    lm = tiny("qwen2")
    with dropped(lm, parse("sites:attn:1+mlp:2")):
        by_plan = logits(lm, padded)
    with dropped(lm, [Site("attn", 1), Site("mlp", 2)]):
        assert torch.equal(by_plan, logits(lm, padded))


PLANS = {
    "first": sites("attn", [0]),
    "first-two": sites("attn", [0, 1]),
    "all-attn": sites("attn", range(4)),
    "all-blocks": sites("block", range(4)),
    "mixed": [Site("block", 0), Site("mlp", 1), Site("attn", 3)],
}


def extend(batch, tokens):
    """The batch with one more real token a row."""
    return {
        "input_ids": torch.cat([batch["input_ids"], tokens[:, None]], 1),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 1), value=1),
        "position_ids": torch.cat([batch["position_ids"], batch["position_ids"][:, -1:] + 1], 1),
    }


@pytest.mark.parametrize("plan", PLANS)
def test_cached_decoding_equals_uncached(lm, padded, plan):
    """Six steps, past the sliding windows, logits and tokens, batch of 3 with left padding."""
    batch, cache = padded, None
    with dropped(lm, PLANS[plan]):
        for _ in range(6):
            new = batch if cache is None else batch | {
                "input_ids": batch["input_ids"][:, -1:],
                "position_ids": batch["position_ids"][:, -1:],
            }  # fmt: skip
            out = lm.model(**new, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            full = lm.model(**batch, use_cache=False).logits[:, -1]
            torch.testing.assert_close(out.logits[:, -1], full, rtol=1e-4, atol=1e-5)
            batch = extend(batch, full.argmax(-1))
        inputs = {k: padded[k] for k in ("input_ids", "attention_mask")}
        generated = lm.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert torch.equal(generated, batch["input_ids"])


@pytest.mark.parametrize("kind", ["attn", "block"])
def test_drop_in_the_middle_of_decoding(lm, padded, kind):
    """A dense prefix in the cache keeps its shape; the step equals the zeroing hook's."""
    chosen = sites(kind, [0, 2])
    step = extend(padded, torch.tensor([5, 6, 7]))
    step |= {name: step[name][:, -1:] for name in ("input_ids", "position_ids")}
    found = []
    for by_hook in (False, True):
        cache = lm.model(**padded, use_cache=True).past_key_values
        batch = step | {"past_key_values": cache}
        if by_hook:
            found.append(logits_by_hook(lm, chosen, batch))
        else:
            with dropped(lm, chosen):
                found.append(logits(lm, batch))
    assert torch.equal(*found)


def test_static_cache(tiny, padded):
    lm = tiny("llama")
    inputs = {k: padded[k] for k in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 6, "do_sample": False}
    with dropped(lm, PLANS["first-two"]):
        dynamic = lm.model.generate(**inputs, **options)
        static = lm.model.generate(**inputs, **options, cache_implementation="static", disable_compile=True)
    assert torch.equal(dynamic, static)
