// A renderer: puts variables in the place of `{{name}}`.

/** With this attribute only the syntax is asked for: there are no variables yet. */
const CHECK = 'posthaste.check';

export const renderer = {
  render(input) {
    const check = input.attributes.some(([name]) => name === CHECK);
    const variables = new Map(Object.entries(JSON.parse(input.variables)));
    const fill = (field, markup) =>
      input[field] === undefined ? undefined : fillSource(field, input[field], variables, markup, check);
    return {
      // A subject is one line, whatever its variables hold.
      subject: fill('subject', false)?.replace(/[\r\n]/g, ' '),
      html: fill('html', true),
      text: fill('text', false),
      warnings: [],
      attributes: [],
    };
  },
};

/** Fills one source. In `markup` the variables' own markup is taken away. */
function fillSource(field, source, variables, markup, check) {
  return source.replace(/\{\{(?:([^{}]*)\}\})?/g, (found, name, at) => {
    if (name === undefined) refuse(field, source, at, '`{{` is never closed');
    const value = variables.get(name.trim());
    if (check) return '';
    if (value === undefined) refuse(field, source, at, `the variable \`${name.trim()}\` is missing`);
    if (!['string', 'number', 'boolean'].includes(typeof value)) {
      refuse(field, source, at, `\`${name.trim()}\` must be a string, a number, true or false`);
    }
    return markup ? escape(String(value)) : String(value);
  });
}

function escape(value) {
  const entities = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
  return value.replace(/[&<>"']/g, (found) => entities[found]);
}

/** Says where: line and column, both from 1. */
function refuse(field, source, at, text) {
  const lines = source.slice(0, at).split('\n');
  const position = { line: lines.length, column: [...lines.at(-1)].length + 1 };
  throw { tag: 'refused', val: { class: 'template', text, field, position } };
}
