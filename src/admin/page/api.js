// The gateway's API from the page: requests, and streams of events.
//
// The cookie opens nothing alone: the session's second secret is kept in this origin's own storage,
// and goes along in a header that no other site can send.

const KEY = 'tailkeep.guard'
const BACKOFF_MS = [500, 1000, 2000, 5000]
// The gateway says something at least every 15 s.
const SILENCE_MS = 45000

export class ApiError extends Error {
  constructor(status, text) {
    super(text)
    this.status = status
  }
}

export function keepGuard(guard) {
  if (guard) localStorage.setItem(KEY, guard)
  else localStorage.removeItem(KEY)
}

export const hasGuard = () => localStorage.getItem(KEY) !== null

function headers(more) {
  const guard = localStorage.getItem(KEY)
  return guard ? { ...more, 'X-Tailkeep-Guard': guard } : { ...more }
}

let onSignedOut = () => {}

export function whenSignedOut(action) {
  onSignedOut = action
}

async function send(method, path, body, signal) {
  const options = { method, headers: headers(), cache: 'no-store', credentials: 'same-origin', redirect: 'error', signal }
  if (body !== undefined) {
    options.body = JSON.stringify(body)
    options.headers['Content-Type'] = 'application/json'
  }
  let answer
  try {
    answer = await fetch(path, options)
  } catch (error) {
    if (error.name === 'AbortError') throw error
    throw new ApiError(0, 'The gateway does not answer.')
  }
  if (answer.ok) return answer
  let text = `${answer.status} ${answer.statusText}`
  try {
    text = (await answer.json()).error || text
  } catch {
    // Not ours; the status says enough.
  }
  if (answer.status === 401 && !path.startsWith('/v1/sign-in')) onSignedOut()
  throw new ApiError(answer.status, text)
}

export async function ask(method, path, body) {
  const answer = await send(method, path, body)
  return answer.json()
}

export const get = path => ask('GET', path)

// Bytes as they are: a secret.
export async function putBytes(path, text) {
  const answer = await fetch(path, { method: 'PUT', headers: headers(), body: text, credentials: 'same-origin' })
  const said = await answer.json()
  if (!answer.ok) throw new ApiError(answer.status, said.error)
  return said
}

// Follows a stream until the returned function is called; it is taken up anew when it ends.
// `path` may be a function, for a stream that goes on where it ended.
export function follow(path, { onEvent, onState = () => {} }) {
  const control = new AbortController()
  let tries = 0
  const run = async () => {
    while (!control.signal.aborted) {
      try {
        const where = typeof path === 'function' ? path() : path
        const answer = await send('GET', where, undefined, control.signal)
        onState('live')
        tries = 0
        await read(answer.body.getReader(), onEvent)
      } catch (error) {
        if (control.signal.aborted) return
        if (error.status === 401 || error.status === 403) return onState('closed', error.message)
        onState('lost', error.message)
      }
      if (control.signal.aborted) return
      const wait = BACKOFF_MS[Math.min(tries++, BACKOFF_MS.length - 1)]
      await new Promise(done => setTimeout(done, wait))
    }
  }
  run()
  return () => control.abort()
}

async function read(reader, onEvent) {
  const decoder = new TextDecoder()
  let held = ''
  for (;;) {
    let timer
    const silence = new Promise((_, fail) => {
      timer = setTimeout(() => fail(new ApiError(0, 'The gateway is silent.')), SILENCE_MS)
    })
    const { done, value } = await Promise.race([reader.read(), silence]).finally(() => clearTimeout(timer))
    if (done) return
    held += decoder.decode(value, { stream: true })
    for (let end = held.indexOf('\n\n'); end >= 0; end = held.indexOf('\n\n')) {
      const event = parse(held.slice(0, end))
      held = held.slice(end + 2)
      if (event) onEvent(event.name, event.data)
    }
  }
}

function parse(text) {
  let name = 'message'
  const data = []
  for (const line of text.split('\n')) {
    if (line.startsWith('event:')) name = line.slice(6).trim()
    else if (line.startsWith('data:')) data.push(line.slice(5).replace(/^ /, ''))
  }
  return data.length ? { name, data: JSON.parse(data.join('\n')) } : null
}
