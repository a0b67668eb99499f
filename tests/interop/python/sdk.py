"""The official Resend SDK as a client.

stdin: {base, key, from, to}; stdout: {id}. Asserts what the SDK gives its caller.
"""

import json
import sys

import resend
from resend.exceptions import ResendError

job = json.load(sys.stdin)
resend.api_url, resend.api_key = job["base"], job["key"]


def mail(**fields) -> dict:
    return {"from": f"Acme <{job['from']}>", "to": [job["to"]], "subject": "Python SDK", "html": "<p>It works.</p>", **fields}


def error_of(call) -> ResendError:
    try:
        call()
    except ResendError as error:
        return error
    raise AssertionError("no error was raised")


sent = resend.Emails.send(
    mail(
        reply_to="reply@src.test",
        headers={"X-Entity-Ref-ID": "42"},
        tags=[{"name": "category", "value": "welcome"}],
        attachments=[{"filename": "hello.txt", "content": list(b"hello"), "content_type": "text/plain"}],
    )
)
identifier = sent["id"]

got = resend.Emails.get(identifier)
assert got["id"] == identifier, got
assert got["subject"] == "Python SDK", got
assert got["to"] == [job["to"]], got
assert got["last_event"], got

options = {"idempotency_key": "python-sdk-1"}
first = resend.Emails.send(mail(subject="once"), options)
again = resend.Emails.send(mail(subject="once"), options)
assert first["id"] == again["id"], (first, again)
other = error_of(lambda: resend.Emails.send(mail(subject="other"), options))
assert int(other.code) == 409, other.code

invalid = error_of(lambda: resend.Emails.send(mail(to=["not an address"])))
assert int(invalid.code) == 422 and "to" in invalid.message, (invalid.code, invalid.message)
unknown = error_of(lambda: resend.Emails.send(mail(colour="red")))
assert int(unknown.code) == 422 and "colour" in unknown.message, (unknown.code, unknown.message)

resend.api_key = "ph_wrong"
refused = error_of(lambda: resend.Emails.send(mail()))
assert int(refused.code) in (401, 403), refused.code

print(json.dumps({"id": identifier, "once": first["id"]}))
