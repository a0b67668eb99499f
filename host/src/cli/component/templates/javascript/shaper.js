// A shaper: a webhook as JSON, with the endpoint's newest secret as a bearer token.

/** What the contract allows. */
const BODY_BYTES = 256 * 1024;

export const shaper = {
  /** The same event and endpoint give the same body on every try. */
  shape({ event, endpoint }) {
    const body = new TextEncoder().encode(
      JSON.stringify({
        id: event.id,
        type: event.name,
        message: event.messageId,
        recipient: event.recipient,
        subject: event.subject,
        at: Number(event.occurredAtMs),
      }),
    );
    if (body.length > BODY_BYTES) refuse('too-large', `the event has ${body.length} bytes as JSON`);
    const headers = [['content-type', 'application/json']];
    const [secret] = endpoint.secrets;
    if (secret !== undefined) {
      if (!/^[!-~]*$/.test(secret)) refuse('policy', "the endpoint's secret is no token");
      headers.push(['authorization', `Bearer ${secret}`]);
    }
    return { method: 'POST', headers, body };
  },
};

function refuse(kind, text) {
  throw { tag: 'refused', val: { class: kind, text } };
}
