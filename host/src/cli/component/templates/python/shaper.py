"""A shaper: a webhook as JSON, with the endpoint's newest secret as a bearer token."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import types

# What the contract allows.
BODY_BYTES = 256 * 1024


class Shaper(exports.Shaper):
    def shape(self, input: types.ShaperInput) -> types.HttpRequest:
        """The same event and endpoint give the same body on every try."""
        event = input.event
        content = {
            "id": event.id,
            "type": event.name,
            "message": event.message_id,
            "recipient": event.recipient,
            "subject": event.subject,
            "at": event.occurred_at_ms,
        }
        body = json.dumps(content).encode()
        if len(body) > BODY_BYTES:
            refuse(types.FindingClass.TOO_LARGE, f"the event has {len(body)} bytes as JSON")
        headers = [("content-type", "application/json")]
        if input.endpoint.secrets:
            secret = input.endpoint.secrets[0]
            if not all("!" <= character <= "~" for character in secret):
                refuse(types.FindingClass.POLICY, "the endpoint's secret is no token")
            headers.append(("authorization", f"Bearer {secret}"))
        return types.HttpRequest(method="POST", headers=headers, body=body)


def refuse(kind: types.FindingClass, text: str) -> None:
    raise Err(types.StageError_Refused(types.Finding(kind, text, None, None, None)))
