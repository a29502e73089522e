"""The paper's claims C1–C16 as data: which number decides each, and by what rule.

A claim is decided by one number with an interval. The rule compares that number
with a threshold fixed here, before anything is measured:

- *supported*: the whole interval satisfies the rule,
- *not supported*: the whole interval fails it,
- *undecided*: the threshold lies inside the interval, or the number is not finite.

A claim that says two things at once has a part for each, with a number and a
threshold of its own: it is supported if every part is, not supported if one part is
not, and undecided otherwise. A number marked exact has no interval and is compared
directly. The rules were written for this book; the paper states its claims in words.
"""

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prunelib.errors import PrunelibError, nearest
from prunelib.report import evidence
from prunelib.runs import sources

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
MEASURED, NOT_YET = "measured in this book", "not yet"

_OPERATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_WORDS = {">": "above", ">=": "at least", "<": "below", "<=": "at most"}


@dataclass(frozen=True)
class Part:
    """One number of a claim and what it must be; ``name`` tells parts apart, ``measure`` says what the number is."""

    name: str
    measure: str
    op: str
    threshold: float

    @property
    def rule(self) -> str:
        """The decision rule in words: ``"the number is at least 0.9"``."""
        return f"the number is {_WORDS[self.op]} {self.threshold:g}"


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and the number, or the numbers, that decide it.

    ``source`` says where the paper makes it; ``measure`` names the deciding number,
    with its unit and the points it is taken over; ``chapter`` is the name of the
    chapter that measures it, or None when that is left to a later one, ``figure`` its figure that shows the deciding
    number, ``why`` the sentence of the chapter that says what the verdict hangs on. A claim
    of several ``parts`` has no ``op`` and ``threshold`` of its own, and its
    ``measure`` says what the parts have in common.
    """

    id: str
    statement: str
    source: str
    measure: str
    op: str = ""
    threshold: float = math.nan
    chapter: str | None = None
    parts: tuple[Part, ...] = ()
    figure: str = ""
    why: str = ""

    def __post_init__(self):
        if bool(self.op) == bool(self.parts):
            raise ValueError(f"{self.id}: a claim has either one number or parts")

    @property
    def rule(self) -> str:
        """The decision rule in words: ``"the number is at least 0.9"``."""
        if self.parts:
            return " and ".join(f"{part.name} is {_WORDS[part.op]} {part.threshold:g}" for part in self.parts)
        return Part("", self.measure, self.op, self.threshold).rule


# A "point" is one (prompt, position, layer, sublayer): that sublayer alone is dropped there.
_POINTS = "all points"
_MIDDLE = "points of the middle half of the layers"
_NORMED = "normed lens"
_RAW = "raw lens"
# A correlation over all points was decided by the two sublayers of the first layer. Equal weight
# to every sublayer and medians leave the verdict to the others; 2 is what "predicts" may be off by.
_FACTOR = (
    "factor by which the estimate is typically off: median of |log(estimate/measurement)| over "
    "the points of each sublayer, then over the sublayers "
    "(all points whose change exceeds the rounding of the trace)"
)
# One threshold for both parts: models that lose both alike, unhurt and dead ones in any mixture, cannot pass both.
_SURVIVES_AND_COLLAPSES = (
    Part("choice kept", "share of the dense multiple-choice score kept, both above chance", ">=", 0.5),
    Part("generation kept", "share of the dense generation score kept", "<=", 0.5),
)

CLAIMS: dict[str, Claim] = {
    claim.id: claim
    for claim in (
        Claim(
            "C1",
            "Theorem 1 predicts how far a perturbation turns the hidden state.",
            "Theorem 1",
            f"{_FACTOR}; quantity: 1 − cos h",
            "<=",
            2.0,
            "cosine-theorem",
            figure="fig-t1-model",
            why="why",
        ),
        Claim(
            "C2",
            "Theorem 2 predicts how far a logit perturbation turns the probability vector.",
            "Theorem 2",
            f"{_FACTOR}; quantity: 1 − cos p at T = 1, {_NORMED}",
            "<=",
            2.0,
            "softmax-theorem",
            figure="fig-t2-model",
            why="why",
        ),
        Claim(
            "C3",
            "Theorem 3 predicts the KL divergence that a logit perturbation causes.",
            "Theorem 3",
            f"{_FACTOR}; quantity: KL(dense ‖ pruned) in nats at T = 1, {_NORMED}",
            "<=",
            2.0,
            "kl-theorem",
            figure="fig-t3-model",
            why="why",
        ),
        Claim(
            "C4",
            "Dropping one sublayer in the middle layers leaves the cosine of h and of z near 1, "
            "while the cosine of p spreads widely.",
            "Layerwise figures (fig:pruning_hierarchies_attn, fig:pruning_hierarchies_mlp)",
            f"5th percentile of cos z minus 5th percentile of cos p at T = 1 ({_MIDDLE}); {_RAW}",
            ">",
            0.0,
            "layerwise",
            figure="fig-layerwise-attn",
        ),
        Claim(
            "C5",
            "The LM head shrinks the part of the perturbation that is orthogonal to the state, "
            "relative to the length of the state.",
            "Discussion of the LM head",
            f"median of the relative orthogonal part of the change in z divided by the same in h ({_POINTS}); {_RAW}",
            "<",
            1.0,
            "lm-head",
            figure="fig-head-attenuation",
            why="why",
        ),
        Claim(
            "C6",
            "Softmax amplifies: the probability vector turns further than the logit vector.",
            "Theorem 2 and the layerwise figures",
            f"share of points with 1 − cos p above 1 − cos z at T = 1 ({_POINTS}), in both lenses",
            parts=(
                Part(_NORMED, "logits that the model itself would produce", ">", 0.5),
                Part(_RAW, "logits of the paper's code", ">", 0.5),
            ),
            chapter="layerwise",
            figure="fig-amplification",
            why="amplifies",
        ),
        Claim(
            "C7",
            "A lower temperature makes the change in probabilities larger.",
            "Factor 1/T² in Theorems 2 and 3",
            f"1 − cos p at the lowest temperature of the run against T = 1 ({_MIDDLE}); {_NORMED}",
            parts=(
                Part("mean", "mean divided by the mean at T = 1", ">", 1.0),
                Part("share of points", "share of points at which it is larger than at T = 1", ">", 0.5),
            ),
            chapter="layerwise",
            figure="fig-temperature",
            why="temperature",
        ),
        Claim(
            "C8",
            "With whole sublayers dropped, multiple choice survives and generation collapses.",
            "Task tables and curves (table:task_suite, fig:pruning_*)",
            "on the same items, mean over the drop plans of the chapter",
            parts=_SURVIVES_AND_COLLAPSES,
            chapter="dropping-layers",
            figure="fig-dropping-kept",
            why="why",
        ),
        Claim(
            "C9",
            "With weights pruned inside the layers, multiple choice survives and generation collapses.",
            "Task tables for magnitude, Wanda and SparseGPT",
            "on the same items, mean over the sparsity patterns of the chapter",
            parts=_SURVIVES_AND_COLLAPSES,
            chapter="sparsity",
            figure="fig-sparsity-kept",
            why="why",
        ),
        Claim(
            "C10",
            "Retrieval survives the dropping of sublayers.",
            "Retrieval rows of table:task_suite",
            "share of the dense nDCG@10 kept by an embedding model with a quarter of its attention sublayers dropped",
            ">=",
            0.9,
            "retrieval",
            figure="fig-retrieval-kept",
            why="attention",
        ),
        Claim(
            "C11",
            "The probabilities of the answer options, taken among themselves, move less than the "
            "top of the whole distribution.",
            "Subspace analysis at the answer position",
            "KL(dense ‖ pruned) among the options' letters divided by the same over the whole vocabulary, at the "
            "answer position; median over items and the compressed models of the chapter",
            "<",
            1.0,
            "option-subspace",
            figure="fig-options-kl",
            why="where",
        ),
        Claim(
            "C12",
            "Errors compound over decoding steps.",
            "Step-by-step decoding figure (fig:decoding)",
            "along texts that the pruned models of the chapter draw at T = 1, geometric mean over the models",
            parts=(
                Part("rise", "KL(dense ‖ pruned) a token, last quarter of the steps over the first", ">", 1.0),
                Part("excess", "the same KL there over that along dense texts, minus 1", ">", 0.0),
            ),
            chapter="decoding",
            figure="fig-decoding-steps",
            why="why",
        ),
        Claim(
            "C13",
            "At similar memory, 4-bit quantization generates far better than pruning.",
            "Quantization panels (fig:pruning_quant)",
            "share of the dense generation score kept by 4-bit quantization, mean over the 4-bit models of the "
            "chapter, minus the largest share kept by a pruned model that needs at least as much memory as the "
            "largest of these and at most as much as the same model at 4:8; the largest is chosen on one "
            "half of the passages and judged on the other, both ways",
            ">",
            0.0,
            "quantization-against-pruning",
            figure="fig-quant-memory",
            why="why",
        ),
        Claim(
            "C14",
            "The KL divergence predicts the collapse of generation.",
            "Discussion of Theorem 3 and the decoding figures",
            "Spearman correlation between mean KL(dense ‖ pruned) of the next token on held-out text, which no item "
            "uses, and the share of the generation score lost, over the compressed models of the chapter; interval "
            "over their methods",
            ">=",
            0.8,
            "predicting-collapse",
            figure="fig-collapse-kl",
            why="why",
        ),
        Claim(
            "C15",
            "Generation needs post-training: fine-tuning a pruned model restores it.",
            "Discussion of post-training",
            "share of the generation score lost by the pruned models of the chapter that comes back by the best of its "
            "repairs, mean over the models; the best is chosen on one half of the passages and judged on the other, "
            "both ways",
            parts=(
                Part("with training", "repairs that take gradient steps", ">=", 0.5),
                Part("without training", "closed forms and convex problems: no gradient step in the blocks", "<=", 0.5),
            ),
            chapter="recovery",
            figure="fig-recovery-ladder",
            why="why",
        ),
        Claim(
            "C16",
            "Multiple-choice scores of a pruned model say little about its chat or code.",
            "Conclusion",
            "mean share of the generation score lost by the compressed models that keep at least "
            "95 % of what the dense multiple-choice score has above chance, chosen on one half of the "
            "passages and judged on the other, both ways",
            ">",
            0.05,
            "sparsity",
            figure="fig-choice-generation",
            why="proxy",
        ),
    )
}


def judge(claim: Claim | Part, value: float, lo: float | None = None, hi: float | None = None) -> str:
    """``"supported"``, ``"not supported"`` or ``"undecided"`` for the measured number of a claim or of a part.

    ``lo`` and ``hi`` are the ends of its interval; without them the number counts
    as exact. The interval decides, not the point. Raises :class:`ValueError` when
    only one end is given, the ends are in the wrong order, or the claim has parts.
    """
    name = claim.id if isinstance(claim, Claim) else claim.name
    if not claim.op:
        raise ValueError(f"{name} has parts: judge each, then take whole()")
    if (lo is None) != (hi is None):
        raise ValueError(f"{name}: an interval needs both ends, got {lo} and {hi}")
    ends = (value,) if lo is None else (lo, hi)
    if not all(math.isfinite(number) for number in (value, *ends)):
        return UNDECIDED
    if lo is not None and lo > hi:
        raise ValueError(f"{name}: the interval {lo} to {hi} is upside down")
    satisfied = [_OPERATORS[claim.op](number, claim.threshold) for number in ends]
    if all(satisfied):
        return SUPPORTED
    return UNDECIDED if any(satisfied) else NOT_SUPPORTED


def whole(verdicts: Iterable[str]) -> str:
    """The verdict on a claim from those on its parts: one part that fails is enough against it."""
    verdicts = set(verdicts)
    if NOT_SUPPORTED in verdicts:
        return NOT_SUPPORTED
    return SUPPORTED if verdicts == {SUPPORTED} else UNDECIDED


def ledger(manifest: Mapping) -> list[dict]:
    """One row per claim, in order C1 to C16, ready for ``site/claims.json``.

    ``manifest`` is a run's manifest; its ``claims`` hold ``value``, ``lo``, ``hi``,
    ``exact`` and ``notebook``, and for a claim of several parts ``parts``: the same
    numbers by the part's name. The verdict is judged here, so that a page never
    shows one that an older rule gave. Claims the run did not measure have status
    ``"not yet"`` and None for every number and for the verdict. Non-finite numbers
    become None, as JSON has no word for them; an estimate without an interval is undecided.
    ``why`` is the sentence of the run that says what the verdict hangs on, None where there is none.
    ``parts`` of a row lists ``name, measure, rule, value, lo, hi, exact, verdict`` of
    each part; it is empty for a claim that one number decides. Beside them stand ``sample, evidence, paper, cost,
    command`` (report/evidence.py).
    """
    measured = manifest.get("claims", {})
    for name in measured:
        if name not in CLAIMS:
            raise PrunelibError(f"the manifest holds an unknown claim '{name}'{nearest(name, CLAIMS)}")
    rows = [_row(claim, measured.get(claim.id)) for claim in CLAIMS.values()]
    for row, claim in zip(rows, CLAIMS.values(), strict=True):
        row |= evidence.of(claim.id, claim.figure, row["notebook"], manifest)
        said = manifest.get("values", {}).get(f"said.{claim.chapter}.{claim.why}", {})
        row["why"] = said.get("value") or None
    return rows


def _notebook(claim: Claim) -> str | None:
    """Id of the notebook of the claim's chapter."""
    return sources.of_chapter(claim.chapter).id if claim.chapter else None


_NO_NUMBER = {"value": None, "lo": None, "hi": None, "exact": None, "verdict": None}


def _row(claim: Claim, entry: Mapping | None) -> dict:
    row = {
        "id": claim.id,
        "statement": claim.statement,
        "source": claim.source,
        "measure": claim.measure,
        "rule": claim.rule,
        **_NO_NUMBER,
        "parts": [],
        "notebook": _notebook(claim),
        "figure": claim.figure or None,
        "why": None,
        "status": NOT_YET,
    }
    if entry is not None:
        row |= {"notebook": entry.get("notebook", row["notebook"]), "status": MEASURED}
    if not claim.parts:
        return row if entry is None else row | _judged(claim, entry)
    for part in claim.parts:
        about = {"name": part.name, "measure": part.measure, "rule": part.rule}
        # A run under an older rule lacks the numbers of today's parts, and so decides nothing.
        found = _NO_NUMBER if entry is None else _judged(part, entry.get("parts", {}).get(part.name, {}))
        row["parts"].append(about | found)
    return row if entry is None else row | {"verdict": whole(part["verdict"] for part in row["parts"])}


def _judged(rule: Claim | Part, entry: Mapping) -> dict:
    """A recorded number with its verdict, safe for JSON."""
    value, lo, hi = (_number(entry.get(key)) for key in ("value", "lo", "hi"))
    exact = bool(entry.get("exact", False))
    # An estimate stored without an interval decides nothing.
    verdict = judge(rule, value) if exact else judge(rule, value, lo, hi)
    ends = (None, None) if exact else (_or_none(lo), _or_none(hi))
    return {"value": _or_none(value), "lo": ends[0], "hi": ends[1], "exact": exact, "verdict": verdict}


def _number(stored: float | None) -> float:
    return math.nan if stored is None else float(stored)


def _or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None
