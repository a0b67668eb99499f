"""A signer: DKIM (RFC 6376), relaxed/relaxed, with every key that the keeper of the keys has for the domain."""

import base64
import hashlib

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import keys, types

# What is signed, where the message has it. A field that stands several times is signed as often.
SIGNED = [
    "from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "mime-version", "content-type",
    "content-transfer-encoding",
]
ALGORITHMS = {types.Algorithm.RSA_SHA256: "rsa-sha256", types.Algorithm.ED25519_SHA256: "ed25519-sha256"}


class Signer(exports.Signer):
    def sign(self, input: types.SignerInput) -> types.Signatures:
        try:
            headers = [signature(input, identity) for identity in keys.identities(input.domain)]
        except Err as error:
            # What `posthaste:keys` says: the message is to be tried again.
            raise Err(types.StageError_Unavailable(str(error.value.value)))
        return types.Signatures(headers=headers, attributes=[])


def signature(input: types.SignerInput, identity: types.Identity) -> types.RawHeader:
    """One signature field. The digest goes to the keeper of the keys, who signs it; the key itself never comes here."""
    names = []
    signed = hashlib.sha256()
    for name in SIGNED:
        # From the bottom up (RFC 6376 s5.4.2).
        for header in reversed([header for header in input.headers if header.name.strip().lower() == name]):
            names.append(name)
            signed.update(canonical(name, header.value) + b"\r\n")
    body_hash = base64.b64encode(input.body_hash).decode()
    value = (
        f"v=1; a={ALGORITHMS[identity.algorithm]}; c=relaxed/relaxed; d={identity.domain}; s={identity.selector}; "
        f"t={input.timestamp_s};\r\n\th={':'.join(names)};\r\n\tbh={body_hash};\r\n\tb="
    )
    signed.update(canonical("dkim-signature", value.encode()))
    answer = keys.sign_digest(identity.key_id, signed.digest())
    return types.RawHeader("DKIM-Signature", f" {value}{base64.b64encode(answer).decode()}".encode())


def canonical(name: str, value: bytes) -> bytes:
    """A field in relaxed canonical form, without its CRLF (RFC 6376 s3.4.2)."""
    return name.encode() + b":" + b" ".join(value.split())
