"""Looks up the model behind an application inference profile, whose ARN does not name it.

The API `GetInferenceProfile` belongs to the service `bedrock`, whose address is another one than that of
`bedrock-runtime`, and needs the permission `bedrock:GetInferenceProfile`. The answer names the model in each region of
the profile. See https://docs.aws.amazon.com/bedrock/latest/APIReference/API_GetInferenceProfile.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from modelport.errors import ModelError
from modelport.remote.bedrock.client import make_client
from modelport.remote.bedrock.transport import BotoTransport
from modelport.remote.server_kind import within_limit
from modelport.runtime.threads import in_thread
from modelport.secrets import Secret
from modelport.types.request import Timeouts

_ARN = re.compile(r"arn:aws[^:]*:bedrock:[^:]*:[^:]*:application-inference-profile/[a-zA-Z0-9:.-]+")
_MODEL = re.compile(r"arn:aws[^:]*:bedrock:[^:]*::foundation-model/([a-zA-Z0-9:.-]{1,200})")


def is_application_profile(model_id: str | None) -> bool:
    """Return whether a model's id is the ARN of an application inference profile."""
    return _ARN.fullmatch(model_id or "") is not None


def has_own_address(endpoint: str | None, settings: Mapping[str, Any]) -> bool:
    """Return whether the caller has set the address of `bedrock-runtime`, but not that of `bedrock`.

    Nothing is then looked up: the key may be that of a gateway, and must not be sent to AWS.

    Args:
        endpoint: The setting `api_base`.
        settings: The setting `client_kwargs`.
    """
    address = endpoint or settings.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL_BEDROCK_RUNTIME")
    return bool(address) and not os.environ.get("AWS_ENDPOINT_URL_BEDROCK")


async def model_behind(
    profile: str,
    region: str | None,
    aws_profile: str | None,
    api_key: Secret | None,
    settings: Mapping[str, Any],
    timeouts: Timeouts,
) -> str | None:
    """Return the id of the model behind an application inference profile; `None` if the answer names no single one.

    Args:
        profile: The ARN of the inference profile.
        region: See `make_client`.
        aws_profile: A profile of the AWS configuration.
        api_key: See `make_client`.
        settings: See `make_client`.
        timeouts: The time limits of the call that waits for the answer.

    Raises:
        ModelError: AWS refused the request, or could not be reached.
        TimeoutError: The answer took too long.
    """
    settings = {name: value for name, value in settings.items() if name != "endpoint_url"}

    def connect() -> BotoTransport:
        return BotoTransport(
            make_client=lambda: make_client(region, aws_profile, None, api_key, settings, service="bedrock")
        )

    async def ask() -> Any:
        transport = await in_thread(connect)  # boto3 reads files, which blocks.
        try:
            return await transport.call("get_inference_profile", {"inferenceProfileIdentifier": profile})
        finally:
            transport.close()

    return model_in(await within_limit(ask(), timeouts))


def model_in(answer: Any) -> str | None:
    """Return the id of the model that the answer names; `None` if it names no single one."""
    try:
        found = {match[1] for entry in answer["models"] if (match := _MODEL.fullmatch(entry["modelArn"]))}
    except (LookupError, TypeError, AttributeError):
        return None
    return found.pop() if len(found) == 1 else None


def advice(error: ModelError | TimeoutError) -> str:
    """Return why a model is not known, and what the caller can do."""
    reason = str(error) or "no answer in time"
    return (
        f"GetInferenceProfile failed ({reason[:300]}); name the profile's model, as base_model='amazon.nova-pro-v1:0'"
    )
