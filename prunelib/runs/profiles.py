"""How much a run measures, in one table: a column a profile, a row a quantity.

Nothing here enters a table's key by itself; whatever a number depends on is in its key as a value.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from prunelib.errors import PrunelibError, nearest


def _about(text: str):
    """A field with what it counts, as the book's table of profiles says it."""
    return field(metadata={"about": text})


@dataclass(frozen=True)
class Profile:
    """How much is measured. ``about(name)`` says what a field counts."""

    prompts: int = _about("prompts traced, from the top of the prompt set")
    new_tokens: int = _about("tokens that the dense model writes after each prompt")
    layer_positions: int = _about("decoding positions a prompt in the trace of all layers")
    calibration: int = _about("calibration sequences")
    calibration_tokens: int = _about("tokens of each of these, and of the samples on which repaired models are judged")
    training: int = _about("sequences that repairs learn from: samples of the dense model and, up to half, its answers")
    training_tokens: int = _about("tokens of each of these")
    synthetic: int = _about("effort of the synthetic theorem checks, 1 the smallest")
    seeds: int = _about("calibration seeds, the run's own and those after it")
    texts: int = _about("held-out texts whose perplexity is measured")
    step_positions: int = _about("positions of each held-out text at which next tokens are compared")
    site_tokens: int = _about("tokens of each text on which single sublayers are dropped, one by one and together")
    passages: int = _about("passages of the task items, three questions each")
    option_passages: int = _about("passages of those at whose answer position whole distributions are compared")
    long_prompts: int = _about("prompts of longer texts")
    long_tokens: int = _about("tokens of each longer text")
    case_texts: int = _about("prompts whose texts the case study shows")
    documents: int = _about("passages that the language model searches; the encoder always searches all")
    benchmark_items: int = _about("first items of each standard benchmark")
    skill_items: int = _about("one-token items of each skill, sums and brackets; balanced in multiples of 40")
    removal_sequences: int = _about("calibration sequences on which removals are measured at the output, from the top")
    removal_tokens: int = _about("first tokens of each of those that are read")
    random_draws: int = _about("drops of random MLP sublayers, beside those that criteria choose")
    selection_seeds: int = _about("calibration seeds of the two drops that are compared by criterion")
    decode_prompts: int = _about("prompts whose texts dense and compressed models write and read step by step")
    decode_tokens: int = _about("tokens of each such text at most")
    decode_draws: int = _about("sampled texts a prompt and model, beside the greedy one")
    speed_tokens: int = _about("tokens that are written in a batch to measure the speed of a model")
    speed_repeats: int = _about("such batches of every model, in turns with the dense one; below 6 give no interval")
    seeded: tuple[str, ...] = _about("specifications compressed again with every calibration seed")
    sparse: tuple[str, ...] = _about("specifications of the sparsity chapter")
    optioned: tuple[str, ...] = _about(
        "specifications of the chapter on options, drops of a model of 30 layers; none: those of the chapters on drops "
        "and on sparsity"
    )
    decoded: tuple[str, ...] = _about("specifications of the decoding chapter, drops of a model of 30 layers")
    quantized: tuple[str, ...] = _about("quantized specifications of the chapter on memory")
    panels: tuple[str, ...] = _about("specifications compared step by step there, drops of a model of 30 layers")
    graded: tuple[str, ...] = _about(
        "specifications whose collapse is predicted beside those of other chapters, mild to dead, drops of a model of "
        "30 layers"
    )
    criteria: tuple[str, ...] = _about("criteria at the output that choose sublayers, beside the cosine")
    repaired: tuple[str, ...] = _about("specifications of the recovery chapter, drops of a model of 30 layers")
    rungs: tuple[str, ...] = _about("repairs that are tried on each of them")
    compared: tuple[str, ...] = _about("specifications calibrated on given text as well, drops of a model of 30 layers")
    lettered: tuple[str, ...] = _about("kinds of models whose options are also asked by letter")
    drops: Mapping[str, tuple[int, ...]] = _about(
        "sublayers dropped, of a model of 30 layers; others get the same share"
    )
    selected: Mapping[str, tuple[int, ...]] = _about(
        "sublayers that each of these criteria drops, of a model of 30 layers; others get the same share"
    )
    encoder_drops: Mapping[str, tuple[int, ...]] = _about(
        "sublayers dropped, of an encoder of 6 layers; others get the same share, rounded up"
    )

    @property
    def calibration_key(self) -> list:
        """What the calibration tokens depend on besides model and seed."""
        return ["self", self.calibration, self.calibration_tokens]

    @property
    def training_key(self) -> list:
        """What the tokens that repairs learn from depend on besides model and seed."""
        return ["answers", self.training, self.training_tokens]


PROFILES = {
    "smoke": Profile(
        prompts=4, new_tokens=8, layer_positions=2, calibration=2, calibration_tokens=64, synthetic=1, seeds=2,
        training=8, training_tokens=32,
        option_passages=2, texts=6, step_positions=3, site_tokens=8, passages=4,
        long_prompts=3, long_tokens=24, case_texts=1, documents=8, benchmark_items=2, skill_items=6,
        removal_sequences=2, removal_tokens=8, random_draws=2, selection_seeds=1,
        decode_prompts=3, decode_tokens=6, decode_draws=2, speed_tokens=2, speed_repeats=2,
        seeded=("wanda:0.5", "sparsegpt:0.5"),
        sparse=("wanda:0.5", "wanda:2:4"),
        optioned=("drop:attn:8", "drop:mlp:4", "wanda:0.5"),
        decoded=("drop:attn:8", "wanda:0.5"),
        quantized=("rtn:4:g64",),
        panels=("drop:attn:8", "wanda:0.5", "rtn:4:g64"),
        graded=("drop:attn:2", "drop:mlp:8", "magnitude:0.3", "rtn:4:g64"),
        criteria=("kl",),
        repaired=("drop:mlp:2",),
        rungs=("temperature", "norm", "linear", "head:4", "lora:4", "full:1"),
        compared=("drop:mlp:2+linear",),
        lettered=("dense", "drop", "sparsify"),
        drops={"attn": (8,), "mlp": (4,), "block": (4,)},
        selected={"mlp": (4,), "joint": (2,)},
        encoder_drops={"attn": (2,), "mlp": (2,)},
    ),
    "quick": Profile(
        prompts=24, new_tokens=32, layer_positions=8, calibration=16, calibration_tokens=64, synthetic=4, seeds=2,
        training=8, training_tokens=256,
        option_passages=4, texts=8, step_positions=16, site_tokens=16, passages=10,
        long_prompts=6, long_tokens=48, case_texts=2, documents=12, benchmark_items=16, skill_items=40,
        removal_sequences=4, removal_tokens=24, random_draws=3, selection_seeds=1,
        decode_prompts=6, decode_tokens=16, decode_draws=8,
        speed_tokens=5, speed_repeats=6,
        seeded=("wanda:0.5",),
        sparse=("magnitude:0.5", "wanda:0.3", "wanda:0.5", "wanda:2:4", "sparsegpt:0.5"),
        optioned=("drop:attn:8", "drop:mlp:4", "wanda:0.5", "wanda:2:4"),
        decoded=("drop:attn:8", "wanda:0.5", "rtn:4:g64"),
        quantized=("rtn:4:g64", "gptq:4:g64", "awq:4:g64"),
        panels=("drop:attn:8", "wanda:4:8", "wanda:0.5", "sparsegpt:0.5", "rtn:4:g64", "gptq:4:g64", "awq:4:g64"),
        graded=("drop:attn:2", "drop:attn:12", "drop:mlp:1", "drop:mlp:6", "drop:block:2", "drop:block:6",
                "magnitude:0.2", "magnitude:0.3", "magnitude:0.4", "rtn:4:g64", "rtn:3:g64", "rtn:2:g64",
                "gptq:4:g64", "awq:4:g64"),
        criteria=("kl",),
        repaired=("drop:mlp:4",),
        rungs=("temperature", "linear", "lora:8", "full:1"),
        compared=("drop:mlp:4+linear",),
        lettered=(),  # a third of the time of an item
        drops={"attn": (4, 8), "mlp": (2, 4), "block": (4,)},
        selected={"mlp": (2, 4), "joint": (4, 8)},
        encoder_drops={"attn": (2, 4, 6), "mlp": (4,), "block": (2,)},
    ),
    "full": Profile(
        prompts=40, new_tokens=64, layer_positions=16, calibration=64, calibration_tokens=64, synthetic=8, seeds=3,
        training=48, training_tokens=256,
        option_passages=24, texts=40, step_positions=64, site_tokens=32, passages=60,
        long_prompts=40, long_tokens=96, case_texts=8, documents=60, benchmark_items=32, skill_items=80,
        removal_sequences=12, removal_tokens=48, random_draws=4, selection_seeds=2,
        decode_prompts=16, decode_tokens=32, decode_draws=8,
        speed_tokens=32, speed_repeats=10,
        seeded=("wanda:0.5", "wanda:2:4", "sparsegpt:0.5", "sparsegpt:2:4"),
        sparse=tuple(f"{name}:{pattern}" for name in ("magnitude", "wanda", "sparsegpt")
                     for pattern in ("0.3", "0.5", "0.7", "2:4", "4:8")),
        optioned=(),
        decoded=("drop:attn:8", "drop:mlp:4", "wanda:0.5", "wanda:4:8", "sparsegpt:0.5",
                 "rtn:4:g64", "gptq:4:g64", "awq:4:g64"),
        quantized=("rtn:4:g64", "gptq:4:g64", "awq:4:g64", "rtn:3:g64", "gptq:3:g64"),
        panels=("drop:attn:8", "wanda:4:8", "wanda:0.5", "sparsegpt:0.5", "rtn:4:g64", "gptq:4:g64", "awq:4:g64"),
        graded=("drop:attn:2", "drop:mlp:1", "rtn:4:g64", "rtn:3:g64", "rtn:2:g64",
                "gptq:4:g64", "gptq:3:g64", "awq:4:g64"),
        criteria=("kl",),
        repaired=("drop:mlp:2", "drop:mlp:4"),
        rungs=("temperature", "norm", "linear", "head:16", "lora:8", "linear+lora:8", "full:1"),
        compared=("wanda:0.5", "drop:mlp:2+linear"),
        lettered=("dense", "drop"),
        drops={"attn": (4, 8, 12, 16), "mlp": (2, 4, 6), "block": (2, 4, 6)},
        selected={"attn": (4, 8), "mlp": (2, 4, 8), "joint": (4, 8, 12), "block": (4,)},
        encoder_drops=dict.fromkeys(("attn", "mlp", "block"), (1, 2, 3, 4, 6)),
    ),
}  # fmt: skip


def profile(name: str) -> Profile:
    """The profile of this name, or PrunelibError with the nearest one."""
    if name not in PROFILES:
        options = ", ".join(PROFILES)
        raise PrunelibError(f"unknown profile '{name}'{nearest(name, PROFILES)}; use one of {options}")
    return PROFILES[name]


def about() -> dict[str, str]:
    """What each field of a :class:`Profile` counts, in the order of the table."""
    return {one.name: one.metadata["about"] for one in fields(Profile)}
