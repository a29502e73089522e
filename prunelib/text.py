"""Prompts, calibration tokens and the dense model's own trajectories."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prunelib import jsonl
from prunelib.checkpoint import reason
from prunelib.errors import PrunelibError
from prunelib.lm import LM, pad
from prunelib.paths import data_dir


@dataclass(frozen=True)
class Prompt:
    id: str
    kind: str
    text: str


@dataclass(frozen=True)
class Tokens:
    """Calibration tokens: ``ids`` [n, length] int64 on the CPU, and where they came from."""

    ids: Tensor
    source: str
    ids_hash: str


@dataclass(frozen=True)
class Trajectory:
    """A prompt and the dense model's continuation of it.

    ``input_ids`` holds both, unpadded; the first ``n_prompt`` are the prompt's.
    ``text`` is the continuation.
    """

    prompt_id: str
    kind: str
    input_ids: list[int]
    n_prompt: int
    text: str


# ---------------------------------------------------------------- prompts


def load_prompts(source: str = "default", limit: int | None = None) -> list[Prompt]:
    """The committed prompts, or a user's: ``.jsonl`` (id, kind, text) or ``.txt`` (one a line).

    In a ``.jsonl`` only ``text`` is required. ``limit`` keeps the first ones.
    Raises PrunelibError naming file and line for what cannot be read.
    """
    file = data_dir() / "prompts.jsonl" if source == "default" else Path(source).expanduser()
    prompts, seen = [], set()
    for number, row in _rows(file, whole=False):
        name, kind = (row.get(field) for field in ("id", "kind"))
        name, kind = f"line-{number}" if name is None else str(name), "user" if kind is None else str(kind)
        prompt = Prompt(name, kind, row["text"])
        if prompt.id in seen:
            raise PrunelibError(f"{file}, line {number}: the id '{prompt.id}' is used twice")
        seen.add(prompt.id)
        prompts.append(prompt)
    if not prompts:
        raise PrunelibError(f"{file} holds no prompt")
    if limit is not None and limit < 1:
        raise PrunelibError(f"limit must be at least 1, got {limit}")
    return prompts[:limit]


def _rows(file: Path, whole: bool) -> Iterator[tuple[int, dict]]:
    """(line number, {"text": …}) of a text file; ``whole`` takes a ``.txt`` as one text."""
    if file.suffix not in (".txt", ".jsonl"):
        raise PrunelibError(f"{file} must end in .txt or .jsonl")
    if whole and file.suffix == ".txt":
        yield 1, {"text": jsonl.text(file)}
        return
    for number, line in jsonl.lines(file):
        row = {"text": line.strip()}
        if file.suffix == ".jsonl":
            row = jsonl.parse(line, f"{file}, line {number}")
            row["text"] = row.need("text")
        yield number, row


# ---------------------------------------------------------------- calibration


def calibration(lm: LM, source: str = "self", n: int = 32, length: int = 128, seed: int = 0) -> Tokens:
    """``n`` calibration sequences of ``length`` tokens, the same for the same arguments.

    ``source`` is ``self`` (sampled from the dense model at temperature 1: works
    offline and for any model), a ``.txt`` or ``.jsonl`` file, or
    ``hub:DATASET[:CONFIG]`` (optional package ``datasets``; the paper uses C4,
    ``hub:allenai/c4:en``). Texts are joined and cut without overlap at seeded
    places. Raises PrunelibError for a text that is too short.
    """
    if n < 1 or length < 2:
        raise PrunelibError(f"calibration needs n ≥ 1 and length ≥ 2, got n={n}, length={length}")
    lm.check_length(length, "a calibration sequence")
    generator = torch.Generator().manual_seed(seed)
    if source == "self":
        ids = _sample(lm, n, length, generator)
    else:
        texts = (
            _hub_texts(source)
            if source.startswith("hub:")
            else (row["text"] for _, row in _rows(Path(source).expanduser(), whole=True))
        )
        ids = _cut(_tokens(lm, texts, enough=4 * n * length), source, n, length, generator)
    return Tokens(ids, source, hashlib.sha256(ids.numpy().tobytes()).hexdigest())


def _sample(lm: LM, n: int, length: int, generator: torch.Generator) -> Tensor:
    """Sequences from BOS (kept as first token); from random tokens if the model has no BOS."""
    bos = getattr(lm.tokenizer, "bos_token_id", None)
    bos = getattr(lm.config, "bos_token_id", None) if bos is None else bos
    if isinstance(bos, int) and 0 <= bos < lm.vocab_size:
        first = torch.full((n,), bos)
    else:
        first = torch.randint(lm.vocab_size, (n,), generator=generator)
    # Drawn up front: a sequence does not depend on how the rows are batched.
    draws = torch.rand(n, length - 1, generator=generator, dtype=torch.float64)
    parts = [
        _decode(lm, first[rows, None].tolist(), length - 1, draws=draws[rows]) for rows in _batches(list(range(n)), 32)
    ]
    return torch.cat([first[:, None], torch.cat(parts)], dim=1)


def _tokens(lm: LM, texts: Iterator[str], enough: int) -> list[int]:
    """Token ids of the texts one after another, without special tokens; stops at ``enough``."""
    tokenizer, ids = lm.require_tokenizer(), []
    for text in texts:
        ids += lm.known(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        # A text is taken whole: where a file is cut depends on the seed alone.
        if len(ids) >= enough:
            break
    return ids


def _cut(ids: list[int], source: str, n: int, length: int, generator: torch.Generator) -> Tensor:
    slots = len(ids) // length
    if slots < n:
        raise PrunelibError(
            f"{source} gives {len(ids)} tokens, {n} sequences of {length} need "
            f"{n * length}: use a longer text, or fewer or shorter sequences"
        )
    offset = int(torch.randint(len(ids) - slots * length + 1, (1,), generator=generator))
    chosen = torch.randperm(slots, generator=generator)[:n].tolist()
    return torch.tensor([ids[offset + i * length : offset + (i + 1) * length] for i in chosen])


def _hub_texts(source: str) -> Iterator[str]:
    """Texts of a hub data set's train split, streamed."""
    try:
        import datasets
    except ImportError as error:
        raise PrunelibError(f"{source} needs the package 'datasets': pip install 'prunelib[hub-data]'") from error
    from prunelib.hub import offline

    name, _, config = source.removeprefix("hub:").partition(":")
    if offline():
        raise PrunelibError(f"{source} cannot be read without a network: use 'self' or a text file as calibration")
    try:
        for row in datasets.load_dataset(name, config or None, split="train", streaming=True):
            if not isinstance(row.get("text"), str):
                raise PrunelibError(f"{source} has no text column named 'text'")
            yield row["text"]
    except (PrunelibError, GeneratorExit):
        raise
    except Exception as error:
        raise PrunelibError(f"cannot read {source}: {reason(error)}") from error


# ---------------------------------------------------------------- trajectories


def trajectories(
    lm: LM, prompts: list[Prompt], new_tokens: int, seed: int = 0, temperature: float = 0.0, batch_size: int = 16
) -> list[Trajectory]:
    """The dense model's continuation of each prompt, in the order of the prompts.

    Greedy at ``temperature=0``, else sampled with ``seed``. Prompts go through
    the chat template if there is one, left-padded in batches of similar length.
    Ids that end a text are suppressed, so every trajectory has exactly
    ``new_tokens`` new tokens: positions can be compared across prompts.
    """
    if new_tokens < 1:
        raise PrunelibError(f"new_tokens must be at least 1, got {new_tokens}")
    if temperature < 0:
        raise PrunelibError(f"temperature must not be negative, got {temperature}")
    encoded = [lm.encode_one(prompt.text) for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        lm.check_length(len(ids) + new_tokens, f"prompt '{prompt.id}' with {new_tokens} new tokens")
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(len(prompts), new_tokens, generator=generator, dtype=torch.float64)
    found: dict[int, Trajectory] = {}
    by_length = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    for rows in _batches(by_length, batch_size):
        new = _decode(
            lm,
            [encoded[i] for i in rows],
            new_tokens,
            suppress=sorted(lm.eos_ids),
            draws=draws[rows] if temperature else None,
            temperature=temperature,
        )
        for i, ids in zip(rows, new.tolist(), strict=True):
            found[i] = Trajectory(
                prompts[i].id, prompts[i].kind, encoded[i] + ids, len(encoded[i]), lm.decode(ids, encoded[i])
            )
    return [found[i] for i in range(len(prompts))]


@torch.inference_mode()
def _decode(
    lm: LM,
    starts: list[list[int]],
    steps: int,
    suppress: Sequence[int] = (),
    draws: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """New tokens [B, steps] on the CPU, by KV-cached steps from left-padded starts.

    ``draws`` [B, steps] in [0, 1) sample by the inverse of the cumulative
    distribution; without them the largest logit wins. Position ids are always
    passed: a model with learned positions would number the padding.
    """
    batch = pad(starts, lm.pad_id, "left", lm.device)
    ids, mask, positions = batch["input_ids"], batch["attention_mask"], batch["position_ids"]
    cache, new = None, []
    for step in range(steps):
        out = lm.model.base_model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        cache = out.past_key_values
        # The body's output has passed the final norm: only its last row meets the head.
        z = lm.unembed(out.last_hidden_state[:, -1], "raw")
        if suppress:
            z[:, list(suppress)] = -torch.inf
        ids = _choose(z, None if draws is None else draws[:, step], temperature)[:, None]
        new.append(ids)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return torch.cat(new, dim=1).cpu()


def _choose(z: Tensor, draw: Tensor | None, temperature: float) -> Tensor:
    if draw is None:
        return z.argmax(-1)
    cumulative = torch.softmax(z.double() / temperature, -1).cumsum(-1)
    # The last cumulative value is 1 up to rounding: scaling keeps the draw inside.
    target = draw.to(z.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=z.shape[-1] - 1)


def _batches(rows: list[int], size: int) -> Iterator[list[int]]:
    return (rows[i : i + size] for i in range(0, len(rows), size))
