"""The official Resend SDK: scheduling, batches, templates, domains.

stdin: {base, key, from, to}; stdout: {sent}: how many messages are to arrive. Asserts what the SDK gives its caller.
"""

import json
import sys
from datetime import datetime, timedelta, timezone

import resend
from resend.exceptions import ResendError

job = json.load(sys.stdin)
resend.api_url, resend.api_key = job["base"], job["key"]


def mail(**fields) -> dict:
    return {"from": f"Acme <{job['from']}>", "to": [job["to"]], "subject": "Python SDK", "html": "<p>It works.</p>", **fields}


def refused(code: int, words: str, call) -> None:
    try:
        call()
    except ResendError as error:
        assert int(error.code) == code and words in error.message, (error.code, error.message)
        return
    raise AssertionError("no error was raised")


# Scheduled, moved, canceled.
later = datetime.now(timezone.utc) + timedelta(hours=1)
sent = resend.Emails.send(mail(subject="never", scheduled_at=later.isoformat()))
assert resend.Emails.get(sent["id"])["last_event"] == "scheduled"
moved = resend.Emails.update({"id": sent["id"], "scheduled_at": "in 2 days"})
assert moved["id"] == sent["id"] and moved["object"] == "email", moved
at = datetime.fromisoformat(resend.Emails.get(sent["id"])["scheduled_at"])
assert at > later + timedelta(days=1), at
assert resend.Emails.cancel(sent["id"])["id"] == sent["id"]
assert resend.Emails.get(sent["id"])["last_event"] == "canceled"
refused(422, "canceled", lambda: resend.Emails.cancel(sent["id"]))

# A batch, its repetition, one that is wrong.
two = [mail(subject="one"), mail(subject="two")]
options = {"idempotency_key": "python-batch"}
first = resend.Batch.send(two, options)
again = resend.Batch.send(two, options)
ids = [one["id"] for one in first["data"]]
assert len(ids) == 2 and ids == [one["id"] for one in again["data"]], (first, again)
wrong = [mail(subject="three"), mail(to=["nobody"])]
refused(422, "[1].to[0]", lambda: resend.Batch.send(wrong))
partly = resend.Batch.send(wrong, {"batch_validation": "permissive"})
assert len(partly["data"]) == 1 and partly["errors"][0]["index"] == 1, partly

# A template.
template = resend.Templates.create(
    {
        "name": "Order",
        "alias": "python-order",
        "from": job["from"],
        "subject": "Order {{PRODUCT}}",
        "html": "<p>{{{PRODUCT}}}</p>",
        "variables": [{"key": "PRODUCT", "type": "string", "fallback_value": "something"}],
    }
)
resend.Templates.publish(template["id"])
rendered = resend.Emails.send({"to": job["to"], "template": {"id": template["id"], "variables": {"PRODUCT": "tea"}}})
assert resend.Emails.get(rendered["id"])["subject"] == "Order tea"
resend.Templates.update({"id": template["id"], "name": "Order 2"})
assert resend.Templates.get(template["id"])["name"] == "Order 2"
assert [one["id"] for one in resend.Templates.list()["data"]] == [template["id"]]
assert resend.Templates.remove(template["id"])["deleted"] is True

# A domain of the caller's own.
domain = resend.Domains.create({"name": "own-python.test", "region": "eu-west-1"})
assert domain["status"] == "not_started" and domain["records"], domain
refused(403, "_domainkey", lambda: resend.Emails.send(mail(**{"from": "a@own-python.test"})))
resend.Domains.verify(domain["id"])
assert resend.Domains.get(domain["id"])["status"] == "pending"
assert domain["id"] in [one["id"] for one in resend.Domains.list()["data"]]
assert resend.Domains.remove(domain["id"])["deleted"] is True

print(json.dumps({"sent": 4}))
