"""One interface to every language model, local or remote: the same call with the same behaviour.

Names are imported from their modules when they are first used, so that `import modelport` takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelport.combine.fallback import FallbackModel as FallbackModel
    from modelport.errors import AuthenticationError as AuthenticationError
    from modelport.errors import ConnectionFailed as ConnectionFailed
    from modelport.errors import ContentFiltered as ContentFiltered
    from modelport.errors import ContextWindowExceeded as ContextWindowExceeded
    from modelport.errors import DeadlineExceeded as DeadlineExceeded
    from modelport.errors import InvalidOutput as InvalidOutput
    from modelport.errors import InvalidRequest as InvalidRequest
    from modelport.errors import InvalidToolCall as InvalidToolCall
    from modelport.errors import MalformedResponse as MalformedResponse
    from modelport.errors import MissingDependency as MissingDependency
    from modelport.errors import ModelClosed as ModelClosed
    from modelport.errors import ModelError as ModelError
    from modelport.errors import NotFoundError as NotFoundError
    from modelport.errors import RateLimited as RateLimited
    from modelport.errors import ServerError as ServerError
    from modelport.errors import StreamInterrupted as StreamInterrupted
    from modelport.errors import UnsupportedFeature as UnsupportedFeature
    from modelport.inputs.call_options import CallOptions as CallOptions
    from modelport.inputs.call_options import MessageInput as MessageInput
    from modelport.layers.redis_limits import RedisLimits as RedisLimits
    from modelport.layers.retry import RetryPolicy as RetryPolicy
    from modelport.local.llamacpp.model import LlamaCppModel as LlamaCppModel
    from modelport.local.mlx.model import MLXModel as MLXModel
    from modelport.local.transformers.model import TransformersModel as TransformersModel
    from modelport.local.vllm.model import VLLMModel as VLLMModel
    from modelport.model import Model as Model
    from modelport.registry import load_model as load_model
    from modelport.remote.bedrock.model import AmazonBedrockModel as AmazonBedrockModel
    from modelport.remote.bedrock.model import AmazonBedrockServerModel as AmazonBedrockServerModel
    from modelport.remote.huggingface.model import InferenceClientModel as InferenceClientModel
    from modelport.remote.litellm.model import LiteLLMModel as LiteLLMModel
    from modelport.remote.litellm.router import LiteLLMRouterModel as LiteLLMRouterModel
    from modelport.remote.openai.azure import AzureOpenAIModel as AzureOpenAIModel
    from modelport.remote.openai.azure import AzureOpenAIServerModel as AzureOpenAIServerModel
    from modelport.remote.openai.model import OpenAIModel as OpenAIModel
    from modelport.remote.openai.model import OpenAIServerModel as OpenAIServerModel
    from modelport.runtime.streams import AsyncStream as AsyncStream
    from modelport.runtime.streams import Stream as Stream
    from modelport.secrets import Secret as Secret
    from modelport.types.capabilities import Capabilities as Capabilities
    from modelport.types.content import Attachment as Attachment
    from modelport.types.content import Image as Image
    from modelport.types.content import Text as Text
    from modelport.types.deltas import ChatMessageStreamDelta as ChatMessageStreamDelta
    from modelport.types.deltas import ChatMessageToolCallStreamDelta as ChatMessageToolCallStreamDelta
    from modelport.types.deltas import accumulate as accumulate
    from modelport.types.messages import Attempt as Attempt
    from modelport.types.messages import ChatMessage as ChatMessage
    from modelport.types.messages import ChatMessageToolCall as ChatMessageToolCall
    from modelport.types.messages import ChatMessageToolCallFunction as ChatMessageToolCallFunction
    from modelport.types.messages import MessageRole as MessageRole
    from modelport.types.output_types import Choice as Choice
    from modelport.types.output_types import JSONSchema as JSONSchema
    from modelport.types.output_types import Lark as Lark
    from modelport.types.output_types import Regex as Regex
    from modelport.types.provider_data import ProviderData as ProviderData
    from modelport.types.request import Request as Request
    from modelport.types.tools import Tool as Tool
    from modelport.types.usage import TokenUsage as TokenUsage
    from modelport.types.warnings import CallWarning as CallWarning

#: Modules of this package -> the names that are imported from them.
_NAMES_OF_MODULES = {
    "combine.fallback": ["FallbackModel"],
    "errors": [
        "AuthenticationError", "ConnectionFailed", "ContentFiltered", "ContextWindowExceeded", "DeadlineExceeded",
        "InvalidOutput", "InvalidRequest", "InvalidToolCall", "MalformedResponse", "MissingDependency", "ModelClosed",
        "ModelError", "NotFoundError", "RateLimited", "ServerError", "StreamInterrupted", "UnsupportedFeature",
    ],
    "inputs.call_options": ["CallOptions", "MessageInput"],
    "layers.redis_limits": ["RedisLimits"],
    "layers.retry": ["RetryPolicy"],
    "local.llamacpp.model": ["LlamaCppModel"],
    "local.mlx.model": ["MLXModel"],
    "local.transformers.model": ["TransformersModel"],
    "local.vllm.model": ["VLLMModel"],
    "model": ["Model"],
    "registry": ["load_model"],
    "remote.bedrock.model": ["AmazonBedrockModel", "AmazonBedrockServerModel"],
    "remote.huggingface.model": ["InferenceClientModel"],
    "remote.litellm.model": ["LiteLLMModel"],
    "remote.litellm.router": ["LiteLLMRouterModel"],
    "remote.openai.azure": ["AzureOpenAIModel", "AzureOpenAIServerModel"],
    "remote.openai.model": ["OpenAIModel", "OpenAIServerModel"],
    "runtime.streams": ["AsyncStream", "Stream"],
    "secrets": ["Secret"],
    "types.capabilities": ["Capabilities"],
    "types.content": ["Attachment", "Image", "Text"],
    "types.deltas": ["ChatMessageStreamDelta", "ChatMessageToolCallStreamDelta", "accumulate"],
    "types.messages": ["Attempt", "ChatMessage", "ChatMessageToolCall", "ChatMessageToolCallFunction", "MessageRole"],
    "types.output_types": ["Choice", "JSONSchema", "Lark", "Regex"],
    "types.provider_data": ["ProviderData"],
    "types.request": ["Request"],
    "types.tools": ["Tool"],
    "types.usage": ["TokenUsage"],
    "types.warnings": ["CallWarning"],
}  # fmt: skip
_MODULES = {name: module for module, names in _NAMES_OF_MODULES.items() for name in names}

#: The names of `_NAMES_OF_MODULES`, repeated as a literal list, because type checkers understand only that.
__all__ = [
    "AmazonBedrockModel", "AmazonBedrockServerModel", "AsyncStream", "Attachment", "Attempt", "AuthenticationError",
    "AzureOpenAIModel", "AzureOpenAIServerModel", "CallOptions", "CallWarning", "Capabilities", "ChatMessage",
    "ChatMessageStreamDelta", "ChatMessageToolCall", "ChatMessageToolCallFunction",
    "ChatMessageToolCallStreamDelta", "Choice", "ConnectionFailed", "ContentFiltered", "ContextWindowExceeded",
    "DeadlineExceeded", "FallbackModel", "Image", "InferenceClientModel", "InvalidOutput", "InvalidRequest",
    "InvalidToolCall", "JSONSchema", "Lark", "LiteLLMModel", "LiteLLMRouterModel", "LlamaCppModel", "MLXModel",
    "MalformedResponse", "MessageInput", "MessageRole", "MissingDependency", "Model", "ModelClosed", "ModelError",
    "NotFoundError", "OpenAIModel", "OpenAIServerModel", "ProviderData", "RateLimited", "RedisLimits", "Regex",
    "Request", "RetryPolicy", "Secret", "ServerError", "Stream", "StreamInterrupted", "Text", "TokenUsage", "Tool",
    "TransformersModel", "UnsupportedFeature", "VLLMModel", "accumulate", "load_model",
]  # fmt: skip
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        from difflib import get_close_matches

        close = get_close_matches(name, _MODULES, 1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
