"""smtplib as a client: STARTTLS, all AUTH mechanisms (SCRAM by the library scramp), a wrong password, a stranger's domain.

stdin: {host, port, key, key_id, from, stranger, to}; stdout: the enhanced replies a caller sees.
"""

import json
import smtplib
import ssl
import sys
from email.message import EmailMessage

from scramp import ScramClient

job = json.load(sys.stdin)
# The server's certificate is its own; who it is does not matter here.
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE


def connect() -> smtplib.SMTP:
    smtp = smtplib.SMTP(job["host"], job["port"], local_hostname="client.test", timeout=30)
    smtp.ehlo()
    assert smtp.has_extn("starttls"), smtp.esmtp_features
    assert not smtp.has_extn("auth"), "AUTH must not be offered before TLS"
    smtp.starttls(context=context)
    smtp.ehlo()
    for extension in ("auth", "size", "8bitmime", "pipelining", "enhancedstatuscodes"):
        assert smtp.has_extn(extension), f"{extension}: {smtp.esmtp_features}"
    assert not smtp.has_extn("starttls"), "STARTTLS must not be offered twice"
    return smtp


def message(subject: str) -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = f"Absender Ärger <{job['from']}>"
    mail["To"] = job["to"]
    mail["Subject"] = subject
    mail.set_content("Grüße aus smtplib.\n.\n..dots at the start of lines\n")
    mail.add_alternative("<p>Grüße aus <b>smtplib</b></p>", subtype="html")
    return mail


with connect() as smtp:
    smtp.user, smtp.password = "anybody", job["key"]
    smtp.auth("PLAIN", smtp.auth_plain)
    smtp.send_message(message("smtplib, AUTH PLAIN"))
    # A second message in the same session.
    smtp.send_message(message("smtplib, second"))

with connect() as smtp:
    smtp.user, smtp.password = "anybody", job["key"]
    smtp.auth("LOGIN", smtp.auth_login)
    smtp.send_message(message("smtplib, AUTH LOGIN"))



def scram(smtp: smtplib.SMTP, user: str, key: str) -> tuple[int, bytes]:
    client = ScramClient(["SCRAM-SHA-256"], user, key)

    def answer(challenge: bytes | None = None) -> str:
        text = (challenge or b"").decode()
        if text.startswith("r="):
            client.set_server_first(text)
            return client.get_client_final()
        if text.startswith("v="):
            # Fails unless the server has shown that it knows the key too.
            client.set_server_final(text)
            return ""
        return client.get_client_first()

    return smtp.auth("SCRAM-SHA-256", answer)


with connect() as smtp:
    assert "SCRAM-SHA-256" in smtp.esmtp_features["auth"], smtp.esmtp_features
    scram(smtp, job["key_id"], job["key"])
    smtp.send_message(message("smtplib, AUTH SCRAM-SHA-256"))

said = {}
with connect() as smtp:
    # A wrong key, and a user who is not there, are told the same.
    for user, key in [(job["key_id"], "ph_wrong"), ("key_nobody", job["key"])]:
        try:
            scram(smtp, user, key)
        except smtplib.SMTPAuthenticationError as error:
            said[f"scram {'key' if key != job['key'] else 'user'}"] = error.smtp_code

with connect() as smtp:
    try:
        smtp.login("anybody", "ph_wrong")
    except smtplib.SMTPAuthenticationError as error:
        said["wrong_password"] = error.smtp_code

with connect() as smtp:
    smtp.login("anybody", job["key"])
    mail = message("from a stranger's domain")
    del mail["From"]
    mail["From"] = job["stranger"]
    try:
        smtp.send_message(mail)
    except smtplib.SMTPResponseException as error:
        said["stranger"] = error.smtp_code
    except smtplib.SMTPRecipientsRefused as error:
        said["stranger"] = [code for code, _ in error.recipients.values()][0]

print(json.dumps(said))
