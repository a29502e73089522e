"""WikiText-2 and C4 in the windows of the pruning and quantization papers, for perplexities that can be compared.

The texts, how they are joined and how they are cut are those of the scripts behind the papers' tables
(locuslab/wanda ``lib/data.py`` and ``lib/eval.py``, which follow IST-DASLab/sparsegpt ``datautils.py``; gptq's
``c4-new``, not its ``c4``, which draws documents at random): the test split of WikiText-2 (raw v1) joined by two
newlines; the first 1,100 documents of C4's first validation file joined by a blank, and of that the first 256
windows. The text is tokenized as a whole, with the special tokens that the tokenizer puts before a text, and cut from
its first token into windows of 2,048 tokens, or of the model's length if that is shorter, without overlap; what is
left at the end is not read. Each window is read alone.

Their number is ``exp(Σ_w mean_w · L / (n · L))`` over ``n`` windows of ``L`` tokens, with ``mean_w`` the mean over the
``L − 1`` predicted tokens of a window: its first token is given, and the factor ``L`` cancels. All windows being
equally long, that is ``exp(Σ nll / Σ predicted tokens)``, which is what :func:`prunelib.measure.perplexity.text_nll`
gives. Strided perplexities (transformers' guide) and perplexities per word (lm-eval's ``wikitext``) are other numbers.
"""

import gzip
import itertools
import json
import os
from pathlib import Path
from typing import NamedTuple

from prunelib.errors import PrunelibError, nearest
from prunelib.files import read_jsonl
from prunelib.models import hub
from prunelib.models.checkpoint import quiet, reason
from prunelib.tasks.harness import FOLDER

WINDOW = 2048
"""Tokens of a window, as in the papers' tables; fewer where a model reads fewer."""


class Corpus(NamedTuple):
    """``file`` is its name in a folder of JSON lines with a field ``text``, ``path`` its name in the hub's data set
    ``repo``; the first ``documents`` are joined by ``glue``, and the first ``windows`` are read (None: all)."""

    title: str
    split: str
    file: str
    repo: str
    path: str
    glue: str
    documents: int | None = None
    windows: int | None = None


CORPORA = {
    "wikitext2": Corpus("WikiText-2 raw v1", "test", "wikitext2_test.jsonl", "Salesforce/wikitext",
                        "wikitext-2-raw-v1/test-00000-of-00001.parquet", "\n\n"),
    "c4": Corpus("C4 en, first validation file", "validation", "c4_validation.jsonl", "allenai/c4",
                 "en/c4-validation.00000-of-00008.json.gz", " ", 1100, 256),
}  # fmt: skip


def names(text: str) -> list[str]:
    """The corpora in ``text``, names separated by commas, once each; PrunelibError for an unknown one."""
    found = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in found:
        if name not in CORPORA:
            raise PrunelibError(f"unknown corpus '{name}'{nearest(name, CORPORA)}; use {', '.join(CORPORA)}")
    return found


def find(name: str) -> Path:
    """The file of a corpus: in the folder ``PRUNELIB_DATASETS`` if set, else the hub's, fetched if not here yet."""
    corpus, folder = CORPORA[name], os.environ.get(FOLDER)
    if folder:
        return Path(folder).expanduser() / corpus.file
    from huggingface_hub import hf_hub_download

    local = hub.offline()
    with quiet():
        try:
            return Path(hf_hub_download(corpus.repo, corpus.path, repo_type="dataset", local_files_only=local))
        except Exception as error:
            hint = f"; or set {FOLDER} to a folder with {corpus.file}"
            raise PrunelibError(hub.explain(error, corpus.repo, None, hint, local)) from error


def text(name: str, file: Path) -> str:
    """The whole text of a corpus from its file. Raises PrunelibError, naming file and line, for what is malformed."""
    corpus = CORPORA[name]
    if file.suffix == ".jsonl":
        rows = [row.need("text", filled=False) for row in read_jsonl(file)]  # WikiText has empty lines
    else:
        try:
            rows = _hub_rows(file, corpus.documents)
        except Exception as error:
            raise PrunelibError(f"cannot read {file}: {reason(error)}") from error
    rows = rows[: corpus.documents]
    wrong = next((i for i, row in enumerate(rows, 1) if not isinstance(row, str)), None)
    if wrong:
        raise PrunelibError(f'{file}, row {wrong}: "text" needs a text, got {type(rows[wrong - 1]).__name__}')
    return corpus.glue.join(rows)


def _hub_rows(file: Path, most: int | None) -> list:
    if file.suffix == ".parquet":
        import pandas as pd

        return pd.read_parquet(file, columns=["text"])["text"].tolist()
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        return [json.loads(line)["text"] for line in itertools.islice(stream, most)]


def windows(lm, name: str, whole: str) -> list[list[int]]:
    """Token ids of the windows of a corpus, all equally long; ``whole`` is its :func:`text`.

    Raises PrunelibError for a text shorter than one window.
    """
    with quiet():  # a tokenizer warns of texts longer than the model: they are cut here
        ids = lm.encode_one(whole, chat=False)
    length, most = int(min(WINDOW, lm.positions)), CORPORA[name].windows
    found = [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)][:most]
    if not found:
        raise PrunelibError(f"{name} gives {len(ids)} tokens, one window needs {length}")
    return found


def can_be_read(perplexity_on: str) -> None:
    """Raises PrunelibError for a corpus that is unknown, not to be had here, or malformed."""
    for name in names(perplexity_on):
        text(name, find(name))
