"""What can be wrong with a notebook's parameters, found before any notebook runs.

:func:`check` needs no model; :func:`fits` needs the number of its layers.
"""

from pathlib import Path

from prunelib.errors import PrunelibError
from prunelib.experiments import chapter

TAKES = {
    "07-methods": ("dense", "sparsify", "quantize", "drop", "joined"),
    "08-dropping-layers": ("drop",),
    "09-sparsity": ("sparsify",),
    "10-case-study": ("sparsify", "quantize", "drop", "joined"),
}
"""Kinds of methods whose specifications a notebook takes as ``specs``."""


def parse_specs(notebook: str, specs: str) -> list:
    """The methods of comma-separated ``specs``, without repetition, in their order.

    Raises PrunelibError for one that this notebook does not compare.
    """
    from prunelib.methods import of_kind, parse_list

    found = parse_list(specs)
    for method in found:
        if method.kind not in TAKES[notebook]:
            names = ", ".join(one.name for one in of_kind(*TAKES[notebook]))
            others = ", ".join(name for name, kinds in TAKES.items() if method.kind in kinds)
            raise PrunelibError(f"{notebook} takes {names}; '{method.spec}' is for {others}")
    return found


def check(notebook: str, given: dict) -> None:
    """Raises PrunelibError for a parameter of ``notebook`` that cannot be right for any model.

    ``given`` has those that differ from the notebook's defaults.
    """
    chapter.check_options(given)
    if "prompts" in given:
        from prunelib.text import load_prompts

        load_prompts(given["prompts"])
    if "specs" in given:
        parse_specs(notebook, given["specs"])
    for name, least in (("drop_count", 0), ("layer", -1), ("benchmark_items", 0)):
        if given.get(name, least) < least:
            raise PrunelibError(f"{name} must be at least {least}, got {given[name]}")
    if not given.get("temperature", 1) > 0:
        raise PrunelibError(f"temperature must be above 0, got {given['temperature']:g}")
    if "benchmarks" in given:
        from prunelib.experiments.benchmarks import can_be_read

        can_be_read(given["benchmarks"])
    if "perplexity_on" in given:
        from prunelib.experiments import perplexities

        perplexities.can_be_read(given["perplexity_on"])
    if "pooling" in given:
        from prunelib.tasks.encoder import check_pooling

        check_pooling(given["pooling"])
    if "encoder" in given:
        from prunelib.tasks.encoder import check_name

        check_name(given["encoder"])
    if "corpus" in given:
        from prunelib.tasks.retrieval import load_corpus

        load_corpus(given["corpus"])


def fits(notebook: str, given: dict, folder: Path) -> None:
    """Raises PrunelibError for a parameter that names layers which the model in ``folder`` does not have."""
    asked = given.get("drop_count", 0), given.get("layer", -1), given.get("specs", "")
    if asked == (0, -1, ""):
        return
    from transformers import AutoConfig

    from prunelib.methods.drop import Drop

    config = AutoConfig.from_pretrained(folder).get_text_config()
    layers = config.num_hidden_layers
    Drop("attn", asked[0]).check(layers)
    if not asked[1] < layers:
        raise PrunelibError(f"layer must be -1 or 0 to {layers - 1} for this model, got {asked[1]}")
    for method in parse_specs(notebook, asked[2]) if asked[2] else ():
        method.check(layers)
