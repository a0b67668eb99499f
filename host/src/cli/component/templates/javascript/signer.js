// A signer: DKIM (RFC 6376), relaxed/relaxed, with every key that the keeper of the keys has for the domain.
import { identities, signDigest } from 'posthaste:keys/keys@0.1.0';

/** What is signed, where the message has it. A field that stands several times is signed as often. */
const SIGNED = [
  'from', 'sender', 'reply-to', 'to', 'cc', 'subject', 'date', 'message-id', 'mime-version', 'content-type',
  'content-transfer-encoding',
];

export const signer = {
  sign(input) {
    try {
      const headers = identities(input.domain).map((identity) => signature(input, identity));
      return { headers, attributes: [] };
    } catch (error) {
      // What `posthaste:keys` says: the message is to be tried again.
      throw { tag: 'unavailable', val: String(error.payload?.val ?? error) };
    }
  },
};

/** One signature field. The digest goes to the keeper of the keys, who signs it; the key itself never comes here. */
function signature(input, identity) {
  const names = [];
  let signed = '';
  for (const name of SIGNED) {
    // From the bottom up (RFC 6376 s5.4.2).
    for (const header of input.headers.filter((header) => header.name.trim().toLowerCase() === name).reverse()) {
      names.push(name);
      signed += `${canonical(name, text(header.value))}\r\n`;
    }
  }
  const value =
    `v=1; a=${identity.algorithm}; c=relaxed/relaxed; d=${identity.domain}; s=${identity.selector}; ` +
    `t=${input.timestampS};\r\n\th=${names.join(':')};\r\n\tbh=${btoa(text(input.bodyHash))};\r\n\tb=`;
  signed += canonical('dkim-signature', value);
  const answer = signDigest(identity.keyId, sha256(bytes(signed)));
  return { name: 'DKIM-Signature', value: bytes(` ${value}${btoa(text(answer))}`) };
}

/** A field in relaxed canonical form, without its CRLF (RFC 6376 s3.4.2). */
function canonical(name, value) {
  return `${name}:${value.split(/[ \t\r\n]+/).filter((word) => word !== '').join(' ')}`;
}

/** Bytes as a string with a character for each, and back. */
function text(bytes) {
  let text = '';
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}

function bytes(text) {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/** The first 32 bits of the fractional parts of a root of the first primes. */
function roots(count, root) {
  const found = [];
  for (let number = 2; found.length < count; number += 1) {
    let isPrime = true;
    for (let factor = 2; factor * factor <= number; factor += 1) isPrime &&= number % factor !== 0;
    if (isPrime) found.push(((root(number) % 1) * 2 ** 32) | 0);
  }
  return found;
}

const CONSTANTS = roots(64, Math.cbrt);
const START = roots(8, Math.sqrt);

/** SHA-256 (FIPS 180-4). */
function sha256(message) {
  const padded = new Uint8Array((((message.length + 8) >> 6) + 1) << 6);
  padded.set(message);
  padded[message.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 4, message.length << 3);
  view.setUint32(padded.length - 8, Math.floor(message.length / 2 ** 29));
  const state = Int32Array.from(START);
  const words = new Int32Array(64);
  const turn = (word, by) => (word >>> by) | (word << (32 - by));
  for (let block = 0; block < padded.length; block += 64) {
    for (let i = 0; i < 16; i += 1) words[i] = view.getInt32(block + 4 * i);
    for (let i = 16; i < 64; i += 1) {
      const [near, far] = [words[i - 2], words[i - 15]];
      const nearMix = turn(near, 17) ^ turn(near, 19) ^ (near >>> 10);
      const farMix = turn(far, 7) ^ turn(far, 18) ^ (far >>> 3);
      words[i] = words[i - 16] + farMix + words[i - 7] + nearMix;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i += 1) {
      const eMix = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
      const first = (h + eMix + ((e & f) ^ (~e & g)) + CONSTANTS[i] + words[i]) | 0;
      const aMix = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
      const second = (aMix + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => (state[i] += word));
  }
  const digest = new DataView(new ArrayBuffer(32));
  state.forEach((word, i) => digest.setInt32(4 * i, word));
  return new Uint8Array(digest.buffer);
}
