"""Several logical devices on a machine that has none: ``far:0``, ``far:1``, … live in main memory, and do not mix.

``torch.empty(2, device="cpu:1")`` is on ``cpu``: a CPU has one device. The key that PyTorch keeps for backends of
others takes any number. Here its tensors wrap ones on the CPU, every operation is computed there, and, as on a GPU,
one whose operands are on different devices is refused; copies between devices, numbers (tensors of no dimension) and
indices from the CPU are not. ``python two_devices.py FAMILY FOLDER`` runs the checks of ``spread.py`` on one device
and on two and main memory, and that what mixes devices is refused here.
"""

import contextlib
import copy
import sys
from pathlib import Path

import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "far"
_setup_privateuseone_for_python_backend(NAME)

_ATEN = torch.ops.aten
_BETWEEN_DEVICES = {_ATEN._to_copy.default, _ATEN.copy_.default}
_INDEXED = {_ATEN.index.Tensor, _ATEN.index_put_.default, _ATEN.index_put.default}


class Far(torch.Tensor):
    """A tensor on a logical device; ``raw`` holds its values on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, data, index=None, requires_grad=False):
        if index is None:  # as accelerate makes a parameter: type(parameter)(data, requires_grad=…)
            return torch.nn.Parameter(data, requires_grad)
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            data.size(),
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            device=torch.device(NAME, index),
        )
        made.raw = data
        return made

    def __init__(self, *_, **__):
        super().__init__()

    def data_ptr(self):
        return self.raw.data_ptr()

    def tolist(self):
        return self.raw.tolist()

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        if value.device != self.device or value.shape != self.shape:
            raise RuntimeError(f"data of {value.device} for a parameter on {self.device}")
        self.raw = value.raw

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class Devices(TorchDispatchMode):
    """While it is entered, tensors can be made on logical devices. ``used`` counts operations by device."""

    def __init__(self):
        super().__init__()
        self.used: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with self if func.overloadpacket is _ATEN.to else contextlib.nullcontext():
            return _run(func, args, kwargs or {}, self.used)


def _run(func, args, kwargs, used=None):
    if torch.is_inference_mode_enabled():  # a wrapper that is a view of an ordinary tensor must be one itself
        with torch.inference_mode(False), torch.no_grad():
            return _run(func, args, kwargs, used)
    if func.overloadpacket is _ATEN.to:  # in inference mode it comes here whole, its device among the arguments
        return func.decompose(*args, **kwargs)
    given = _pytree.tree_leaves((args, kwargs))
    far = [one for one in given if isinstance(one, Far)]
    near = [one for one in given if isinstance(one, torch.Tensor) and not isinstance(one, Far) and one.dim()]
    target = kwargs.get("device")
    if target is not None:
        target = torch.device(target)
        kwargs = kwargs | {"device": torch.device("cpu") if target.type == NAME else target}
    elif func is _ATEN.copy_.default:
        target = args[0].device
    elif far:
        (target, *more) = {str(one.device): one.device for one in far if one.dim()}.values() or [far[0].device]
        if func in _INDEXED and isinstance(args[0], Far):
            more, near = [one for one in more if one != args[0].device], []
            near = [] if len(args) < 3 or isinstance(args[2], Far) or not args[2].dim() else [args[2]]
        if (more or near) and func not in _BETWEEN_DEVICES:
            places = sorted({str(one.device) for one in [*far, *near]})
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {' and '.join(places)}")
    if used is not None and target is not None:
        used[str(target)] = used.get(str(target), 0) + 1
    known = {id(one.raw): one for one in far}
    found = func(*_pytree.tree_map(_raw, args), **_pytree.tree_map(_raw, kwargs))
    if target is None or target.type != NAME:
        return found
    wrap = lambda one: known.get(id(one)) if id(one) in known else Far(one, target.index or 0)  # noqa: E731
    return _pytree.tree_map(lambda one: wrap(one) if type(one) is torch.Tensor else one, found)


def _raw(value):
    return value.raw if isinstance(value, Far) else value


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return Far(torch.empty_strided(size, stride, dtype=dtype, device="cpu"), torch.device(device).index or 0)


def _copy(self, other, non_blocking=False):
    """``torch.tensor([…], device=…)`` makes a tensor of its own here, past every mode, and copies into it."""
    self.raw.copy_(_raw(other))
    return self


_kernels = torch.library.Library("aten", "IMPL")
_kernels.impl("empty_strided", _empty_strided, "PrivateUse1")
_kernels.impl("copy_", _copy, "PrivateUse1")


def main(family: str, folder: Path) -> None:
    import accelerate.utils.modeling
    import spread
    import tiny_files
    from conftest import tiny_model

    from prunelib.models.lm import LM

    accelerate.utils.modeling.clear_device_cache = lambda: (
        None
    )  # a collection of garbage for every tensor that is moved
    model = tiny_model(family, **spread.FAMILIES[family])
    model.set_attn_implementation("eager")  # a fused kernel is chosen by the device
    model.set_experts_implementation("eager")
    on_cpu = LM.from_model(copy.deepcopy(model), tiny_files.tokenizer(), family)
    with Devices() as devices:
        moved = copy.deepcopy(model).to("far:0")
        moved.tie_weights()  # moved to another kind of tensor, parameters are new ones
        one = LM.from_model(moved, on_cpu.tokenizer, family)
        refuses_a_mixture(one)
        assert torch.allclose(spread.logits(one), spread.logits(on_cpu), rtol=1e-4, atol=1e-5)
        devices.used.clear()
        two = LM.from_model(
            spread.dispatched(model, "far:0", ["far:0", "far:1", "cpu", "far:1"]), one.tokenizer, family
        )
        assert two.describe()["layers_on"] == "far:0 0-0, far:1 1-1, cpu 2-2, far:1 3-3"
        for check in spread.CHECKS:  # files are written from storage, which nothing here has
            check(one, two, folder, *([spread.FEW] if check is spread.every_method else []))
        loads_onto_both(on_cpu, folder)
        spread.what_is_trained(one, two, ["norm", "head:2"])  # PyTorch takes gradients on one device of such a backend
        assert min(devices.used.get(place, 0) for place in ("far:0", "far:1")) > 100  # both have computed


def loads_onto_both(lm, folder: Path) -> None:
    """``load`` puts what it reads where the map says, and nothing in between."""
    import spread
    import tiny_files

    from prunelib.models import load as loading
    from prunelib.models.placement import around

    def place(model, arch, dtype, memory):
        blocks = {f"{arch.layers}.{i}": where for i, where in enumerate(["far:1", "cpu", "far:0", "far:1"])}
        return around(model, arch, "far:0") | blocks

    loading.place = place
    found = loading.load(str(tiny_files.write_folder(lm.model, folder / "model")), dtype="float32")
    assert (
        found.describe()["layers_on"] == "far:1 0-0, cpu 1-1, far:0 2-2, far:1 3-3"
        and found.fingerprint == lm.fingerprint
    )
    found.model.set_attn_implementation("eager")
    found.model.set_experts_implementation("eager")
    assert torch.allclose(spread.logits(found), spread.logits(lm), rtol=1e-4, atol=1e-5)


def refuses_a_mixture(lm) -> None:
    """Two devices that may be mixed would show nothing."""
    a, b = torch.ones(3, device="far:0"), torch.ones(3, device="far:1")
    for run in (lambda: a + b, lambda: a + torch.ones(3), lambda: a[torch.ones(3, device="far:1").bool()],
                lambda: lm.model(input_ids=torch.ones(1, 3, dtype=torch.long)), a.numpy):  # fmt: skip
        try:
            run()
        except (RuntimeError, TypeError):
            continue
        raise AssertionError("operands on different devices were taken")
    assert torch.equal((a + b.to("far:0")).cpu(), torch.full((3,), 2.0))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
