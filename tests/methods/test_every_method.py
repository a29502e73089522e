"""What every method gets for free: a row of this table, and all of the tests below.

A new method is one file in ``prunelib/methods`` and one row here.
"""

import itertools

import pytest
import tiny_files
import torch
from transformers import AutoModelForCausalLM

from prunelib import methods, paths
from prunelib.errors import PrunelibError
from prunelib.methods.apply import compress
from prunelib.methods.base import KINDS, PROFILES, Look, Method
from prunelib.methods.inputs import InputStats
from prunelib.methods.save import save
from prunelib.methods.walk import batches
from prunelib.methods.weights import all_weights
from prunelib.models.lm import LM
from prunelib.report import style

CASES = {
    "magnitude": ["magnitude:0.3", "magnitude:2:4"],
    "wanda": ["wanda:0.3", "wanda:2:4"],
    "sparsegpt": ["sparsegpt:0.3", "sparsegpt:2:4"],
    "ria": ["ria:0.3", "ria:2:4"],
    "owl": ["owl:wanda:0.3", "owl:sparsegpt:0.5"],
    "rtn": ["rtn:4:g8", "rtn:3:sym"],
    "gptq": ["gptq:4:g8", "gptq:3:g20:act"],
    "awq": ["awq:4:g8", "awq:3:sym"],
    "drop": ["drop:attn:2", "drop:joint:3:iter", "drop:angular:2", "drop:kl:attn+mlp:3", "drop:tv:block:2:once",
             "drop:random:mlp:2:seed5"],
    "sites": ["sites:attn:0+mlp:1+block:3"],
}  # fmt: skip
REPAIRS = {"temperature", "norm", "linear", "head", "lora", "full"}
"""Those that stand after another method; their table and tests are in ``test_repairs.py``."""
SPECS = [spec for specs in CASES.values() for spec in specs]
SPARSE = [spec for spec in SPECS if methods.parse(spec).kind == "sparsify"]
CHANGING = [spec for spec in SPECS if methods.parse(spec).kind in ("sparsify", "quantize")]
ONE_MATRIX = [spec for spec in SPARSE if type(methods.parse(spec)).by_layer is Method.by_layer]
"""Those whose method does not need the whole model to say what a layer loses."""
ROWS, WIDTH = 24, 32


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHT = normal(ROWS, WIDTH)
INPUTS = normal(200, WIDTH, seed=1) @ (normal(WIDTH, WIDTH, seed=2) * torch.logspace(0, -1, WIDTH)[:, None])


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(3, 32, (6, 10), generator=torch.Generator().manual_seed(3))


def of_one(lm, spec, tokens, **options):
    return compress(lm, [spec], tokens, **options)[spec]


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


# ---------------------------------------------------------------- the registry


def test_every_registered_method_has_its_row():
    assert set(CASES) | REPAIRS | {"dense"} == set(methods.registry())
    assert all(methods.parse(spec).name == name for name, specs in CASES.items() for spec in specs)


def test_a_name_is_given_once():
    with pytest.raises(TypeError, match="two methods are called wanda: Wanda, Again"):
        type("Again", (Method,), {"name": "wanda"})
    assert methods.registry()["wanda"].__name__ == "Wanda"


@pytest.mark.parametrize("name", methods.registry())
def test_a_method_says_what_it_is(name):
    method = methods.registry()[name]
    assert method.kind in KINDS and method.title and method.usage.startswith(name)
    assert methods.parse(method.example).spec == method.example
    first = (method.__doc__ or "").splitlines()[0]
    assert first.endswith(".") and len(first) <= 80  # it stands in a line of --help
    assert method.invariances <= {"weights", "inputs", "row", "channel"} and set(method.defaults) <= set(PROFILES)
    if method is not methods.base.Dense:
        assert isinstance(method.look, Look) and hasattr(style.light().colours, method.look.colour)
        assert method.look.line < len(style.light().linestyles)
    bibliography = (paths.project_root() / "book" / "references.bib").read_text()
    assert all(f"{{{key}," in bibliography for key in method.source.split(",") if key)
    for settings in method.defaults.values():
        for setting in settings:
            assert methods.parse(f"{name}:{setting}").spec == f"{name}:{setting}"


def test_no_two_methods_look_alike():
    looks = [(m.look.colour, m.look.marker) for m in methods.registry().values() if m.look]
    assert len(looks) == len(set(looks))
    for kind in ("sparsify", "quantize"):  # these stand in one panel
        lines = [m.look.line for m in methods.of_kind(kind)]
        assert len(lines) == len(set(lines))


@pytest.mark.parametrize("spec", SPECS)
def test_a_specification_is_read_as_it_is_written(spec):
    method = methods.parse(spec)
    assert method.spec == spec and methods.parse(method.spec) == method == methods.parse_list(f"{spec},{spec}")[0]
    assert method.label.startswith(method.title) and method.full_title.startswith(method.title)
    assert method.needs <= {"norms", "gram", "tokens"}


# ---------------------------------------------------------------- one matrix


@pytest.mark.parametrize("spec", ONE_MATRIX)
def test_a_matrix_loses_exactly_its_share(spec):
    method = methods.parse(spec)
    zeros = int((method.compress(WEIGHT, InputStats.of(INPUTS)) == 0).sum())
    pattern = method.pattern
    assert zeros in (pattern.removed(ROWS * WIDTH), ROWS * pattern.removed(WIDTH))


@pytest.mark.parametrize("spec", ONE_MATRIX)
def test_ties_go_to_the_lower_index(spec):
    """Equal weights that read equal inputs: nothing but their place tells them apart."""
    method, equal = methods.parse(spec), InputStats.of(torch.eye(WIDTH, dtype=torch.float64))
    pattern = method.pattern
    zeros = method.compress(torch.ones(ROWS, WIDTH, dtype=torch.float64), equal) == 0
    group = pattern.m or (ROWS * WIDTH if zeros.sum() == pattern.removed(ROWS * WIDTH) else WIDTH)
    if method.name == "sparsegpt" and not pattern.m:
        group = ROWS * WIDTH
    first = zeros.view(-1, group).int()
    assert (first.diff(dim=1) <= 0).all()  # all removed ones stand before all kept ones


@pytest.mark.parametrize(("spec", "scale"), itertools.product(ONE_MATRIX, ("weights", "inputs", "row", "channel")))
def test_declared_invariances(spec, scale):
    """Powers of two scale without rounding, so that masks agree to the bit."""
    method = methods.parse(spec)
    if scale not in method.invariances:
        pytest.skip(f"{method.title} does not declare it")
    rows = 2.0 ** torch.randint(-3, 4, (ROWS, 1), generator=torch.Generator().manual_seed(4))
    columns = 2.0 ** torch.randint(-3, 4, (1, WIDTH), generator=torch.Generator().manual_seed(5))
    weight, x = {"weights": (4 * WEIGHT, INPUTS), "inputs": (WEIGHT, 16 * INPUTS), "row": (rows * WEIGHT, INPUTS),
                 "channel": (columns * WEIGHT, INPUTS / columns)}[scale]  # fmt: skip
    plain = method.compress(WEIGHT, InputStats.of(INPUTS)) == 0
    assert torch.equal(plain, method.compress(weight, InputStats.of(x)) == 0)


@pytest.mark.parametrize("spec", [s for s in CHANGING if type(methods.parse(s)).by_layer is Method.by_layer])
def test_inputs_and_weights_of_zero(spec):
    """Dead channels, dead rows and a matrix of zeros give numbers, and zeros stay zeros."""
    x, weight = INPUTS.clone(), WEIGHT.clone()
    x[:, ::3], weight[::5] = 0, 0
    for some in (weight, torch.zeros_like(weight)):
        made = methods.parse(spec).compress(some, InputStats.of(x))
        assert torch.isfinite(made).all() and (made[::5] == 0).all()
    made = methods.parse(spec).compress(WEIGHT, InputStats.of(torch.zeros_like(x)))
    assert torch.isfinite(made).all()


@pytest.mark.parametrize("spec", ONE_MATRIX)
def test_what_reads_nothing_goes_first(spec):
    method = methods.parse(spec)
    if not method.needs or method.pattern.m:
        pytest.skip("sees no inputs, or must remove as many in every group")
    x = INPUTS.clone()
    x[:, :4] = 0
    assert (method.compress(WEIGHT, InputStats.of(x))[:, :4] == 0).all()


@pytest.mark.parametrize("spec", [s for s in CHANGING if type(methods.parse(s)).by_layer is Method.by_layer])
def test_the_matrix_itself_is_left_alone(spec):
    before = WEIGHT.clone()
    made = methods.parse(spec).compress(WEIGHT, InputStats.of(INPUTS))
    assert torch.equal(WEIGHT, before) and made.dtype == WEIGHT.dtype and made.shape == WEIGHT.shape


# ---------------------------------------------------------------- whole models


@pytest.mark.parametrize("spec", [specs[0] for specs in CASES.values()])
def test_every_family(lm, spec, tokens):
    """Each matrix is changed, or each named sublayer gone; the model is dense again afterwards, to the bit."""
    before, made = logits(lm.model, {"input_ids": tokens}), of_one(lm, spec, tokens)
    assert bool(made.weights) != bool(made.sites)
    if made.weights:
        assert set(made.weights) == {weight.name for weight in all_weights(lm)}
    with made.applied(lm):
        assert not torch.allclose(logits(lm.model, {"input_ids": tokens}), before)
    assert torch.equal(logits(lm.model, {"input_ids": tokens}), before)
    assert 0 < made.bits_per_weight < 16


@pytest.mark.parametrize("spec", SPARSE)
def test_a_model_loses_exactly_its_share(tiny, spec, tokens):
    lm = tiny("llama")
    made, layers = of_one(lm, spec, tokens), methods.parse(spec).by_layer(lm, batches(lm, tokens))
    for weight in all_weights(lm):
        pattern, (rows, width) = layers[weight.layer].pattern, weight.shape
        exact = {pattern.removed(rows * width), rows * pattern.removed(width)}
        assert int((made.weights[weight.name] == 0).sum()) in exact
    assert sum(one.pattern.sparsity for one in layers) / len(layers) == pytest.approx(made.method.pattern.sparsity)


@pytest.mark.parametrize("spec", SPECS)
def test_the_batch_does_not_matter(tiny, spec, tokens):
    lm = tiny("llama")
    one, other = (of_one(lm, spec, tokens, batch_size=size) for size in (6, 4))
    assert one.sites == other.sites and one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        if one.method.kind == "sparsify":
            assert torch.equal(value == 0, other.weights[name] == 0), name
        torch.testing.assert_close(value, other.weights[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_saved_and_loaded(spec, make_model, tokens, padded, tmp_path):
    lm = LM.from_model(make_model("llama"), tiny_files.tokenizer(), "tiny")
    made = of_one(lm, spec, tokens)
    manifest = save(lm, made, tmp_path / "out")
    with made.applied(lm):
        expected = logits(lm.model, padded)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert torch.equal(logits(loaded, padded), expected)
    assert (manifest["spec"], manifest["label"]) == (spec, made.label)


@pytest.mark.parametrize("spec", [specs[0] for specs in CASES.values() if methods.parse(specs[0]).needs])
def test_without_calibration_it_is_one_line(tiny, spec):
    with pytest.raises(PrunelibError, match="needs calibration tokens, and there are none"):
        compress(tiny("llama"), [spec])


# ---------------------------------------------------------------- several methods, one after the other

JOINED = [
    "wanda:0.5+drop:mlp:2",
    "drop:attn:1+gptq:4:g8",
    "drop:mlp:1+drop:attn:1",
    "sites:attn:0+mlp:1+wanda:2:4",
    "wanda:0.5+drop:kl:attn+mlp:2",
    "drop:kl:attn+mlp:2+gptq:4:g8",
]


@pytest.mark.parametrize("spec", JOINED)
def test_joined_methods_act_one_after_the_other(lm, spec, tokens):
    """As if each were applied by hand to the model that those before it left."""
    method = methods.parse(spec)
    assert method.spec == spec and method.kind == "joined" and methods.parse(method.spec) == method
    made, first = of_one(lm, spec, tokens), of_one(lm, method.parts[0].spec, tokens)
    with first.applied(lm):
        second = of_one(lm, method.parts[1].spec, tokens)
        with second.applied(lm):
            expected = logits(lm.model, {"input_ids": tokens})
    with made.applied(lm):
        assert torch.equal(logits(lm.model, {"input_ids": tokens}), expected)
    assert made.sites == first.sites + second.sites
    gone = {(site.kind, site.layer) for site in first.sites}
    for name in made.weights:
        layer, _, path = name.partition(".")
        inside = f"{path}.".startswith(f"{lm.arch.attn}.")
        assert ("attn" if inside else "mlp", int(layer)) not in gone  # nothing is calibrated that does not run
    assert made.bits_per_weight < min(16, second.bits_per_weight, first.bits_per_weight) + 1e-9


@pytest.mark.parametrize("spec", JOINED)
def test_joined_methods_are_saved(spec, make_model, tokens, padded, tmp_path):
    lm = LM.from_model(make_model("llama"), tiny_files.tokenizer(), "tiny")
    made = of_one(lm, spec, tokens)
    save(lm, made, tmp_path / "out")
    with made.applied(lm):
        expected = logits(lm.model, padded)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert torch.equal(logits(loaded, padded), expected)


@pytest.mark.parametrize(("spec", "problem"), [
    ("wanda:0.5+gptq:4:g64", "wanda:0.5 and gptq:4:g64 change the same weights"),
    ("dense+wanda:0.5", "dense changes nothing: leave it out"),
    ("wanda:0.5+", "unknown method ''"),
    ("mlp:3+wanda:0.5", "unknown method 'mlp'"),
])  # fmt: skip
def test_what_cannot_be_joined(spec, problem):
    with pytest.raises(PrunelibError, match=problem) as caught:
        methods.parse(spec)
    assert "\n" not in str(caught.value)
