"""Tiny checkpoints on disk: a folder, a wheel and a GGUF file, made without a download."""

import hashlib
import zipfile
from pathlib import Path

WORDS = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz", "hello", "world"]


def tokenizer():
    """A word-level tokenizer with BOS and EOS but no pad token and no chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def write_folder(model, folder: Path, with_tokenizer: bool = True) -> Path:
    """``model`` and the tiny tokenizer, saved as users save them."""
    model.save_pretrained(folder)
    if with_tokenizer:
        tokenizer().save_pretrained(folder)
    return folder


def write_wheel(weights: Path, folder: Path, name: str = "tiny_model") -> Path:
    """A wheel that pip accepts, with the files of ``weights`` below ``<name>/model``."""
    folder.mkdir(parents=True, exist_ok=True)
    version = "1.0"
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(weights.iterdir()):
            archive.write(file, f"{name}/model/{file.name}")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_gguf(path: Path, layers: int = 2, width: int = 32, split: int = 0, without: str = "") -> Path:
    """A random float32 llama with a byte-pair vocabulary of single letters.

    ``split`` tensors a part, where it is above 0; ``without`` leaves the tensor of this name out.
    """
    import gguf
    import numpy as np

    letters = ["<unk>", "<s>", "</s>", *map(chr, range(ord("a"), ord("z") + 1)), "Ġ", "ab", "cd"]
    random, hidden = np.random.default_rng(0), 2 * width
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(width // 4)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(letters))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(letters)
    writer.add_token_types([3, 3, 3, *[1] * (len(letters) - 3)])
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def add(name, *shape):
        noise = random.standard_normal(shape) * width**-0.5
        if name != without:
            writer.add_tensor(name, (noise + (len(shape) == 1)).astype(np.float32))

    add("token_embd.weight", len(letters), width)
    add("output.weight", len(letters), width)
    add("output_norm.weight", width)
    for i in range(layers):
        add(f"blk.{i}.attn_norm.weight", width)
        add(f"blk.{i}.ffn_norm.weight", width)
        for part, rows in {"q": width, "k": width // 2, "v": width // 2, "output": width}.items():
            add(f"blk.{i}.attn_{part}.weight", rows, width)
        add(f"blk.{i}.ffn_gate.weight", hidden, width)
        add(f"blk.{i}.ffn_up.weight", hidden, width)
        add(f"blk.{i}.ffn_down.weight", width, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
