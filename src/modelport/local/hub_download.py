"""Downloads a repository of the Hugging Face Hub into the Hub's cache, where the engines look for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from modelport.errors import InvalidRequest, MissingDependency, ModelError, NotFoundError
from modelport.local.hub_errors import error_from_hub, redact_text, silence_logger

#: Files that are not downloaded if the repository has safetensors: the same weights in other formats.
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.ot", "*.gguf", "*.tflite",
                  "original/*", "onnx/*", "openvino/*", "coreml/*", "consolidated*")  # fmt: skip


def download_repository(
    repo: str,
    revision: str | None = None,
    progress: bool | None = None,
    files: Sequence[str] | None = None,
    extra: str = "transformers",
) -> Path:
    """Return the folder of a repository in the Hub's cache; download what is missing there.

    With `HF_HUB_OFFLINE`, nothing is downloaded: the weights must be in the cache.

    Args:
        repo: The repository, as `owner/name`.
        revision: A branch, tag or commit; by default `main`.
        progress: `False` hides huggingface_hub's progress bars.
        files: Patterns of the files to download; by default all but those that repeat the weights in another format.
        extra: The extra that installs huggingface_hub, for the error.

    Raises:
        InvalidRequest: `repo` can't be the name of a repository.
        MissingDependency: huggingface_hub is not installed.
        ModelError: The files can't be downloaded; the subclass says why.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", repo):
        raise InvalidRequest(
            f"{redact_text(repo)!r} is neither a folder nor 'owner/repo', the name of a repository on the Hugging Face "
            "Hub"
        )
    try:
        from huggingface_hub import list_repo_files, snapshot_download
        from huggingface_hub.constants import is_offline_mode
        from huggingface_hub.utils.tqdm import tqdm
    except ImportError:
        raise MissingDependency("huggingface_hub", extra) from None
    download = partial(snapshot_download, repo, revision=revision)
    if progress is False:
        download.keywords["tqdm_class"] = partial(tqdm, disable=True)
    try:
        with silence_logger("huggingface_hub"):
            if is_offline_mode():
                return _with_weights(Path(download(local_files_only=True)), repo)
            if files is not None:
                return Path(download(allow_patterns=list(files)))
            names = list_repo_files(repo, revision=revision)
            ignored = _OTHER_FORMATS if any(name.endswith(".safetensors") for name in names) else ()
            return Path(download(ignore_patterns=list(ignored)))
    except ModelError:
        raise
    except Exception as error:
        # `from None`: the text or the request of the original exception may contain the user's access token.
        raise error_from_hub(error, repo, "the model") from None


def _with_weights(folder: Path, repo: str) -> Path:
    """Return the folder of a cached repository. An earlier download may have left only some of its files there.

    Raises:
        NotFoundError: The folder contains no weights.
    """
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")) and not any(folder.glob("*.gguf")):
        raise NotFoundError(f"The Hub's cache has no weights of {repo}, and HF_HUB_OFFLINE is set.")
    return folder
