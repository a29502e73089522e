"""The compressed models of a run from mild to dead, and single sublayers against many of them dropped together."""

from collections.abc import Sequence

import pandas as pd

from prunelib.methods import parse
from prunelib.methods.base import JOIN
from prunelib.runs.run import Run
from prunelib.runs.zoo import one_step
from prunelib.runs.zoo.models import compressed_model, plan_of, scaled
from prunelib.runs.zoo.scores import SEEDED, drop_specs


def graded_specs(run: Run) -> list[str]:
    """What the chapters on drops and sparsity ask items of, and the profile's ``graded`` specifications.

    Drops are scaled to the depth of the run's model.
    """
    return list(dict.fromkeys([*drop_specs(run), *run.settings.sparse, *scaled(run, run.settings.graded)]))


def models_of(run: Run, specs: Sequence[str]) -> list[tuple[str, int]]:
    """(spec, seed) of each model that ``zoo.scores.answers`` asks, calibration seeds as models of their own.

    A drop that another seed's calibration chooses alike is the same model and stands once.
    """
    found: dict = {}
    for i in range(run.settings.seeds):
        for spec in specs:
            if i and spec not in SEEDED:
                continue
            seed = run.seed + i
            same = frozenset(plan_of(run, spec, seed).sites) if parse(spec).kind == "drop" else (spec, seed)
            found.setdefault(same, (spec, seed))
    return list(found.values())


# ---------------------------------------------------------------- one sublayer, and many


def single_sites(run: Run) -> list[str]:
    """Every attention and MLP sublayer: ``attn:0, mlp:0, attn:1, …``."""
    return [f"{kind}:{layer}" for layer in range(run.model["n_layers"]) for kind in ("attn", "mlp")]


def joint_sets(run: Run, specs: Sequence[str]) -> dict[str, list[str]]:
    """Sublayers by the drop that takes them: the drops among ``specs``, and 2, 4, 8, … of attention, MLP, or both.

    The last are ranked as drops are (``drop_order``), so that of a kind each set holds the one before. A block is both
    of its sublayers. Sets that are the same stand once; those of a single sublayer, whose sum is exact, are left out.
    """
    layers, sets = run.model["n_layers"], {}
    nested = [(kind, 2**i) for kind in ("attn", "mlp", "joint") for i in range(1, layers.bit_length() + 1)]
    nested = [f"drop:{kind}:{n}" for kind, n in nested if n <= layers * (1 + (kind == "joint"))]
    for spec in [*nested, *(spec for spec in specs if parse(spec).kind == "drop")]:
        sites = set()
        for site in plan_of(run, spec).sites:
            sites |= set(map(str, site.sublayers))
        sites = sorted(sites, key=lambda site: (int(site.partition(":")[2]), site))
        if len(sites) > 1 and sites not in sets.values():
            sets[spec] = sites
    return sets


def dropped_kl(run: Run, sets: Sequence[Sequence[str]]) -> pd.DataFrame:
    """KL(dense ‖ pruned) of next tokens with some sublayers dropped: a row a set and text.

    Columns ``sites`` (joined by +), ``cluster`` (the text), ``kl`` (nats, mean over its positions). Read are the
    first ``settings.site_tokens`` tokens of half of the held-out texts, together, at a quarter of ``step_positions``.
    """
    wanted = sorted({JOIN.join(sites) for sites in sets})
    settings = run.settings
    sizes = [max(2, settings.texts // 2), settings.site_tokens, max(2, settings.step_positions // 4)]
    key = {"texts": [list(one) for one in one_step.passages()[: sizes[0]]], "sizes": sizes, "sets": wanted}
    held: dict = {}

    def compute(sites: str) -> dict[str, pd.DataFrame]:
        import torch

        from prunelib.measure.distances import kl
        from prunelib.measure.one_step import logits

        if not held:
            texts = one_step.held_out(run)[: sizes[0]]
            held["names"] = [name for name, ids in texts if len(ids) >= sizes[1]]
            held["ids"] = torch.tensor([ids[: sizes[1]] for _, ids in texts if len(ids) >= sizes[1]])
            held["z"] = logits(run.lm, one_step.last_states(run, held["ids"], sizes[2]))
        with compressed_model(run, f"sites:{sites}").applied(run.lm):
            pruned = one_step.last_states(run, held["ids"], sizes[2])
        found = kl(held["z"], logits(run.lm, pruned)).mean(-1)
        return {"dropped_kl": pd.DataFrame({"sites": sites, "cluster": held["names"], "kl": found.cpu().numpy()})}

    return run.tables(("dropped_kl",), key, wanted, compute)["dropped_kl"]
