// Makes the component out of the source and the contract.
import { readFile, writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const source = await readFile('src/validator.js', 'utf8');
const { component } = await componentize(source, {
  witWorld: await readFile('wit/validator.wit', 'utf8'),
  worldName: 'validate-stage',
  // Stages are pure. What remains is stderr: without it nobody reads why an exception ended a call.
  disableFeatures: ['random', 'clocks', 'http', 'fetch-event'],
});
await writeFile('company-addresses.wasm', component);
console.log(`company-addresses.wasm: ${component.length} bytes`);
