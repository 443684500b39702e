"""Creates the boto3 client for Bedrock, and checks a client that the caller passes in."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from modelport import __version__
from modelport.errors import AuthenticationError, InvalidRequest, MissingDependency
from modelport.remote.bedrock.errors import NO_CREDENTIALS, model_error_from
from modelport.remote.bedrock.log_filter import redact_in_logs
from modelport.remote.http.connections import CONNECT_TIMEOUT
from modelport.remote.http.packages import no_fork_during_import
from modelport.remote.http.redaction import HiddenStr
from modelport.secrets import Secret

#: The most idle connections that the client keeps open. It does not limit concurrent requests; `max_concurrency` does.
MAX_POOL_CONNECTIONS = 100


def make_client(
    region: str | None,
    profile: str | None,
    endpoint: str | None,
    api_key: Secret | None,
    settings: Mapping[str, Any],
    service: str = "bedrock-runtime",
) -> Any:
    """A client of one of Bedrock's services that does not retry.

    Args:
        region: The AWS region; by default the one that boto3 finds, else that of `AWS_REGION`.
        profile: A profile of the AWS configuration.
        endpoint: The URL of the service; by default the region's.
        api_key: A Bedrock API key; by default the credentials that boto3 finds.
        settings: Further arguments for `boto3.Session.client`. Secret access keys and tokens among them are `Secret`s.
        service: boto3's name of the service.

    Raises:
        MissingDependency: boto3 is not installed.
        InvalidRequest: The region or a setting is wrong.
        AuthenticationError: There are no credentials.
    """
    boto3, botocore = boto_packages()
    secrets = [api_key, *(value for value in settings.values() if isinstance(value, Secret))]
    redact_in_logs(secret.reveal() for secret in secrets if secret)
    arguments = {
        name: HiddenStr(value.reveal()) if isinstance(value, Secret) else value for name, value in settings.items()
    }
    defaults: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT, "read_timeout": None, "tcp_keepalive": True,
        "max_pool_connections": MAX_POOL_CONNECTIONS, "user_agent_extra": f"modelport/{__version__}",
    }  # fmt: skip
    if api_key is not None:
        defaults["signature_version"] = "bearer"
    config = botocore.config.Config(**defaults)
    if arguments.get("config") is not None:
        config = config.merge(arguments["config"])
    # boto3's own retries are switched off, because modelport's retry layer retries. This setting is merged last, so
    # that the caller's `config` can't override it.
    arguments["config"] = config.merge(botocore.config.Config(retries={"total_max_attempts": 1}))
    if endpoint is not None:
        arguments.setdefault("endpoint_url", endpoint)
    try:
        botocore_session = botocore.session.Session()
        if api_key is not None:
            botocore_session.register_component("token_provider", _BearerTokenProvider(api_key))
        session = boto3.Session(botocore_session=botocore_session, profile_name=profile, region_name=region)
        # boto3 does not read AWS_REGION, although AWS's other SDKs do and AWS sets it on its own machines.
        if region := region or session.region_name or os.environ.get("AWS_REGION"):
            arguments.setdefault("region_name", region)
        client = session.client(service, **arguments)
        is_signed = client.meta.config.signature_version is not botocore.UNSIGNED
        has_api_key = api_key is not None or os.environ.get("AWS_BEARER_TOKEN_BEDROCK")
        if is_signed and not has_api_key and "aws_access_key_id" not in arguments and session.get_credentials() is None:
            raise AuthenticationError(NO_CREDENTIALS)
        if has_api_key and client.meta.config.signature_version in ("bearer", None):
            _check_transport(client.meta.endpoint_url)
        if arguments.get("endpoint_url") is None:
            _check_region(session, client.meta.region_name, client.meta.endpoint_url)
    except TypeError as error:
        raise InvalidRequest(f"client_kwargs: boto3 rejects them: {error}") from None
    except ValueError as error:
        raise model_error_from(error) or InvalidRequest(f"boto3 rejects its settings: {error}") from None
    except Exception as error:
        raise model_error_from(error) or error from None
    return client


def boto_packages() -> tuple[Any, Any]:
    """The packages boto3 and botocore.

    Raises:
        MissingDependency: They are not installed.
    """
    try:
        with no_fork_during_import():
            import boto3
            import botocore
            import botocore.config
            import botocore.session
            import botocore.tokens
    except ImportError:
        raise MissingDependency("boto3", "bedrock") from None
    return boto3, botocore


def check_client(client: Any) -> None:
    """Check that a client of the caller's can be used.

    Raises:
        InvalidRequest: The client is for another service, too old, or asynchronous.
    """
    if not (hasattr(client, "converse") and hasattr(client, "converse_stream")):
        raise InvalidRequest(
            f"client: {type(client).__name__} has no 'converse'; create it by boto3.client('bedrock-runtime'), with "
            "boto3 1.34.116 or newer"
        )
    if inspect.iscoroutinefunction(client.converse) or type(client).__module__.startswith("aiobotocore"):
        raise InvalidRequest("client: must be a client of boto3, which modelport runs in threads, not of aiobotocore")


def max_attempts_of(client: Any) -> int:
    """The most attempts that the caller's client makes for one request, its own retries included."""
    # `max_attempts` does not count the first attempt, and is 4 by default.
    retries = getattr(client.meta.config, "retries", None) or {}
    return int(retries.get("total_max_attempts", retries.get("max_attempts", 4) + 1))


class _BearerTokenProvider:
    """Gives boto3 the caller's Bedrock API key. The class implements botocore's interface for token providers."""

    def __init__(self, key: Secret) -> None:
        self._key = key

    def load_token(self, **kwargs: Any) -> Any:
        return boto_packages()[1].tokens.FrozenAuthToken(HiddenStr(self._key.reveal()))


def _check_transport(endpoint: str) -> None:
    """Check that boto3 sends an API key to an endpoint. Since 1.44.8 it does so over HTTPS only.

    Raises:
        InvalidRequest: boto3 would refuse each call.
    """
    if not endpoint.startswith("http://"):
        return
    from botocore.auth import BearerAuth
    from botocore.awsrequest import AWSRequest
    from botocore.exceptions import BotoCoreError
    from botocore.tokens import FrozenAuthToken

    try:
        BearerAuth(FrozenAuthToken("none")).add_auth(AWSRequest("POST", url=endpoint))
    except BotoCoreError:
        raise InvalidRequest(
            f"api_base={endpoint!r}: this boto3 sends Bedrock API keys over HTTPS only; pass an address with https://, "
            "or access keys (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), which sign the request"
        ) from None


def _check_region(session: Any, region: str, endpoint: str) -> None:
    """Check that boto3 knows the region, unless the endpoint has another host name than the region's.

    Without this check, the first call would fail with a less clear error, because the host name can't be resolved.
    """
    known = {name for p in session.get_available_partitions() for name in session.get_available_regions("ec2", p)}
    if region in known or f".{region}.amazonaws.com" not in endpoint:
        return
    similar = get_close_matches(region, sorted(known), n=2)
    suggestion = f"did you mean {' or '.join(map(repr, similar))}? " if similar else ""
    raise InvalidRequest(
        f"region_name={region!r}: boto3 knows no such AWS region; {suggestion}For a region that is newer than your "
        "boto3, update boto3 or pass api_base='https://bedrock-runtime.REGION.amazonaws.com'",
        hint="The option --api-base sets the address.",
    )
