"""From a name to a loaded model: an alias of ``data/models.toml``, a local folder, a GGUF file or a hub id."""

import torch

from prunelib.errors import PrunelibError, nearest
from prunelib.models import checkpoint, fetch
from prunelib.models.dropped import stay_dropped
from prunelib.models.lm import LM
from prunelib.models.placement import Memory, place
from prunelib.models.supported import arch_for
from prunelib.paths import slugify

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}


def load(
    name: str,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "auto",
    max_memory: Memory | None = None,
) -> LM:
    """Load a model by alias, local folder, GGUF file or hub id.

    Parameters
    ----------
    name : alias (``prunelib models`` lists them), path, or ``org/model``
    revision : hub branch, tag or commit; always a string
    dtype : "auto" (:func:`resolve_dtype`) or a torch dtype name
    device : a torch device name, or "auto": cuda, else mps, else cpu. A model that the first GPU cannot hold is then
        spread over all GPUs and main memory (:mod:`prunelib.models.placement`)
    max_memory : for "auto", bytes that weights may take on each device, ``{0: "20GiB", "cpu": "60GiB"}``; by default
        most of what is free

    Raises
    ------
    PrunelibError
        One line each, for what a user can fix: unknown model, no network and no cache, corrupt files,
        unsupported layout, NaN weights; before anything is downloaded, a model that the devices cannot hold.
    """
    where = resolve_device(device)
    known = [*range(torch.cuda.device_count()), "cpu"]
    if strange := [one for one in max_memory or () if one not in known]:
        raise PrunelibError(f"max_memory names '{strange[0]}'; here it can have {', '.join(map(str, known))}")
    wanted = resolve_dtype(dtype, where)
    alias = fetch.aliases().get(name)
    if alias and alias.kind != "causal":
        raise PrunelibError(f"{name} is an {alias.kind}, not a causal language model")
    placed: dict | None = None

    def check(model: torch.nn.Module) -> None:
        """What the configuration alone can refuse."""
        nonlocal placed
        arch = arch_for(model)
        if device == "auto" and where.type != "mps":
            placed = place(model, arch, wanted, max_memory)

    source = fetch.fetch(name, revision or None, check=check)
    fetch.check_content(source)
    checkpoint.check_config(source.path, check)
    model, tokenizer = checkpoint.open_model(source.path, wanted, placed)
    if placed is None:
        model = model.to(where)
    lm = LM.from_model(model, tokenizer, name, source.revision, source.licence)
    lm.slug = slugify(name, revision or None)
    if getattr(lm.model.config, "prunelib_drop", None):  # written by `prunelib compress`
        stay_dropped(lm)
    return lm


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype | str:
    """A torch dtype, or "auto" for the checkpoint's own.

    What "auto" is: float32 on a CPU; bfloat16 on a CUDA GPU, or float16 on one that does not know it; the checkpoint's
    own on any other device.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        if device.type == "cuda":
            known = torch.cuda.is_bf16_supported(including_emulation=False)
            return torch.bfloat16 if known else torch.float16
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in DTYPES:
        raise PrunelibError(f"unknown dtype '{dtype}'{nearest(dtype, DTYPES)}; use auto or one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def resolve_device(device: str) -> torch.device:
    """A device that exists on this machine."""
    present = ["cpu"]
    if torch.cuda.is_available():
        present += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        present.append("mps")
    if device == "auto":
        return torch.device(next((d for d in ("cuda", "mps") if d in present), "cpu"))
    if str(device) not in present:
        raise PrunelibError(f"device '{device}' is not available here; use auto or one of {', '.join(present)}")
    return torch.device(device)
