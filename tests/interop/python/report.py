"""Python's email package as the reader of a report.

stdin: {message (base64)}; stdout: what it found in the report.
"""

import base64
import email
import email.policy
import json
import sys

message = email.message_from_bytes(base64.b64decode(json.load(sys.stdin)["message"]), policy=email.policy.default)
parts = list(message.iter_parts())
status = next(part for part in parts if part.get_content_type() == "message/delivery-status")
blocks = [dict(block.items()) for block in status.get_payload()]
returned = parts[2] if len(parts) > 2 else None
print(
    json.dumps(
        {
            "type": message.get_content_type(),
            "report_type": message.get_param("report-type"),
            "from": message["From"].addresses[0].addr_spec,
            "to": message["To"].addresses[0].addr_spec,
            "auto_submitted": message["Auto-Submitted"],
            "parts": [part.get_content_type() for part in parts],
            "text": parts[0].get_content(),
            "message": blocks[0],
            "recipients": [block for block in blocks[1:] if block],
            "returned": returned.as_string() if returned else None,
            "defects": [str(defect) for part in message.walk() for defect in part.defects],
        }
    )
)
