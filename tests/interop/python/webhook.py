"""The judges of a webhook: standardwebhooks, svix, and Resend's own verify.

stdin: {secret, payload, headers: {webhook-id, ..., svix-id, ...}}; stdout: the parsed payload, by each.
"""
import json
import sys

import resend
import svix.webhooks
from standardwebhooks.webhooks import Webhook

job = json.load(sys.stdin)
secret, payload, headers = job["secret"], job["payload"], job["headers"]
by_resend = resend.Webhooks.verify({
    "payload": payload,
    "headers": {"id": headers["svix-id"], "timestamp": headers["svix-timestamp"], "signature": headers["svix-signature"]},
    "webhook_secret": secret,
})
judges = [Webhook(secret), svix.webhooks.Webhook(secret)]
refused = 0
for judge in judges:
    try:
        judge.verify(payload + " ", headers)
    except Exception:
        refused += 1
# Those of some versions answer nothing: not to raise is their yes.
one, other = (judge.verify(payload, headers) or json.loads(payload) for judge in judges)
print(json.dumps({"standardwebhooks": one, "svix": other, "resend": by_resend, "refused": refused}))
