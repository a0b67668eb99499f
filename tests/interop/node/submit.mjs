// nodemailer as a client: STARTTLS demanded, AUTH, a pool, an attachment, a wrong password.
// stdin: {host, port, key, from, to}; stdout: {sent, wrongPassword}.
import { text } from 'node:stream/consumers';
import nodemailer from 'nodemailer';

const job = JSON.parse(await text(process.stdin));
const transport = (pass, more) =>
  nodemailer.createTransport({
    host: job.host, port: job.port, secure: false, requireTLS: true,
    tls: { rejectUnauthorized: false }, auth: { user: 'anybody', pass }, ...more,
  });

const pool = transport(job.key, { pool: true, maxConnections: 2 });
const mails = ['one', 'two', 'three', 'four'].map((word) =>
  pool.sendMail({
    from: { name: 'Käthe', address: job.from }, to: job.to, subject: `nodemailer ${word} ✓`,
    text: 'Grüße\n.\nund mehr', html: '<p>Grüße</p>',
    attachments: [{ filename: 'zahlen.bin', content: Buffer.from(Array.from({ length: 3000 }, (_, n) => n % 256)) }],
  }));
const answers = await Promise.all(mails);
pool.close();

let wrongPassword = null;
try {
  await transport('ph_wrong').verify();
} catch (error) {
  wrongPassword = error.responseCode;
}
console.log(JSON.stringify({ sent: answers.filter((answer) => answer.accepted.length === 1).length, wrongPassword }));
