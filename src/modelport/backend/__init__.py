"""Everything that the author of a backend needs; see docs/backends.md.

    from modelport.backend import Capabilities, ChatMessageStreamDelta, Model, Request, errors

A backend is a subclass of `Model` with one method, `deltas`. `errors.from_status` turns the refusal of an HTTP service
into the right error, and `in_thread` and `iterate_in_thread` run a blocking client.
"""

from modelport.backend import errors as errors
from modelport.errors import ModelError as ModelError
from modelport.layers.base import Deltas as Deltas
from modelport.layers.base import Layer as Layer
from modelport.layers.base import Next as Next
from modelport.model import Model as Model
from modelport.protocols.chat_completions.request import plain_dict as plain_dict
from modelport.runtime.threads import in_thread as in_thread
from modelport.runtime.threads import iterate_in_thread as iterate_in_thread
from modelport.secrets import Secret as Secret
from modelport.types.capabilities import Capabilities as Capabilities
from modelport.types.content import Attachment as Attachment
from modelport.types.content import Image as Image
from modelport.types.content import Text as Text
from modelport.types.deltas import ChatMessageStreamDelta as ChatMessageStreamDelta
from modelport.types.deltas import ChatMessageToolCallStreamDelta as ChatMessageToolCallStreamDelta
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
from modelport.types.tools import NamedToolChoice as NamedToolChoice
from modelport.types.tools import Tool as Tool
from modelport.types.usage import TokenUsage as TokenUsage
from modelport.types.warnings import CallWarning as CallWarning

__all__ = [
    "Attachment", "CallWarning", "Capabilities", "ChatMessage", "ChatMessageStreamDelta", "ChatMessageToolCall",
    "ChatMessageToolCallFunction", "ChatMessageToolCallStreamDelta", "Choice", "Deltas", "Image", "JSONSchema",
    "Lark", "Layer", "MessageRole", "Model", "ModelError", "NamedToolChoice", "Next", "ProviderData", "Regex",
    "Request", "Secret", "Text", "TokenUsage", "Tool", "errors", "in_thread", "iterate_in_thread", "plain_dict",
]  # fmt: skip
