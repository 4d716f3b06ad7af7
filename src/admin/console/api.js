// The way to the node: the token, requests, and the stream of events.

const KEY = 'holdfast-token';
let token = sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY);
const listeners = new Set();

export const isSignedIn = () => token !== null;

/** Tells when the token is no good any more. */
export const onSignedOut = (listener) => listeners.add(listener);

export function signOut() {
  token = null;
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
  listeners.forEach((listener) => listener());
}

/** Throws what is wrong with it. */
export async function signIn(given, stay) {
  const answer = await fetch('/api/v1/nodes', { headers: { Authorization: `Bearer ${given}` } });
  if (answer.status === 401) throw new Error('That is not a token of this switch.');
  if (!answer.ok) throw await problem(answer);
  token = given;
  (stay ? localStorage : sessionStorage).setItem(KEY, given);
}

async function problem(answer) {
  let text = `The node answered ${answer.status}.`;
  try {
    const { title, detail } = await answer.json();
    text = detail ? `${title}: ${detail}` : title;
  } catch { /* Not a problem document. */ }
  return Object.assign(new Error(text), { status: answer.status });
}

async function send(path, options = {}) {
  const headers = { Authorization: `Bearer ${token}`, ...options.headers };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The node cannot be reached.');
  }
  if (answer.status === 401) signOut();
  if (!answer.ok) throw await problem(answer);
  return answer;
}

async function json(method, path, body, headers = {}) {
  const options = { method, headers };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { 'Content-Type': 'application/json', ...headers };
  }
  const answer = await send(`/api/v1${path}`, options);
  return answer.status === 204 ? null : answer.json();
}

export const get = (path) => json('GET', path);
export const post = (path, body) => json('POST', path, body ?? {});
export const remove = (path) => json('DELETE', path);

/** Changes or removes (no `difference`) a thing as it was seen: when one of these fields is another by now, somebody
 * changed it since, and nothing is done. */
export async function alter(path, seen, fields, difference) {
  const answer = await send(`/api/v1${path}`);
  const now = await answer.json();
  if (fields.some((field) => JSON.stringify(now[field]) !== JSON.stringify(seen[field]))) {
    throw new Error('Somebody changed it since. It is shown as it is now: look at it again.');
  }
  const headers = { 'If-Match': answer.headers.get('ETag') };
  return json(difference ? 'PATCH' : 'DELETE', path, difference, headers);
}

export const readiness = async () => (await fetch('/ready')).json();

/** Saves what the node gives as a file: a link could not carry the token. */
export async function download(path, name) {
  const answer = await send(`/api/v1${path}`);
  const url = URL.createObjectURL(await answer.blob());
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Every item of a list, page by page, up to `most`. */
export async function all(path, most = 5000) {
  const items = [];
  let cursor = null;
  do {
    const next = `${path}${path.includes('?') ? '&' : '?'}limit=1000${cursor ? `&cursor=${cursor}` : ''}`;
    const page = await get(next);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && items.length < most);
  return items;
}

/** Events for ever: `handle(type, data)`, `told(isConnected)`. Comes back with the last id after a break. */
export async function watch(handle, told) {
  let last = null;
  let pause = 500;
  while (isSignedIn()) {
    try {
      const headers = last === null ? {} : { 'Last-Event-ID': last };
      const answer = await send('/api/v1/events', { headers });
      told(true);
      pause = 500;
      await read(answer.body, (id, type, data) => {
        handle(type, JSON.parse(data));
        if (id !== null) last = id;
      });
    } catch { /* Told below; a node that ends is no news. */ }
    told(false);
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, 5000);
  }
}

/** Server-sent events, as far as this stream uses them: lines end with LF, data is one line. */
async function read(body, each) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let [id, type, data] = [null, 'message', ''];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (line === '') {
        if (data) each(id, type, data);
        [id, type, data] = [null, 'message', ''];
      } else if (line.startsWith('id:')) id = line.slice(3).trim();
      else if (line.startsWith('event:')) type = line.slice(6).trim();
      else if (line.startsWith('data:')) data = line.slice(5).trim();
    }
  }
}
