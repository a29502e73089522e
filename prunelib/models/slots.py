"""Where parameters are kept: in their module, or, offloaded by accelerate, in main memory or on a disk.

accelerate runs each module of a dispatched model on a device of its own and moves what it reads there. The parameters
of an *offloaded* module are on that device only while it runs. Before and after, the module holds tensors without
storage (``meta``), and the mapping that accelerate's hook fetches from holds the values: these are what is read and
written here. Of a plain model a slot gives the parameter itself.
"""

from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from prunelib.errors import PrunelibError

DISK = "disk"


class Slot(NamedTuple):
    """A parameter, by its module and its name there.

    A module that is offloaded gets new ``Parameter`` objects whenever it runs, so that these are no identity.
    """

    module: nn.Module
    name: str

    @property
    def parameter(self) -> nn.Parameter:
        """What the module holds now: its shape and type are right, its values only where it is not offloaded."""
        return self.module._parameters[self.name]

    @property
    def offloaded(self) -> bool:
        return self.parameter.device.type == "meta"

    def value(self) -> Tensor:
        """The parameter where it is kept: its own storage, or a copy of it where that is a disk.

        Raises PrunelibError where nothing holds it.
        """
        if not self.offloaded:
            return self.parameter
        return _hook(self).weights_map[self.name]

    @property
    def kept_on(self) -> torch.device:
        """The device of :meth:`value`."""
        return self.parameter.device if not self.offloaded else torch.device("cpu")

    @property
    def place(self) -> str:
        """``"cuda:0"``, ``"cpu"`` or, where an offloaded parameter is in a file, ``"disk"``."""
        if not self.offloaded:
            return str(self.parameter.device)
        values, key = _store(self)
        return "cpu" if key in values else DISK

    def write(self, value: Tensor) -> None:
        """Give it another value for good, in the same shape and type."""
        if self.offloaded:
            values, key = _store(self)
            values[key] = value
        else:
            self.parameter.data = value

    @contextmanager
    def replaced(self, value: Tensor) -> Iterator[None]:
        """Another value for a while, in the same shape, type and place; the tensor that was there is set aside."""
        if not self.offloaded:
            parameter, before = self.parameter, self.parameter.data
            parameter.data = value
            try:
                yield
            finally:
                parameter.data = before
            return
        values, key = _store(self)  # what is in memory comes before what is in a file
        before = values.get(key)
        values[key] = value
        try:
            yield
        finally:
            if before is None:
                del values[key]
            else:
                values[key] = before


def slots(model: nn.Module) -> Iterator[tuple[str, Slot]]:
    """Every parameter of a model with its name, tied ones once: ``named_parameters``, offloaded ones included."""
    ties, seen = getattr(model, "all_tied_weights_keys", {}), set()
    for path, module in model.named_modules():
        for own, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{path}.{own}" if path else own
                slot = Slot(module, own)
                mark = id(parameter) if not slot.offloaded else _mark(slot, ties.get(name, name))
                if mark not in seen:
                    seen.add(mark)
                    yield name, slot


def state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The model's own, with the values of offloaded parameters where they are kept."""
    found = model.state_dict()
    for path, module in model.named_modules():
        for own in module._parameters:
            name = f"{path}.{own}" if path else own
            if name in found and found[name].device.type == "meta":
                found[name] = Slot(module, own).value()
    return found


def runs_on(module: nn.Module) -> torch.device | None:
    """The device that a module runs on; None for one without parameters that no hook moves."""
    for hook in _hooks(module):
        if hook.execution_device is not None:
            device = hook.execution_device
            return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    first = next(module.parameters(), None)
    return None if first is None else first.device


def dispatched(model: nn.Module) -> bool:
    """Whether accelerate moves what the model's modules read."""
    return any(hasattr(module, "_hf_hook") for module in model.modules())


def refuse_offloaded(modules: Iterable[nn.Module], what: str) -> None:
    """Raises PrunelibError where a parameter is offloaded; ``what`` cannot be done then."""
    for module in modules:
        if any(parameter.device.type == "meta" for parameter in module.parameters()):
            raise PrunelibError(
                f"{what} needs its weights on a device, and some are offloaded: use a device with more memory, "
                "a smaller --dtype, or --device cpu"
            )


def _hooks(module: nn.Module) -> list:
    """accelerate's hooks of a module that move what it reads."""
    hook = getattr(module, "_hf_hook", None)
    return [one for one in getattr(hook, "hooks", [hook]) if hasattr(one, "execution_device")]


def _hook(slot: Slot):
    """The hook that fetches an offloaded parameter."""
    for hook in _hooks(slot.module):
        if hook.offload and hook.weights_map is not None:
            return hook
    raise PrunelibError(
        f"a weight '{slot.name}' ({type(slot.module).__name__}) is offloaded, and no hook of accelerate holds its value"
    )


def _store(slot: Slot) -> tuple[MutableMapping[str, Tensor], str]:
    """What holds the values of offloaded parameters in memory, and the key of this one there."""
    from accelerate.utils import OffloadedWeightsLoader, PrefixedDataset

    values, key = _hook(slot).weights_map, slot.name
    while isinstance(values, PrefixedDataset):
        values, key = values.dataset, values.prefix + key
    return (values.state_dict if isinstance(values, OffloadedWeightsLoader) else values), key


def _mark(slot: Slot, source: str):
    """What offloaded parameters that are tied have in common."""
    values, key = _store(slot)
    return ("memory", values[key].data_ptr()) if key in values else (DISK, source)
