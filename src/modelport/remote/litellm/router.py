"""LiteLLM's Router: several deployments behind one name."""

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
from modelport.remote.litellm.errors import error_of
from modelport.remote.litellm.model import FLATTENED, LiteLLMModel
from modelport.remote.litellm.package import litellm_package, secret_of, secrets_of
from modelport.secrets import Secret, names_secret
from modelport.types.request import Request

_RETRIES = ("num_retries", "retry_policy", "model_group_retry_policy")


class LiteLLMRouterModel(LiteLLMModel):
    """Several deployments behind one name, chosen by LiteLLM's Router: load balancing, fallbacks, cooldowns.

    Where the Router is told to retry (`num_retries`, `retry_policy` or `model_group_retry_policy` in `client_kwargs`,
    or `num_retries` or `max_retries` of a deployment), it does and this model does not, unless `retry` is given. Else
    the Router does not, and each attempt of this model's `retry` asks it anew, which may choose another deployment.

    The capabilities are what all deployments of the name have in common; a fallback's are not looked at. State
    (cooldowns, counts) is this object's, and shared between processes where `client_kwargs` names a Redis.

    Args:
        model_id: A `model_name` of the list, or an alias of `client_kwargs["model_group_alias"]`.
        model_list: Deployments, as `{"model_name": …, "litellm_params": {"model": …, "api_key": …}}`. A key may be
            written `os.environ/NAME`, for a variable that is read when it is needed. See
            https://docs.litellm.ai/docs/routing
        client_kwargs: Further settings of `litellm.Router`: `routing_strategy`, `fallbacks`, `allowed_fails`,
            `cooldown_time`, `redis_host`, `redis_port`, `redis_password`, `redis_url` …
        custom_role_conversions: See `Model`.
        flatten_messages_as_text: See `Model`; by default so for `ollama…`, `groq…` and `cerebras…`.
        **settings: As for `LiteLLMModel`.

    Raises:
        InvalidRequest: The list is none, or has no deployment of this name.

    Example:
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
        kwargs = dict(client_kwargs or {})
        if "model_list" in kwargs:
            raise InvalidRequest("model_list: give it to the model, not in client_kwargs")
        _check(model_id, model_list, kwargs)
        if any(name.startswith("redis") for name in kwargs) and find_spec("redis") is None:
            raise MissingDependency("redis", "litellm")
        if "retry" not in settings and _retries(model_list, kwargs):
            settings["retry"] = False
        super().__init__(
            model_id,
            custom_role_conversions=custom_role_conversions,
            flatten_messages_as_text=(
                model_id.startswith(FLATTENED) if flatten_messages_as_text is None else flatten_messages_as_text
            ),
            **settings,
        )
        taken: dict[str, str] = {}
        self.model_list = _hidden(list(model_list), taken)
        self.client_kwargs = _hidden(kwargs, taken) or None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key not in ("_router", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._lock = threading.Lock()

    def _deployments(self) -> Sequence[Mapping[str, Any]]:
        name = _alias(str(self.model_id), self.client_kwargs or {})
        return [row["litellm_params"] for row in self.model_list if fnmatchcase(name, row["model_name"])]

    def _client(self) -> Any:
        """The Router, made on first use."""
        with self._lock:
            if self._router is None:
                kwargs = _revealed(self.client_kwargs or {})
                if not _retries(self.model_list, kwargs):
                    kwargs["num_retries"] = 0
                deployments = _revealed(self.model_list)
                for row in deployments:
                    row["litellm_params"].setdefault("max_retries", 0)
                self._router = litellm_package().Router(model_list=deployments, **kwargs)
                # LiteLLM takes thirty callbacks; a Router that comes after those knows no cooldowns.
                weakref.finalize(self, _discard, self._router).atexit = False
            return self._router

    def _arguments(self, request: Request) -> dict[str, Any]:
        return self._body(request)

    async def _complete(self, arguments: dict[str, Any]) -> Any:
        return await self._client().acompletion(**arguments)

    def _error(self, error: Exception, arguments: Mapping[str, Any]) -> ModelError:
        keys = [*_keys(self.model_list), *_keys(self.client_kwargs)]
        sent = [secrets_of(row["litellm_params"]) for row in self.model_list]
        return error_of(error, {*keys, *secrets_of(arguments), *itertools.chain(*sent)})

    def close(self) -> None:
        """Closes the connections of synchronous calls, and takes the Router's callbacks out of LiteLLM."""
        super().close()
        with self._lock:
            if self._router is not None:
                _discard(self._router)
                self._router = None


def _discard(router: Any) -> None:
    router.discard()
    redis = getattr(router.cache, "redis_cache", None)
    if redis is not None:  # what it asks on a loop is kept with the clients there
        redis.redis_client.close()
        redis.redis_client.connection_pool.disconnect()  # which clients of redis before 5.1 leave open


def _check(model_id: str, model_list: Any, kwargs: Mapping[str, Any]) -> None:
    if not isinstance(model_list, Sequence) or isinstance(model_list, str) or not model_list:
        raise InvalidRequest("model_list: must be a list of deployments, and not empty")
    for number, row in enumerate(model_list):
        parameters = row.get("litellm_params") if isinstance(row, Mapping) else None
        if not isinstance(parameters, Mapping) or not parameters.get("model") or not row.get("model_name"):
            raise InvalidRequest(
                f"model_list[{number}]: must be {{'model_name': …, 'litellm_params': {{'model': 'provider/model', …}}}}"
            )
    names = sorted({row["model_name"] for row in model_list})
    if not any(fnmatchcase(_alias(model_id, kwargs), name) for name in names):
        raise InvalidRequest(f"model_id={model_id!r}: the model_list has {', '.join(names)}")


def _alias(model_id: str, kwargs: Mapping[str, Any]) -> str:
    alias = (kwargs.get("model_group_alias") or {}).get(model_id, model_id)
    return str(alias["model"] if isinstance(alias, Mapping) else alias)


def _retries(model_list: Iterable[Mapping[str, Any]], kwargs: Mapping[str, Any]) -> bool:
    """Whether the Router, or LiteLLM below it, is told to retry."""
    own = any(kwargs.get(name) for name in _RETRIES)
    return own or any(row["litellm_params"].get(name) for row in model_list for name in ("num_retries", "max_retries"))


def _hidden(value: Any, taken: dict[str, str], name: str = "", model_id: str = "") -> Any:
    """Settings with every key in a `Secret`.

    Args:
        value: The settings.
        taken: The variables that keys are found in again, and the keys; two of one provider get two variables.
        name: The setting's.
        model_id: Whose keys they are.
    """
    is_secret = names_secret(name) or name == "redis_url"
    if isinstance(value, Mapping) and not (is_secret and set(value) == {"env"}):  # as `to_dict` writes it
        model_id = str(value.get("model", model_id))
        return {key: _hidden(item, taken, str(key), model_id) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(item, taken, "", model_id) for item in value]
    if (is_secret and isinstance(value, str | Mapping)) or str(value).startswith("os.environ/"):
        secret = secret_of(value, model_id or name)
        variable, number = str(secret.env), 1
        while (
            isinstance(value, str) and secret and taken.setdefault(str(secret.env), secret.reveal()) != secret.reveal()
        ):
            number += 1
            secret.env = f"{variable}_{number}"
        return secret
    return value


def _revealed(value: Any) -> Any:
    """The inverse of `_hidden`, for the Router alone.

    Raises:
        AuthenticationError: A variable is not set; the message names it.
    """
    if isinstance(value, Secret):
        return HiddenStr(value.reveal())
    if isinstance(value, Mapping):
        return {key: _revealed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_revealed(item) for item in value]
    return value


def _keys(value: Any) -> list[str]:
    if isinstance(value, Secret):
        return [value.reveal()] if value else []
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [key for item in items for key in _keys(item)]
