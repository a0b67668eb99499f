// The official Resend SDK as a client: it never throws, so what it hands over is looked at.
// stdin: {base, key, from, to}; stdout: {id, once}.
import assert from 'node:assert/strict';
import { text } from 'node:stream/consumers';
import { Resend } from 'resend';

const job = JSON.parse(await text(process.stdin));
const resend = new Resend(job.key, { baseUrl: job.base });
const mail = (fields) => ({
  from: `Acme <${job.from}>`, to: job.to, subject: 'Node SDK', html: '<p>It works.</p>', ...fields,
});
const good = async (answer) => {
  const { data, error } = await answer;
  assert.equal(error, null, JSON.stringify(error));
  return data;
};
const bad = async (answer) => {
  const { data, error } = await answer;
  assert.equal(data, null);
  return error;
};

const { id } = await good(resend.emails.send(mail({
  cc: 'copy@dst.test', replyTo: 'reply@src.test', headers: { 'X-Entity-Ref-ID': '42' }, text: 'It works.',
  tags: [{ name: 'category', value: 'welcome' }],
  attachments: [{ filename: 'hello.txt', content: Buffer.from('hello') }],
})));
const got = await good(resend.emails.get(id));
assert.equal(got.id, id);
assert.equal(got.subject, 'Node SDK');
assert.deepEqual(got.to, [job.to]);
assert.deepEqual(got.cc, ['copy@dst.test']);
assert.ok(got.last_event);

const once = await good(resend.emails.send(mail({ subject: 'once' }), { idempotencyKey: 'node-sdk-1' }));
const again = await good(resend.emails.send(mail({ subject: 'once' }), { idempotencyKey: 'node-sdk-1' }));
assert.equal(again.id, once.id);
const other = await bad(resend.emails.send(mail({ subject: 'other' }), { idempotencyKey: 'node-sdk-1' }));
assert.equal(other.statusCode, 409, JSON.stringify(other));

const invalid = await bad(resend.emails.send(mail({ to: 'not an address' })));
assert.equal(invalid.statusCode, 422, JSON.stringify(invalid));
assert.match(invalid.message, /to/);
assert.ok(invalid.name, JSON.stringify(invalid));
const late = await bad(resend.emails.send(mail({ scheduledAt: '2099-01-01T00:00:00Z' })));
assert.equal(late.statusCode, 422, JSON.stringify(late));
assert.match(late.message, /scheduled_at/);

const stranger = new Resend('ph_wrong', { baseUrl: job.base });
const refused = await bad(stranger.emails.send(mail()));
assert.ok([401, 403].includes(refused.statusCode), JSON.stringify(refused));

console.log(JSON.stringify({ id, once: once.id }));
