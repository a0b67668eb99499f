// The judges of a webhook: standardwebhooks, svix, and Resend's own verify.
// stdin: {secret, payload, headers: {webhook-id, …, svix-id, …}}; stdout: the parsed payload, by each.
import { text } from 'node:stream/consumers';
import { Webhook } from 'standardwebhooks';
import { Webhook as Svix } from 'svix';
import { Resend } from 'resend';

const { secret, payload, headers } = JSON.parse(await text(process.stdin));
const resend = new Resend('re_unused').webhooks.verify({
  payload,
  headers: { id: headers['svix-id'], timestamp: headers['svix-timestamp'], signature: headers['svix-signature'] },
  webhookSecret: secret,
});
const refused = [];
for (const judge of [new Webhook(secret), new Svix(secret)]) {
  try { judge.verify(payload + ' ', headers); } catch { refused.push(true); }
}
console.log(JSON.stringify({
  standardwebhooks: new Webhook(secret).verify(payload, headers),
  svix: new Svix(secret).verify(payload, headers),
  resend, refused: refused.length,
}));
