// The official Resend SDK: scheduling, batches, templates, domains, attachments by URL.
// stdin: {base, key, from, to}; stdout: {sent}: how many messages are to arrive.
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
const bad = async (answer, statusCode, words) => {
  const { data, error } = await answer;
  assert.equal(data, null);
  assert.equal(error.statusCode, statusCode, JSON.stringify(error));
  assert.match(error.message, words);
  return error;
};

// Scheduled, moved, canceled.
const { id } = await good(resend.emails.send(mail({ subject: 'never', scheduledAt: 'in 1 hour' })));
let got = await good(resend.emails.get(id));
assert.equal(got.last_event, 'scheduled');
const later = new Date(Date.now() + 86_400_000).toISOString();
assert.deepEqual(await good(resend.emails.update({ id, scheduledAt: later })), { object: 'email', id });
got = await good(resend.emails.get(id));
assert.equal(new Date(got.scheduled_at).toISOString(), later);
await bad(resend.emails.update({ id, scheduledAt: 'soon' }), 422, /scheduled_at/);
assert.deepEqual(await good(resend.emails.cancel(id)), { object: 'email', id });
assert.equal((await good(resend.emails.get(id))).last_event, 'canceled');
await bad(resend.emails.cancel(id), 422, /canceled/);
await bad(resend.emails.cancel('01890a5d-ac96-774b-bcce-b302099a8057'), 404, /not found/i);

// A batch, its repetition, one that is wrong.
const two = [mail({ subject: 'one' }), mail({ subject: 'two' })];
const batch = await good(resend.batch.send(two, { idempotencyKey: 'node-batch' }));
assert.equal(batch.data.length, 2);
const again = await good(resend.batch.send(two, { idempotencyKey: 'node-batch' }));
assert.deepEqual(again.data, batch.data);
await bad(resend.batch.send([...two, mail({})], { idempotencyKey: 'node-batch' }), 409, /key/);
const wrong = [mail({ subject: 'three' }), mail({ to: 'nobody' })];
await bad(resend.batch.send(wrong), 422, /\[1\]\.to/);
const partly = await good(resend.batch.send(wrong, { batchValidation: 'permissive' }));
assert.equal(partly.data.length, 1);
assert.equal(partly.errors[0].index, 1);

// A template: created, published, sent, changed, copied, listed, removed.
const template = {
  name: 'Order', alias: 'node-order', subject: 'Order {{PRODUCT}}', html: '<p>{{{PRODUCT}}}: {{PRICE}}</p>',
  variables: [
    { key: 'PRODUCT', type: 'string', fallbackValue: 'something' },
    { key: 'PRICE', type: 'number' },
  ],
};
const made = await good(resend.templates.create(template));
const stored = (fields) => ({ from: job.from, to: job.to, template: { id: 'node-order', ...fields } });
await bad(resend.emails.send(stored({ variables: { PRICE: 20 } })), 422, /draft/);
await good(resend.templates.publish(made.id));
const rendered = await good(resend.emails.send(stored({ variables: { PRICE: 20 } })));
got = await good(resend.emails.get(rendered.id));
assert.equal(got.subject, 'Order something');
assert.match(got.html, /something: 20/);
await bad(resend.emails.send(stored({ variables: { PRICE: 'dear' } })), 422, /template\.variables\.PRICE/);
await bad(resend.emails.send(stored({})), 422, /template\.variables\.PRICE/);
await bad(resend.emails.send({ ...stored({}), template: { id: 'none' } }), 422, /template\.id.*none/);
const broken = await bad(resend.templates.create({ name: 'x', html: '<p>\n{{#if a}}</p>' }), 422, /`html`, line 2/);
assert.equal(broken.name, 'validation_error');
await good(resend.templates.update('node-order', { name: 'Order 2' }));
const shown = await good(resend.templates.get(made.id));
assert.deepEqual([shown.name, shown.status, shown.variables.length], ['Order 2', 'published', 2]);
const copy = await good(resend.templates.duplicate(made.id).publish());
const list = await good(resend.templates.list({ limit: 1 }));
assert.deepEqual([list.data[0].id, list.has_more], [copy.id, true]);
assert.equal((await good(resend.templates.remove(made.id))).deleted, true);
await bad(resend.templates.get(made.id), 404, /no template/);

// A domain of the caller's own sends only once its records are published.
const domain = await good(resend.domains.create({ name: 'own-node.test' }));
assert.equal(domain.status, 'not_started');
assert.ok(domain.records.some((record) => record.record === 'DKIM' && record.type === 'TXT'));
await bad(resend.emails.send(mail({ from: 'a@own-node.test' })), 403, /own-node\.test.*_domainkey/);
await good(resend.domains.verify(domain.id));
assert.equal((await good(resend.domains.get(domain.id))).status, 'pending');
const domains = await good(resend.domains.list());
assert.ok(domains.data.some((listed) => listed.id === domain.id));
assert.equal((await good(resend.domains.remove(domain.id))).deleted, true);

// A file on this machine is nobody's to fetch.
const inside = { filename: 'a.txt', path: `${job.base}/healthz` };
await bad(resend.emails.send(mail({ attachments: [inside] })), 422, /attachments\[0\]\.path.*private network/);

console.log(JSON.stringify({ sent: 4 }));
