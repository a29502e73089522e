"""What a model gives is the same wherever its parts stand: checks of one model on one device and spread over several.

Each check takes both as ``LM`` objects and compares to the bit.
"""

import torch
from accelerate import dispatch_model
from pandas.testing import assert_frame_equal

import prunelib
from prunelib.engine.decode import generate
from prunelib.engine.text import calibration
from prunelib.measure.one_step import compare as one_step
from prunelib.measure.perplexity import text_nll
from prunelib.measure.removal import Removals
from prunelib.measure.trace import trace_layers
from prunelib.methods import save
from prunelib.methods.apply import compress
from prunelib.methods.criterion import angular_distances, importance
from prunelib.methods.weights import all_weights, is_tied
from prunelib.models import hooks
from prunelib.models.placement import around
from prunelib.models.slots import slots
from prunelib.models.sublayers import Site
from prunelib.models.supported import arch_for
from prunelib.runs.zoo.memory import tensors
from prunelib.tasks.score import Request, loglikelihoods

FAMILIES = {
    "llama": {},
    "opt": {"tie_word_embeddings": True},  # biases everywhere
    "gpt2": {},  # tied, matrices transposed
    "gpt_neox": {},  # parallel blocks
    "qwen2_moe": {"tie_word_embeddings": True},  # stacked experts, a shared one, one plain layer
    "gpt_oss": {},  # experts with biases, transposed
}


def dispatched(model, first: str, blocks: list[str], **options):
    """``model`` with its blocks on these devices (or ``"disk"``), all else on ``first``."""
    arch = arch_for(model)
    places = around(model, arch, first) | {f"{arch.layers}.{i}": place for i, place in enumerate(blocks)}
    keys = list(model._skip_keys_device_placement)
    return dispatch_model(model, places, main_device=first, skip_keys=keys, force_hooks=True, **options)


def ids(rows=4, length=9):
    return torch.randint(3, 60, (rows, length), generator=torch.Generator().manual_seed(5))


def masked():
    mask = torch.ones_like(ids())
    mask[1, :4] = 0
    return mask


def logits(lm):
    return lm.model(input_ids=ids().to(lm.device)).logits.cpu()


def same(plain, other, run) -> None:
    one, two = run(plain), run(other)
    assert torch.equal(one, two), (one - two).abs().max()


def the_same_model(plain, other, folder):
    assert plain.fingerprint == other.fingerprint and is_tied(plain) == is_tied(other)
    assert (plain.device, plain.dtype, plain.d_model) == (other.device, other.dtype, other.d_model)
    assert torch.equal(plain.W, other.W)
    for _ in range(2):  # a pass makes new parameters of what is offloaded, and unties them
        same(plain, other, logits)
        assert [name for name, _ in slots(other.model)] == [name for name, _ in plain.model.named_parameters()]
    assert {k: v for k, v in other.describe().items() if k != "layers_on"} == plain.describe()
    assert_frame_equal(tensors(plain), tensors(other))


def the_stream(plain, other, folder):
    def stream(lm):
        with hooks.captured(lm, ["resid_pre", "attn_out"] + ["resid_mid"] * (not lm.arch.is_parallel)) as seen:
            lm.model(input_ids=ids().to(lm.device), attention_mask=masked().to(lm.device))
        values = [value for layers in seen.values() for value in layers.values()]
        assert {value.device for value in values} == {lm.device}
        return torch.stack(values)

    same(plain, other, lambda lm: stream(lm).cpu())
    same(plain, other, lambda lm: lm.unembed(stream(lm), "normed").cpu())


def dropped_decoded_and_scored(plain, other, folder):
    def without(lm):
        with hooks.dropped(lm, [Site("attn", 1), Site("mlp", 2), Site("block", 3)]):
            return logits(lm)

    same(plain, other, without)
    prompts = [ids()[0].tolist(), ids()[0, :5].tolist(), ids()[2, :3].tolist()]
    requests = [Request(ids()[0, :6].tolist(), end, 0) for end in ([5, 6, 7], [8], [9, 10])]
    for run in (
        lambda lm: generate(lm, prompts, 6, batch_size=2),
        lambda lm: generate(lm, prompts, 6, groups=[0, 0, 1]),
        lambda lm: calibration(lm, n=3, length=8).ids_hash,
    ):
        assert run(plain) == run(other)
    for run in (lambda lm: text_nll(lm, ids().tolist()), lambda lm: loglikelihoods(lm, requests)):
        assert_frame_equal(run(plain), run(other), check_exact=True)


def the_trace_and_what_is_chosen_by(plain, other, folder):
    mask = masked()
    found = [trace_layers(lm, ids(), mask, mask.bool()) for lm in (plain, other)]
    for name in ("h", "z", "p"):
        assert_frame_equal(getattr(found[0], name), getattr(found[1], name), check_exact=True)

    def step(lm):
        states = torch.randn(2, 5, lm.d_model, generator=torch.Generator().manual_seed(1)).to(lm.device)
        return one_step(lm, *states, ids()[0, :5])

    for run in (
        lambda lm: importance(lm, ids(), attention_mask=mask),
        lambda lm: angular_distances(lm, ids(), 2),
        lambda lm: Removals(lm, ids()).measured([Site("mlp", 1), Site("attn", 3)]),
        step,
    ):
        assert_frame_equal(run(plain), run(other), check_exact=True)


SPECS = ["magnitude:0.5", "wanda:2:4", "ria:0.5", "owl:wanda:0.5", "sparsegpt:0.5", "rtn:4:g8", "gptq:4:g8",
         "awq:4:g8", "drop:mlp:1", "drop:kl:attn+mlp:2", "drop:mlp:1+wanda:0.5", "drop:mlp:1+temperature",
         "drop:mlp:2+linear"]  # fmt: skip


FEW = ["owl:wanda:0.5", "sparsegpt:0.5", "awq:4:g8", "drop:mlp:2+linear"]
"""Those that between them use all statistics of what weights read, by layer and by expert."""


def every_method(plain, other, folder, specs=SPECS):
    found = [compress(lm, specs, ids(), masked()) for lm in (plain, other)]
    before = logits(plain)
    for spec in specs:
        one, two = (made[spec] for made in found)
        assert (one.sites, one.scores, one.bits_per_weight) == (two.sites, two.scores, two.bits_per_weight)
        assert list(one.weights) == list(two.weights)
        for name, value in one.weights.items():
            assert torch.equal(value.cpu(), two.weights[name].cpu()), (spec, name)
        with one.applied(plain), two.applied(other):
            same(plain, other, logits)
        assert torch.equal(before, logits(plain)) and torch.equal(before, logits(other))


def what_is_saved(plain, other, folder):
    for number, spec in enumerate(["wanda:2:4", "drop:mlp:1+temperature", "drop:attn:2"]):
        places = [folder / f"{number}.{name}" for name in ("plain", "other")]
        for lm, place in zip((plain, other), places, strict=True):
            save.save(lm, compress(lm, [spec], ids())[spec], place)
        one, two = (prunelib.load(str(place), device="cpu") for place in places)
        assert one.fingerprint == two.fingerprint
        assert [sorted(p.name for p in place.iterdir()) for place in places][0] == sorted(
            p.name for p in places[1].iterdir()
        )


def a_weight_that_is_overwritten(plain, other, folder):
    for weight in (all_weights(other)[0], all_weights(other)[-1]):
        before, dense = weight.get().clone(), logits(other)
        try:
            weight.set(torch.zeros_like(before))
            assert not weight.get().any() and not torch.equal(logits(other), dense)
        finally:
            weight.set(before)
        assert torch.equal(logits(other), dense)


def what_is_trained(plain, other, repairs):
    for spec in (f"drop:mlp:1+{repair}" for repair in repairs):
        one, two = (compress(lm, [spec], ids(), masked())[spec].repairs[0] for lm in (plain, other))
        assert_frame_equal(one.curve, two.curve, check_exact=True)
        for name, value in one.values.items():
            assert torch.equal(value.cpu(), two.values[name].cpu()), (spec, name)


CHECKS = [the_same_model, the_stream, dropped_decoded_and_scored, the_trace_and_what_is_chosen_by, every_method,
          a_weight_that_is_overwritten]  # fmt: skip
