"""Models from the Hugging Face hub as local snapshots; offline is normal.

``HF_HUB_OFFLINE``, ``HF_HOME``, ``HF_TOKEN``, ``HF_ENDPOINT`` and the proxy
variables hold as in huggingface_hub. Only configuration, tokenizer and
safetensors files of the top folder are fetched.
"""

import json
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from prunelib.errors import PrunelibError
from prunelib.models.checkpoint import check_config, quiet, reason
from prunelib.models.supported import arch_for

_WANTED = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "README.md"]
_UNWANTED = ["*/*", "consolidated*"]


def snapshot(repo: str, revision: str | None = None, hint: str = "", check: Callable = arch_for) -> Path:
    """Local folder of a hub model, named by its commit; downloaded as far as it is missing.

    The configuration comes first, so that an unsupported model is refused
    before its weights are downloaded: ``check`` gets the model without storage. ``hint`` ends the line about
    an unknown model. Raises PrunelibError in one line for whatever the hub answers.
    """
    from huggingface_hub import snapshot_download

    local = offline()
    kept = {"local_files_only": local, "ignore_patterns": _UNWANTED}
    with quiet():
        try:
            _bars(False)
            first = snapshot_download(repo, revision=revision, allow_patterns=["config.json"], **kept)
            if (Path(first) / "config.json").is_file():
                check_config(first, check)
            _bars(sys.stderr.isatty())
            # The commit of the first answer: a branch may move in between.
            return Path(snapshot_download(repo, revision=Path(first).name, allow_patterns=_WANTED, **kept))
        except (PrunelibError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise PrunelibError(explain(error, repo, revision, hint, local)) from error


def listed(repo: str, revision: str | None = None, hint: str = "") -> tuple[Path, dict[str, int] | None]:
    """A folder with the ``config.json`` of a hub model, and the bytes of each file that :func:`snapshot` would fetch.

    No other file is fetched. Sizes are None without a network. Raises PrunelibError as :func:`snapshot` does.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    local = offline()
    kept = {"local_files_only": local, "ignore_patterns": _UNWANTED}
    with quiet():
        try:
            _bars(False)
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=["config.json"], **kept))
            if local:
                return folder, None
            files = {file.path: file.size for file in HfApi().list_repo_tree(repo, revision=folder.name)
                     if hasattr(file, "size")}  # fmt: skip
        except KeyboardInterrupt:
            raise
        except Exception as error:
            raise PrunelibError(explain(error, repo, revision, hint, local)) from error
    wanted = filter_repo_objects(files, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
    return folder, {name: files[name] for name in wanted}


def cached(repo: str, revision: str | None = None) -> Path | None:
    """The snapshot folder of a model whose weights are complete on this disk, or None."""
    from huggingface_hub import try_to_load_from_cache

    def find(name: str) -> Path | None:
        found = try_to_load_from_cache(repo, name, revision=revision or "main")
        return Path(found) if isinstance(found, str) else None

    single, index = find("model.safetensors"), find("model.safetensors.index.json")
    if single:
        return single.parent
    if index is None:
        return None
    shards = set(json.loads(index.read_text())["weight_map"].values())
    return index.parent if all((index.parent / shard).is_file() for shard in shards) else None


def licence(folder: Path) -> str:
    """The ``license`` field of a model card's header, or "unknown"."""
    card = folder / "README.md"
    header = card.read_text(errors="replace").split("\n---", 1)[0] if card.is_file() else ""
    found = re.search(r"^license:\s*([\w.-]+)", header, flags=re.MULTILINE)
    return found[1] if found else "unknown"


def offline() -> bool:
    """Whether only the local hub cache can be used: asked for, or no name service.

    Looking up the host first saves the half minute of retries that
    huggingface_hub spends on a machine without a network.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    if any(os.environ.get(k) for k in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return True
    return False


def explain(error: BaseException, repo: str, revision: str | None, hint: str, local: bool) -> str:
    """One line for an exception of huggingface_hub, judged by the classes of its chain."""
    kinds, link = set(), error
    while link is not None:
        kinds.update(kind.__name__ for kind in type(link).__mro__)
        link = link.__cause__ or link.__context__
    if "GatedRepoError" in kinds:
        return f"{repo} is gated: accept its licence on the hub and set HF_TOKEN"
    if "RevisionNotFoundError" in kinds:
        return f"{repo} has no revision '{revision}'"
    if "RepositoryNotFoundError" in kinds:
        return f"unknown model '{repo}'{hint}: not on the hub, or private without HF_TOKEN"
    if "HFValidationError" in kinds:
        return f"unknown model '{repo}'{hint}: not a valid hub id"
    if local or kinds & {"LocalEntryNotFoundError", "ConnectionError", "ConnectError", "Timeout"}:
        why = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "no network"
        at = f" at revision '{revision}'" if revision else ""
        return f"{repo}{at} is not in the hub cache and cannot be downloaded ({why}){hint}"
    return f"cannot fetch {repo} from the hub: {reason(error)}"


def _bars(on: bool) -> None:
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    (enable_progress_bars if on else disable_progress_bars)()
