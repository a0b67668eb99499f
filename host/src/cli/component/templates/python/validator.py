"""A validator: refuses recipients at one domain, and warns of mail without a subject."""

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import types

# Where no mail may go.
BLOCKED_DOMAIN = "blocked.example"


class Validator(exports.Validator):
    def describe(self) -> types.Wants:
        """Header, parts and envelope are always there; text, HTML and the raw message cost time and are asked for here."""
        return types.Wants(text=False, html=False, raw=False)

    def validate(self, input: types.ValidatorInput) -> types.Acceptance:
        for address in input.envelope.recipients:
            if address.endswith("@" + BLOCKED_DOMAIN):
                text = f"no mail goes to {BLOCKED_DOMAIN}: remove {address}"
                finding = types.Finding(types.FindingClass.POLICY, text, status=None, field="to", position=None)
                raise Err(types.StageError_Refused(finding))
        has_subject = any(header.name.lower() == "subject" for header in input.headers)
        return types.Acceptance(warnings=[] if has_subject else ["the message has no subject"], attributes=[])
