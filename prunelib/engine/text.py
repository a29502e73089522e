"""Prompts, calibration tokens and the dense model's own trajectories."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prunelib.engine.decode import Sampled, decode, most_likely
from prunelib.errors import PrunelibError
from prunelib.files import parse_row, read_text, text_lines
from prunelib.models.checkpoint import reason
from prunelib.models.lm import LM
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
        yield 1, {"text": read_text(file)}
        return
    for number, line in text_lines(file):
        row = {"text": line.strip()}
        if file.suffix == ".jsonl":
            row = parse_row(line, f"{file}, line {number}")
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
    draws = torch.rand(n, length - 1, generator=generator, dtype=torch.float64)
    made = decode(lm, first[:, None].tolist(), length - 1, Sampled(draws), end=())
    return torch.cat([first[:, None], torch.tensor([one.ids for one in made])], dim=1)


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
    from prunelib.models.hub import offline

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
    choose = Sampled.seeded(len(prompts), new_tokens, seed, temperature) if temperature else most_likely
    made = decode(lm, encoded, new_tokens, choose, suppress=sorted(lm.eos_ids), batch_size=batch_size)
    return [
        Trajectory(prompt.id, prompt.kind, ids + one.ids, len(ids), lm.decode(one.ids, ids))
        for prompt, ids, one in zip(prompts, encoded, made, strict=True)
    ]
