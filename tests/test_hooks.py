"""Captures are exact and do not disturb; drops are exact, leave nothing and decode right."""

import copy
import re
from pathlib import Path

import pytest
import torch

from prunelib import hooks
from prunelib.compress.drop import DropPlan, Site
from prunelib.errors import PrunelibError
from prunelib.hooks import captured, dropped, stop_after, visited

KINDS = ("attn", "mlp", "block")


def logits(lm, batch):
    return lm.model(**batch).logits


def points(lm):
    return [p for p in hooks.POINTS if p != "resid_mid" or not lm.arch.is_parallel]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)


def sites(kind, layers):
    return [Site(kind, layer) for layer in layers]


# ------------------------------------------------------------------ captures


def test_points_add_up(lm, padded):
    with captured(lm, points(lm)) as cap:
        logits(lm, padded)
    for layer in range(lm.n_layers):
        pre, post = cap["resid_pre"][layer], cap["resid_post"][layer]
        attn, mlp = cap["attn_out"][layer], cap["mlp_out"][layer]
        assert pre.shape == (3, 11, lm.d_model)
        assert attn.abs().max() > 0.01 and mlp.abs().max() > 0.01
        if layer + 1 < lm.n_layers:
            assert torch.equal(cap["resid_pre"][layer + 1], post)
        if lm.arch.is_parallel:
            close(post, pre + attn + mlp)
        else:
            mid = cap["resid_mid"][layer]
            close(mid, pre + attn)
            close(post, mid + mlp)


def test_last_point_gives_the_logits(lm, padded):
    with captured(lm, ["resid_post"]) as cap:
        z = logits(lm, padded)
    close(lm.unembed(cap["resid_post"][lm.n_layers - 1], "normed"), z)


def test_capture_does_not_disturb(lm, padded):
    plain = logits(lm, padded)
    with captured(lm, points(lm)):
        assert torch.equal(logits(lm, padded), plain)
    assert torch.equal(logits(lm, padded), plain)


def test_batch_of_two_is_two_batches_of_one(lm):
    ids = torch.arange(3, 21).view(2, 9)
    with captured(lm, points(lm)) as cap:
        lm.model(input_ids=ids)
    both = {point: dict(values) for point, values in cap.items()}
    for row in range(2):
        with captured(lm, points(lm)) as cap:
            lm.model(input_ids=ids[row : row + 1])
        for point, values in cap.items():
            for layer, value in values.items():
                torch.testing.assert_close(
                    both[point][layer][row], value[0], rtol=1e-4, atol=1e-5
                )


def test_capture_of_some_layers_and_of_the_latest_pass(tiny):
    lm, ids = tiny("llama"), torch.arange(3, 9).view(1, 6)
    with captured(lm, ["resid_post"], layers=[1, 3]) as cap:
        lm.model(input_ids=ids)
        first = cap["resid_post"][1]
        lm.model(input_ids=ids + 1)
        assert sorted(cap["resid_post"]) == [1, 3]
        assert not torch.equal(cap["resid_post"][1], first)
        with stop_after(lm, 0):
            lm.model(input_ids=ids)
        assert not cap["resid_post"]  # nothing stale from the pass before


def test_visit_comes_layer_by_layer(lm, padded):
    seen = []
    with visited(lm, ["resid_post"], lambda layer, values: seen.append((layer, *values))):
        logits(lm, padded)
    assert seen == [(layer, "resid_post") for layer in range(lm.n_layers)]


def test_capture_inside_and_outside_of_a_drop(lm, padded):
    names, layer = points(lm), 1
    drop = dropped(lm, sites("block", [layer]))
    with captured(lm, names) as outside, drop, captured(lm, names) as inside:
        logits(lm, padded)
    for cap in (outside, inside):
        assert all(len(cap[name]) == lm.n_layers for name in names)
        assert not cap["attn_out"][layer].any() and not cap["mlp_out"][layer].any()
        assert torch.equal(cap["resid_pre"][layer], cap["resid_post"][layer])


def test_bad_points_and_layers(tiny):
    for name, point, layer, reason in (
        ("llama", "resid_pots", 0, "did you mean 'resid_post'"),
        ("cohere", "resid_mid", 0, "parallel blocks"),
        ("llama", "resid_pre", 4, "layer 4 is out of range: tiny-llama has 4 layers"),
        ("llama", "resid_pre", -1, "layer -1 is out of range"),
    ):
        context = captured(tiny(name), [point], layers=[layer])
        with pytest.raises(PrunelibError, match=reason), context:
            pass


# --------------------------------------------------------------------- drops


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
            path = getattr(lm.arch, f"{kind}_proj")
            for weight in other.layers[site.layer].get_submodule(path).parameters():
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


# ------------------------------------------------------------ key–value cache

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
        static = lm.model.generate(
            **inputs, **options, cache_implementation="static", disable_compile=True
        )
    assert torch.equal(dynamic, static)


# ---------------------------------------------------------------- stop_after


def test_stop_after_ends_early_and_captures_agree(lm, padded):
    with captured(lm, ["resid_post"]) as full:
        logits(lm, padded)
    calls = []
    handle = lm.layers[2].register_forward_hook(lambda *_: calls.append(1))
    with stop_after(lm, 1), captured(lm, ["resid_post"]) as cap:
        for _ in range(2):  # a loop goes on
            assert lm.model(**padded) is None
    handle.remove()
    assert not calls
    assert sorted(cap["resid_post"]) == [0, 1]
    assert torch.equal(cap["resid_post"][1], full["resid_post"][1])
    with pytest.raises(PrunelibError, match="out of range"), stop_after(lm, lm.n_layers):
        pass


# ------------------------------------------------------------- nothing is left


def state(lm):
    """Modules, their own attributes and hooks, and the bytes of every weight."""
    seen = []
    for name, module in lm.model.named_modules():
        hook_counts = {k: len(v) for k, v in vars(module).items() if k.endswith("_hooks")}
        seen.append((name, id(module), sorted(vars(module)), hook_counts))
    weights = {k: v.clone() for k, v in lm.model.state_dict().items()}
    return seen, weights


def same(before, after):
    return before[0] == after[0] and all(torch.equal(w, after[1][k]) for k, w in before[1].items())


def test_contexts_leave_nothing(lm, padded):
    before, plain = state(lm), logits(lm, padded)
    with dropped(lm, sites("block", [0, 1])):
        again = dropped(lm, sites("attn", [0, 2]))
        with captured(lm, points(lm)), stop_after(lm, 2), again:
            logits_inside = lm.model(**padded)
        nested = logits(lm, padded)
    assert logits_inside is None
    with dropped(lm, sites("block", [0, 1])):
        assert torch.equal(logits(lm, padded), nested)
    assert same(before, state(lm))
    assert torch.equal(logits(lm, padded), plain)


@pytest.mark.parametrize("where", ["body", "forward", "entry"])
def test_contexts_leave_nothing_after_an_exception(lm, padded, where):
    before = state(lm)
    bad = {"input_ids": torch.full((1, 2), 10**6)} if where == "forward" else padded
    plan = [Site("attn", 1), Site("mlp", 99)] if where == "entry" else sites("block", [1])
    expected = pytest.raises((IndexError, RuntimeError, PrunelibError))
    with expected, captured(lm, points(lm)), stop_after(lm, 2), dropped(lm, plan):
        lm.model(**bad)
        raise RuntimeError("body")
    assert same(before, state(lm))


def test_drop_plan_is_accepted_whole(tiny, padded):
    lm = tiny("qwen2")
    with dropped(lm, DropPlan.of("attn:1,mlp:2")):
        by_plan = logits(lm, padded)
    with dropped(lm, [Site("attn", 1), Site("mlp", 2)]):
        assert torch.equal(by_plan, logits(lm, padded))


def test_only_hooks_py_registers_hooks():
    """One place to look when a model behaves strangely."""
    package = Path(hooks.__file__).parent
    pattern = re.compile(r"register_\w*hook|\.forward\s*=[^=]")
    found = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if pattern.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["hooks.py"]
