"""The only file that registers hooks or replaces what a module computes.

Contexts on one resident model, all nestable and in any order:

* :func:`captured` (and :func:`visited`) read the residual stream and never
  change it;
* :func:`dropped` removes attention, MLP or whole blocks without computing them;
* :func:`replaced` and :func:`own_head` run with other weights, :func:`watched` reads what weights read;
* :func:`stop_after` ends the forward pass early.

On exit, by an exception too, the model is as it was: no hook, no changed
module, no changed weight.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from prunelib.errors import PrunelibError, nearest
from prunelib.models.slots import Slot

POINTS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""Stream points of a layer, in the order of the forward pass of a sequential block."""

_SUBLAYERS = {"attn": ("attn",), "mlp": ("mlp",), "block": ("attn", "mlp")}

Captured = dict[str, dict[int, Tensor]]


@contextmanager
def captured(lm, points: Iterable[str] = POINTS, layers: Iterable[int] | None = None) -> Iterator[Captured]:
    """Collect stream points of the latest forward pass.

    Yields ``cap[point][layer]``, tensors [batch, seq, d] in the model's dtype, on ``lm.device``.
    ``attn_out`` and ``mlp_out`` are what is added to the stream, that is after
    any post-norm and residual multiplier, so that ``resid_mid = resid_pre +
    attn_out`` and ``resid_post = resid_mid + mlp_out`` (parallel blocks:
    ``resid_post = resid_pre + attn_out + mlp_out``, and no ``resid_mid``).
    Each forward pass starts afresh. ``layers=None`` means all of them.
    """
    points = tuple(points)
    cap: Captured = {point: {} for point in points}

    def start():
        for values in cap.values():
            values.clear()

    def visit(layer: int, values: dict[str, Tensor]):
        for point, value in values.items():
            cap[point][layer] = value

    with visited(lm, points, visit, layers, start):
        yield cap


@contextmanager
def visited(
    lm,
    points: Iterable[str],
    visit: Callable[[int, dict[str, Tensor]], None],
    layers: Iterable[int] | None = None,
    start: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Call ``visit(layer, {point: tensor [batch, seq, d]})`` as each layer ends.

    Only one layer's points are held at a time, so memory does not grow with
    depth. ``start()`` is called at the beginning of every forward pass. What
    ``visit`` returns is ignored: the stream cannot be changed here.
    """
    points = tuple(points)
    for point in points:
        if point not in POINTS:
            raise PrunelibError(f"unknown stream point '{point}'{nearest(point, POINTS)}")
    if "resid_mid" in points and lm.arch.is_parallel:
        raise PrunelibError(f"{lm.name} has parallel blocks: they have no resid_mid")
    wanted = range(lm.n_layers) if layers is None else sorted(set(layers))
    for layer in wanted:
        _check_layer(lm, layer)
    with ExitStack() as stack:
        first = lm.layers[0].register_forward_pre_hook(lambda *_: start())
        stack.callback(first.remove)
        for layer in wanted:
            for handle in _watch(lm, layer, points, visit):
                stack.callback(handle.remove)
        yield


def _watch(lm, layer: int, points: tuple[str, ...], visit) -> Iterator:
    """Register the hooks of one layer, innermost points first; yields their handles."""
    arch, block = lm.arch, lm.layers[layer]
    factor = getattr(lm.config, arch.residual_multiplier) if arch.residual_multiplier else 1
    values: dict[str, Tensor] = {}

    def before(point):
        def hook(module, args, kwargs):
            values[point] = args[0] if args else kwargs["hidden_states"]

        return hook

    def after(point, scale=1):
        def hook(module, args, output):
            value = _tensor(output)
            value = value.clone() if arch.adds_in_place else value
            values[point] = value if scale == 1 else value * scale

        return hook

    def finish(module, args, output):
        values["resid_post"] = _tensor(output)
        shape = values["resid_pre"].shape  # OPT's MLP sees [batch·seq, d]
        # Blocks may run on several devices: whoever reads the stream gets all of it on one.
        found = {point: values[point].view(shape).to(lm.device) for point in points}
        values.clear()
        visit(layer, found)

    yield block.register_forward_pre_hook(before("resid_pre"), with_kwargs=True)
    if "resid_mid" in points:
        yield lm.mid(layer).register_forward_pre_hook(before("resid_mid"), with_kwargs=True)
    if "attn_out" in points:
        module = block.get_submodule(arch.attn_post or arch.attn)
        yield module.register_forward_hook(after("attn_out", factor))
    if "mlp_out" in points:
        module = block.get_submodule(arch.mlp_post or arch.mlp)
        yield module.register_forward_hook(after("mlp_out", factor))
    yield block.register_forward_hook(finish)


@contextmanager
def dropped(lm, plan) -> Iterator[None]:
    """Remove sublayers: their contribution to the stream is exactly zero.

    ``plan`` is a ``DropPlan`` or an iterable of sites (``kind`` in attn, mlp,
    block; ``layer``). Nothing of a dropped sublayer is computed, norms that only
    it reads included. Generation with a key–value cache stays right for every
    plan: sequence length and masks are read from the cache, so a dropped
    attention still fills its slot, with one head of one zero. Raises
    :class:`PrunelibError` for a site that the model does not have.
    """
    targets = set()
    for site in getattr(plan, "sites", plan):
        if site.kind not in _SUBLAYERS:
            raise PrunelibError(f"unknown kind '{site.kind}'{nearest(site.kind, _SUBLAYERS)}")
        _check_layer(lm, site.layer, site)
        targets.update((sublayer, site.layer) for sublayer in _SUBLAYERS[site.kind])
    with ExitStack() as stack:
        for sublayer, layer in sorted(targets):
            stubs = _attn_stubs(lm, layer) if sublayer == "attn" else _mlp_stubs(lm, layer)
            for module, forward in stubs:
                stack.enter_context(_replaced_forward(module, forward))
        yield


def gone(lm) -> frozenset[tuple[str, int]]:
    """``(kind, layer)`` of what is dropped now, by a context or the checkpoint; a block is where both sublayers are."""
    found = set()
    for layer in range(lm.n_layers):
        paths = dropped_paths(lm, layer)
        kinds = {kind for kind, path in (("attn", lm.arch.attn), ("mlp", lm.arch.mlp)) if path in paths}
        found |= {(kind, layer) for kind in kinds | ({"block"} if len(kinds) == 2 else set())}
    return frozenset(found)


def dropped_paths(lm, layer: int) -> tuple[str, ...]:
    """Places in a block of its sublayers that are dropped now."""
    block, arch = lm.layers[layer], lm.arch
    places = ((arch.attn,), tuple(filter(None, (arch.mlp, arch.mlp_in))))
    modules = dict(block.named_modules())
    gone = (p for p in places if p[0] in modules and getattr(vars(modules[p[0]]).get("forward"), "drops", False))
    return tuple(path for paths in gone for path in paths)


def _attn_stubs(lm, layer: int) -> Iterator[tuple[nn.Module, Callable]]:
    """What to run instead of the attention and its own norms, module by module."""
    arch, block = lm.arch, lm.layers[layer]
    attention = block.get_submodule(arch.attn)
    slot = getattr(attention, "layer_idx", layer)

    def forward(hidden_states, *args, **kwargs):
        cache = kwargs.get(arch.cache_kwarg)
        if cache is not None:
            _fill_slot(cache, slot, hidden_states)
        return hidden_states.new_zeros(hidden_states.shape), None

    forward.drops = True
    yield attention, forward
    for path in filter(None, (arch.attn_norm, arch.attn_post)):
        yield block.get_submodule(path), _same


def _mlp_stubs(lm, layer: int) -> Iterator[tuple[nn.Module, Callable]]:
    """What to run instead of the MLP and its own norms, module by module."""
    arch, block = lm.arch, lm.layers[layer]
    routed = arch.mixture is not None and arch.mixture.returns_routing and lm.experts(layer) is not None
    yield block.get_submodule(arch.mlp), _no_routing if routed else _zeros
    for path in filter(None, (arch.mlp_in, arch.mlp_norm, arch.mlp_post)):
        yield block.get_submodule(path), _same


def _zeros(hidden_states: Tensor, *args, **kwargs) -> Tensor:
    return hidden_states.new_zeros(hidden_states.shape)


def _no_routing(hidden_states: Tensor, *args, **kwargs) -> tuple[Tensor, None]:
    return _zeros(hidden_states), None


_zeros.drops = _no_routing.drops = True  # what `dropped_paths` knows a dropped sublayer by


def _same(hidden_states: Tensor, *args, **kwargs) -> Tensor:
    return hidden_states


def _fill_slot(cache, slot: int, like: Tensor) -> None:
    """Push zero keys and values for the positions of ``like`` [batch, seq, d].

    One head of one dimension, unless the slot already holds a dense prefix,
    whose shape must then be kept.
    """
    heads, dims_k, dims_v = 1, 1, 1
    layers = getattr(cache, "layers", ())
    keys = getattr(layers[slot], "keys", None) if slot < len(layers) else None
    if keys is not None and keys.dim() == 4:
        heads, dims_k, dims_v = keys.shape[1], keys.shape[3], layers[slot].values.shape[3]
    batch, seq = like.shape[:2]
    cache.update(like.new_zeros(batch, heads, seq, dims_k), like.new_zeros(batch, heads, seq, dims_v), slot)


class _Stop(Exception):
    """Carries the end of a forward pass from a layer up to the model."""


@contextmanager
def stop_after(lm, layer: int) -> Iterator[None]:
    """Forward passes end once ``layer`` has run; ``lm.model(...)`` returns ``None``.

    For calibration and captures: later layers and the unembedding cost nothing.
    Not for ``generate``, which needs the logits.
    """
    _check_layer(lm, layer)
    block, run = lm.layers[layer], lm.model.forward

    def stop(module, args, output):
        raise _Stop

    @functools.wraps(run)
    def forward(*args, **kwargs):
        # Registered here and not on entry: the last hook of the layer, so that
        # captures entered later inside this context still see its output.
        handle = block.register_forward_hook(stop)
        try:
            return run(*args, **kwargs)
        except _Stop:
            return None
        finally:
            handle.remove()

    with _replaced_forward(lm.model, forward):
        yield


@contextmanager
def replaced(parameters: Iterable[tuple[Slot, Tensor]]) -> Iterator[None]:
    """Run with other values of some parameters, in the same shape, type and place.

    The dense tensors are set aside, not copied, and put back on exit.
    """
    with ExitStack() as stack:
        for slot, value in parameters:
            stack.enter_context(slot.replaced(value))
        yield


@contextmanager
def own_head(lm, value: Tensor) -> Iterator[None]:
    """Run with another unembedding [V, d], one of its own: a tied embedding keeps its values."""
    head, slot = lm.head, Slot(lm.head, "weight")
    before, value = head.weight, value.to(slot.kept_on, lm.dtype).contiguous()
    if slot.offloaded:  # tied or not, it has a value of its own where it is kept
        with slot.replaced(value):
            yield
        return
    head.weight = nn.Parameter(value, requires_grad=False)
    try:
        yield
    finally:
        head.weight = before


def block_calls(lm, **inputs) -> tuple[Tensor, list[tuple[tuple, dict]]]:
    """What reaches the blocks in a forward pass, without running any of them.

    Returns ``resid_pre`` of layer 0 [batch, seq, d] and, for each layer, the other
    positional and named arguments of its call (masks and rotary tables can differ
    from layer to layer). :func:`replay` runs a block on them.
    """
    calls: list[tuple[tuple, dict]] = [((), {})] * lm.n_layers
    first: list[Tensor] = []

    def recorder(layer):
        def forward(hidden_states, *args, **kwargs):
            calls[layer] = (args, kwargs)
            if layer == 0:
                first.append(hidden_states)
            return hidden_states

        return forward

    with ExitStack() as stack:
        for layer, block in enumerate(lm.layers):
            stack.enter_context(_replaced_forward(block, recorder(layer)))
        stack.enter_context(stop_after(lm, lm.n_layers - 1))
        stack.enter_context(torch.no_grad())
        lm.model(**inputs, use_cache=False)
    return first[0], calls


def replay(lm, layer: int, states: Tensor, call: tuple[tuple, dict]) -> Tensor:
    """The output [batch, seq, d] of block ``layer`` on ``states`` before it; its ``call`` is of :func:`block_calls`.

    It is on ``lm.device``, wherever the block runs. Contexts of this module act on it as on a forward pass.
    """
    arguments, named = call
    return _tensor(lm.layers[layer](states, *arguments, **named)).to(lm.device)


@contextmanager
def watched(
    lm,
    layer: int,
    modules: Sequence[nn.Module],
    read: Callable[[int, Tensor], None],
    normed: Callable[[str, Tensor], None] = lambda path, output: None,
    routed: Callable[[int, Tensor, Tensor, Tensor], None] = lambda expert, tokens, x, inner: None,
) -> Iterator[None]:
    """Call ``read(i, x)`` with the input of ``modules[i]``, and ``normed(path, y)`` with the
    output of every norm of block ``layer``, each time they run; ``routed(e, tokens [n], x [n, d],
    inner [n, d_ff])`` with what the two matrices of expert ``e`` read, for each expert that reads anything."""
    _check_layer(lm, layer)
    experts = lm.experts(layer)

    def ran(module, args):
        for expert, tokens, x in experts.reads(*args):
            routed(expert, tokens, x.detach(), experts.gated(expert, x).detach())

    with ExitStack() as stack:
        if experts:
            stack.callback(experts.module.register_forward_pre_hook(ran).remove)
        for place, module in enumerate(modules):
            hook = lambda _, args, place=place: read(place, args[0].detach())  # noqa: E731
            stack.callback(module.register_forward_pre_hook(hook).remove)
        for path, module in lm.layers[layer].named_modules():
            if own := _vectors(module):

                def hook(_, args, out, path=path, own=own):
                    if out.shape[-1] in own:  # a scale of each channel, and not the setting of an activation
                        normed(path, out.detach())

                stack.callback(module.register_forward_hook(hook).remove)
        yield


def _vectors(module: nn.Module) -> set[int]:
    """Lengths of a norm's parameters: those of a module without others, and without modules inside."""
    own = list(module.parameters())
    alone = next(module.children(), None) is None
    return {len(p) for p in own} if alone and own and all(p.dim() == 1 for p in own) else set()


@contextmanager
def _replaced_forward(module: nn.Module, forward: Callable) -> Iterator[None]:
    """Run ``forward`` in place of the module's own, which keeps its hooks and weights.

    The instance attribute shadows the class's method. Swapping the module in its
    parent would take its hooks away and change the names in ``state_dict``.
    """
    own = "forward" in module.__dict__
    previous = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own:
            module.forward = previous
        else:
            del module.forward


def _check_layer(lm, layer: int, site=None) -> None:
    if not 0 <= layer < lm.n_layers:
        raise PrunelibError(
            f"{site or f'layer {layer}'} is out of range: {lm.name} has {lm.n_layers} layers, 0 to {lm.n_layers - 1}"
        )


def _tensor(output) -> Tensor:
    """The hidden state of a module's output; attentions return ``(output, weights)``."""
    return output[0] if isinstance(output, tuple) else output
