// Headless Chromium on the inbox of a development host.
// stdin: {base, key, chromium}; stdout: {}. Asserts what a person would see, and what a mail must not do.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';
import { chromium } from 'playwright-core';

const job = JSON.parse(await text(process.stdin));
const limit = { timeout: 15000 };

// Somebody who wants to know whether his mail was opened.
const hits = [];
const tracker = createServer((request, response) => { hits.push(request.url); response.end(); });
await new Promise((listening) => tracker.listen(0, '127.0.0.1', listening));
const spy = `http://127.0.0.1:${tracker.address().port}`;

const send = async (subject, html) => {
  const answer = await fetch(`${job.base}/emails`, {
    method: 'POST',
    headers: { authorization: `Bearer ${job.key}`, 'content-type': 'application/json' },
    body: JSON.stringify({
      from: 'Käthe <kaethe@src.test>', to: ['ada@dst.test'], subject, html, text: 'the text part',
      attachments: [{ filename: 'numbers.csv', content: Buffer.from('1,2\n').toString('base64') }],
    }),
  });
  assert.equal(answer.status, 200, await answer.text());
};

const hostile = `
  <h1>Hello frame</h1><p id="mark">unscripted</p>
  <img src="${spy}/pixel.png"><link rel="stylesheet" href="${spy}/style.css">
  <div style="background: url(${spy}/background.png)">x</div><iframe src="${spy}/frame"></iframe>
  <script>document.getElementById('mark').textContent = 'scripted'; fetch('${spy}/script')</script>
  <img src="x" onerror="document.getElementById('mark').textContent = 'scripted'">
  <form action="${spy}/form"><button>Go</button></form>`;
await send('<b>First</b> & "quoted" ✓', hostile);

const browser = await chromium.launch({
  executablePath: job.chromium,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-dev-shm-usage',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
try {
  const first = '<b>First</b> & "quoted" ✓';

  // Without JavaScript the newest subjects are there all the same, as text.
  const plain = await (await browser.newContext({ javaScriptEnabled: false })).newPage();
  await plain.goto(`${job.base}/inbox`);
  await plain.getByText(first).waitFor(limit);
  await plain.close();

  const page = await (await browser.newContext()).newPage();
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  await page.goto(`${job.base}/inbox`);
  await page.getByText(first).waitFor(limit);

  // A mail that comes while the page is open shows up by itself.
  await page.evaluate(() => { window.untouched = true; });
  await send('Second', '<p>later</p>');
  await page.getByText('Second').waitFor(limit);
  assert.equal(await page.evaluate(() => window.untouched), true, 'the page was loaded anew');

  await page.getByText(first).click();
  await page.waitForURL(/\/inbox\/.+/, limit);
  const dkim = await page.locator('#dkim').innerText(limit);
  assert.match(dkim, /verified|passes/, dkim);
  for (const algorithm of [/rsa/i, /ed25519/i]) assert.match(dkim, algorithm);

  // The mail's HTML: shown, confined, silent.
  const element = page.locator('iframe');
  const sandbox = await element.getAttribute('sandbox', limit);
  assert.notEqual(sandbox, null, 'the frame has no sandbox');
  for (const grant of ['allow-scripts', 'allow-same-origin', 'allow-forms', 'allow-top-navigation']) {
    assert.ok(!sandbox.split(/\s+/).includes(grant), sandbox);
  }
  const frame = page.frameLocator('iframe').first();
  await frame.getByText('Hello frame').waitFor(limit);
  assert.equal(await frame.locator('#mark').innerText(), 'unscripted');
  await page.waitForLoadState('networkidle');
  assert.deepEqual(hits, [], 'the mail told somebody that it was read');

  // Asked for, images load; scripts never run.
  await page.getByText(/load/i).first().click();
  await page.frameLocator('iframe').first().getByText('Hello frame').waitFor(limit);
  await page.waitForLoadState('networkidle');
  assert.ok(hits.includes('/pixel.png'), `asked for, images load: ${hits}`);
  assert.ok(!hits.includes('/script') && !hits.includes('/form'), String(hits));
  assert.equal(await page.frameLocator('iframe').first().locator('#mark').innerText(), 'unscripted');

  // The other views.
  for (const [tab, expected] of [['Text', 'the text part'], ['Headers', 'DKIM-Signature'], ['Source', 'MIME-Version: 1.0'],
    ['Attachments', 'numbers.csv'], ['Events', 'delivered']]) {
    await page.locator('nav').getByText(tab).first().click();
    await page.getByText(expected).first().waitFor(limit);
  }
  assert.deepEqual(complaints, []);
} finally {
  await browser.close();
  tracker.close();
}
console.log('{}');
