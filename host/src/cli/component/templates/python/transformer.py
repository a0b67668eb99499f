"""A transformer: puts a header field in front of every message."""

from wit_world import exports
from wit_world.imports import types

# The field, with the CRLF that ends it.
FIELD = b"X-Sent-By: @NAME@\r\n"


class Transformer(exports.Transformer):
    def transform(self, input: types.TransformerInput) -> types.Transformed:
        # The message is RFC 5322 with CRLF, and must be so afterwards. `None` leaves it as it is.
        return types.Transformed(message=FIELD + input.message, warnings=[], attributes=[])
