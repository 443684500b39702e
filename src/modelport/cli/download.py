"""`modelport download`: the weights of local models, ahead of their first use."""

from __future__ import annotations

from pathlib import Path

from modelport.cli.terminal import CommandError


def download_weights(spec: str, revision: str | None = None) -> Path:
    """Download the weights of a model, and return their path. On a terminal, show a progress bar.

    Args:
        spec: The name of a model of a local engine, as `backend/id`.
        revision: A branch, tag or commit on the Hugging Face Hub; `None` for its main branch.

    Raises:
        CommandError: The backend has no weights to download, or can't download this revision.
        ModelError: The weights can't be downloaded.
    """
    from modelport.registry import model_class

    name, _, model_id = spec.partition("/")
    module = model_class(name, spec).__module__
    if not module.startswith("modelport.local."):
        raise CommandError(f"{spec}: there is nothing to download; the model does not run in this process")
    if name == "llamacpp":
        from modelport.local.llamacpp.weights import resolve_weights

        if revision is not None:
            raise CommandError("--revision: llamacpp downloads files of the main branch only")
        return resolve_weights(model_id or None)
    if not model_id:
        raise CommandError(
            f"{name} has no default model: write {name}/owner/repo, a repository on the Hugging Face Hub"
        )
    folder = Path(model_id).expanduser()
    if folder.exists():
        return folder.resolve()
    from modelport.local.hub_download import download_repository

    files = None
    if name == "mlx":
        from modelport.local.mlx.loading import FILES

        files = FILES
    return download_repository(model_id, revision, files=files, extra="mlx-lm" if name == "mlx" else name)
