"""Models that accelerate spreads over devices give, to the bit, what they give on one.

A machine without a GPU has one device, and two places where parameters wait: main memory (``cpu_offload``) and a disk
(``disk_offload``, ``dispatch_model``). A module then holds tensors without storage unless it runs, so that whoever
reads or writes a weight past accelerate fails.
"""

import copy

import pytest
import tiny_files
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from pandas.testing import assert_frame_equal
from refusals import refused

import prunelib
from prunelib.engine.decode import generate
from prunelib.engine.text import calibration
from prunelib.measure.one_step import compare as one_step
from prunelib.measure.removal import Removals
from prunelib.measure.trace import trace_layers
from prunelib.methods import save
from prunelib.methods.apply import compress
from prunelib.methods.criterion import angular_distances, importance
from prunelib.methods.weights import all_weights, is_tied
from prunelib.models import hooks
from prunelib.models.lm import LM
from prunelib.models.placement import around
from prunelib.models.slots import slots
from prunelib.models.sublayers import Site
from prunelib.models.supported import arch_for
from prunelib.runs.zoo.memory import tensors

FAMILIES = {
    "llama": {},
    "opt": {"tie_word_embeddings": True},  # biases everywhere
    "gpt2": {},  # tied, matrices transposed
    "gpt_neox": {},  # parallel blocks
    "qwen2_moe": {"tie_word_embeddings": True},  # stacked experts, a shared one, one plain layer
    "gpt_oss": {},  # experts with biases, transposed
}
WAYS = ["memory", "disk", "mixed"]


def blocks_on_disk(model) -> dict[str, str]:
    """Blocks 1 and 3 on the disk, all else in memory."""
    arch = arch_for(model)
    blocks = {f"{arch.layers}.{i}": "disk" if i % 2 else "cpu" for i in range(4)}
    return around(model, arch, "cpu") | blocks


def spread(model, way: str, folder):
    if way == "memory":
        return cpu_offload(model)
    if way == "disk":
        return disk_offload(model, str(folder))
    return dispatch_model(
        model, blocks_on_disk(model), main_device="cpu", offload_dir=str(folder), force_hooks=True,
        skip_keys=list(model._skip_keys_device_placement),
    )  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def plain(request, make_model) -> LM:
    return LM.from_model(make_model(request.param, **FAMILIES[request.param]), tiny_files.tokenizer(), request.param)


@pytest.fixture(scope="module", params=WAYS)
def both(request, plain, tmp_path_factory) -> tuple[LM, LM]:
    """The model on one device, and the same model spread."""
    model = spread(copy.deepcopy(plain.model), request.param, tmp_path_factory.mktemp("offload"))
    assert any(p.device.type == "meta" for p in model.parameters())
    return plain, LM.from_model(model, plain.tokenizer, plain.name)


def ids(rows=4, length=9):
    return torch.randint(3, 60, (rows, length), generator=torch.Generator().manual_seed(5))


def masked():
    mask = torch.ones_like(ids())
    mask[1, :4] = 0
    return mask


def same(both, run) -> None:
    plain, other = map(run, both)
    assert torch.equal(plain, other)


def test_the_same_model(both):
    plain, other = both
    assert plain.fingerprint == other.fingerprint and is_tied(plain) == is_tied(other)
    assert (plain.device, plain.dtype, plain.d_model) == (other.device, other.dtype, other.d_model)
    assert torch.equal(plain.W, other.W)
    for _ in range(2):  # a pass makes new parameters, and unties them
        same(both, lambda lm: lm.model(input_ids=ids()).logits)
        assert [name for name, _ in slots(other.model)] == [name for name, _ in plain.model.named_parameters()]
    assert {k: v for k, v in other.describe().items() if k != "layers_on"} == plain.describe()
    assert_frame_equal(tensors(plain), tensors(other))


def test_the_stream(both):
    def stream(lm):
        with hooks.captured(lm) if not lm.arch.is_parallel else hooks.captured(lm, ["resid_pre", "attn_out"]) as seen:
            lm.model(input_ids=ids(), attention_mask=masked())
        return torch.stack([value for layers in seen.values() for value in layers.values()])

    same(both, stream)
    same(both, lambda lm: lm.unembed(stream(lm), "normed"))


def test_dropped_decoded_and_scored(both):
    def logits(lm):
        with hooks.dropped(lm, [Site("attn", 1), Site("mlp", 2), Site("block", 3)]):
            return lm.model(input_ids=ids()).logits

    same(both, logits)
    prompts = [ids()[0].tolist(), ids()[0, :5].tolist(), ids()[2, :3].tolist()]
    plain, other = both
    assert generate(plain, prompts, 6, batch_size=2) == generate(other, prompts, 6, batch_size=2)
    assert calibration(plain, n=3, length=8).ids_hash == calibration(other, n=3, length=8).ids_hash


def test_the_trace_and_what_is_chosen_by(both):
    plain, other = both
    mask = masked()
    found = [trace_layers(lm, ids(), mask, mask.bool()) for lm in both]
    for name in ("h", "z", "p"):
        assert_frame_equal(getattr(found[0], name), getattr(found[1], name), check_exact=True)
    for run in (
        lambda lm: importance(lm, ids(), attention_mask=mask),
        lambda lm: angular_distances(lm, ids(), 2),
        lambda lm: Removals(lm, ids()).measured([Site("mlp", 1), Site("attn", 3)]),
        lambda lm: one_step(
            lm, *torch.randn(2, 5, lm.d_model, generator=torch.Generator().manual_seed(1)), ids()[0, :5]
        ),
    ):
        assert_frame_equal(run(plain), run(other), check_exact=True)


SPECS = ["magnitude:0.5", "wanda:2:4", "ria:0.5", "owl:wanda:0.5", "sparsegpt:0.5", "rtn:4:g8", "gptq:4:g8", "awq:4:g8",
         "drop:mlp:1", "drop:kl:attn+mlp:2"]  # fmt: skip
REPAIRS = ["drop:mlp:1+wanda:0.5", "drop:mlp:1+temperature", "drop:mlp:2+linear"]


def test_every_method(both):
    plain, other = both
    specs = SPECS + (REPAIRS if plain.arch.mixture is None or plain.name == "gpt_oss" else REPAIRS[:2])
    found = [compress(lm, specs, ids(), masked()) for lm in both]
    before = plain.model(input_ids=ids()).logits
    for spec in specs:
        one, two = (made[spec] for made in found)
        assert (one.sites, one.scores, one.bits_per_weight) == (two.sites, two.scores, two.bits_per_weight)
        assert list(one.weights) == list(two.weights)
        for name, value in one.weights.items():
            assert torch.equal(value, two.weights[name]), (spec, name)
        with one.applied(plain), two.applied(other):
            same(both, lambda lm: lm.model(input_ids=ids()).logits)
        same(both, lambda lm: lm.model(input_ids=ids()).logits)
        assert torch.equal(before, plain.model(input_ids=ids()).logits)


@pytest.mark.parametrize("spec", ["wanda:2:4", "drop:mlp:1+temperature", "drop:attn:2"])
def test_saved(both, tmp_path, spec):
    for number, lm in enumerate(both):
        save.save(lm, compress(lm, [spec], ids())[spec], tmp_path / str(number))
    one, two = (prunelib.load(str(tmp_path / str(number)), device="cpu") for number in range(2))
    assert one.fingerprint == two.fingerprint
    assert sorted(p.name for p in (tmp_path / "0").iterdir()) == sorted(p.name for p in (tmp_path / "1").iterdir())


def test_a_weight_is_overwritten_where_it_is_kept(both):
    _, other = both
    weight = all_weights(other)[-1]
    before, logits = weight.get().clone(), other.model(input_ids=ids()).logits
    try:
        weight.set(torch.zeros(weight.shape))
        assert not weight.get().any() and not torch.equal(other.model(input_ids=ids()).logits, logits)
    finally:
        weight.set(before)
    assert torch.equal(other.model(input_ids=ids()).logits, logits)


@pytest.mark.parametrize("spec", ["drop:mlp:1+lora:2", "drop:mlp:1+full:1"])
def test_gradients_need_weights_that_stay(both, spec):
    with refused("training weights of the blocks needs its weights on a device, and some are offloaded"):
        compress(both[1], [spec], ids())
