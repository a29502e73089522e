"""What can be wrong with a notebook's parameters, found before any notebook runs.

:func:`check` needs no model; :func:`fits` needs the number of its layers."""

from importlib import import_module
from pathlib import Path

from prunelib.errors import PrunelibError, nearest
from prunelib.methods import of_kind, parse_list
from prunelib.runs import sources
from prunelib.runs.options import RunOptions


def kinds(chapter: str) -> tuple[str, ...]:
    """Kinds of methods whose specifications a chapter takes as ``specs``."""
    return getattr(import_module(f"prunelib.chapters.{chapter.replace('-', '_')}.measure"), "KINDS", ())


def parse_specs(chapter: str, specs: str) -> list:
    """The methods of comma-separated ``specs``, without repetition, in their order.

    Raises PrunelibError for one that this chapter does not compare.
    """
    found = parse_list(specs)
    for method in found:
        if method.kind not in kinds(chapter):
            taken = ", ".join(one.name for one in of_kind(*kinds(chapter)))
            others = ", ".join(book.id for book in sources.select([]) if method.kind in kinds(book.chapter))
            own = sources.of_chapter(chapter).id
            raise PrunelibError(f"{own} takes {taken}; '{method.spec}' is for {others}")
    return found


def check(chapter: str, given: dict) -> None:
    """Raises PrunelibError for a parameter of a chapter's notebook that cannot be right for any model.

    ``given`` has those that differ from the notebook's defaults.
    """
    RunOptions.of(given)
    if "prompts" in given:
        from prunelib.engine.text import load_prompts

        load_prompts(given["prompts"])
    if "specs" in given:
        parse_specs(chapter, given["specs"])
    if given.get("shown") and len(found := parse_specs(chapter, given["shown"])) > 1:
        raise PrunelibError(f"shown takes one specification, got {', '.join(method.spec for method in found)}")
    if given.get("item"):
        from prunelib.tasks.items import load_items

        known = [item.id for item in load_items()]
        if given["item"] not in known:
            raise PrunelibError(f"there is no item '{given['item']}'{nearest(given['item'], known)}")
    for name, least in (("drop_count", 0), ("layer", -1), ("benchmark_items", 0)):
        if given.get(name, least) < least:
            raise PrunelibError(f"{name} must be at least {least}, got {given[name]}")
    if not given.get("temperature", 1) > 0:
        raise PrunelibError(f"temperature must be above 0, got {given['temperature']:g}")
    if "benchmarks" in given:
        from prunelib.tasks.benchmarks import can_be_read

        can_be_read(given["benchmarks"])
    if "perplexity_on" in given:
        from prunelib.tasks import corpora

        corpora.can_be_read(given["perplexity_on"])
    if "pooling" in given:
        from prunelib.models.encoder import check_pooling

        check_pooling(given["pooling"])
    if "encoder" in given:
        from prunelib.models.encoder import check_name

        check_name(given["encoder"])
    if "corpus" in given:
        from prunelib.tasks.retrieval import load_corpus

        load_corpus(given["corpus"])


def fits(chapter: str, given: dict, folder: Path) -> None:
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
    for method in parse_specs(chapter, asked[2]) if asked[2] else ():
        method.check(layers)
