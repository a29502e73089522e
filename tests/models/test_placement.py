"""Where a model's parts go, worked out without storage and without the devices: sizes by hand, refusals in one line."""

import pytest
import tiny_files
import torch
from refusals import refused

import prunelib
from prunelib.models import hub, placement
from prunelib.models.load import resolve_dtype
from prunelib.models.supported import arch_for

FLOAT = 4


def meta(make_model, family="llama", **changes):
    return make_model(family, **changes).to("meta")


def sizes(model) -> tuple[int, int, int]:
    """Bytes in float32 of all weights, of a block, and of what is around the blocks."""
    total = sum(p.numel() for p in model.parameters()) * FLOAT
    block = sum(p.numel() for p in model.get_submodule(arch_for(model).layers)[0].parameters()) * FLOAT
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    return total + buffers, block, total + buffers - 4 * block


def placed(model, memory, dtype=torch.float32):
    return placement.place(model, arch_for(model), dtype, memory)


def blocks(found) -> list:
    return [found[f"model.layers.{i}"] for i in range(4)]


def test_what_one_device_holds_is_whole(make_model):
    model = meta(make_model)
    total, _, _ = sizes(model)
    assert placed(model, {0: total, "cpu": 0}) is None
    assert placed(model, {"cpu": total}) is None
    assert placed(model, {0: 2**40, 1: 2**40, "cpu": 0}) is None  # one GPU, though there are two


def test_a_smaller_type_takes_less(make_model):
    model = meta(make_model)
    memory = {0: sizes(model)[0] * 2 // 3, "cpu": 0}
    with refused("in float32", "a smaller --dtype"):
        placed(model, memory)
    assert placed(model, memory, torch.bfloat16) is None


def test_a_larger_type_than_the_configuration_names_takes_more(make_model):
    model = meta(make_model)
    total = sizes(model)[0]
    with refused("in float32"):
        placed(model.to(torch.bfloat16), {"cpu": total * 2 // 3})


def test_blocks_go_over_gpus_and_all_else_to_the_first(make_model):
    """accelerate leaves room for one more block on the first GPU."""
    model = meta(make_model)
    _, block, rest = sizes(model)
    found = placed(model, {0: rest + int(3.5 * block), 1: int(2.5 * block), "cpu": 0})
    assert blocks(found) == [0, 0, 1, 1]
    others = {name: place for name, place in found.items() if ".layers." not in name}
    assert set(others) == {"model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"}
    assert set(others.values()) == {0}


def test_what_is_left_waits_in_memory(make_model):
    """That is where those run that wait in memory."""
    model = meta(make_model)
    _, block, rest = sizes(model)
    found = placed(model, {0: rest + int(2.5 * block), "cpu": 10 * block})
    assert set(blocks(found)) == {0, "cpu"} and blocks(found).count(0) in (1, 2)
    assert sorted(blocks(found), key=str) == blocks(found)  # the first ones on the GPU


def test_every_parameter_has_a_place(lm):
    """In every family, and accelerate agrees."""
    from accelerate.utils import check_device_map

    model = lm.model
    total = placement.around(model, lm.arch, 0) | {f"{lm.arch.layers}.{i}": "cpu" for i in range(4)}
    check_device_map(model, total)


def test_what_would_need_a_disk_is_refused(make_model):
    model = meta(make_model)
    _, block, rest = sizes(model)
    for memory in ({0: rest + 2 * block, "cpu": block}, {0: rest // 2, 1: 2**40, "cpu": 2**40}):
        with refused("the weights need", "cuda:0", "main memory", "not kept on a disk"):
            placed(model, memory)


def test_a_model_that_memory_cannot_hold_is_refused_by_its_configuration(tmp_path, make_model, monkeypatch):
    folder = tiny_files.write_folder(make_model("llama"), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with refused("the weights need", "main memory 1e-06 GB"):
        prunelib.load(str(folder), max_memory={"cpu": "1KB"})
    with refused("no .safetensors weights"):
        prunelib.load(str(folder), max_memory={"cpu": "1GB"})
    monkeypatch.setattr(placement, "memory_here", lambda: {"cpu": 1000})
    with refused("main memory 1e-06 GB"):
        prunelib.load(str(folder))
    with refused("no .safetensors weights"):  # asked for by name, a device is taken at its word
        prunelib.load(str(folder), device="cpu")


def test_a_hub_model_is_refused_before_its_weights_are_downloaded(tmp_path, make_model, monkeypatch):
    import huggingface_hub

    folder, asked = tiny_files.write_folder(make_model("llama"), tmp_path / "model"), []

    def download(repo, allow_patterns, **_):
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "offline", lambda: False)
    with refused("the weights need"):
        prunelib.load("someone/something", max_memory={"cpu": "1KB"})
    assert asked == [["config.json"]]


@pytest.mark.parametrize("named", [0, "gpu", "disk"])
def test_memory_of_what_is_not_here(tmp_path, make_model, named):
    if named == 0 and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    folder = tiny_files.write_folder(make_model("llama"), tmp_path / "model")
    with refused(f"max_memory names '{named}'", "cpu"):
        prunelib.load(str(folder), max_memory={named: "1GB", "cpu": "1GB"})


def test_memory_that_is_free_is_not_filled():
    from accelerate.utils import get_max_memory

    free, taken = get_max_memory(), placement.memory_here()
    assert set(free) == set(taken)
    assert all(0 < taken[one] < free[one] for one in taken)


def test_the_type_of_a_device(monkeypatch):
    cuda, cpu, mps = map(torch.device, ("cuda", "cpu", "mps"))
    assert resolve_dtype("auto", cpu) == torch.float32 and resolve_dtype("auto", mps) == "auto"
    for known, wanted in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, known=known: known)
        assert resolve_dtype("auto", cuda) == wanted
        assert resolve_dtype("float32", cuda) == torch.float32


def test_ends_on_two_devices_are_refused(make_model):
    """A map of somebody's own: the head's hook says that it runs elsewhere."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model = make_model("llama")
    add_hook_to_module(model.lm_head, AlignDevicesHook("meta", tied_params_map=None))
    with refused("embeddings, final norm and unembedding run on cpu and meta"):
        prunelib.LM.from_model(model)
