"""dkimpy as a verifier, its DNS a table.

stdin: {message (base64), records: {name: text}}; stdout: [{domain, selector, algorithm, valid}].
"""

import base64
import json
import sys

import dkim

job = json.load(sys.stdin)
message = base64.b64decode(job["message"])


def lookup(name, timeout=5):
    name = name.decode() if isinstance(name, bytes) else name
    text = job["records"].get(name.rstrip(".").lower())
    return text.encode() if text else None


signatures = sum(1 for name, _ in dkim.DKIM(message).headers if name.lower() == b"dkim-signature")
results = []
for index in range(signatures):
    verifier = dkim.DKIM(message)
    try:
        valid = verifier.verify(idx=index, dnsfunc=lookup)
    except dkim.ValidationError:
        valid = False
    fields = verifier.signature_fields
    results.append(
        {
            "domain": verifier.domain.decode(),
            "selector": verifier.selector.decode(),
            "algorithm": fields[b"a"].decode(),
            "valid": bool(valid),
        }
    )
print(json.dumps(results))
