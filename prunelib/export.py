"""Compressed models as checkpoints that plain transformers loads.

A folder holds the new weights, configuration and tokenizer, and ``prunelib.json``,
which says how they came about. Dropped sublayers stay in place with their output
projection (and its bias) set to zero: any loader gives the logits of the model
without them. The plan is in the configuration (``prunelib_drop``), and
``hooks.dropped(lm, DropPlan.of(",".join(lm.config.prunelib_drop)))`` skips the work.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prunelib import hooks, store
from prunelib.checkpoint import one_line, quiet
from prunelib.compress.apply import Compressed
from prunelib.compress.drop import DropPlan
from prunelib.compress.weights import replaced
from prunelib.errors import PrunelibError
from prunelib.lm import fingerprint

MANIFEST = "prunelib.json"


def check_target(folder: Path) -> Path:
    """``folder`` if a checkpoint can be written there. Raises PrunelibError if it holds anything."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PrunelibError(f"{folder} exists already: choose another --out, or remove it")
    return folder


def save(lm, made: Compressed, folder: Path, calibration: dict | None = None) -> dict:
    """Write ``made`` of ``lm`` to ``folder`` and return its manifest.

    ``calibration`` says what tokens it came from (JSON-serialisable). The folder
    appears whole or not at all. Raises PrunelibError for a folder that is not
    empty, a full disk, or nothing to save (``dense``).
    """
    folder = check_target(folder)
    if not made.weights and not made.plan:
        raise PrunelibError("nothing is compressed: a dense model needs no new checkpoint")
    temporary = folder.with_name(f".tmp-{os.getpid()}-{folder.name}")
    try:
        temporary.mkdir(parents=True)
        with _saved_form(lm, made):
            with quiet(), one_line(f"cannot write {folder}"):
                lm.model.save_pretrained(temporary)
                if lm.tokenizer is not None:
                    lm.tokenizer.save_pretrained(temporary)
            manifest = _manifest(lm, made, calibration)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    except OSError as error:
        raise PrunelibError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


@contextmanager
def _saved_form(lm, made: Compressed) -> Iterator[None]:
    """The model with the weights and the configuration that go into the folder."""
    facts = {"prunelib_spec": made.spec} | ({"prunelib_drop": [str(s) for s in made.plan.sites]} if made.plan else {})
    with ExitStack() as stack:
        stack.enter_context(replaced(lm, made.weights))
        stack.enter_context(hooks.replaced((p, p.detach() * 0) for p in _outputs(lm, made.plan)))
        for name, value in facts.items():
            setattr(lm.config, name, value)
            stack.callback(delattr, lm.config, name)
        yield


def _outputs(lm, plan: DropPlan | None) -> Iterator:
    """Weights and biases of the output projections of dropped sublayers."""
    for site in plan.sites if plan else ():
        paths = {"attn": (lm.arch.attn_proj,), "mlp": (lm.arch.mlp_proj,)}
        for path in paths.get(site.kind, (lm.arch.attn_proj, lm.arch.mlp_proj)):
            yield from lm.layers[site.layer].get_submodule(path).parameters()


def _manifest(lm, made: Compressed, calibration: dict | None) -> dict:
    weights = [
        {"name": name, "shape": list(w.shape), "zeros": int((w == 0).sum())} for name, w in made.weights.items()
    ]
    return {
        "spec": made.spec,
        "label": made.label,
        "source": {"name": lm.name, "revision": lm.revision, "licence": lm.licence, "family": lm.arch.family},
        "fingerprint_dense": lm.fingerprint,
        "fingerprint": fingerprint(lm.model),
        "bits_per_weight": round(made.bits_per_weight, 6),
        "zeros": sum(w["zeros"] for w in weights),
        "zero_mask_sha256": mask_hash(made.weights) if weights else None,
        "dropped": [str(site) for site in made.plan.sites] if made.plan else [],
        "calibration": calibration,
        "weights": weights,
        "code": store.code_version(),
        "packages": store.packages(),
    }


def mask_hash(weights: dict) -> str:
    """SHA-256 over which weights are zero, by name: equal for equal masks, whatever the values."""
    import numpy as np

    digest = hashlib.sha256()
    for name in sorted(weights):
        mask = (weights[name] == 0).cpu().numpy()
        digest.update(f"{name} {mask.shape}\n".encode() + np.packbits(mask).tobytes())
    return digest.hexdigest()
