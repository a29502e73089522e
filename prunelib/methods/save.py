"""Checkpoints of compressed models that plain ``transformers`` loads.

A saved folder holds config, safetensors, tokenizer and ``prunelib.json``: what
was done to which model, on which tokens. The weights are ordinary floats, those that a repair changed among them.
Where sublayers are dropped, their output projections are zero, so that any
loader gives the logits of the dropped model; ``config.json`` lists them under
``prunelib_drop``, and :func:`prunelib.load` then does not compute them at all.
"""

import copy
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prunelib.errors import PrunelibError
from prunelib.files import new_folder
from prunelib.models import cachefiles, hooks
from prunelib.models.checkpoint import one_line, quiet
from prunelib.models.dropped import projection, refuse_dropped
from prunelib.models.lm import fingerprint
from prunelib.models.slots import state_dict
from prunelib.models.sublayers import Site

if TYPE_CHECKING:
    from torch import Tensor

    from prunelib.engine.text import Tokens
    from prunelib.methods.apply import Compressed

SCHEMA = 1
CALIBRATION = "prunelib-calibration.json"
"""File with the calibration token ids, beside the manifest."""


def check_target(folder: str | Path) -> Path:
    """The absolute path of a folder that can be made: absent, or empty.

    Raises PrunelibError for anything else, before any work is done.
    """
    path = Path(folder).expanduser().resolve()
    if path.is_dir() and next(path.iterdir(), None) is not None:
        raise PrunelibError(f"{folder} exists and is not empty: choose another folder")
    above = next(p for p in (path, *path.parents) if p.exists())
    if not above.is_dir():
        raise PrunelibError(f"cannot write {folder}: {above} is a file")
    if not os.access(above, os.W_OK):
        raise PrunelibError(f"cannot write {folder}: {above} is read-only")
    return path


def save(
    lm,
    made: "Compressed",
    folder: str | Path,
    calibration: "Tokens | None" = None,
    seed: int | None = None,
    about: dict | None = None,
) -> dict:
    """Write ``lm``, compressed as ``made``, to ``folder``; returns the manifest.

    ``lm`` is the dense model and is left as it is. ``calibration`` are the tokens
    that ``made`` was found with, drawn with ``seed``; ``about`` is added to the
    manifest as it is (code, package versions). The folder appears by one rename,
    complete. Raises PrunelibError for a folder that holds something, a result that
    changes nothing, a model that already has dropped sublayers, a full disk.
    """
    final = check_target(folder)
    sites = made.sites
    refuse_dropped(lm)
    rows = _rows(lm, made)
    if not sites and not any(row["relative_change"] for row in rows):
        raise PrunelibError(f"{made.spec} leaves every weight of {lm.name} as it is: there is nothing to save")
    manifest = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "spec": made.spec,
        "label": made.label,
        "settings": asdict(made.method) if made.weights else {},
        "source": lm.describe(),
        "bits_per_weight": made.bits_per_weight,
        "zero_mask_sha256": _mask_hash(lm, made),
        "drop": [str(site) for site in sites],
        "drop_scores": made.scores,
        "calibration": _about_tokens(calibration, seed) if calibration else None,
        "weights": rows,
        "repairs": [{"trained": one.trained, "tokens": one.tokens} for one in made.repairs],
    } | (about or {})
    with one_line(f"cannot write {folder}"), quiet(), _compressed(lm, made, sites):
        manifest["fingerprints"] = {
            "dense": lm.fingerprint,
            "compressed": fingerprint(lm.model),
            "of": f"configuration and weights as prunelib.load(..., dtype='{lm.describe()['dtype']}') "
            "has them; prunelib_drop is part of the configuration",
        }
        with new_folder(final, replace=False) as part:
            lm.model.save_pretrained(part, state_dict=state_dict(lm.model))
            if lm.tokenizer is not None:
                lm.tokenizer.save_pretrained(part)
            if calibration:
                (part / CALIBRATION).write_text(json.dumps(calibration.ids.tolist()) + "\n")
            cachefiles.write_marker(part, manifest)
    return manifest


@contextmanager
def _compressed(lm, made: "Compressed", sites: tuple[Site, ...]) -> Iterator[None]:
    """``lm.model`` with the weights and the configuration that are to be saved."""
    import torch

    from prunelib.methods.weights import head_name, is_tied, replaced

    with hooks.dropped(lm, sites):  # refuses sites that the model does not have
        pass
    # Saving writes into the configuration: it gets one of its own.
    config = lm.model.config
    lm.model.config = copy.deepcopy(config)
    if sites:
        lm.model.config.prunelib_drop = [str(site) for site in sites]
    if head_name(lm) in made.weights and is_tied(lm):
        lm.model.config.tie_word_embeddings = False  # the repaired head has a matrix of its own
    silent = [slot for site in sites for slot in projection(lm, site)]
    try:
        with replaced(lm, made.weights), hooks.replaced((slot, torch.zeros_like(slot.value())) for slot in silent):
            yield
    finally:
        lm.model.config = config


def _changed(lm, made: "Compressed") -> list[tuple[str, "Tensor"]]:
    """Names and dense values of what has new ones, in the order of the model: matrices of the blocks, then the rest."""
    from prunelib.methods.weights import all_weights, now, others

    new = made.weights
    return list(now(lm, [n for n in (*(w.name for w in all_weights(lm)), *others(lm)) if n in new]).items())


def _rows(lm, made: "Compressed") -> list[dict]:
    """What happened to each matrix, and to what else a repair changed: ``relative_change`` = ‖W′ − W‖_F / ‖W‖_F."""
    rows, values = [], made.weights
    for name, before in _changed(lm, made):
        # In float64, on the CPU: not every device has it.
        new, dense = values[name].cpu(), before.cpu().double()
        change = (new.double() - dense).norm() / dense.norm().clamp(min=1e-300)
        row = {"name": name, "shape": list(dense.shape), "zeros": int((new == 0).sum())}
        rows.append(row | {"relative_change": change.item()})
    return rows


def _mask_hash(lm, made: "Compressed") -> str | None:
    """SHA-256 over the places of the zeros: for each changed matrix [d_out, d_in] of the blocks in the order of the
    model, its name, a newline, and one bit a weight, row by row, the first in the highest bit. None without any."""
    import numpy as np

    from prunelib.methods.weights import others

    digest, values, rest = hashlib.sha256(), made.weights, others(lm)
    names = [name for name, _ in _changed(lm, made) if name not in rest]
    for name in names:
        zeros = (values[name] == 0).cpu().contiguous().numpy()
        digest.update(f"{name}\n".encode() + np.packbits(zeros).tobytes())
    return digest.hexdigest() if names else None


def _about_tokens(tokens: "Tokens", seed: int | None) -> dict:
    sequences, length = tokens.ids.shape
    return {
        "source": tokens.source,
        "seed": seed,
        "sequences": sequences,
        "length": length,
        "ids_sha256": tokens.ids_hash,
        "ids": CALIBRATION,
    }


def what_changed(manifest: dict) -> str:
    """A manifest of :func:`save` in a few words."""
    said, rows = [], [row for row in manifest["weights"] if len(row["shape"]) == 2]
    if rows:
        numel = sum(row["shape"][0] * row["shape"][1] for row in rows)
        said.append(f"{len(rows)} matrices, {sum(row['zeros'] for row in rows) / numel:.1%} zeros")
    if vectors := len(manifest["weights"]) - len(rows):
        said.append(f"{vectors} {'vector' if vectors == 1 else 'vectors'}")
    if manifest["drop"]:
        said.append(f"without {', '.join(manifest['drop'])}")
    return ", ".join(said)
