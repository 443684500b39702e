"""How a boto3 client for Bedrock is made, and what one of a user's own must be."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from modelport import __version__
from modelport.errors import AuthenticationError, InvalidRequest, MissingDependency
from modelport.remote.bedrock.errors import NO_CREDENTIALS, translated
from modelport.remote.bedrock.log_filter import keep_out_of_the_log
from modelport.remote.http.redaction import Hidden
from modelport.remote.http.transport import CONNECT_TIMEOUT
from modelport.secrets import Secret

#: Connections that are kept; how many are used is for max_concurrency to say.
CONNECTIONS = 100


def make_client(
    region: str | None, profile: str | None, endpoint: str | None, api_key: Secret | None, settings: Mapping[str, Any]
) -> Any:
    """A client of `bedrock-runtime`, its own retries switched off.

    Args:
        region: By default what boto3 finds.
        profile: Of the user's AWS configuration.
        endpoint: By default the region's.
        api_key: A Bedrock API key; by default boto3's chain of credentials.
        settings: For `boto3.Session.client`; keys in them are `Secret`s.

    Raises:
        MissingDependency: boto3 is not installed.
        InvalidRequest: The region or a setting is wrong.
        AuthenticationError: There are no credentials.
    """
    boto3, botocore = boto_package()
    secrets = [api_key, *(value for value in settings.values() if isinstance(value, Secret))]
    keep_out_of_the_log(secret.reveal() for secret in secrets if secret)
    given = {name: Hidden(value.reveal()) if isinstance(value, Secret) else value for name, value in settings.items()}
    own: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT, "read_timeout": None, "tcp_keepalive": True,
        "max_pool_connections": CONNECTIONS, "user_agent_extra": f"modelport/{__version__}",
    }  # fmt: skip
    if api_key is not None:
        own["signature_version"] = "bearer"
    config = botocore.config.Config(**own)
    if given.get("config") is not None:
        config = config.merge(given["config"])
    # Merged last: the one retry loop is the port's.
    given["config"] = config.merge(botocore.config.Config(retries={"total_max_attempts": 1}))
    if endpoint is not None:
        given.setdefault("endpoint_url", endpoint)
    try:
        core = botocore.session.Session()
        if api_key is not None:
            core.register_component("token_provider", _Bearer(api_key))
        session = boto3.Session(botocore_session=core, profile_name=profile, region_name=region)
        # boto3 does not read AWS_REGION, which AWS's other SDKs do and its own machines set.
        if region := region or session.region_name or os.environ.get("AWS_REGION"):
            given.setdefault("region_name", region)
        client = session.client("bedrock-runtime", **given)
        signed = client.meta.config.signature_version is not botocore.UNSIGNED
        bearer = api_key is not None or os.environ.get("AWS_BEARER_TOKEN_BEDROCK")
        if signed and not bearer and "aws_access_key_id" not in given and session.get_credentials() is None:
            raise AuthenticationError(NO_CREDENTIALS)
        if given.get("endpoint_url") is None:
            _check_region(session, client.meta.region_name, client.meta.endpoint_url)
    except TypeError as error:
        raise InvalidRequest(f"client_kwargs: boto3 refuses them: {error}") from None
    except ValueError as error:
        raise translated(error) or InvalidRequest(f"boto3 refuses its settings: {error}") from None
    except Exception as error:
        raise translated(error) or error from None
    return client


def boto_package() -> tuple[Any, Any]:
    """boto3 and botocore.

    Raises:
        MissingDependency: They are not installed.
    """
    try:
        import boto3
        import botocore
        import botocore.config
        import botocore.session
        import botocore.tokens
    except ImportError:
        raise MissingDependency("boto3", "bedrock") from None
    return boto3, botocore


def check_client(client: Any) -> None:
    """Whether a client of the user's can be used.

    Raises:
        InvalidRequest: It is for another service, too old or asynchronous.
    """
    if not (hasattr(client, "converse") and hasattr(client, "converse_stream")):
        raise InvalidRequest(
            f"client: {type(client).__name__} has no 'converse'; make it as boto3.client('bedrock-runtime'), of boto3 "
            "1.34.116 or newer"
        )
    if inspect.iscoroutinefunction(client.converse) or type(client).__module__.startswith("aiobotocore"):
        raise InvalidRequest("client: must be one of boto3, which is run in threads, not of aiobotocore")


def attempts_of(client: Any) -> int:
    """How often a client of the user's sends a request by itself, at most."""
    retries = getattr(client.meta.config, "retries", None) or {}
    return int(retries.get("total_max_attempts", retries.get("max_attempts", 4) + 1))


class _Bearer:
    """Gives boto3 the user's Bedrock API key."""

    def __init__(self, key: Secret) -> None:
        self._key = key

    def load_token(self, **kwargs: Any) -> Any:
        return boto_package()[1].tokens.FrozenAuthToken(Hidden(self._key.reveal()))


def _check_region(session: Any, region: str, endpoint: str) -> None:
    """A region that does not exist would only show as an address that can't be found."""
    known = {name for p in session.get_available_partitions() for name in session.get_available_regions("ec2", p)}
    if region in known or f".{region}.amazonaws.com" not in endpoint:
        return
    close = get_close_matches(region, sorted(known), 2)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise InvalidRequest(
        f"region_name={region!r}: boto3 knows no such AWS region; {hint}For one that is newer than your boto3, update "
        "boto3 or pass api_base='https://bedrock-runtime.REGION.amazonaws.com'",
        hint="The option --api-base sets the address.",
    )
