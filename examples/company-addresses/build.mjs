// Makes the component out of the source and the contract.
import { readFile, writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const source = await readFile('src/validator.js', 'utf8');
const { component } = await componentize(source, {
  witWorld: await readFile('wit/validator.wit', 'utf8'),
  worldName: 'validate-stage',
  // Stages are pure: without these the component imports nothing from its host but what the contract names.
  disableFeatures: ['random', 'stdio', 'clocks', 'http', 'fetch-event'],
});
await writeFile('company-addresses.wasm', component);
console.log(`company-addresses.wasm: ${component.length} bytes`);
