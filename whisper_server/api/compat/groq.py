"""groq's own field of a reply: its AI SDK provider takes no reply without it."""

from __future__ import annotations

import json


def with_groq_id(body: str, request_id: str) -> str:
    """Return the JSON text of an object, with the field `x_groq` at its end."""
    field = json.dumps({"x_groq": {"id": request_id}}, separators=(",", ":"))
    start = body.rstrip().removesuffix("}").rstrip()
    return start + ("" if start.endswith("{") else ",") + field.removeprefix("{")
