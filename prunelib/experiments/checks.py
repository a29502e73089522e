"""What can be wrong with a notebook's parameters, found before any notebook runs.

:func:`check` needs no model; :func:`fits` needs the number of its layers.
"""

from pathlib import Path

from prunelib.errors import PrunelibError
from prunelib.experiments import chapter

_SPARSE = ("magnitude", "wanda", "sparsegpt")
TAKES = {
    "07-methods": ("dense", "drop", "sites", *_SPARSE, "rtn", "gptq", "awq"),
    "08-dropping-layers": ("drop", "sites"),
    "09-sparsity": _SPARSE,
    "10-case-study": ("drop", "sites", *_SPARSE, "rtn", "gptq", "awq"),
}
"""Methods whose specifications a notebook takes as ``specs``."""


def parse_specs(notebook: str, specs: str) -> list:
    """The methods of comma-separated ``specs``, without repetition, in their order.

    A list of sites has commas of its own: ``drop:attn:2,sites:attn:3,mlp:4`` are two
    specifications. Raises PrunelibError for one that this notebook does not compare.
    """
    from prunelib.compress import drop, parse

    texts: list[str] = []
    for one in (one.strip() for one in specs.split(",") if one.strip()):
        more = one.partition(":")[0] in drop.KINDS and texts and texts[-1].startswith(drop.EXPLICIT)
        texts = [*texts[:-1], f"{texts[-1]},{one}"] if more else [*texts, one]
    found = {}
    for method in map(parse, texts):
        others = ", ".join(name for name, taken in TAKES.items() if method.spec.partition(":")[0] in taken)
        if method.spec.partition(":")[0] not in TAKES[notebook]:
            raise PrunelibError(f"{notebook} takes {', '.join(TAKES[notebook])}; '{method.spec}' is for {others}")
        found.setdefault(method.spec, method)
    return list(found.values())


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

    from prunelib.compress import drop

    config = AutoConfig.from_pretrained(folder).get_text_config()
    layers = config.num_hidden_layers
    drop.check_count(asked[0], "attn", layers)
    if not asked[1] < layers:
        raise PrunelibError(f"layer must be -1 or 0 to {layers - 1} for this model, got {asked[1]}")
    for method in parse_specs(notebook, asked[2]) if asked[2] else ():
        if isinstance(method, drop.DropPlan):
            if beyond := [str(site) for site in method.sites if site.layer >= layers]:
                raise PrunelibError(f"there is no {beyond[0]} to drop: the model has {layers} layers, counted from 0")
        elif method.spec.startswith("drop:"):
            drop.check_count(method.count, "block" if method.kind == "angular" else method.kind, layers)
