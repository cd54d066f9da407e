// The policy in force: its rules with what they decided, and whom they are for.

import { html, useState } from './vendor/preact-htm.js'
import { get } from './api.js'
import { LeftOut } from './draft.js'
import { Badge, Empty, Problem, ago, useEvery, useLoaded, useNow } from './show.js'

const list = keys => (keys.length ? keys.map(key => html`<code class="chip">${key}</code> `) : html`<span class="dim">none</span>`)

const plural = (count, one, many) => `${count} ${count === 1 ? one : many}`

// What never came out one way: an operand that is always true decides nothing.
function unseen(operand) {
  const { true: yes, false: no, other } = operand.seen
  if (operand.is_branch) return yes + no + other === 0 ? 'never looked at' : null
  if (yes === 0 && no === 0) return 'never looked at'
  return yes === 0 ? 'never true' : no === 0 ? 'never false' : null
}

function Covered({ of }) {
  const gaps = of.operands.map(one => [one, unseen(one)]).filter(([, why]) => why)
  return html`<div class="dim">matched ${of.matched}, not ${of.not_matched}${of.not_evaluable > 0 && `, not evaluable ${of.not_evaluable}`}</div>
    ${gaps.length > 0 && html`<details><summary>${plural(gaps.length, 'gap', 'gaps')}</summary><ul class="gaps">${gaps.map(([one, why], at) =>
      html`<li key=${at}><code>${one.text}</code> <span class="dim">${why}</span></li>`)}</ul></details>`}`
}

export function Policy() {
  const [covered, setCovered] = useState()
  const [loaded, again] = useLoaded(() => get('/v1/policy'))
  const [filter, setFilter] = useState('')
  const now = useNow(5000)
  useEvery(10000, again)
  if (!loaded.data) return html`<div class="page"><div class="bar"><h1>Policy</h1></div><${Problem} error=${loaded.error} /></div>`
  const { rules, endpoints, profiles, approvers, notes, version, records } = loaded.data
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean)
  const cover = () => {
    setCovered({ is: 'asked' })
    get('/v1/policy/coverage').then(data => setCovered({ data }), error => setCovered({ error }))
  }
  const coverage = name => covered?.data?.rules.find(one => one.rule === name)
  const shown = rules.filter(rule => words.every(word => JSON.stringify(rule).toLowerCase().includes(word)))
  return html`<div class="page">
    <div class="bar"><h1>Policy</h1>
      <input type="search" aria-label="Filter rules" placeholder="Filter rules" value=${filter} onInput=${event => setFilter(event.target.value)} />
      <button disabled=${covered?.is === 'asked'} onClick=${cover}>Coverage of the last day</button>
      <a href="#/policy/files">Files</a>
      <span class="dim">version <code>${version}</code></span></div>
    <${Problem} error=${covered?.error} />
    ${covered?.data && html`<p class="note" role="status">${plural(covered.data.judged, 'request', 'requests')} of the last day, each judged by every rule of the policy in force. A gap is a part of a condition that never came out one way.</p><${LeftOut} of=${covered.data.left_out} />`}
    <${Problem} error=${loaded.error} />
    ${notes.length > 0 && html`<details class="notes"><summary>${plural(notes.length, 'note', 'notes')} on this policy</summary>${notes.map(note => html`<div class="card" key=${note.message + note.line}><strong>${note.message}</strong>
      ${note.file && html`<div class="dim mono">${note.file}:${note.line}:${note.column}</div>`}${note.text && html`<pre class="value">${note.text}</pre>`}${note.help && html`<p>${note.help}</p>`}</div>`)}</details>`}
    <h2>Rules</h2>
    <p class="dim">Hits among the newest ${records.toLocaleString('en')} actions. A rule without any may be one that another always precedes.</p>
    ${rules.length === 0 ? html`<${Empty} title="No rules"><p>Everything is denied. Write a <code>rule</code> into <a href="#/policy/files">a file</a> of the policy folder; it counts once it is saved.</p><//>`
      : html`<div class="table" tabindex="0" role="region" aria-label="Rules"><table><thead><tr><th>Rule</th><th>Verdict</th><th>When</th><th>Endpoints</th><th class="num">Hits</th><th>Last</th></tr></thead><tbody>
        ${shown.map(rule => html`<tr key=${rule.name}><td class="wide"><strong>${rule.name}</strong>${rule.priority !== 0 && html` <span class="dim">priority ${rule.priority}</span>`}${rule.reason && html`<br/><span class="dim">${rule.reason}</span>`}</td>
          <td class="tight"><${Badge} of=${rule.verdict} kind=${rule.verdict === 'approve' ? 'wait' : undefined} />${rule.shadow && html` <span class="badge">shadow</span>`}${rule.approvers.map(key => html`<br/><code>${key}</code>`)}</td>
          <td class="wide">${rule.condition ? html`<pre>${rule.condition.trim()}</pre>` : html`<span class="dim">always</span>`}${rule.credential && html`<div class="dim">with ${rule.credential}</div>`}${coverage(rule.name) && html`<${Covered} of=${coverage(rule.name)} />`}</td>
          <td>${list(rule.endpoints)}</td><td class="num">${rule.hits}</td><td class="tight">${rule.last_us ? ago(rule.last_us, now) : html`<span class="dim">never</span>`}</td></tr>`)}</tbody></table></div>`}
    <h2 class="next">Profiles</h2>
    <div class="cards">${profiles.map(one => html`<div class="card" key=${one.name}><h2>${one.name}</h2><dl class="facts">
      ${['tags', 'logins', 'nodes', 'peers', 'grants', 'endpoints', 'credentials'].filter(name => one[name].length).map(name => html`<div key=${name}><dt>${name}</dt><dd>${list(one[name])}</dd></div>`)}</dl></div>`)}</div>
    <h2 class="next">Endpoints</h2>
    <div class="table" tabindex="0" role="region" aria-label="Endpoints"><table><tbody>${endpoints.map(one => html`<tr key=${one.key}><td class="tight"><strong>${one.key}</strong></td><td>${list(one.hosts)}${one.description && html`<br/><span class="dim">${one.description}</span>`}</td></tr>`)}</tbody></table></div>
    ${approvers.length > 0 && html`<h2 class="next">Approvers</h2><div class="table" tabindex="0" role="region" aria-label="Approvers"><table><tbody>${approvers.map(one => html`<tr key=${one.key}><td class="tight"><strong>${one.key}</strong></td>
      <td>${one.kind === 'human' ? html`${one.required} of ${one.people.length ? list(one.people) : 'every operator'}${one.channel && html` <span class="dim">in ${one.channel}</span>`}` : one.model}</td></tr>`)}</tbody></table></div>`}
  </div>`
}
