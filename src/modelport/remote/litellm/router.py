"""The model class for LiteLLM's Router: several deployments under one name."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any, ClassVar

from modelport.errors import InvalidRequest, MissingDependency, ModelError
from modelport.inputs.settings import check_kind
from modelport.remote.http.redaction import HiddenStr
from modelport.remote.litellm.capabilities import RETRY_PARAMETERS
from modelport.remote.litellm.errors import model_error_from
from modelport.remote.litellm.model import TEXT_ONLY_PROVIDERS, LiteLLMModel
from modelport.remote.litellm.package import litellm_package
from modelport.remote.litellm.secrets import secret_from, secrets_in_parameters
from modelport.secrets import Secret, names_secret
from modelport.types.request import Request

_ROUTER_RETRY_SETTINGS = ("num_retries", "retry_policy", "model_group_retry_policy")


class LiteLLMRouterModel(LiteLLMModel):
    """Several deployments under one name, among which LiteLLM's Router chooses: load balancing, fallbacks, cooldowns.

    Only one of Router and model retries. If the Router is configured to retry (by `num_retries`, `retry_policy` or
    `model_group_retry_policy` in `client_kwargs`, or by `num_retries` or `max_retries` of a deployment), this model
    does not, unless `retry` is passed. Otherwise the Router does not, and each attempt of this model's `retry` goes
    through the Router again, which may choose another deployment.

    The capabilities are those that all deployments of the name have; those of fallbacks do not count. The state
    (cooldowns, counts) belongs to this object, and is shared between processes if `client_kwargs` names a Redis server.

    Args:
        model_id: A `model_name` of the list, or an alias of `client_kwargs["model_group_alias"]`.
        model_list: Deployments, as `{"model_name": …, "litellm_params": {"model": …, "api_key": …}}`. A key may be
            written `os.environ/NAME`, for a variable that is read when the key is needed. See
            https://docs.litellm.ai/docs/routing
        client_kwargs: Further settings of `litellm.Router`: `routing_strategy`, `fallbacks`, `allowed_fails`,
            `cooldown_time`, `redis_host`, `redis_port`, `redis_password`, `redis_url` …
        custom_role_conversions: See `Model`.
        flatten_messages_as_text: See `Model`; by default true for `ollama…`, `groq…` and `cerebras…`.
        **settings: As for `LiteLLMModel`.

    Raises:
        InvalidRequest: `model_list` is not a list of deployments, or has no deployment of this name.
        MissingDependency: LiteLLM is not installed, or redis is not although `client_kwargs` needs it.

    Examples:
        >>> deployments = [
        ...     {"model_name": "llama", "litellm_params": {"model": "groq/llama-3.3-70b-versatile"}},
        ...     {"model_name": "llama", "litellm_params": {"model": "cerebras/llama-3.3-70b"}},
        ... ]
        >>> model = LiteLLMRouterModel("llama", deployments, client_kwargs={"routing_strategy": "simple-shuffle"})
    """

    secret_settings: ClassVar[frozenset[str]] = frozenset()
    _router: Any = None

    def __init__(
        self,
        model_id: str,
        model_list: Sequence[Mapping[str, Any]],
        client_kwargs: Mapping[str, Any] | None = None,
        custom_role_conversions: Mapping[str, str] | None = None,
        flatten_messages_as_text: bool | None = None,
        **settings: Any,
    ) -> None:
        check_kind(str, model_id=model_id)
        check_kind(Mapping, client_kwargs=client_kwargs)
        if not model_id:
            raise InvalidRequest("model_id is missing: name one of the model_list's groups")
        for name in ("api_base", "api_key"):
            if settings.get(name) is not None:
                raise InvalidRequest(f"{name}: give it to the deployments, in model_list[…]['litellm_params']")
        router_settings = dict(client_kwargs or {})
        if "model_list" in router_settings:
            raise InvalidRequest("model_list: give it to the model, not in client_kwargs")
        _check_model_list(model_id, model_list, router_settings)
        if any(name.startswith("redis") for name in router_settings) and find_spec("redis") is None:
            raise MissingDependency("redis", "litellm")
        if "retry" not in settings and _router_retries(model_list, router_settings):
            settings["retry"] = False
        super().__init__(
            model_id,
            custom_role_conversions=custom_role_conversions,
            flatten_messages_as_text=(
                model_id.startswith(TEXT_ONLY_PROVIDERS)
                if flatten_messages_as_text is None
                else flatten_messages_as_text
            ),
            **settings,
        )
        keys_by_variable: dict[str, str] = {}
        self.model_list = _with_secrets(list(model_list), keys_by_variable)
        self.client_kwargs = _with_secrets(router_settings, keys_by_variable) or None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key not in ("_router", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._lock = threading.Lock()

    def _deployments(self) -> Sequence[Mapping[str, Any]]:
        name = _resolve_alias(str(self.model_id), self.client_kwargs or {})
        return [
            deployment["litellm_params"]
            for deployment in self.model_list
            if fnmatchcase(name, deployment["model_name"])
        ]

    def _get_router(self) -> Any:
        """The Router, made on first use."""
        with self._lock:
            if self._router is None:
                settings = _with_revealed_secrets(self.client_kwargs or {})
                if not _router_retries(self.model_list, settings):
                    settings["num_retries"] = 0
                model_list = _with_revealed_secrets(self.model_list)
                for deployment in model_list:
                    deployment["litellm_params"].setdefault("max_retries", 0)
                self._router = litellm_package().Router(model_list=model_list, **settings)
                # LiteLLM accepts thirty callbacks. A Router that comes after those can't register its own, and has no
                # cooldowns. So a Router must be discarded when its model is garbage-collected.
                weakref.finalize(self, _discard_router, self._router).atexit = False
            return self._router

    def _arguments(self, request: Request) -> dict[str, Any]:
        return self._body(request)

    async def _complete(self, arguments: dict[str, Any]) -> Any:
        return await self._get_router().acompletion(**arguments)

    def _model_error(self, error: Exception, arguments: Mapping[str, Any]) -> ModelError:
        keys = [*_keys_in(self.model_list), *_keys_in(self.client_kwargs)]
        in_deployments = [secrets_in_parameters(deployment["litellm_params"]) for deployment in self.model_list]
        secrets = {*keys, *secrets_in_parameters(arguments), *itertools.chain(*in_deployments)}
        return model_error_from(error, secrets)

    def close(self) -> None:
        """Closes the connections of synchronous calls, and removes the Router's callbacks from LiteLLM."""
        super().close()
        with self._lock:
            if self._router is not None:
                _discard_router(self._router)
                self._router = None


def _discard_router(router: Any) -> None:
    router.discard()
    redis = getattr(router.cache, "redis_cache", None)
    if redis is not None:
        # This is the client of blocking calls. `ClientIsolation` closes the clients of event loops.
        redis.redis_client.close()
        redis.redis_client.connection_pool.disconnect()  # Clients of redis before 5.1 leave their pool open.


def _check_model_list(model_id: str, model_list: Any, router_settings: Mapping[str, Any]) -> None:
    if not isinstance(model_list, Sequence) or isinstance(model_list, str) or not model_list:
        raise InvalidRequest("model_list: must be a list of deployments, and not empty")
    for number, deployment in enumerate(model_list):
        parameters = deployment.get("litellm_params") if isinstance(deployment, Mapping) else None
        if not isinstance(parameters, Mapping) or not parameters.get("model") or not deployment.get("model_name"):
            raise InvalidRequest(
                f"model_list[{number}]: must be {{'model_name': …, 'litellm_params': {{'model': 'provider/model', …}}}}"
            )
    names = sorted({deployment["model_name"] for deployment in model_list})
    if not any(fnmatchcase(_resolve_alias(model_id, router_settings), name) for name in names):
        raise InvalidRequest(f"model_id={model_id!r}: the model_list has {', '.join(names)}")


def _resolve_alias(model_id: str, router_settings: Mapping[str, Any]) -> str:
    alias = (router_settings.get("model_group_alias") or {}).get(model_id, model_id)
    return str(alias["model"] if isinstance(alias, Mapping) else alias)


def _router_retries(model_list: Iterable[Mapping[str, Any]], router_settings: Mapping[str, Any]) -> bool:
    """Whether the Router, or LiteLLM below it, is configured to retry."""
    if any(router_settings.get(name) for name in _ROUTER_RETRY_SETTINGS):
        return True
    return any(deployment["litellm_params"].get(name) for deployment in model_list for name in RETRY_PARAMETERS)


# --- keys in the settings ---------------------------------------------------------------------------------------------


def _with_secrets(value: Any, keys_by_variable: dict[str, str], name: str = "", model_id: str = "") -> Any:
    """Settings with each key in a `Secret`.

    Args:
        value: A setting, or a structure of settings.
        keys_by_variable: The key that each environment variable is meant to hold; new keys are added. If one provider
            has two keys, the second gets a variable with a number.
        name: The name of the setting.
        model_id: The model that the setting is for.
    """
    is_secret = names_secret(name) or name == "redis_url"
    if isinstance(value, Mapping) and not (is_secret and set(value) == {"env"}):  # `to_dict` writes a secret so.
        model_id = str(value.get("model", model_id))
        return {key: _with_secrets(item, keys_by_variable, str(key), model_id) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_secrets(item, keys_by_variable, "", model_id) for item in value]
    if (is_secret and isinstance(value, str | Mapping)) or str(value).startswith("os.environ/"):
        secret = secret_from(value, model_id or name)
        if isinstance(value, str) and secret:
            secret.env = _unused_variable(str(secret.env), secret.reveal(), keys_by_variable)
        return secret
    return value


def _unused_variable(variable: str, key: str, keys_by_variable: dict[str, str]) -> str:
    """The variable, with a number if another key has the variable already."""
    candidate, number = variable, 1
    while keys_by_variable.setdefault(candidate, key) != key:
        number += 1
        candidate = f"{variable}_{number}"
    return candidate


def _with_revealed_secrets(value: Any) -> Any:
    """The inverse of `_with_secrets`, for the Router only.

    Raises:
        AuthenticationError: A variable is not set; the message names it.
    """
    if isinstance(value, Secret):
        return HiddenStr(value.reveal())
    if isinstance(value, Mapping):
        return {key: _with_revealed_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_revealed_secrets(item) for item in value]
    return value


def _keys_in(value: Any) -> list[str]:
    if isinstance(value, Secret):
        return [value.reveal()] if value else []
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [key for item in items for key in _keys_in(item)]
