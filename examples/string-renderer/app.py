"""A renderer: Python's own `string.Template`, `$name` and `${name}`, with markup in variables taken away in HTML."""

import html
import json
from string import Template
from typing import Callable, Optional

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import types

# With this attribute only the syntax is asked for: there are no variables yet.
CHECK = "posthaste.check"


class Renderer(exports.Renderer):
    def render(self, input: types.RendererInput) -> types.Rendered:
        check = any(name == CHECK for name, _ in input.attributes)
        variables = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in json.loads(input.variables).items()
        }

        def fill(field: str, source: Optional[str], escape: Callable[[str], str]) -> Optional[str]:
            if source is None:
                return None
            template = Template(source)
            check_syntax(field, template)
            if check:
                return source
            try:
                return template.substitute({name: escape(value) for name, value in variables.items()})
            except KeyError as error:
                refuse(field, f"the variable `{error.args[0]}` is missing", None)

        return types.Rendered(
            # A subject is one line, whatever its variables hold.
            subject=fill("subject", input.subject, lambda value: " ".join(value.split())),
            html=fill("html", input.html, html.escape),
            text=fill("text", input.text, str),
            warnings=[],
            attributes=[],
        )


def check_syntax(field: str, template: Template) -> None:
    for place in template.pattern.finditer(template.template):
        if place["invalid"] is not None:
            before = template.template[: place.start("invalid")]
            position = types.Position(line=before.count("\n") + 1, column=len(before) - before.rfind("\n"))
            refuse(field, "a `$` that begins no variable: write `$$` for the sign itself", position)


def refuse(field: str, text: str, position: Optional[types.Position]) -> None:
    raise Err(types.StageError_Refused(types.Finding(types.FindingClass.TEMPLATE, text, None, field, position)))
