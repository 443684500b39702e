"""Names that other packages have for settings of modelport's classes: `NAMES_OF_OTHER_PACKAGES`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

#: Names that other packages have for settings of modelport's classes. If such a name were sent as a parameter, requests
#: would go to another address or model than the caller meant. If a class has both settings, the last one is meant.
#: The openai package has `base_url`, `model` and `max_retries` (https://github.com/openai/openai-python#readme),
#: huggingface_hub has `token` (https://huggingface.co/docs/huggingface_hub/package_reference/inference_client), and
#: LangChain has `model_name`, `openai_api_base` and `openai_api_key`
#: (https://reference.langchain.com/python/langchain-openai).
NAMES_OF_OTHER_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "base_url": ("api_base", "azure_endpoint"),
    "openai_api_base": ("api_base", "azure_endpoint"),
    "openai_api_key": ("api_key",),
    "token": ("api_key",),
    "model": ("model_id", "models"),
    "model_name": ("model_id",),
    "max_retries": ("retry",),
}


def setting_meant(name: str, settings: Iterable[str]) -> tuple[str, ...]:
    """Return the setting that has this name in another package, in a tuple; empty if the class has none."""
    return tuple(setting for setting in NAMES_OF_OTHER_PACKAGES.get(name, ()) if setting in settings)[-1:]
