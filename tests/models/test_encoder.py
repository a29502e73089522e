"""Dropping an encoder's sublayers: the invariants of the decoder's, on tiny random encoders of every kind."""

import copy

import numpy as np
import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.methods import parse
from prunelib.models import encoder as enc
from prunelib.models import hooks
from prunelib.models.sublayers import Site

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, *("the", "a", "cat", "dog", "bird", "sat", "flew", "home", "on", "roof", "in", "rain", "why", "did")]
SIZES = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
         "intermediate_size": 24, "max_position_embeddings": 40, "pad_token_id": 0}  # fmt: skip
CONFIGS = {
    "bert": SIZES,
    "roberta": SIZES | {"type_vocab_size": 2},
    "mpnet": SIZES,
    "distilbert": {"vocab_size": len(WORDS), "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24,
                   "max_position_embeddings": 40, "pad_token_id": 0},
    "modernbert": SIZES | {"global_attn_every_n_layers": 1, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2,
                           "sep_token_id": 3},
}  # fmt: skip
TEXTS = ["the cat sat on the roof", "why did a dog", "in rain the bird flew home", "a cat"]
KINDS = ("attn", "mlp", "block")


@pytest.fixture(scope="module", params=CONFIGS)
def tiny_encoder(request, tmp_path_factory):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import AutoConfig, AutoModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(request.param, **CONFIGS[request.param])).eval()
    with torch.no_grad():
        for weight in model.parameters():  # every bias and norm matters
            weight.add_(torch.randn_like(weight) * 0.2)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    inner = Transformer(str(folder))
    return enc.Encoder.from_model(SentenceTransformer(modules=[inner, Pooling(16)], device="cpu"), request.param)


def zeroed(encoder: enc.Encoder, sites) -> enc.Encoder:
    """A copy whose output projections of these sublayers are zero: they run, and add nothing."""
    twin = copy.deepcopy(encoder)
    for site in sites:
        for kind in ("attn", "mlp") if site.kind == "block" else (site.kind,):
            projection = twin.layers[site.layer].get_submodule(getattr(twin.spec, f"{kind}_proj"))
            for weight in projection.parameters():
                weight.zero_()
    return twin


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [(0,), (1, 2), (0, 1, 2)])
def test_dropping_is_running_with_a_zeroed_output(tiny_encoder, kind, layers):
    sites = [Site(kind, layer) for layer in layers]
    with enc.dropped(tiny_encoder, sites):
        found = tiny_encoder.embed(TEXTS)
    # float32, the same sums in another order of operations
    np.testing.assert_allclose(found, zeroed(tiny_encoder, sites).embed(TEXTS), atol=2e-6)
    assert np.abs(found - tiny_encoder.embed(TEXTS)).max() > 1e-3  # and it matters


def test_nothing_of_a_dropped_sublayer_is_computed(tiny_encoder):
    block, spec = tiny_encoder.layers[1], tiny_encoder.spec
    ran = []
    handles = [
        block.get_submodule(path).register_forward_hook(lambda *_, path=path: ran.append(path))
        for path in (spec.attn_proj, spec.mlp_proj)
    ]
    try:
        with enc.dropped(tiny_encoder, [Site("attn", 1)]):
            tiny_encoder.embed(TEXTS)
        assert set(ran) == {spec.mlp_proj}
        ran.clear()
        with enc.dropped(tiny_encoder, [Site("block", 1)]):
            tiny_encoder.embed(TEXTS)
        assert not ran
    finally:
        for handle in handles:
            handle.remove()


def test_the_context_leaves_no_trace(tiny_encoder):
    before = tiny_encoder.embed(TEXTS)
    modules = {name: dict(module.__dict__) for name, module in tiny_encoder.model.named_modules()}
    with pytest.raises(ZeroDivisionError), enc.dropped(tiny_encoder, [Site("block", 0)]):
        with enc.dropped(tiny_encoder, [Site("attn", 0), Site("mlp", 2)]):  # nested, and the same one twice
            tiny_encoder.embed(TEXTS)
        raise ZeroDivisionError
    assert {name: module.__dict__.keys() for name, module in tiny_encoder.model.named_modules()} == {
        name: entries.keys() for name, entries in modules.items()
    }
    np.testing.assert_array_equal(tiny_encoder.embed(TEXTS), before)


def test_batches_and_their_order_change_nothing(tiny_encoder):
    whole = tiny_encoder.embed(TEXTS)
    np.testing.assert_allclose(tiny_encoder.embed(TEXTS, batch_size=1), whole, atol=2e-6)
    np.testing.assert_allclose(tiny_encoder.embed(TEXTS[::-1])[::-1], whole, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)


def test_importance_is_the_cosine_of_the_stream_with_and_without(tiny_encoder):
    table = enc.importance(tiny_encoder, TEXTS)
    assert len(table) == 3 * tiny_encoder.n_layers and table["cosine"].between(-1, 1).all()
    # the whole block against its own input, one text at a time: no padding at all
    block, sums, count = tiny_encoder.layers[1], 0.0, 0
    for text in TEXTS:
        seen = []
        handle = block.register_forward_hook(lambda _, args, out, seen=seen: seen.append((args[0], out)))
        tiny_encoder.embed([text])
        handle.remove()
        before, after = (x[0] if isinstance(x, tuple) else x for x in seen[0])
        cosine = torch.cosine_similarity(before.double(), after.double(), dim=-1)
        sums, count = sums + float(cosine.sum()), count + cosine.numel()
    row = table[(table["kind"] == "block") & (table["layer"] == 1)]
    assert float(row["cosine"].iloc[0]) == pytest.approx(sums / count, abs=1e-5)
    plan = parse("drop:attn:2").choose(table)
    best = table[table["kind"] == "attn"].sort_values("cosine", ascending=False)["layer"].tolist()[:2]
    assert [site.layer for site in plan.sites] == best


def test_a_layer_that_is_not_there_is_one_line(tiny_encoder):
    with pytest.raises(PrunelibError, match="attn:3 is out of range"), enc.dropped(tiny_encoder, [Site("attn", 3)]):
        pass


def test_a_family_without_a_row_is_one_line():
    from types import SimpleNamespace

    inner = torch.nn.Linear(2, 2)
    inner.config = SimpleNamespace(model_type="albert")
    with pytest.raises(PrunelibError, match="is a albert model.*can be dropped: bert"):
        outer = torch.nn.Sequential(torch.nn.Identity())
        outer[0].auto_model = inner
        enc.Encoder.from_model(outer, "some")


def test_a_language_model_is_no_encoder():
    with pytest.raises(PrunelibError, match="is a language model"):
        enc.load_encoder("smollm2-135m-instruct")


# ---------------------------------------------------------------- a language model as an embedder


@pytest.mark.parametrize("pooling", enc.POOLINGS)
def test_a_language_model_embeds_as_each_text_alone(default_lm, pooling):
    """Padding and batches change nothing; the pooled state is that of a plain forward pass."""
    embedder = enc.Embedder(default_lm, pooling)
    texts = ["The cat sat on the roof.", "Why?", "In the rain, birds fly home to their nests."]
    found = embedder.embed(texts)
    for text, vector in zip(texts, found, strict=True):
        ids = default_lm.encode_one(text, chat=False) + ([min(default_lm.eos_ids)] if pooling == "last" else [])
        with torch.no_grad():
            out = default_lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        state = out[-1] if pooling == "last" else out.mean(0)
        np.testing.assert_allclose(vector, (state / state.norm()).numpy(), atol=1e-5)
    with hooks.dropped(default_lm, [Site("attn", 3)]):
        assert np.abs(embedder.embed(texts) - found).max() > 1e-3


def test_an_instruction_goes_before_queries_only(default_lm):
    plain, told = enc.Embedder(default_lm), enc.Embedder(default_lm, instruction="Find the passage")
    np.testing.assert_array_equal(plain.embed(["a cat"]), told.embed(["a cat"]))
    written = plain.embed(["Instruct: Find the passage\nQuery: a cat"])
    np.testing.assert_array_equal(written, told.embed(["a cat"], query=True))


def test_bad_embedders_are_one_line(default_lm):
    with pytest.raises(PrunelibError, match="unknown pooling 'man' .did you mean 'mean'"):
        enc.Embedder(default_lm, "man")
    with pytest.raises(PrunelibError, match="text 2 needs .* positions, .* has"):
        enc.Embedder(default_lm).embed(["short", "word " * (default_lm.config.max_position_embeddings + 10)])
