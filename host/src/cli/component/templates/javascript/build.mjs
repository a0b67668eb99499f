// Makes the component out of the source and the contract.
import { readFile, writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const source = await readFile('src/@STAGE@.js', 'utf8');
const { component } = await componentize(source, {
  witWorld: await readFile('wit/@STAGE@.wit', 'utf8'),
  worldName: '@WORLD@',
  // Stages are pure. What remains is stderr: without it nobody reads why an exception ended a call.
  disableFeatures: ['random', 'clocks', 'http', 'fetch-event'],
});
await writeFile('@ARTIFACT@', component);
console.log(`@ARTIFACT@: ${component.length} bytes`);
