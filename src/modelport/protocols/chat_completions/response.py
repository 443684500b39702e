"""Reads chat-completions responses and the chunks of streams into deltas.

`ChatResponseReader` reads OpenAI's format, and accepts these deviations of other services:

- The token usage of a stream may come in its own chunk without choices, in the last chunk, or in every chunk. It is
  emitted once, with the finish reason, in the delta that `finish` returns.
- A service may answer a streaming request with one complete message.
- Content may be a list of parts, of which only the text is used. A warning names media that are left out.
- A tool call may come in the field `function_call`.
- Reasoning may be called `reasoning_content` or `reasoning`, be a part of the content, or stand in its text; see
  `think_tags`. If the service may require it in later requests, it is recorded as provider data; see `provider_fields`.
- Parallel tool calls may all have index 0 or no index, and no ids; see `call_fragments`.
- An error may come inside a response with status 200, or as a chunk of a stream.
- A stream that ends without a finish reason may be incomplete. It is an error unless `accept_missing_finish` is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from modelport.constrained.reasoning import THINK_CLOSE, THINK_OPEN
from modelport.errors import MalformedResponse
from modelport.protocols.chat_completions.call_fragments import CallFragments
from modelport.protocols.chat_completions.cumulative_texts import CUMULATIVE_SERVICES, CumulativeTexts
from modelport.protocols.chat_completions.errors import error_from
from modelport.protocols.chat_completions.finish_word import finish_word
from modelport.protocols.chat_completions.output_format import OUTPUT_TOOL
from modelport.protocols.chat_completions.provider_fields import (
    USUAL_FIELDS,
    ProviderFields,
    provider_data_of_call,
    reasoning_text,
)
from modelport.protocols.chat_completions.stream_quirks import (
    count_reasoning,
    error_in,
    minimax_failure_in,
    new_part,
    unwrap_error_list,
    usage_in,
)
from modelport.protocols.chat_completions.think_tags import LONE_TAG, ThinkTagSplitter
from modelport.protocols.finish_reasons import OWN_WORDS, finish_error, finish_reason_from, finish_warning
from modelport.protocols.media import media_in, media_warnings, transcript_of
from modelport.schema.json_text import excerpt
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta
from modelport.types.messages import ChatMessageToolCallFunction
from modelport.types.usage import TokenUsage, token_count_from


class ChatResponseReader:
    """Reads one response, non-streaming or in chunks, into deltas.

    Args:
        accept_missing_finish: Whether a stream without a finish reason counts as complete, because the server never
            sends one.
        split_reasoning: Whether text between `<think>` and `</think>` at the beginning of the content is reasoning;
            `opened` if the content begins inside the reasoning.
        service: The name of the service, for the provider data; `None` if it is not known.

    Attributes:
        think_tags: Splits the reasoning from the content; `None` without `split_reasoning`.
    """

    def __init__(
        self,
        accept_missing_finish: bool = False,
        split_reasoning: bool | Literal["opened"] = False,
        *,
        service: str | None = None,
    ) -> None:
        self._service = service
        #: Collects the provider data; `None` before the first.
        self._provider_fields: ProviderFields | None = None
        #: Finds what is new in each chunk; `None` for services whose chunks have only that.
        self._cumulative = CumulativeTexts() if service in CUMULATIVE_SERVICES else None
        self._accept_missing_finish = accept_missing_finish
        #: The number of characters that have come of each field of text.
        self._lengths = {"content": 0, "reasoning_content": 0, "reasoning": 0, "reasoning_details": 0, "refusal": 0}
        self.think_tags = ThinkTagSplitter(opened=split_reasoning == "opened") if split_reasoning else None
        #: Whether the content may still have a tag.
        self._searches_tags = bool(split_reasoning)
        #: Whether the content has a closing tag without an opening one.
        self._has_lone_tag = False
        #: Collects token usage and finish reason until `finish` returns it.
        self._last_delta = ChatMessageStreamDelta()
        #: The tool calls so far; `None` before the first.
        self._calls: CallFragments | None = None
        #: The service's indices of calls of `OUTPUT_TOOL`. The input of this tool is emitted as content.
        self._output_indices: set[Any] = set()
        #: Whether the model refused to answer. The finish reason is then `content_filter`.
        self._has_refusal = False
        #: The kinds of media that were left out, because deltas have no field for them.
        self._left_out: set[str] = set()
        #: Whether any part of a response has arrived. Without one, a stream is no response, even if it need not say why
        #: it ended.
        self._has_choice = False
        #: The number of the choice that is read. Others are ignored: a caller may have set `n` in `extra_body`.
        self._index = 0
        #: The finish reason as the service wrote it; `None` until it arrives.
        self._finish_word: Any = None

    def read_response(self, data: Any) -> ChatMessageStreamDelta:
        """Return the one delta of a non-streaming response.

        Args:
            data: The parsed body.

        Raises:
            MalformedResponse: The body is not a chat completion.
            ModelError: The body is the service's error.
        """
        self._accept_missing_finish = True  # A body that parses as JSON is complete.
        delta = self._read(data, "message")
        if delta is None:
            raise MalformedResponse(f"The service's response holds no choices: {excerpt(data)}.")
        last = self.finish()
        delta.token_usage, delta.finish_reason, delta.stop_sequence = (
            last.token_usage, last.finish_reason, last.stop_sequence,
        )  # fmt: skip
        delta.content = (delta.content or "") + (last.content or "") or None
        delta.reasoning = (delta.reasoning or "") + (last.reasoning or "") or None
        delta.model_id, delta.raw, delta.warnings = last.model_id, last.raw, last.warnings
        delta.provider_data = delta.provider_data or last.provider_data
        return delta

    def read_chunk(self, data: Any) -> ChatMessageStreamDelta | None:
        """Return the delta of a chunk, or `None` for a chunk that delivers nothing.

        Args:
            data: The parsed chunk.

        Raises:
            MalformedResponse: The data is not a chunk of a chat completion.
            ModelError: The data is the service's error.
        """
        return self._read(data, "delta")

    def finish(self) -> ChatMessageStreamDelta:
        """Return the last delta, which holds token usage and finish reason.

        Raises:
            MalformedResponse: The stream ended without a finish reason, and `accept_missing_finish` is not set. Or it
                had no part of a response.
            ModelError: The finish reason says that the service or the model failed.
        """
        last = self._last_delta
        if self._cumulative is not None and (rest := self._cumulative.rest()):
            self._cumulative = None
            if (delta := self._read_choice({"delta": rest}, "delta", {})) is not None:
                last.reasoning, last.content, last.provider_data = delta.reasoning, delta.content, delta.provider_data
        if self._provider_fields is not None:
            last.provider_data = self._provider_fields.take() or last.provider_data
        if self._searches_tags and self.think_tags is not None:
            reasoning, content = self.think_tags.finish()
            last.reasoning = (last.reasoning or "") + reasoning or None
            last.content = (last.content or "") + content or None
        if self._left_out or self._has_lone_tag:
            last.warnings = [*media_warnings(self._left_out), *([LONE_TAG] if self._has_lone_tag else ())]
        if self._finish_word not in (None, "stop", "length", "tool_calls"):
            if error := finish_error(self._finish_word):
                error.token_usage = last.token_usage
                raise error
            if warning := finish_warning(self._finish_word):
                last.warnings = [*(last.warnings or ()), warning]
        if last.finish_reason is None:
            if not self._has_choice:
                raise MalformedResponse("The service sent no part of a response: no event of the stream has a choice.")
            if not self._accept_missing_finish:
                raise MalformedResponse(
                    "The stream ended without a finish reason, so the response may be truncated. If this server never "
                    "sends a finish reason, pass accept_missing_finish=True."
                )
            last.finish_reason = "tool_calls" if self._calls else "stop"
        elif self._has_refusal:
            last.finish_reason = "content_filter"
        elif self._output_indices and not self._calls and last.finish_reason == "tool_calls":
            last.finish_reason = "stop"  # The only tool that was called is `OUTPUT_TOOL`.
        elif self._calls and last.finish_reason == "stop":
            last.finish_reason = "tool_calls"  # Some services send "stop" with tool calls.
        return last

    def _read(self, data: Any, message_key: str) -> ChatMessageStreamDelta | None:
        try:
            if isinstance(data, list):
                data = unwrap_error_list(data)
            error, choices, usage = data.get("error"), data.get("choices"), data.get("usage")
            if "x_groq" in data:
                error, usage = error or error_in(data), usage or usage_in(data)
            if error or ("choices" not in data and isinstance(data.get("message"), str)):
                error = error or data  # Some gateways send the error's fields without the key "error".
                raise error_from(error.get("code") if isinstance(error, dict) else None, {"error": error})
            if not choices and "base_resp" in data and (failure := minimax_failure_in(data)):
                raise error_from(failure[0], {"error": failure[1]})
            # Azure's first chunk, and the chunk with the usage, have no choices.
            delta, choice = None, choices[0] if choices else None
            if choice and (choices[-1] is not choice or ("index" in choice and choice["index"] != self._index)):
                choice = self._own_choice(choices)
            if choice is not None:
                delta = self._read_choice(choice, message_key, data)
            if usage or (choices and "usage" in choices[0] and (usage := usage_in(data))):
                self._last_delta.token_usage = usage_from(usage)
                self._last_delta.raw = data
            return delta
        except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
            raise MalformedResponse(
                f"The service's response is not a chat completion ({type(error).__name__}: {error}): {excerpt(data)}."
            ) from None

    def _own_choice(self, choices: list[Any]) -> Any:
        """Return the choice that is read, of several or of one that has another number; `None` if it is not there."""
        if not self._has_choice:
            self._index = min(choice.get("index") or 0 for choice in choices)
        # LiteLLM gives a choice without a number the number `None`.
        return next((choice for choice in choices if choice.get("index") in (None, self._index)), None)

    def _read_choice(self, choice: Any, message_key: str, data: Any) -> ChatMessageStreamDelta | None:
        self._has_choice = True
        # This method runs for every chunk, so what is rare is asked for with `in`, which takes less time than a call.
        if "error" in choice and (error := choice["error"]):
            # OpenRouter reports a failure of the model's provider here.
            raise error_from(error.get("code") if isinstance(error, dict) else None, {"error": error})
        word = choice.get("finish_reason")
        if word not in OWN_WORDS or "native_finish_reason" in choice or "provider_specific_fields" in choice:
            word = None if word is None else finish_word(word, choice)
        if word is not None:
            self._finish_word = word
            self._last_delta.finish_reason = word if word in OWN_WORDS else finish_reason_from(word)
            self._last_delta.raw = data
            if isinstance(stop := choice.get("stop_reason"), str):
                self._last_delta.stop_sequence = stop
        if not (message := choice.get(message_key)):
            message = new_part(choice, self._lengths, bool(self._calls or self._output_indices))
        elif self._cumulative is not None and message_key == "delta":
            message = self._cumulative.new_part(message)
        content = message.get("content")
        reasoning, is_list, media = None, content.__class__ is list, None
        if is_list or not message.keys() <= USUAL_FIELDS:  # Most chunks need not be searched.
            if self._provider_fields is None or choice.get(message_key):  # A repeated message is not read again.
                self._provider_fields = self._provider_fields or ProviderFields(self._service)
                self._provider_fields.read(message)
            reasoning = message.get("reasoning_content") or message.get("reasoning") or reasoning_text(message)
            count_reasoning(message, self._lengths)
        if is_list or "audio" in message or "images" in message:
            media = {*media_in(message)}
            self._left_out |= media
        if is_list:  # Mistral's reasoning models send a list of parts.
            content = "".join(part.get("text", "") for part in content if part.get("type") == "text")
        if "audio" in message and not content:
            content = transcript_of(message) or None
        if refusal := message.get("refusal"):
            content, self._has_refusal = (content or "") + refusal, True
            self._lengths["refusal"] += len(refusal)
        elif content:
            self._lengths["content"] += len(content)
        if content is not None and not isinstance(content, str):
            raise TypeError(f"content is {type(content).__name__}, not a string")
        if reasoning is not None and not isinstance(reasoning, str):
            raise TypeError(f"reasoning is {type(reasoning).__name__}, not a string")
        calls: list[ChatMessageToolCallStreamDelta] = []
        received = message.get("tool_calls")
        if not received and "function_call" in message and (function := message["function_call"]):
            received = [{"index": "function_call", "function": function}]  # The only call of OpenAI's API of 2023.
        if received:
            if outputs := [call["custom"]["input"] for call in received if self._is_output(call)]:
                content = (content or "") + "".join(outputs)
            is_whole = not choice.get("delta")  # The entries of a list that is not streamed are one call each.
            calls = [self._call_delta(call, is_whole) for call in received if not self._is_output(call)]
        if logprobs := choice.get("logprobs"):
            logprobs = logprobs.get("content") or None
        if logprobs and not (isinstance(logprobs, list) and all(isinstance(item, dict) for item in logprobs)):
            raise TypeError("logprobs is not a list of objects")
        if self._last_delta.model_id is None:
            model_id = data.get("model")
            self._last_delta.model_id = model_id if isinstance(model_id, str) else None
        if self._searches_tags and (content or reasoning) and self.think_tags is not None:
            split, content = self.think_tags.feed(content or "", reasoning or "")
            reasoning = reasoning or split
            self._searches_tags = not self.think_tags.is_done
        if content and THINK_CLOSE in content and self.think_tags is not None:
            has_reasoning = bool(self._lengths["reasoning"] or self._lengths["reasoning_content"])
            self._has_lone_tag = not (has_reasoning or THINK_OPEN in content or self.think_tags.has_tag)
        if not (content or reasoning or calls or logprobs or media):
            # An empty message is a valid response, but an empty chunk delivers nothing.
            return ChatMessageStreamDelta() if "message" in choice else None
        return ChatMessageStreamDelta(
            content=content or None, tool_calls=calls or None, reasoning=reasoning or None, logprobs=logprobs or None,
            raw=data if media else None,
            # The output follows the reasoning, which is therefore complete.
            provider_data=self._provider_fields.take() if self._provider_fields and (content or calls) else None,
        )  # fmt: skip

    def _is_output(self, call: Any) -> bool:
        """Return whether a tool call, or a fragment of one, belongs to a call of `OUTPUT_TOOL`."""
        custom = call.get("custom")
        if not isinstance(custom, dict):
            return False
        if custom.get("name") == OUTPUT_TOOL:
            self._output_indices.add(call.get("index"))
        return call.get("index") in self._output_indices

    def _call_delta(self, call: Any, is_whole: bool) -> ChatMessageToolCallStreamDelta:
        function = call.get("function") or {}
        call_id, name, arguments = call.get("id"), function.get("name"), function.get("arguments")
        for field, value in (("id", call_id), ("name", name)):
            if not isinstance(value, str | None):
                raise TypeError(f"a call's {field} is {type(value).__name__}, not a string")
        if self._calls is None:
            self._calls = CallFragments()
        index, call_id, name = self._calls.add(call.get("index"), call_id, name, arguments, is_whole=is_whole)
        return ChatMessageToolCallStreamDelta(
            index=index,
            id=call_id,
            type=kind if isinstance(kind := call.get("type"), str) and kind else "function",
            function=ChatMessageToolCallFunction(arguments=arguments if arguments is not None else "", name=name or ""),
            provider_data=provider_data_of_call(call, self._service),
        )


def usage_from(usage: Mapping[str, Any]) -> TokenUsage:
    """Return the token usage of a response. A count that the service does not send is unknown, not zero."""
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    return TokenUsage(
        input_tokens=token_count_from(usage.get("prompt_tokens")),
        output_tokens=token_count_from(usage.get("completion_tokens")),
        cached_input_tokens=token_count_from(prompt.get("cached_tokens", usage.get("prompt_cache_hit_tokens"))),
        reasoning_tokens=token_count_from(completion.get("reasoning_tokens")),
    )
