// The REST API described, from the document that the node serves of itself.

import { card, cell, h, head, replace, table } from './dom.js';

const METHODS = ['get', 'post', 'put', 'patch', 'delete'];

async function show() {
  const main = h('main', {});
  replace(document.body, main);
  const answer = await fetch('/api/v1/openapi.json');
  const api = await answer.json();
  const operations = Object.entries(api.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ path, method, ...item[method] })));
  const tags = [...new Set(operations.map((operation) => operation.tags?.[0] ?? 'other'))];
  document.title = `${api.info.title} API`;
  main.append(
    head(`${api.info.title} API`, [`Version ${api.info.version}. `, 'Give the admin token: ', h('code', {}, 'Authorization: Bearer TOKEN'), '. ',
      h('a', { href: '/api/v1/openapi.json' }, 'OpenAPI document'), ' · ', h('a', { href: '/' }, 'Console')]),
    h('div', { class: 'stack' },
      tags.map((tag) => card(tag, h('div', {}, operations.filter((operation) => (operation.tags?.[0] ?? 'other') === tag)
        .map((operation) => describe(api, operation))))),
      card('Schemas', h('div', {}, Object.entries(api.components.schemas).map(([name, schema]) =>
        h('details', { class: 'operation', id: `schema-${name}` }, h('summary', {}, h('b', {}, name), ' ', h('span', { class: 'muted' }, first(schema.description))),
          fields(api, schema)))))));
  if (location.hash) reveal();
}

const first = (text) => (text ?? '').split('\n')[0];

function describe(api, operation) {
  const parameters = operation.parameters ?? [];
  const body = Object.values(operation.requestBody?.content ?? {})[0]?.schema;
  return h('details', { class: 'operation', id: operation.operationId },
    h('summary', {}, h('span', { class: `tag method ${operation.method}` }, operation.method.toUpperCase()), ' ',
      h('span', { class: 'mono' }, operation.path), ' ', h('span', { class: 'muted' }, operation.summary ?? first(operation.description))),
    operation.description && h('p', { class: 'text' }, operation.description),
    parameters.length > 0 && table([['Parameter'], ['In'], ['Type'], ['Meaning']], h('tbody', {}, parameters.map((one) => h('tr', {},
      cell('Parameter', [h('span', { class: 'mono' }, one.name), one.required && h('span', { class: 'sub' }, 'required')]),
      cell('In', one.in), cell('Type', type(api, one.schema)), cell('Meaning', one.description))))),
    body && h('p', { class: 'text' }, 'Body: ', type(api, body)),
    table([['Answer'], ['Type'], ['Meaning']], h('tbody', {}, Object.entries(operation.responses).map(([status, response]) => {
      const [kind, content] = Object.entries(response.content ?? {})[0] ?? [];
      return h('tr', {}, cell('Answer', h('b', {}, status)),
        cell('Type', content?.schema ? [type(api, content.schema), h('span', { class: 'sub' }, kind)] : null), cell('Meaning', response.description));
    }))));
}

function fields(api, schema) {
  const parts = schema.allOf ?? schema.oneOf ?? schema.anyOf ?? [schema];
  const all = parts.flatMap((part) => Object.entries(part.properties ?? {}));
  if (schema.enum) return h('p', { class: 'text mono' }, schema.enum.join(' | '));
  if (all.length === 0) return h('p', { class: 'text' }, type(api, schema));
  return table([['Field'], ['Type'], ['Meaning']], h('tbody', {}, all.map(([name, one]) => h('tr', {},
    cell('Field', h('span', { class: 'mono' }, name)), cell('Type', type(api, one)), cell('Meaning', one.description)))));
}

/** A schema in a few words. */
function type(api, schema) {
  if (!schema) return '';
  if (schema.$ref) {
    const name = schema.$ref.split('/').pop();
    return h('a', { href: `#schema-${name}` }, name);
  }
  const choices = schema.oneOf ?? schema.anyOf ?? schema.allOf;
  if (choices) {
    return choices.map((one, at) => [at > 0 && ' or ', type(api, one)]);
  }
  if (schema.enum) return schema.enum.join(' | ');
  const kind = [schema.type ?? 'any'].flat().join(' or ');
  if (schema.items) return ['list of ', type(api, schema.items)];
  return schema.format ? `${kind} (${schema.format})` : kind;
}

/** What the address names is open. */
function reveal() {
  const found = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!found) return;
  found.open = true;
  found.scrollIntoView();
}

addEventListener('hashchange', reveal);
show();
