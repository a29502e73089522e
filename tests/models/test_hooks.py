"""Captures are exact and do not disturb; every context leaves the model as it was."""

import re
from pathlib import Path

import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.models import hooks
from prunelib.models.hooks import captured, dropped, stop_after, visited
from prunelib.models.sublayers import Site


def logits(lm, batch):
    return lm.model(**batch).logits


def points(lm):
    return [p for p in hooks.POINTS if p != "resid_mid" or not lm.arch.is_parallel]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)


def sites(kind, layers):
    return [Site(kind, layer) for layer in layers]


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
                torch.testing.assert_close(both[point][layer][row], value[0], rtol=1e-4, atol=1e-5)


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
