"""Which device each block of a model stands on, found from its configuration before any weight is there.

A model that one device holds stands on it whole. Of a larger one accelerate places the blocks: over all GPUs, and
what is left in main memory, from where a block's weights are brought to the first GPU whenever it runs. Embeddings,
final norm and unembedding stay on the first GPU: every logit needs them.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from prunelib.errors import PrunelibError
from prunelib.models.arch import ArchSpec
from prunelib.models.slots import runs_on, slots

GPU_SHARE, MEMORY_SHARE = 0.8, 0.9
"""Of the free memory of each GPU and of the machine, what weights may take: activations, logits, Gram matrices and
compressed weights need the rest."""

Memory = Mapping[int | str, int | str]
"""Bytes that weights may take, by the number of a GPU and ``"cpu"``: ``{0: "20GiB", "cpu": 64 * 2**30}``."""


def memory_here() -> dict[int | str, int]:
    """What weights may take on each device of this machine, by what is free now."""
    from accelerate.utils import get_max_memory

    free = get_max_memory()
    return {place: int(size * (MEMORY_SHARE if place == "cpu" else GPU_SHARE)) for place, size in free.items()}


def place(
    model: nn.Module, arch: ArchSpec, dtype: torch.dtype, memory: Memory | None = None
) -> dict[str, int | str] | None:
    """accelerate's ``device_map`` of a model that no single device holds; None for one that a device holds whole.

    ``model`` may be without storage (``meta``); ``dtype`` is that of its weights once loaded. ``memory`` is what each
    device may hold, by default :func:`memory_here`. Raises PrunelibError where a disk would be needed.
    """
    from accelerate.utils import get_balanced_memory, get_max_memory, infer_auto_device_map
    from accelerate.utils.modeling import compute_module_sizes

    memory = memory_here() if memory is None else get_max_memory(dict(memory))
    model = model.to(dtype)  # accelerate counts no parameter at more than its own type
    sizes = compute_module_sizes(model)
    gpus = [one for one in memory if one != "cpu"]
    if sizes[""] <= memory[(gpus or ["cpu"])[0]]:
        return None
    if not gpus:
        raise _too_large(sizes[""], dtype, memory)
    blocks, first = model.get_submodule(arch.layers), gpus[0]
    left = memory | {first: memory[first] - (sizes[""] - sizes[arch.layers])}
    if left[first] <= 0:
        raise _too_large(sizes[""], dtype, memory)
    whole = [type(block).__name__ for block in blocks]  # a block is never split: it adds up a stream
    found = infer_auto_device_map(
        blocks, get_balanced_memory(blocks, left, whole), no_split_module_classes=whole, clean_result=False
    )
    if "disk" in found.values():
        raise _too_large(sizes[""], dtype, memory)
    return around(model, arch, first) | {f"{arch.layers}.{name}": one for name, one in found.items()}


def around(model: nn.Module, arch: ArchSpec, device: int | str) -> dict[str, int | str]:
    """The part of a ``device_map`` that puts all but the blocks on one device."""
    found, path, node = {}, "", model
    for part in arch.layers.split("."):
        own = (node.named_children(), node.named_parameters(recurse=False), node.named_buffers(recurse=False))
        found |= {path + name: device for some in own for name, _ in some if name != part}
        path, node = f"{path}{part}.", node.get_submodule(part)
    return found


def check_ends(model: nn.Module, arch: ArchSpec) -> None:
    """Raises PrunelibError unless all but the blocks runs on one device, the one on which streams are read."""
    ends = model.get_input_embeddings(), *map(model.get_submodule, (arch.ln_final, arch.unembed))
    places = {str(place): None for place in map(runs_on, ends) if place is not None}
    if len(places) > 1:
        raise PrunelibError(
            f"embeddings, final norm and unembedding run on {' and '.join(places)}: they must run on one device; "
            "prunelib.load(..., device='auto') sees to that, and spreads the blocks alone"
        )


def layers_on(blocks: Iterable[nn.Module]) -> str:
    """Where blocks are kept: ``"cuda:0 0-11, cpu 12-31"``."""
    found: list[list] = []
    for layer, block in enumerate(blocks):
        place = next(slot.place for _, slot in slots(block))
        if found and found[-1][0] == place:
            found[-1][2] = layer
        else:
            found.append([place, layer, layer])
    return ", ".join(f"{place} {first}-{last}" for place, first, last in found)


def _too_large(size: int, dtype: torch.dtype, memory: Memory) -> PrunelibError:
    here = ", ".join(f"{_name(one)} {_gigabytes(held)}" for one, held in memory.items())
    smaller = " a smaller --dtype," if dtype.itemsize > 2 else ""
    return PrunelibError(
        f"the weights need {_gigabytes(size)} in {str(dtype).removeprefix('torch.')}, and the devices here can hold: "
        f"{here}; use{smaller} a smaller model or a machine with more memory (weights are not kept on a disk)"
    )


def _name(device: int | str) -> str:
    return "main memory" if device == "cpu" else f"cuda:{device}" if isinstance(device, int) else device


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
