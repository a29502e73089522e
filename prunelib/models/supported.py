"""Which models can be used: the row of a model, checked against it, or one line that says what is missing."""

from collections.abc import Iterator
from dataclasses import replace

from prunelib.errors import PrunelibError
from prunelib.models.arch import ArchSpec
from prunelib.models.families import ARCHS


def arch_for(model) -> ArchSpec:
    """The row of a ``transformers`` causal language model, checked against the model.

    Raises :class:`PrunelibError` (one line: the class, and what is missing) for a
    family without a row, a variant that its row does not describe, or a model
    in which a path of the row leads nowhere.
    """
    name, config = type(model).__name__, getattr(model, "config", None)
    family = getattr(config, "model_type", None)
    if family not in ARCHS:
        raise PrunelibError(f"{name} is not supported: missing {_what_is_missing(model)}")
    row, text = ARCHS[family], text_config(config)
    for attribute, value in row.requires:
        if getattr(text, attribute, value) != value:
            raise PrunelibError(
                f"{name} is not supported: {family} with {attribute}="
                f"{getattr(text, attribute)} (missing: a row for anything but {value})"
            )
    for left, right in row.requires_equal:
        if getattr(text, left) != getattr(text, right):
            raise PrunelibError(
                f"{name} is not supported: {family} with {left}={getattr(text, left)} other "
                f"than {right}={getattr(text, right)} (missing: a row with that projection)"
            )
    if any(getattr(text, attribute, False) for attribute in row.parallel):
        row = replace(row, mid=None)
        if row.shares_norm:
            row = replace(row, attn_norm=None, mlp_norm=None)
    missing = next(_missing_paths(model, row), None)
    if missing:
        raise PrunelibError(f"{name} is not supported: no module '{missing}' as in {family} models")
    return row


def text_config(config):
    """The configuration of the language model: a wrapper of several towers has one inside its own."""
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def _what_is_missing(model) -> str:
    """Why a model without a row cannot be used, as far as its configuration and modules tell for certain."""
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        return "a decoder-only stack (this is an encoder–decoder)"
    if "MaskedLM" in type(model).__name__:
        return "a causal language-model head (this one fills masks)"
    kinds = {type(module).__name__ for module in getattr(model, "modules", lambda: ())()}
    if not any("att" in kind.lower() or kind.endswith("MLA") for kind in kinds):
        return "attention sublayers"
    return f"a row for model type '{getattr(config, 'model_type', None)}' (`prunelib models --families` lists them)"


def _missing_paths(model, row: ArchSpec) -> Iterator[str]:
    """Paths of the row that the model or its layers do not have."""
    for path in (row.layers, row.ln_final, row.unembed):
        if _submodule(model, path) is None:
            yield path
            return
    layers = _submodule(model, row.layers)
    if len(layers) == 0:
        yield f"{row.layers}.0"
        return
    inner = (row.attn, row.mlp, row.attn_proj, row.mid, row.attn_norm)
    inner += (row.mlp_norm, row.attn_post, row.mlp_post, row.mlp_in)
    for path in filter(None, inner):
        if _submodule(layers[0], path) is None:
            yield f"{row.layers}.0.{path}"
    for number, layer in enumerate(layers):
        wanted = (row.mlp_proj,)
        if row.mixture and _submodule(layer, row.mixture.experts) is not None:
            wanted = (row.mixture.shared, *row.mixture.dense)
        for path in filter(None, wanted):
            if _submodule(layer, path) is None:
                yield f"{row.layers}.{number}.{path}"


def _submodule(root, path: str):
    """The module at a dotted path, or ``None``."""
    for part in path.split("."):
        root = getattr(root, part, None)
        if root is None:
            return None
    return root
