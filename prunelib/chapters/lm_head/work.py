"""What this chapter takes: the spectrum of the head, and states along its directions."""

from prunelib.runs.estimate import dense
from prunelib.runs.estimate.work import Plan, Product
from prunelib.runs.zoo.traces import BATCH


def work(plan: Plan) -> None:
    dense.layerwise(plan)
    shape, settings = plan.shape, plan.settings
    batches = dense.groups(settings.prompts, BATCH)
    if plan.once("head spectrum"):
        plan.load()
        # The Gram matrix of the head and its eigenvectors, which take some ten products of its size; once a batch.
        plan.add(Product(shape.width, shape.vocab, shape.width, double=True), 1 + len(batches))
        plan.add(Product(shape.width, 10 * shape.width, shape.width, double=True), 1 + len(batches))
        for rows in batches:
            plan.read(rows, dense.traced_length(plan))
            states = rows * settings.layer_positions * 2 * shape.layers
            plan.add(Product(2 * states, shape.width, shape.width, double=True))
    plan.figures(4, intervals=6)
