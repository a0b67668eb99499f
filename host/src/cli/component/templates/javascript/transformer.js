// A transformer: puts a header field in front of every message.

/** The field, with the CRLF that ends it. */
const FIELD = 'X-Sent-By: @NAME@\r\n';

export const transformer = {
  transform(input) {
    // The message is RFC 5322 with CRLF, and must be so afterwards. Without `message` it stays as it is.
    const message = new Uint8Array(FIELD.length + input.message.length);
    message.set(Uint8Array.from(FIELD, (character) => character.charCodeAt(0)));
    message.set(input.message, FIELD.length);
    return { message, warnings: [], attributes: [] };
  },
};
