"""The shapes of chat completions on the wire, as OpenAI describes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class ChatMessage(BaseModel):
    """The transcript as an assistant's answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[Any] = []


class ChatChoice(BaseModel):
    """The only choice."""

    index: int = 0
    message: ChatMessage
    logprobs: None = None
    finish_reason: Literal["stop"] = "stop"


class PromptTokens(BaseModel):
    """Not counted."""

    audio_tokens: int = 0
    cached_tokens: int = 0


class ChatUsage(BaseModel):
    """The tokens that the model wrote, timestamps included; what it was given is not counted."""

    prompt_tokens: int = 0
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens = PromptTokens()


class ChatReply(BaseModel):
    """A chat completion, as OpenAI describes it."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
