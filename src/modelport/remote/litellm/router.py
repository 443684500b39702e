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
from modelport.inputs.parameters import BY_ANY_NAME
from modelport.inputs.settings import check_kind
from modelport.remote.http.redaction import HiddenStr
from modelport.remote.litellm.capabilities import RETRY_PARAMETERS, SAVED_PARAMETERS
from modelport.remote.litellm.errors import model_error_from
from modelport.remote.litellm.model import TEXT_ONLY_PROVIDERS, LiteLLMModel
from modelport.remote.litellm.package import litellm_package
from modelport.remote.litellm.secrets import secret_from, secrets_in_parameters
from modelport.secrets import Secret, names_secret
from modelport.types.request import Request

#: LiteLLM makes a regular expression of each `model_name` with `*`, and matches it on the event loop. The time grows
#: with the length of the name to the power of the number of `*`. With these bounds it is 0.4 ms for each pattern; with
#: eight `*` and 60 characters, it is more than a minute.
_MAX_WILDCARDS, _MAX_NAME_LENGTH, _MAX_PATTERNS = 2, 256, 50
_ROUTER_RETRY_SETTINGS = ("num_retries", "retry_policy", "model_group_retry_policy")


class LiteLLMRouterModel(LiteLLMModel):
    """Several deployments under one name, among which LiteLLM's Router chooses: load balancing, fallbacks, cooldowns.

    By default, either the Router or this model retries, not both. If the Router is configured to retry (by
    `num_retries`, `retry_policy` or `model_group_retry_policy` in `client_kwargs`, or by `num_retries` or `max_retries`
    of a deployment), this model retries too only if `retry` is passed. If the Router is not configured to retry, this
    model does. Each of its attempts goes through the Router, which may choose another deployment.

    The capabilities are those that all deployments of the name have in common. Deployments of other names, which the
    Router calls as fallbacks, are not considered. The Router's state, such as cooldowns, belongs to this object.
    Processes share the state if `client_kwargs` names a Redis server.

    Args:
        model_id: A `model_name` in `model_list`, or an alias in `client_kwargs["model_group_alias"]`.
        model_list: Deployments, as `{"model_name": …, "litellm_params": {"model": …, "api_key": …}}`. An API key may be
            given as `os.environ/NAME`; it is then read from the environment variable NAME when it is needed. See
            https://docs.litellm.ai/docs/routing
        client_kwargs: Further settings of `litellm.Router`: `routing_strategy`, `fallbacks`, `allowed_fails`,
            `cooldown_time`, `redis_host`, `redis_port`, `redis_password`, `redis_url` …
        custom_role_conversions: See `Model`.
        flatten_messages_as_text: See `Model`; by default true for `ollama…`, `groq…` and `cerebras…`.
        **settings: As for `LiteLLMModel`.

    Raises:
        InvalidRequest: `model_list` is not a list of deployments, or has no deployment of this name. A name may have
            256 characters and two `*`, and 50 names may have a `*`.
        MissingDependency: LiteLLM is not installed, or redis is not although `client_kwargs` needs it.

    Examples:
        >>> deployments = [
        ...     {"model_name": "llama", "litellm_params": {"model": "groq/llama-3.3-70b-versatile"}},
        ...     {"model_name": "llama", "litellm_params": {"model": "cerebras/llama-3.3-70b"}},
        ... ]
        >>> model = LiteLLMRouterModel("llama", deployments, client_kwargs={"routing_strategy": "simple-shuffle"})
    """

    secret_settings: ClassVar[frozenset[str]] = frozenset()
    saved_fields: ClassVar[Mapping[str, frozenset[str]]] = {
        "client_kwargs": frozenset({
            "allowed_fails", "allowed_fails_policy", "content_policy_fallbacks", "context_window_fallbacks",
            "cooldown_time", "default_fallbacks", "default_max_parallel_requests", "disable_cooldowns",
            "enable_pre_call_checks", "fallbacks", "max_fallbacks", "model_group_alias", "num_retries",
            "redis_db", "redis_host", "redis_password", "redis_port", "redis_url", "retry_after", "retry_policy",
            "routing_strategy", "routing_strategy_args", "stream_timeout", "timeout",
        }),
        "model_list": frozenset({"model_name", "litellm_params"}),
        "model_list.litellm_params": SAVED_PARAMETERS | BY_ANY_NAME.keys() | {"model", "order", "rpm", "tpm", "weight"},
    }  # fmt: skip
    saved_names: ClassVar[frozenset[str]] = frozenset({
        "client_kwargs.content_policy_fallbacks.*", "client_kwargs.context_window_fallbacks.*",
        "client_kwargs.default_fallbacks", "client_kwargs.fallbacks.*", "model_list.litellm_params.fallbacks",
        "model_list.litellm_params.context_window_fallback_dict.*",
    })  # fmt: skip
    #: The URL can name files and switch off TLS.
    saved_variables: ClassVar[frozenset[str]] = frozenset({"client_kwargs.redis_url"})
    #: LiteLLM's Router; `None` until `_get_router` makes it at the first call.
    _router: Any = None

    def __init__(
        self,
        model_id: str,
        model_list: Sequence[Mapping[str, Any]] = (),
        client_kwargs: Mapping[str, Any] | None = None,
        custom_role_conversions: Mapping[str, str] | None = None,
        flatten_messages_as_text: bool | None = None,
        **settings: Any,
    ) -> None:
        check_kind(str, model_id=model_id)
        check_kind(Mapping, client_kwargs=client_kwargs)
        if not model_id:
            raise InvalidRequest("model_id is missing: pass a model_name of model_list")
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
        secrets_by_variable: dict[str, str] = {}
        self.model_list = _with_secrets(list(model_list), secrets_by_variable)
        self.client_kwargs = _with_secrets(router_settings, secrets_by_variable) or None
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
            if fnmatchcase(name, deployment["model_name"])  # A `model_name` may be a pattern, such as `openai/*`.
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
                # LiteLLM limits the number of callbacks in a process. A Router beyond the limit has no cooldowns, for
                # which it needs callbacks. So its callbacks are removed when this model is garbage-collected.
                weakref.finalize(self, _discard_router, self._router).atexit = False
            return self._router

    def _arguments(self, request: Request) -> dict[str, Any]:
        return self._body(request)

    async def _complete(self, arguments: dict[str, Any]) -> Any:
        return await self._get_router().acompletion(**arguments)

    def _model_error(self, error: Exception, arguments: Mapping[str, Any]) -> ModelError:
        in_settings = [*_secret_values(self.model_list), *_secret_values(self.client_kwargs)]
        in_deployments = [secrets_in_parameters(deployment["litellm_params"]) for deployment in self.model_list]
        secrets = {*in_settings, *secrets_in_parameters(arguments), *itertools.chain(*in_deployments)}
        return model_error_from(error, secrets)

    def release(self) -> None:
        """Close the connections of all event loops, and remove the Router's callbacks from LiteLLM.

        `close` calls this method: users call `close`, authors override this.
        """
        super().release()
        with self._lock:
            if self._router is not None:
                _discard_router(self._router)
                self._router = None


def _discard_router(router: Any) -> None:
    """Remove the Router's callbacks from LiteLLM, and close the Router's connections to Redis."""
    router.discard()
    redis = getattr(router.cache, "redis_cache", None)
    if redis is not None:
        # This Redis client serves blocking calls. `ClientIsolation` closes the asynchronous clients.
        redis.redis_client.close()
        redis.redis_client.connection_pool.disconnect()  # `close` of redis before 5.1 leaves it open.


def _check_model_list(model_id: str, model_list: Any, router_settings: Mapping[str, Any]) -> None:
    if not isinstance(model_list, Sequence) or isinstance(model_list, str) or not model_list:
        raise InvalidRequest("model_list: must be a list of deployments, and not empty")
    for number, deployment in enumerate(model_list):
        parameters = deployment.get("litellm_params") if isinstance(deployment, Mapping) else None
        if not isinstance(parameters, Mapping) or not parameters.get("model") or not deployment.get("model_name"):
            raise InvalidRequest(
                f"model_list[{number}]: must be {{'model_name': …, 'litellm_params': {{'model': 'provider/model', …}}}}"
            )
        _check_model_name(f"model_list[{number}]['model_name']", deployment["model_name"])
    names = sorted({deployment["model_name"] for deployment in model_list})
    if (patterns := sum("*" in name for name in names)) > _MAX_PATTERNS:
        raise InvalidRequest(f"model_list: has {patterns} names with '*'; at most {_MAX_PATTERNS} are possible")
    name = _resolve_alias(model_id, router_settings)
    _check_model_name("model_id", name, is_pattern=False)
    if not any(fnmatchcase(name, pattern) for pattern in names):
        raise InvalidRequest(f"model_id={model_id!r}: the model_list has {', '.join(names)}")


def _check_model_name(path: str, name: Any, is_pattern: bool = True) -> None:
    """Check that matching a name takes little time."""
    if not isinstance(name, str) or len(name) > _MAX_NAME_LENGTH:
        raise InvalidRequest(f"{path}: must be a string of at most {_MAX_NAME_LENGTH} characters")
    if is_pattern and name.count("*") > _MAX_WILDCARDS:
        raise InvalidRequest(
            f"{path}={name!r}: has {name.count('*')} '*', but may have at most {_MAX_WILDCARDS}, because the time that "
            "LiteLLM takes to match a name grows exponentially with their number"
        )


def _resolve_alias(model_id: str, router_settings: Mapping[str, Any]) -> str:
    alias = (router_settings.get("model_group_alias") or {}).get(model_id, model_id)
    return str(alias["model"] if isinstance(alias, Mapping) else alias)


def _router_retries(model_list: Iterable[Mapping[str, Any]], router_settings: Mapping[str, Any]) -> bool:
    """Whether the Router, or LiteLLM below it, is configured to retry."""
    if any(router_settings.get(name) for name in _ROUTER_RETRY_SETTINGS):
        return True
    return any(deployment["litellm_params"].get(name) for deployment in model_list for name in RETRY_PARAMETERS)


# --- secrets in the settings ------------------------------------------------------------------------------------------


def _with_secrets(value: Any, secrets_by_variable: dict[str, str], name: str = "", model_id: str = "") -> Any:
    """Settings in which each API key and each other secret is a `Secret`.

    Args:
        value: A setting, or lists and dicts of settings.
        secrets_by_variable: The secret for each environment variable from which a saved model reads secrets when it is
            loaded. New secrets are added. A second API key for a provider gets a variable with a number.
        name: The name of the setting; empty for an item of a list.
        model_id: The model that the setting is for; empty for a setting of the Router itself.
    """
    is_secret = names_secret(name) or name == "redis_url"
    # A saved model has `{"env": NAME}` in place of a secret.
    is_saved_secret = is_secret and isinstance(value, Mapping) and set(value) == {"env"}
    if isinstance(value, Mapping) and not is_saved_secret:
        model_id = str(value.get("model", model_id))
        return {key: _with_secrets(item, secrets_by_variable, str(key), model_id) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_secrets(item, secrets_by_variable, model_id=model_id) for item in value]
    if (is_secret and isinstance(value, str | Mapping)) or str(value).startswith("os.environ/"):
        secret = secret_from(value, model_id or name)
        if isinstance(value, str) and secret:
            secret.env = _variable_for(secret.reveal(), str(secret.env), secrets_by_variable)
        return secret
    return value


def _variable_for(secret: str, variable: str, secrets_by_variable: dict[str, str]) -> str:
    """The name of the variable for a secret; with a number appended if `variable` is for another secret already."""
    candidate, number = variable, 1
    while secrets_by_variable.setdefault(candidate, secret) != secret:
        number += 1
        candidate = f"{variable}_{number}"
    return candidate


def _with_revealed_secrets(value: Any) -> Any:
    """Settings with the secrets themselves in place of each `Secret`, for the Router only.

    Raises:
        AuthenticationError: The environment variable of a secret is not set; the message names it.
    """
    if isinstance(value, Secret):
        return HiddenStr(value.reveal())
    if isinstance(value, Mapping):
        return {key: _with_revealed_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_revealed_secrets(item) for item in value]
    return value


def _secret_values(value: Any) -> list[str]:
    """The values of all `Secret`s in a setting, or in lists and dicts of settings."""
    if isinstance(value, Secret):
        return [value.reveal()] if value else []
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [secret for item in items for secret in _secret_values(item)]
