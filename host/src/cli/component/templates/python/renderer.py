"""A renderer: puts variables in the place of `{{name}}`."""

import html
import json
import re
from typing import Any, Optional

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import types

# With this attribute only the syntax is asked for: there are no variables yet.
CHECK = "posthaste.check"
PLACE = re.compile(r"\{\{(?:([^{}]*)\}\})?")


class Renderer(exports.Renderer):
    def render(self, input: types.RendererInput) -> types.Rendered:
        check = any(name == CHECK for name, _ in input.attributes)
        variables = json.loads(input.variables)
        subject = fill("subject", input.subject, variables, False, check)
        if subject is not None:
            # A subject is one line, whatever its variables hold.
            subject = subject.replace("\r", " ").replace("\n", " ")
        return types.Rendered(
            subject=subject,
            html=fill("html", input.html, variables, True, check),
            text=fill("text", input.text, variables, False, check),
            warnings=[],
            attributes=[],
        )


def fill(field: str, source: Optional[str], variables: dict[str, Any], markup: bool, check: bool) -> Optional[str]:
    """Fills one source. In `markup` the variables' own markup is taken away."""

    def value(place: re.Match[str]) -> str:
        if place[1] is None:
            refuse(field, place, "`{{` is never closed")
        if check:
            return ""
        name = place[1].strip()
        if name not in variables:
            refuse(field, place, f"the variable `{name}` is missing")
        found = variables[name]
        if not isinstance(found, (str, int, float)):
            refuse(field, place, f"`{name}` must be a string, a number, true or false")
        text = found if isinstance(found, str) else json.dumps(found)
        return html.escape(text) if markup else text

    return None if source is None else PLACE.sub(value, source)


def refuse(field: str, place: re.Match[str], text: str) -> None:
    """Says where: line and column, both from 1."""
    before = place.string[: place.start()]
    position = types.Position(line=before.count("\n") + 1, column=len(before) - before.rfind("\n"))
    raise Err(types.StageError_Refused(types.Finding(types.FindingClass.TEMPLATE, text, None, field, position)))
