"""Embedding models for retrieval, whose sublayers can be dropped.

Two kinds, used alike through ``embed``: an :class:`Encoder` of sentence-transformers
(BERT and its relatives), and an :class:`Embedder` over a language model with mean or
last-token pooling (Wang et al. 2024, E5-Mistral). A language model is dropped by
:func:`prunelib.models.hooks.dropped`, an encoder by :func:`dropped` here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from prunelib.errors import PrunelibError, nearest
from prunelib.models import fetch, hooks
from prunelib.models.lm import LM, fingerprint, pad
from prunelib.models.load import resolve_device
from prunelib.models.sublayers import Site


@dataclass(frozen=True)
class EncoderSpec:
    """Where the parts of an encoder's layer live; paths are dotted and start at the layer.

    ``attn`` and ``mlp`` are what is not computed when dropped. Where a module of its own
    adds the stream and applies the norm (``*_add``, called with the sublayer's output and
    the stream), its ``LayerNorm`` of the bare stream stays; where the block adds, the
    dropped module gives zeros. ``*_proj`` is the output projection.
    """

    layers: str
    attn: str
    mlp: str
    attn_proj: str
    mlp_proj: str
    attn_add: str | None = None
    mlp_add: str | None = None


_BERT = EncoderSpec(
    "encoder.layer",
    "attention.self",
    "intermediate",
    "attention.output.dense",
    "output.dense",
    "attention.output",
    "output",
)
ENCODERS = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _BERT),
    "mpnet": EncoderSpec("encoder.layer", "attention.attn", "intermediate", "attention.attn.o", "output.dense",
                         mlp_add="output"),
    "distilbert": EncoderSpec("transformer.layer", "attention", "ffn", "attention.out_lin", "ffn.lin2"),
    "modernbert": EncoderSpec("layers", "attn", "mlp", "attn.Wo", "mlp.Wo"),
}  # fmt: skip
"""Rows by ``config.model_type``."""


@dataclass(eq=False)
class Encoder:
    """A sentence-transformers model in evaluation mode, with the layout of its transformer."""

    model: nn.Module
    name: str
    spec: EncoderSpec
    fingerprint: str

    @classmethod
    def from_model(cls, model: nn.Module, name: str = "tiny") -> "Encoder":
        """Wrap a ``SentenceTransformer``. Raises PrunelibError for a family without a row."""
        model.eval().requires_grad_(False)
        inner = getattr(model[0], "auto_model", None)
        kind = getattr(getattr(inner, "config", None), "model_type", type(model[0]).__name__)
        if kind not in ENCODERS:
            known = ", ".join(ENCODERS)
            raise PrunelibError(
                f"{name} is a {kind} model{nearest(kind, ENCODERS)}; encoders of these families can be dropped: {known}"
            )
        return cls(model, name, ENCODERS[kind], fingerprint(inner))

    @property
    def layers(self) -> list[nn.Module]:
        return list(self.model[0].auto_model.get_submodule(self.spec.layers))

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    def embed(self, texts: Sequence[str], query: bool = False, batch_size: int = 32) -> np.ndarray:
        """Unit vectors [texts, d], float32. The model's own prompt for queries is used if it has one."""
        prompts = self.model.prompts or {}
        # Sentence-transformers sorts by length itself, and puts the rows back.
        return self.model.encode(
            list(texts),
            prompt=(prompts.get("query" if query else "document") or None),
            batch_size=batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )


def check_name(name: str) -> None:
    """Raises PrunelibError for a name that no encoder has here: of a language model, of no folder, out of reach."""
    alias, path = fetch.aliases().get(name), Path(name).expanduser()
    if alias and alias.kind != "encoder":
        raise PrunelibError(f"{name} is a language model; as an embedder it is given as lm:{name}")
    if alias:
        return
    if path.is_dir() or name.startswith((".", "/", "~")):
        if not (path / "config.json").is_file():
            raise PrunelibError(
                f"no such encoder folder: {name}"
                if not path.is_dir()
                else f"{name} is no sentence-transformers model: it has no config.json"
            )
        return
    from huggingface_hub.errors import HFValidationError

    from prunelib.models import hub

    near = nearest(name, [one for one, about in fetch.aliases().items() if about.kind == "encoder"])
    try:
        known = hub.cached(name)
    except HFValidationError:
        raise PrunelibError(f"'{name}' is no name of an encoder{near}") from None
    if not known and hub.offline():
        raise PrunelibError(f"the encoder {name} is not on this disk, and there is no network{near}")


def load_encoder(name: str, revision: str | None = None, device: str = "auto") -> Encoder:
    """An encoder by alias, folder or hub id, in float32.

    Raises PrunelibError for an alias of a language model, an unknown name, no network
    and no cache, an unsupported family, pickled weights, weights that lack a tensor.
    """
    alias = fetch.aliases().get(name)
    if alias and alias.kind != "encoder":
        raise PrunelibError(f"{name} is a language model; as an embedder it is given as lm:{name}")
    from sentence_transformers import SentenceTransformer

    from prunelib.models import hub
    from prunelib.models.checkpoint import quiet

    folder = alias or Path(name).expanduser().is_dir() or name.startswith((".", "/", "~"))
    source = str(fetch.fetch(name, revision).path) if folder else name
    with quiet():
        try:
            local = source == name and hub.offline()
            model = SentenceTransformer(
                source,
                revision=revision,
                device=str(resolve_device(device)),
                local_files_only=local,
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float32, "use_safetensors": True},
            )
            _check_weights(model[0].auto_model, name)
        except PrunelibError:
            raise
        except Exception as error:
            if source == name:
                hint = nearest(name, fetch.aliases())
                raise PrunelibError(hub.explain(error, name, revision, hint, local)) from error
            raise PrunelibError(f"{name} is no sentence-transformers model: {str(error).splitlines()[0]}") from error
    return Encoder.from_model(model, name)


def _check_weights(model: nn.Module, name: str) -> None:
    """Ask for the loading report, which sentence-transformers does not pass on: a missing weight is random."""
    from transformers import AutoModel

    _, info = AutoModel.from_pretrained(
        model.config._name_or_path,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    # A pooler is not part of the stream, and many encoders are saved without it; heads are not read.
    lacks = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if lacks:
        raise PrunelibError(f"the checkpoint of {name} is incomplete: it lacks {lacks[0]}")


@contextmanager
def dropped(encoder: Encoder, sites) -> Iterator[None]:
    """Remove sublayers of an encoder: nothing of them is computed, what they add is exactly zero.

    Norms after the addition stay, as in a layer whose output projection is zero. Same
    contract as :func:`prunelib.models.hooks.dropped`: nestable, and no trace on exit.
    """
    with ExitStack() as stack:
        for site in getattr(sites, "sites", sites):
            if not 0 <= site.layer < encoder.n_layers:
                last = encoder.n_layers - 1
                raise PrunelibError(f"{site} is out of range: {encoder.name} has layers 0 to {last}")
            for one in site.sublayers:
                for module, forward in _stubs(encoder, one.layer, one.kind):
                    stack.enter_context(hooks._replaced_forward(module, forward))
        yield


def _stubs(encoder: Encoder, layer: int, kind: str) -> Iterator[tuple[nn.Module, Callable]]:
    block, spec = encoder.layers[layer], encoder.spec
    path, add = (spec.attn, spec.attn_add) if kind == "attn" else (spec.mlp, spec.mlp_add)
    core = block.get_submodule(path)
    if add:
        # What the sublayer would give is never read: any tensor will do.
        yield core, (lambda x, *_, **__: (x, None)) if kind == "attn" else (lambda x, *_, **__: x)
        adder = block.get_submodule(add)
        yield adder, lambda output, stream, *_, norm=adder.LayerNorm, **__: norm(stream)
    elif kind == "attn":
        yield core, lambda x, *_, **__: (torch.zeros_like(x), None)
    else:
        yield core, lambda x, *_, **__: torch.zeros_like(x)


def importance(encoder: Encoder, texts: Sequence[str]) -> pd.DataFrame:
    """Cosine between the stream before and after each sublayer and block, mean over the texts' tokens.

    Columns ``layer, kind, cosine``: as :func:`prunelib.methods.criterion.importance`, for an
    encoder (He et al. 2024, ShortGPT for blocks). After a sublayer means after its norm where
    the family has one there, compared with the stream that the sublayer read.
    """
    sums: dict[tuple[str, int], list[float]] = {}
    mask: list[Tensor] = []

    def add(kind, layer, before, after):
        cosine = torch.cosine_similarity(before.double(), after.double(), dim=-1)[mask[-1].bool()]
        total = sums.setdefault((kind, layer), [0.0, 0])
        total[0] += float(cosine.sum())
        total[1] += cosine.numel()

    first = encoder.model[0]
    run = first.forward

    def forward(features, *args, **kwargs):
        mask.append(features["attention_mask"])
        return run(features, *args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(hooks._replaced_forward(first, forward))
        for layer, block in enumerate(encoder.layers):
            stack.enter_context(_compared(encoder, layer, block, add))
        encoder.embed(texts)
    rows = [(layer, kind, total / count) for (kind, layer), (total, count) in sorted(sums.items())]
    return pd.DataFrame(rows, columns=["layer", "kind", "cosine"])


@contextmanager
def _compared(encoder: Encoder, layer: int, block: nn.Module, add) -> Iterator[None]:
    """Tell ``add`` the stream before and after: the block as it runs, each sublayer by running without it."""
    whole = block.forward

    def forward(x, *args, **kwargs):
        out = whole(x, *args, **kwargs)
        after = out[0] if isinstance(out, tuple) else out
        add("block", layer, x, after)
        for kind in ("attn", "mlp"):
            with dropped(encoder, [Site(kind, layer)]):
                without = whole(x, *args, **kwargs)
            add(kind, layer, without[0] if isinstance(without, tuple) else without, after)
        return out

    with hooks._replaced_forward(block, forward):
        yield


# ---------------------------------------------------------------- a language model as an embedder

POOLINGS = ("mean", "last")


def check_pooling(name: str) -> None:
    """Raises PrunelibError for a pooling that is none of :data:`POOLINGS`."""
    if name not in POOLINGS:
        raise PrunelibError(f"unknown pooling '{name}'{nearest(name, POOLINGS)}; use mean or last")


INSTRUCTION = "Given a question, retrieve passages that answer the question"
"""The one that E5-Mistral was trained with for question answering."""


@dataclass(eq=False)
class Embedder:
    """A language model that embeds: its last normed states, pooled.

    ``pooling`` "mean" averages over all tokens, "last" takes the state at an appended
    end token. ``instruction`` goes before queries as ``Instruct: ... \\nQuery: ...`` (E5-Mistral); empty: none.
    """

    lm: LM
    pooling: str = "mean"
    instruction: str = ""

    def __post_init__(self):
        check_pooling(self.pooling)

    @property
    def name(self) -> str:
        return self.lm.name

    @property
    def n_layers(self) -> int:
        return self.lm.n_layers

    @torch.no_grad()
    def embed(self, texts: Sequence[str], query: bool = False, batch_size: int = 32) -> np.ndarray:
        """Unit vectors [texts, d], float32. Raises PrunelibError for a text longer than the model reads."""
        lm = self.lm
        if query and self.instruction:
            texts = [f"Instruct: {self.instruction}\nQuery: {text}" for text in texts]
        ids = [lm.encode_one(text, chat=False, end=True) for text in texts]
        if self.pooling == "last":
            ids = [row if row[-1] in lm.eos_ids else row + [min(lm.eos_ids)] for row in ids]
        longest = max(range(len(ids)), key=lambda i: len(ids[i]))
        lm.check_length(len(ids[longest]), f"text {longest + 1}")
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # little padding, and none kept
        found: list[np.ndarray | None] = [None] * len(ids)
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            batch = pad([ids[i] for i in some], lm.pad_id, side="right", device=lm.device)
            states = lm.model.base_model(**batch, use_cache=False).last_hidden_state.float()
            vectors = nn.functional.normalize(_pooled(states, batch["attention_mask"], self.pooling), dim=-1)
            for i, vector in zip(some, vectors.cpu().numpy(), strict=True):
                found[i] = vector
        return np.stack(found)


def _pooled(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """States [batch, seq, d] and mask [batch, seq] (padded on the right) to [batch, d]."""
    if pooling == "last":
        return states[torch.arange(len(states)), mask.sum(1) - 1]
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)
