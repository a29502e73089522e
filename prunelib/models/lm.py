"""A loaded language model: weights, tokenizer, layout, identity.

:func:`prunelib.models.load.load` makes one. All other modules work on that object and
never ask where the model came from.
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from prunelib.errors import PrunelibError, nearest
from prunelib.models import fetch
from prunelib.models.arch import ArchSpec
from prunelib.models.experts import Experts
from prunelib.models.placement import check_ends, layers_on
from prunelib.models.slots import Slot, dispatched, runs_on, slots
from prunelib.models.supported import arch_for, text_config
from prunelib.paths import slugify

LENSES = ("raw", "normed")

_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")  # what a chat template calls
_TAIL = 16  # tokens of a context that are decoded with what follows it

# Facts about how a model was stored, not about the function it computes.
_VOLATILE_CONFIG = {
    "_name_or_path",
    "_model_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "use_cache",
    "quantization_config",
}


@dataclass(eq=False)
class LM:
    """A dense causal language model in evaluation mode, without gradients.

    Attributes
    ----------
    model : transformers ``*ForCausalLM``
    tokenizer : transformers tokenizer, or None for an in-memory model
    arch : where the parts are (:class:`prunelib.models.arch.ArchSpec`)
    name : what the user asked for; ``slug`` is the same, safe as a folder name
    revision : hub commit, or the pinned source of an alias, or None
    fingerprint : SHA-256 over configuration and weights (:func:`fingerprint`)
    licence : SPDX id where it is known
    held : open contexts that the model runs in (dropped sublayers of its checkpoint)
    """

    model: nn.Module
    tokenizer: object | None
    arch: ArchSpec
    name: str
    slug: str
    revision: str | None
    fingerprint: str
    licence: str = "unknown"
    held: object = field(default=None, repr=False)

    @classmethod
    def from_model(
        cls, model: nn.Module, tokenizer=None, name: str = "tiny", revision: str | None = None, licence: str = "unknown"
    ) -> "LM":
        """Wrap a model that is already in memory (it is put in eval mode, gradients off).

        accelerate may have dispatched it, its blocks over any devices, main memory and a disk. Raises
        PrunelibError for an unsupported layout, for embeddings, final norm and unembedding that run on several
        devices, and for a weight that nothing holds, or that holds NaN or Inf.
        """
        arch = arch_for(model)
        check_ends(model, arch)
        model.eval().requires_grad_(False)
        if arch.mixture and model.dtype == torch.float64:
            model.set_experts_implementation("eager")  # grouped products know no float64
        return cls(model, tokenizer, arch, name, slugify(name), revision, fingerprint(model), licence)

    @property
    def device(self) -> torch.device:
        """Where tokens are read and logits written, and where streams are given out: that of the embedding.

        Blocks of a dispatched model may run elsewhere.
        """
        return runs_on(self.model.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        return self.head.weight.dtype

    @property
    def config(self):
        """The configuration of the language model, which a wrapper of several towers has inside its own."""
        return text_config(self.model.config)

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def d_model(self) -> int:
        return self.head.weight.shape[1]

    @property
    def vocab_size(self) -> int:
        return self.head.weight.shape[0]

    @property
    def layers(self) -> list[nn.Module]:
        return list(self.model.get_submodule(self.arch.layers))

    def attn(self, layer: int) -> nn.Module:
        return self.layers[layer].get_submodule(self.arch.attn)

    def mlp(self, layer: int) -> nn.Module:
        return self.layers[layer].get_submodule(self.arch.mlp)

    def mid(self, layer: int) -> nn.Module | None:
        """The submodule whose input is ``resid_mid``; None in a parallel block."""
        return self.layers[layer].get_submodule(self.arch.mid) if self.arch.mid else None

    def experts(self, layer: int) -> Experts | None:
        """The experts of a layer whose MLP is a mixture of them, None for a plain MLP."""
        return Experts.of(self.layers[layer], self.arch.mixture)

    @property
    def ln_final(self) -> nn.Module:
        return self.model.get_submodule(self.arch.ln_final)

    @property
    def body(self) -> nn.Module:
        """All but the head: it returns states [batch, seq, d] after the final norm as ``last_hidden_state``."""
        return self.model.get_submodule(self.arch.ln_final.rpartition(".")[0])

    @property
    def head(self) -> nn.Module:
        return self.model.get_submodule(self.arch.unembed)

    @property
    def W(self) -> Tensor:
        """Unembedding weight [V, d] on :attr:`device`: the model's own storage, but where it is offloaded a copy."""
        return Slot(self.head, "weight").value().to(self.device)

    @property
    def unembed_bias(self) -> Tensor | None:
        if getattr(self.head, "bias", None) is None:
            return None
        return Slot(self.head, "bias").value().to(self.device)

    def unembed(self, h: Tensor, lens: str = "normed") -> Tensor:
        """Logits z [..., V] in float32 of a stream h [..., d].

        ``lens="raw"`` is ``W h``, what the paper's code applies to inner layers;
        ``"normed"`` is ``W ln_final(h)``, what the model applies to its last layer.
        Both are followed by the family's own logit scaling and softcap, so the
        normed lens on the last ``resid_post`` gives the model's logits.
        """
        if lens not in LENSES:
            raise PrunelibError(f"unknown lens '{lens}'{nearest(lens, LENSES)}; use raw or normed")
        h = h.to(self.device, self.dtype)
        if lens == "normed":
            h = self.ln_final(h)
        return self.scale_logits(nn.functional.linear(h, self.W, self.unembed_bias).float())

    def logits(self, h: Tensor) -> Tensor:
        """Logits z [..., V] in float32 of what the model's body gives, states [..., d] after the final norm."""
        return self.unembed(h, "raw")

    def encode(self, texts: list[str], chat: bool | None = None, side: str = "left") -> dict:
        """Token ids of a padded batch: input_ids, attention_mask, position_ids [B, S] int64.

        ``chat=None`` uses the chat template (with the generation prompt) when the
        tokenizer has one. Position ids count real tokens from 0 whatever the
        padding: a bare forward would number the pads too.
        """
        return pad([self.encode_one(text, chat) for text in texts], self.pad_id, side, self.device)

    def encode_one(self, text: str, chat: bool | None = None, end: bool = False) -> list[int]:
        """Token ids of one text, unpadded; see :meth:`encode`.

        Special tokens before the text are the tokenizer's own. What it appends is left out, since a text
        that has ended is not continued; ``end=True`` keeps it, for an embedder that was trained to read it.
        Raises PrunelibError for an id that the model has no embedding for.
        """
        tokenizer, template = self.require_tokenizer(), self.chat_template
        if chat and not template:
            raise PrunelibError(f"{self.name} has no chat template; use chat=False")
        if chat is False or not template:
            ids = list(tokenizer(text)["input_ids"])
            return self.known(ids if end else self.unended(ids))
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], chat_template=template, add_generation_prompt=True, tokenize=False
        )
        # The template writes its own special tokens.
        return self.known(list(tokenizer(rendered, add_special_tokens=False)["input_ids"]))

    def known(self, ids: list[int]) -> list[int]:
        """``ids``, each of which the model has an embedding for. Raises PrunelibError naming one that it has not."""
        highest = max(ids, default=0)
        if highest >= self.vocab_size:
            token = self.require_tokenizer().convert_ids_to_tokens(highest)
            raise PrunelibError(
                f"the tokenizer of {self.name} gives id {highest} ('{token}') and the model has "
                f"{self.vocab_size} embeddings: it is the tokenizer of another model"
            )
        return ids

    def unended(self, ids: list[int]) -> list[int]:
        """``ids`` without the special tokens that the tokenizer puts after every text, where it does."""
        last = self._appended
        return ids[: len(ids) - len(last)] if last and ids[-len(last) :] == last else ids

    @cached_property
    def _appended(self) -> list[int]:
        plain, whole = (list(self.tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
        starts = [i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain]
        return whole[starts[-1] + len(plain) :] if plain and starts else []

    @property
    def chat_template(self) -> str | None:
        """The tokenizer's chat template, None where it has none.

        Where it prints today's date it prints that of :func:`prunelib.models.fetch.prompt_date`, so that the same
        prompt is the same tomorrow. Raises PrunelibError where that cannot be arranged.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            return None
        template = self.tokenizer.get_chat_template()
        fixed = _TODAY.sub(lambda found: repr(fetch.prompt_date().strftime(found[2])), template)
        if "strftime_now(" in fixed:
            raise PrunelibError(f"the chat template of {self.name} prints today's date in a form that cannot be fixed")
        return fixed

    @property
    def _reads_date(self) -> bool:
        return bool(self.chat_template) and self.chat_template != self.tokenizer.get_chat_template()

    def decode(self, ids: Sequence[int], context: Sequence[int] = ()) -> str:
        """Text of token ids, special tokens left out; after the token ids ``context``, where they are given.

        A tokenizer may write its first token without the space before it, so what was written after a
        prompt is decoded together with the prompt's end, which is then taken off.
        """
        decode = self.require_tokenizer().decode
        ids, before = list(map(int, ids)), list(map(int, context))[-_TAIL:]
        head = decode(before, skip_special_tokens=True)
        # A character of several tokens that begins in the context is nobody's; the ids alone say what they hold.
        if head and not head.endswith("\ufffd"):
            whole = decode([*before, *ids], skip_special_tokens=True)
            if whole.startswith(head):
                return whole[len(head) :]
        return decode(ids, skip_special_tokens=True)

    def require_tokenizer(self):
        if self.tokenizer is None:
            raise PrunelibError(f"{self.name} has no tokenizer: pass one to LM.from_model")
        return self.tokenizer

    @property
    def pad_id(self) -> int:
        """A valid id for masked positions, also for tokenizers without a pad token."""
        candidates = (getattr(self.tokenizer, "pad_token_id", None), *sorted(self.eos_ids))
        return next((i for i in candidates if i is not None and i < self.vocab_size), 0)

    @property
    def eos_ids(self) -> set[int]:
        """Every id that would end generation (tokenizer, config, generation config)."""
        generation = getattr(self.model, "generation_config", None)
        found: set[int] = set()
        for source in (self.tokenizer, self.config, generation):
            value = getattr(source, "eos_token_id", None)
            found.update(value if isinstance(value, (list, tuple)) else [value])
        return {int(i) for i in found if i is not None and 0 <= i < self.vocab_size}

    @property
    def positions(self) -> float:
        """Positions that the model reads right, infinite where it states no limit.

        A longrope model (Phi-3, 128k) has two rotary tables, and a text that grows past the first one's length
        would be written with states from both: ``generate`` reads it anew there, which nothing here does, so
        the first one's length is its limit.
        """
        config = self.config
        rope = getattr(config, "rope_parameters", None) or {}
        name = "original_max_position_embeddings"
        first = getattr(config, name, None) or rope.get(name)
        long = "longrope" in (rope.get("rope_type"), rope.get("type"))
        return (first if long else None) or getattr(config, "max_position_embeddings", None) or math.inf

    def check_length(self, length: int, what: str) -> None:
        """Refuse ``length`` tokens where the model has fewer positions. Raises PrunelibError naming ``what``."""
        if length > self.positions:
            raise PrunelibError(f"{what} needs {length} positions, {self.name} has {self.positions}")

    def describe(self) -> dict:
        """The manifest's ``model`` entry."""
        return {
            "name": self.name,
            "slug": self.slug,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "family": self.arch.family,
            "n_layers": self.n_layers,
            "d_model": self.d_model,
            "vocab_size": self.vocab_size,
            "licence": self.licence,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            **({"layers_on": layers_on(self.layers)} if dispatched(self.model) else {}),
            **({"dropped": sites} if (sites := getattr(self.model.config, "prunelib_drop", None)) else {}),
        } | ({"date": fetch.prompt_date().isoformat()} if self._reads_date else {})

    def scale_logits(self, z: Tensor) -> Tensor:
        """The family's logit scaling and softcap applied to ``W h`` (identity for most)."""
        scale, divisor, cap = (
            getattr(self.config, attribute, None) if attribute else None
            for attribute in (self.arch.logit_scale, self.arch.logit_divisor, self.arch.softcap)
        )
        z = z * scale if scale is not None else z
        z = z / divisor if divisor is not None else z
        return cap * torch.tanh(z / cap) if cap is not None else z


def pad(sequences: list[list[int]], pad_id: int, side: str = "left", device="cpu") -> dict:
    """Batch token lists of different lengths: input_ids, attention_mask, position_ids [B, S]."""
    if side not in ("left", "right"):
        raise PrunelibError(f"unknown padding side '{side}'; use left or right")
    if not sequences or not all(sequences):
        raise PrunelibError("nothing to encode: a text gave no tokens")
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        where = slice(width - len(sequence), width) if side == "left" else slice(len(sequence))
        ids[row, where] = torch.tensor(sequence, dtype=torch.long)
        mask[row, where] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "position_ids": positions.to(device)}


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the configuration and sorted (name, shape, dtype, bytes) of the weights.

    Facts of storage (paths, library versions) are left out, so a saved and
    reloaded model keeps its fingerprint, and so does one that is spread over devices. Tied weights count
    once. Raises PrunelibError for a weight that nothing holds and for NaN or Inf, naming the tensor.
    """
    weights = sorted(slots(model), key=lambda item: item[0])
    digest = hashlib.sha256(_config_json(model.config).encode())
    # Hashing releases the interpreter lock: a large model uses every core.
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        for part in pool.map(lambda item: _digest(*item), weights):
            digest.update(part)
    return digest.hexdigest()


def _config_json(config) -> str:
    return json.dumps(_lasting(config.to_dict()), sort_keys=True, default=str)


def _lasting(facts: dict) -> dict:
    """Without the facts of storage, in the configurations of a wrapper's towers too."""
    kept = {k: v for k, v in facts.items() if k not in _VOLATILE_CONFIG}
    return {k: _lasting(v) if isinstance(v, dict) else v for k, v in kept.items()}


def _digest(name: str, slot: Slot) -> bytes:
    weight = slot.value()
    if weight.is_floating_point() and not torch.isfinite(weight).all():
        raise PrunelibError(f"weight {name} holds NaN or Inf: the checkpoint is damaged")
    plain = weight.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{name} {tuple(plain.shape)} {plain.dtype}\n".encode())
    digest.update(plain.view(-1).view(torch.uint8).numpy() if plain.numel() else b"")
    return digest.digest()
