"""The only file that reads checkpoints through transformers: opening and converting.

Whatever a library raises about a user's file is turned into one line here, and
the libraries' own bars and notes are kept quiet.
"""

import contextlib
import functools
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prunelib.errors import PrunelibError, nearest


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers, huggingface_hub and accelerate say nothing below an error, and draw no bars."""
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging as hf

    level, bars = hf.get_verbosity(), hf.is_progress_bar_enabled()
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "accelerate")]
    levels, gguf_bar = [one.level for one in loggers], gguf.tqdm
    hf.set_verbosity_error()
    hf.disable_progress_bar()
    gguf.tqdm = functools.partial(gguf_bar, disable=True)  # it has no switch of its own
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()
        gguf.tqdm = gguf_bar
        for one, before in zip(loggers, levels, strict=True):
            one.setLevel(before)


@contextlib.contextmanager
def one_line(what: str) -> Iterator[None]:
    """Any failure of the enclosed library call becomes ``PrunelibError(what: reason)``."""
    try:
        yield
    except (PrunelibError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise PrunelibError(f"{what}: {reason(error)}") from error


def reason(error: BaseException, limit: int = 200) -> str:
    """The first sentence of an exception's message, or its class name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def check_config(folder: str | Path, check: Callable | None = None):
    """The configuration of a checkpoint folder, refused in one line if it cannot be used.

    The model is built without storage, so that ``check`` (``supported.arch_for``)
    can refuse an unsupported layout before gigabytes are downloaded or read.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoConfig

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise PrunelibError(f"{folder} is not a model folder: it has no config.json")
    with quiet(), one_line(f"cannot read {folder / 'config.json'}"):
        family = json.loads((folder / "config.json").read_text()).get("model_type")
        if family not in CONFIG_MAPPING:
            raise PrunelibError(
                f"{folder / 'config.json'}: transformers knows no model type "
                f"'{family}'{nearest(str(family), CONFIG_MAPPING)}"
            )
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    name = (getattr(config, "architectures", None) or [type(config).__name__])[0]
    builder = auto_class(config)
    if builder is None:
        raise PrunelibError(
            f"{name} is not supported: model type '{config.model_type}' has no "
            "causal language model (missing: a decoder-only stack with a head)"
        )
    if getattr(config, "quantization_config", None):
        raise PrunelibError(
            f"{name} in {folder} is quantized: pruning needs plain weights; "
            "use the unquantized checkpoint or a GGUF file"
        )
    if check is not None:
        with quiet(), one_line(f"{folder / 'config.json'} describes no valid model"):
            with torch.device("meta"):
                model = builder.from_config(config, trust_remote_code=False)
            check(model)
    return config


def auto_class(config):
    """The class of transformers that makes a model that writes text from a configuration, or None.

    A wrapper of several towers is made whole, so that what is saved is what was read.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    )

    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    return AutoModelForImageTextToText if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING else None


def open_model(folder: str | Path, dtype, device_map: dict | None = None):
    """(model, tokenizer) of a folder of plain safetensors; ``dtype`` a torch dtype or "auto".

    The model is on the CPU, or where ``device_map`` (:func:`prunelib.models.placement.place`) puts its modules.
    Raises PrunelibError for a missing, incomplete or unreadable file and for an
    unsupported layout. Remote code and pickled weights are never loaded.
    """
    builder = auto_class(check_config(folder))
    check_weights(folder)
    tokenizer = open_tokenizer(folder)
    with quiet(), one_line(f"cannot read the weights in {folder}"):
        model, info = builder.from_pretrained(
            folder,
            dtype=dtype,
            device_map=device_map,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    check_fit(info, folder)
    return model, tokenizer


def check_weights(folder: str | Path) -> None:
    """Refuse a folder whose weights are not all safetensors beside its configuration, before any is opened.

    An index names the files it wants: one that names pickled weights, or a file elsewhere, is not followed.
    """
    folder = Path(folder)
    if not any(folder.glob("*.safetensors")):
        raise PrunelibError(f"{folder} has no .safetensors weights (pickled weights are not read)")
    for index in sorted(folder.glob("*.index.json")):
        if not index.name.endswith(".safetensors.index.json"):
            continue
        with one_line(f"cannot read {index}"):
            wanted = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        for name in wanted:
            if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
                raise PrunelibError(f"{index} names '{name}': only .safetensors files beside it are read")
            if not (folder / name).is_file():
                raise PrunelibError(f"the checkpoint in {folder} is incomplete: it lacks {name}")


def check_fit(info: dict, what: str | Path) -> None:
    """Refuse what transformers' loading report says does not fit, naming the first tensor of it.

    transformers fills a weight that the file lacks with random numbers, drops one that the model has no
    place for, and goes on: what is measured would not be what is in the file.
    """

    def first(names: set) -> str:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"{min(names)}{more}"

    if info["missing_keys"]:
        raise PrunelibError(f"the checkpoint in {what} is incomplete: it lacks {first(info['missing_keys'])}")
    if info["mismatched_keys"]:
        name, stored, wanted = min(info["mismatched_keys"], key=lambda row: row[0])
        raise PrunelibError(
            f"the checkpoint in {what} does not fit its configuration: {name} is "
            f"{list(stored)} in the file and {list(wanted)} in the model"
        )
    if info["unexpected_keys"]:
        raise PrunelibError(
            f"the checkpoint in {what} does not fit its configuration: the model has no place for "
            f"{first(info['unexpected_keys'])}"
        )


def open_tokenizer(folder: str | Path):
    """The tokenizer of a folder. Raises PrunelibError if there is none."""
    from transformers import AutoTokenizer

    with quiet(), one_line(f"cannot read a tokenizer in {folder}"):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def convert_gguf(parts: Sequence[Path], folder: Path) -> None:
    """Write the dequantised weights (float32), configuration and tokenizer of a GGUF file, or of all parts of one.

    transformers marks a model read from GGUF as quantized, and such a model
    refuses to be saved, cast or trained; so the plain configuration gets a
    plain model that takes over the weights. float32 holds the grid values exactly.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = parts[0]
    with quiet(), one_line(f"cannot read {file}"), _all_parts(parts[1:]):
        read = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
        tokenizer = AutoTokenizer.from_pretrained(**read)
        loaded, info = AutoModelForCausalLM.from_pretrained(
            **read, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    check_fit(info, file)
    with quiet():
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.device("meta"):
            plain = type(loaded)(config)
        plain.load_state_dict(loaded.state_dict(), strict=True, assign=True)
        plain.tie_weights()
        plain.generation_config = loaded.generation_config
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _all_parts(others: Sequence[Path]) -> Iterator[None]:
    """Let transformers, which opens one file, find the tensors of a split GGUF's other parts in its first one."""
    import gguf

    plain = gguf.GGUFReader

    class Reader(plain):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for other in others:
                self.tensors += plain(other).tensors

    gguf.GGUFReader = Reader if others else plain
    try:
        yield
    finally:
        gguf.GGUFReader = plain
