"""Compressed, dropped and repaired models, each made once in a run and read from its folder later: runs.zoo.models."""

from collections.abc import Sequence

from prunelib.methods import parse
from prunelib.methods.base import JOIN
from prunelib.runs.estimate.dense import calibration, drop_order, groups, read_calibration, training
from prunelib.runs.estimate.work import Compared, Gram, Learn, Moved, Plan, Solved


def left(plan: Plan, spec: str) -> float:
    """Share of the blocks' work that a specification leaves."""
    gone = 0.0
    for part in getattr(parse(spec), "parts", (parse(spec),)):
        if part.kind == "drop" and hasattr(part, "count"):
            kinds = part.sublayers
            share = {"attn": plan.shape.attention, "mlp": 1 - plan.shape.attention}.get(kinds, 1.0)
            gone += part.count * (share if kinds in ("attn", "mlp", "block", "angular") else 0.5) / plan.shape.layers
        elif part.kind == "drop":
            for site in part.given(plan.shape.layers).sites:
                for one in site.sublayers:
                    gone += abs((one.kind == "mlp") - plan.shape.attention) / plan.shape.layers
    return max(0.0, 1 - gone)


def compressed(plan: Plan, spec: str, seed: int | None = None, text: str = "") -> None:
    """A compressed model made, or read from the run folder, and put in place of the dense one."""
    seed, method = plan.seed if seed is None else seed, parse(spec)
    if method.kind in ("dense",):
        return
    plan.load()
    if method.kind == "drop":
        planned(plan, method, seed)
    elif method.kind == "joined":
        *before, last = method.parts
        compressed(plan, JOIN.join(part.spec for part in before), seed)
        if last.kind == "recover":
            repaired(plan, spec, last, text)
        else:
            compressed(plan, last.spec, seed)
    elif not method.needs:
        plan.add(Solved(spec))
    elif text or plan.once("compressed", spec, seed):
        walk(plan, [spec], seed)
        if not text:
            keep_weights(plan, spec)
    if method.kind in ("sparsify", "quantize"):
        plan.add(Moved(PLACED))


PLACED = 6.0
"""Times that the weights of the blocks are read or written to take them from a file and put them in place: the file,
the tensors made of it, the dense weights set aside, the new ones in their place, and back."""


def walk(plan: Plan, specs: Sequence[str], seed: int, dense: bool = False) -> None:
    """Specifications that need calibration go through the model together (methods.walk)."""
    calibration(plan, seed)
    settings = plan.settings
    count = settings.calibration * settings.calibration_tokens
    with_gram = dense or any("gram" in parse(spec).needs for spec in specs)
    # Behind the first block each method reads its own stream, once for its statistics and once to go on.
    read_calibration(plan, 2 * len(specs) + 2 * dense)
    if with_gram:
        plan.add(Gram(count), len([s for s in specs if dense or "gram" in parse(s).needs]) + dense)
    for spec in specs:
        plan.add(Solved(spec))


def keep_weights(plan: Plan, spec: str) -> None:
    """The file of a compressed model: a bit a weight where only a mask is needed, else packed numbers."""
    method = parse(spec)
    if method.kind == "sparsify" and "gram" not in method.needs:
        plan.keep(plan.shape.body / 8)
    else:
        plan.keep(PACKED * plan.shape.body_bytes)


PACKED = 0.7
"""What zstd leaves of changed weights. Measured on the default model: GPTQ-4 0.54, SparseGPT 50% 0.56, AWQ-4 0.82."""


def planned(plan: Plan, method, seed: int) -> None:
    """Which sublayers a drop takes."""
    if not method.needs:
        return
    if method.chosen_at_once:
        drop_order(plan, seed)
    elif getattr(method, "criterion", None) is not None and method.criterion.at_output:
        greedy_plan(plan, method, seed)
    elif plan.once("plan", method.spec, seed):
        calibration(plan, seed)
        read_calibration(plan, getattr(method, "count", 1))


def greedy_plan(plan: Plan, method, seed: int) -> None:
    """Drops chosen at the output, measured again after each; shorter plans are the beginnings of the longest."""
    from prunelib.runs.zoo.models import share_of

    asked = plan.settings.selected.get(method.ranking, ()) if seed == plan.seed else ()
    count = max([method.count, *(share_of(plan.shape.layers, n) for n in asked)])
    if not plan.once("greedy", method.name, method.ranking, count, seed):
        return
    calibration(plan, seed)
    sites = plan.shape.layers * (1 + ("+" in method.ranking or method.ranking == "joint"))
    rounds = 1 if getattr(method, "once", False) else count
    removed(plan, sum(sites - i for i in range(rounds)))


def removals(plan: Plan, seed: int | None = None) -> None:
    """Every attention and MLP sublayer removed alone."""
    seed = plan.seed if seed is None else seed
    for kind in ("attn", "mlp"):
        if plan.once("removals", kind, seed):
            calibration(plan, seed)
            removed(plan, plan.shape.layers)


def removed(plan: Plan, sites: float) -> None:
    """Sites removed one by one: the blocks behind each are run, half of them in the mean, and outputs compared."""
    from prunelib.measure.removal import POSITIONS

    settings = plan.settings
    rows = min(settings.removal_sequences, settings.calibration)
    for some in groups(rows, 8):
        plan.read(some, settings.removal_tokens, times=sites / 2)
    plan.add(Compared("removal"), sites * rows * min(POSITIONS, settings.removal_tokens))


def repaired(plan: Plan, spec: str, rung, text: str) -> None:
    """A repair, learned from the run's training text or another one (methods.distil)."""
    from prunelib.methods.distil import BLOCK, MEASURED, STEP_TOKENS

    settings = plan.settings
    if not plan.once("repaired", spec, text):
        return
    if text:
        rows, length = settings.calibration, settings.calibration_tokens
    else:
        training(plan)
        rows, length = settings.training, settings.training_tokens
    together = max(1, round(STEP_TOKENS / length))
    for some in groups(rows, 8):
        plan.read(some, length, times=2)  # the dense model's states and the pruned one's
    epochs = {"full": getattr(rung, "size", 1), "lora": 2}.get(rung.name, 0)
    steps = -(-rows // together) * epochs
    held = max(1, rows // 8)
    if epochs:
        share = 1.0 if rung.name == "full" else 0.0
        plan.add(Learn(min(rows, together), length, share), steps)
        plan.read(held, length, times=MEASURED + 2, head=min(held * length, max(1, BLOCK // plan.shape.vocab)))
        plan.add(Compared("kl"), held * length * (MEASURED + 2))
    else:  # behind the last block
        plan.add(Compared("kl"), rows * length * (2 if rung.name != "head" else 6))
    plan.keep(PACKED * plan.shape.body_bytes if rung.name in ("full", "lora") else 4 * plan.shape.width**2)
