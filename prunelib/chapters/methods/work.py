"""What this chapter takes: walks of many methods, what they do to each matrix, and perplexity."""

from collections import Counter

from prunelib.chapters.methods import measure
from prunelib.methods import parse
from prunelib.runs.estimate import asked, dense, made
from prunelib.runs.estimate.work import Compared, Moved, Plan, Product, tokens


def errors(plan: Plan, times: int) -> None:
    """Energies of all outputs, from the Gram matrices: of the dense weights, and of what each method changed."""
    for (d_out, d_in), count in Counter(plan.shape.matrices).items():
        plan.add(Product(d_out, d_in, d_in), times * count)


def work(plan: Plan) -> None:
    walks = measure.walks_of(plan, plan.parameters.get("specs", ""))
    texts = [tokens(row["text"]) for row in dense.rows_of("tasks/passages.jsonl")][: plan.settings.texts]
    for item in walks:
        own = item.seed == plan.seed
        if item.specs[0] == "dense":
            for spec in item.specs[1:]:
                dense.read_calibration(plan, 1 + made.left(plan, spec))
        else:
            made.walk(plan, item.specs, item.seed, dense=own)
            if own:
                errors(plan, 1 + len(item.specs))
            for spec in item.specs:
                if plan.once("compressed", spec, item.seed) and parse(spec).needs:
                    made.keep_weights(plan, spec)
        for spec in item.specs:
            made.compressed(plan, spec, item.seed)
            for length in texts:
                plan.read(1, length, times=made.left(plan, spec), head=length)
            plan.add(Compared("nll"), sum(texts))
    asked.against_dense(plan, [spec for item in walks for spec in item.specs])
    plan.add(Moved(1, held=2))  # one is let go after the next is made
    plan.figures(4, intervals=0)
