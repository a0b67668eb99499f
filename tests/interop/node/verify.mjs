// mailauth as a verifier, its DNS a table.
// stdin: {message (base64), records: {name: text}}; stdout: [{domain, selector, algorithm, valid}].
import { text } from 'node:stream/consumers';
import { dkimVerify } from 'mailauth/lib/dkim/verify.js';

const job = JSON.parse(await text(process.stdin));
const resolver = async (name, type) => {
  const record = job.records[name.replace(/\.$/, '').toLowerCase()];
  if (type !== 'TXT' || record === undefined) {
    throw Object.assign(new Error(`no ${type} of ${name}`), { code: 'ENOTFOUND' });
  }
  return [[record]];
};
const { results } = await dkimVerify(Buffer.from(job.message, 'base64'), { resolver });
console.log(JSON.stringify(results.map((result) => ({
  domain: result.signingDomain, selector: result.selector, algorithm: result.algo,
  valid: result.status.result === 'pass', comment: result.status.comment,
}))));
