"""Sublayers that a checkpoint says are dropped: listed in its configuration, and not computed.

``config.json`` names them under ``prunelib_drop``; their output projections are zero, so that a loader
that knows nothing of the list gives the same logits.
"""

from collections.abc import Iterator
from contextlib import ExitStack

from prunelib.errors import PrunelibError
from prunelib.models import hooks
from prunelib.models.slots import Slot, slots
from prunelib.models.sublayers import DropPlan, Site


def stay_dropped(lm) -> None:
    """Drop for good what the checkpoint of ``lm`` lists under ``prunelib_drop``.

    Raises PrunelibError for a list that the model cannot have, and for a listed
    sublayer whose output projection is not zero: leaving it out would change
    the model.
    """
    listed = lm.model.config.prunelib_drop
    if not isinstance(listed, list):
        raise PrunelibError(f"the prunelib_drop of {lm.name} is not a list of sites such as ['attn:3']: {listed!r}")
    plan = DropPlan(tuple(map(Site.parse, map(str, listed))))
    with ExitStack() as stack:
        stack.enter_context(hooks.dropped(lm, plan))
        for site in plan.sites:
            if any(slot.value().any() for slot in projection(lm, site)):
                raise PrunelibError(
                    f"{lm.name} lists {site} as dropped, but its output projection is not zero: "
                    "if it was trained on, take prunelib_drop out of its config.json"
                )
        # The stubs stay as long as the context is held, and that as long as the model's wrapper lives.
        lm.held = stack.pop_all()


def refuse_dropped(lm) -> None:
    """Raises PrunelibError for a checkpoint that already has dropped sublayers."""
    listed = getattr(lm.model.config, "prunelib_drop", None)
    if listed:
        raise PrunelibError(
            f"{lm.name} already has dropped sublayers ({', '.join(listed)}): "
            "start from the dense model, or compress its weights first and drop last"
        )


def projection(lm, site: Site) -> Iterator[Slot]:
    """Weights and biases through which a sublayer (both, of a block) writes to the stream.

    What follows them, a post-norm or a multiplier, maps zero to zero in every
    family (the tests compare the logits of each).
    """
    for one in site.sublayers:
        if one.kind == "mlp" and (experts := lm.experts(site.layer)):
            yield from experts.outputs
        else:
            module = lm.layers[site.layer].get_submodule(getattr(lm.arch, f"{one.kind}_proj"))
            yield from (slot for _, slot in slots(module))
