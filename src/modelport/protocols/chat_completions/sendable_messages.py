"""Changes messages that OpenAI and others would refuse into messages that they accept.

- An assistant message without content and without tool calls is left out. OpenAI refuses `null` as its content, and
  Mistral also refuses an empty text; see https://github.com/OpenHands/OpenHands/issues/8685
- An image in a tool result is moved to a user message behind the results of the same turn, because only user messages
  may have images; see https://github.com/OpenHands/OpenHands/issues/7700. Audio and files are moved likewise.
"""

from __future__ import annotations

from typing import Any

#: The text of a tool result of which nothing else is left.
_MOVED = "The result is in the next user message."


def sendable_messages(messages: list[dict[str, Any]], moves_media: bool = True) -> list[dict[str, Any]]:
    """Return messages that services accept.

    Args:
        messages: The messages of a body.
        moves_media: Whether images in tool results are moved to a user message.
    """
    for message in messages:  # Most messages are sent as they are. This loop calls no functions.
        if (not (content := message["content"]) and message["role"] == "assistant") or content.__class__ is list:
            break
    else:
        return messages
    result: list[dict[str, Any]] = []
    moved: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] != "tool" and moved:
            result.append({"role": "user", "content": moved})
            moved = []
        if message["role"] == "assistant" and not _says_anything(message):
            continue
        if message["role"] == "tool" and moves_media and isinstance(message["content"], list):
            media = [part for part in message["content"] if part.get("type") != "text"]
            if media:
                texts = [part for part in message["content"] if part.get("type") == "text"]
                message = {**message, "content": texts or _MOVED}
                moved += [{"type": "text", "text": f"Result of the tool call {message.get('tool_call_id')}:"}, *media]
        result.append(message)
    return [*result, {"role": "user", "content": moved}] if moved else result


def _says_anything(message: dict[str, Any]) -> bool:
    return any(value for name, value in message.items() if name not in ("role", "name"))
