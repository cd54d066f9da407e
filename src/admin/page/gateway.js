// The gateway itself: its health, its node of the tailnet, its operators and their sessions.

import { html, useState } from './vendor/preact-htm.js'
import { ask, get } from './api.js'
import { Badge, Fields, Problem, Sure, ago, printable, span, useEvery, useLoaded, useNow } from './show.js'

const STATES = {
  Running: ['good', 'The node is of the tailnet.'], NeedsLogin: ['bad', 'A person has to log the node in.'],
  NeedsMachineAuth: ['wait', 'An admin of the tailnet has to approve the node.'], Stopped: ['bad', 'tailscaled was told to be down.'],
  Starting: ['wait', 'It connects.'], unheard: ['bad', 'tailscaled is not heard; nobody of the tailnet is let in.']
}

// Dark on light in every colour scheme, with the margin that a reader wants.
function QrCode({ of: { width, path } }) {
  const [start, size] = [-4, width + 8]
  return html`<svg class="code" role="img" aria-label="The same address as a QR code" viewBox=${`${start} ${start} ${size} ${size}`}>
    <rect x=${start} y=${start} width=${size} height=${size} fill="#fff" /><path d=${path} fill="#000" shape-rendering="crispEdges" /></svg>`
}

function Tailnet({ tailnet }) {
  if (!tailnet) return html`<p class="dim">No <code>tailscale</code> block in the gateway's configuration: agents come by WireGuard alone.</p>`
  const [kind, means] = STATES[tailnet.state] || ['wait', '']
  return html`<p><${Badge} of=${tailnet.state} kind=${kind} /> ${means}</p>
    ${tailnet.login_url && html`<p class="problem">Log the node in at <a href=${tailnet.login_url} rel="noreferrer" target="_blank">${tailnet.login_url}</a></p>`}
    ${tailnet.login_code && html`<${QrCode} of=${tailnet.login_code} />`}
    ${tailnet.problem && html`<p class="problem">${printable(tailnet.problem)}</p>`}
    <${Fields} rows=${[
      ['tailscaled', tailnet.own ? "the gateway's own" : 'attached to the one of this machine'],
      ['Name', tailnet.name], ['Addresses', (tailnet.addresses || []).join(', ')], ['Tags', (tailnet.tags || []).join(', ')],
      ['Approved', (tailnet.approved || []).join(', ')], ['Certificate', tailnet.certificate && printable(tailnet.certificate)], ['Mode', tailnet.has_device === undefined ? null : tailnet.has_device ? 'network device' : 'userspace']]} />
    ${tailnet.has_device === false && html`<p class="note">Without a network device tailscaled forwards every port of this machine's loopback that the tailnet's policy file
      lets peers reach at the node's own address. Grant them only what they need there: DNS, and the operators port 443.</p>`}`
}

export function Gateway({ who }) {
  const [health, again] = useLoaded(() => get('/v1/health'))
  const [people, peopleAgain] = useLoaded(() => Promise.all([get('/v1/operators'), get('/v1/sessions')]))
  const [error, setError] = useState()
  const [link, setLink] = useState()
  const now = useNow(5000)
  useEvery(5000, again)
  useEvery(15000, peopleAgain)
  const doing = work => async event => {
    event?.preventDefault()
    setError()
    try {
      await work(event)
    } catch (failed) {
      setError(failed)
    }
    peopleAgain()
  }
  const invite = doing(async event => {
    const said = new FormData(event.target)
    setLink(await ask('POST', '/v1/operators', { name: said.get('name').trim(), login: said.get('login').trim() || null }))
    event.target.reset()
  })
  const [operators, sessions] = people.data || [[], []]
  const is = health.data
  return html`<div class="page">
    <div class="bar"><h1>Gateway</h1></div>
    <${Problem} error=${error || health.error || people.error} />
    ${is && html`<div class="cards">
      <section class="card"><h2>Health</h2><${Fields} rows=${[
        ['Version', is.version], ['Up for', span(is.up_s)], ['Policy', html`<code>${is.policy}</code>`], ['Held actions', String(is.pending)],
        ['WireGuard', is.wireguard && html`<code>${is.wireguard}</code>`], ['Enrolment', is.enrolment && html`<code>${is.enrolment}</code>`], ['CA', html`<code>${is.ca}</code>`]]} /></section>
      <section class="card"><h2>Tailnet</h2><${Tailnet} tailnet=${is.tailnet} /></section></div>`}
    <h2 class="next">Operators with a password</h2>
    <div class="table" tabindex="0" role="region" aria-label="Operators"><table><tbody>${operators.map(one => html`<tr key=${one.name}><td class="wide"><strong>${one.name}</strong></td>
      <td>${one.created_us ? 'has a password' : ''}${one.invited_until_us ? ' invited' : ''}${one.login ? ` on the tailnet ${printable(one.login)}` : ''}</td>
      <td class="tight"><${Sure} kind="no" what=${`Remove ${one.name}`} onSure=${doing(() => ask('DELETE', `/v1/operators/${encodeURIComponent(one.name)}`))}>Remove<//></td></tr>`)}
      ${operators.length === 0 && html`<tr><td class="dim">None yet.</td></tr>`}</tbody></table></div>
    <form class="bar next" onSubmit=${invite}><input type="text" name="name" aria-label="Name of a new operator" placeholder="Name or e-mail address" required />
      <input type="text" name="login" aria-label="The same person's login on the tailnet" placeholder="Login on the tailnet, if any" title="Where two approvers are needed, both ways together count as one." /><button>Invite</button></form>
    ${link && html`<div class="note" role="status"><p>${link.name} opens this once, within a day, in a browser of the gateway's machine:</p><pre class="whole">${link.url}</pre></div>`}
    <h2 class="next">Sessions</h2>
    <div class="table" tabindex="0" role="region" aria-label="Sessions"><table><thead><tr><th>Person</th><th>By</th><th>From</th><th>Browser</th><th>Used</th><th><span class="said">Actions</span></th></tr></thead>
      <tbody>${sessions.map(one => html`<tr key=${one.id}><td><strong>${one.person}</strong>${who.session?.id === one.id && html` <span class="badge good">this one</span>`}</td><td>${one.via}</td><td><code>${one.address}</code></td>
        <td class="wide dim">${printable(one.browser)}</td><td class="tight">${ago(one.seen_us, now)}</td>
        <td class="tight"><${Sure} kind="no" what=${`End session ${one.id} of ${one.person}`} onSure=${doing(() => ask('DELETE', `/v1/sessions/${one.id}`))}>End<//></td></tr>`)}</tbody></table></div>
  </div>`
}
