// Who connects: what each agent did lately, and the WireGuard peers.

import { html, useState } from './vendor/preact-htm.js'
import { ask, get } from './api.js'
import { Empty, Problem, Sure, ago, printable, useEvery, useLoaded, useNow } from './show.js'

export function Agents() {
  const [loaded, again] = useLoaded(() => get('/v1/agents'))
  const [error, setError] = useState()
  const [link, setLink] = useState()
  const now = useNow(5000)
  useEvery(10000, again)
  const doing = work => async event => {
    event?.preventDefault()
    setError()
    try {
      await work(event)
    } catch (failed) {
      setError(failed)
    }
    again()
  }
  const add = doing(async event => {
    const form = new FormData(event.target)
    setLink(await ask('POST', '/v1/peers', { name: form.get('name').trim(), hold: form.get('hold') === 'on' }))
    event.target.reset()
  })
  const path = name => `/v1/peers/${encodeURIComponent(name)}`
  if (!loaded.data) return html`<div class="page"><div class="bar"><h1>Agents</h1></div><${Problem} error=${loaded.error} /></div>`
  const { active, peers, waiting, records, killed, nodes } = loaded.data
  // Of a tailnet's node the StableID: its name may be another's tomorrow.
  const keysOf = one => (one.transport === 'wireguard' ? [`peer:${one.node}`] : nodes.filter(node => node.node === one.node).map(node => `node:${node.stable_id}`))
  const isKilled = key => killed.some(kill => kill.agent === key)
  const kill = agent => doing(() => ask('POST', '/v1/agents/kill', { agent, ahead: true }))
  // One click: an agent that runs wild is stopped first and thought about after.
  const stop = (agent, name) => isKilled(agent) ? html`<span key=${agent} class="badge deny">stopped</span>`
    : html`<button key=${agent} class="no" aria-label=${`Stop ${name} at once`} title="Ends its connections, takes its grants back, refuses everything" onClick=${kill(agent)}>Stop</button>`
  return html`<div class="page">
    <div class="bar"><h1>Agents</h1></div>
    <${Problem} error=${error || loaded.error} />
    <h2>Lately active</h2>
    <p class="dim">Among the newest ${records.toLocaleString('en')} actions.</p>
    ${active.length === 0 ? html`<${Empty} title="No agent yet"><p>A machine that joined, or a node of the tailnet that a profile names, appears here with its first action.</p><//>`
      : html`<div class="table" tabindex="0" role="region" aria-label="Lately active agents"><table><thead><tr><th>Agent</th><th>Profile</th><th>By</th><th>Address</th><th class="num">Actions</th><th class="num">Denied</th><th>Last seen</th><th><span class="said">Actions</span></th></tr></thead>
        <tbody>${active.map(one => html`<tr key=${one.transport + one.node}><td class="wide"><strong>${printable(one.node)}</strong>${one.login && html`<br/><span class="dim">${printable(one.login)}</span>`}</td>
          <td>${one.profile || html`<span class="dim">none</span>`}</td><td>${one.transport}</td><td class="tight"><code>${one.address}</code></td>
          <td class="num">${one.actions}</td><td class="num">${one.denied}</td><td class="tight">${ago(one.seen_us, now)}</td>
          <td class="tight">${keysOf(one).map(key => stop(key, one.node))}</td></tr>`)}</tbody></table></div>`}
    ${killed.length > 0 && html`<h2 class="next">Stopped</h2>
      <p class="dim">Nothing of theirs passes until you let them go again. Their grants stay taken back.</p>
      <div class="table" tabindex="0" role="region" aria-label="Stopped agents"><table><thead><tr><th>Agent</th><th>By</th><th>Reason</th><th>When</th><th><span class="said">Actions</span></th></tr></thead>
        <tbody>${killed.map(one => html`<tr key=${one.agent}><td class="wide"><strong>${printable(one.agent)}</strong></td><td>${one.person}</td><td class="wide">${one.reason && printable(one.reason)}</td>
          <td class="tight">${ago(one.at_us, now)}</td><td class="tight"><${Sure} kind="yes" what=${`Let go ${one.agent}`} onSure=${doing(() => ask('POST', '/v1/agents/unkill', { agent: one.agent }))}>Let go<//></td></tr>`)}</tbody></table></div>`}
    <h2 class="next">WireGuard peers</h2>
    ${peers.length + waiting.length === 0 ? html`<p class="dim">None. Make a link below, and run <code>tailkeep join</code> with it on the agent's machine.</p>`
      : html`<div class="table" tabindex="0" role="region" aria-label="WireGuard peers"><table><thead><tr><th>Peer</th><th>Address</th><th>Key</th><th>Last seen</th><th><span class="said">Actions</span></th></tr></thead>
        <tbody>${peers.map(one => html`<tr key=${one.public_key}><td class="wide"><strong>${one.peer}</strong>${one.held && html` <span class="badge wait">held</span>`}</td>
          <td class="tight"><code>${one.v4}</code></td><td class="wide"><code>${one.public_key}</code></td><td class="tight">${one.seen_us ? ago(one.seen_us, now) : 'never'}</td>
          <td class="tight">${stop(`peer:${one.peer}`, one.peer)} ${one.held && html`<${Sure} kind="yes" what=${`Let ${one.peer} connect`} onSure=${doing(() => ask('POST', `${path(one.peer)}/approve`))}>Approve<//> `}
            <${Sure} kind="no" what=${`Remove ${one.peer}`} onSure=${doing(() => ask('DELETE', path(one.peer)))}>Remove<//></td></tr>`)}
          ${waiting.map(one => html`<tr key=${one.peer + one.created_us}><td class="wide">${one.peer}</td><td colspan="4" class="dim">a link waits to be used</td></tr>`)}</tbody></table></div>`}
    <form class="bar next" onSubmit=${add}>
      <input type="text" name="name" aria-label="Name of the new peer" placeholder="Name of a new machine" required />
      <label class="inline"><input type="checkbox" name="hold" /> hold until I approve its key</label>
      <button>Make a link</button>
    </form>
    ${link && html`<div class="note" role="status"><p>On ${link.name}, within ${Math.round(link.expires_s / 60)} minutes; it is good once:</p><pre class="whole">tailkeep join '${link.url}'</pre></div>`}
  </div>`
}
