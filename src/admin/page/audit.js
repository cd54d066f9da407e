// The record of before: search, export, and the check that nothing of it was changed.

import { html, useState } from './vendor/preact-htm.js'
import { get } from './api.js'
import { Action } from './traffic.js'
import { List } from './list.js'
import { Badge, Empty, Problem, printable, when } from './show.js'

const PAGE = 1000
// Records of one export; the command has no such bound.
const EXPORT_MAX = 100000

const Cells = row => html`<span class="dim">#${row.id}</span><${Badge} of=${row.verdict} />
  <span class="extra">${printable(row.node)}</span><span class="extra dim">${row.endpoint}</span>
  <span class="mono">${printable(row.summary)}</span><span class="extra num dim" title=${when(row.at_us)}>${when(row.at_us).slice(0, 11)}</span>`

function query(form) {
  const wanted = new URLSearchParams()
  for (const name of ['text', 'node', 'endpoint', 'rule', 'verdict']) {
    const value = form.get(name).trim()
    if (value) wanted.set(name, value)
  }
  for (const [name, field] of [['since_us', 'since'], ['until_us', 'until']]) {
    if (form.get(field)) wanted.set(name, String(new Date(form.get(field)).getTime() * 1000))
  }
  return wanted
}

export function Audit({ id }) {
  const [found, setFound] = useState()
  const [error, setError] = useState()
  const [busy, setBusy] = useState('')
  const doing = (what, work) => async event => {
    event.preventDefault()
    setBusy(what)
    setError()
    try {
      await work(event)
    } catch (failed) {
      setError(failed)
    }
    setBusy('')
  }
  const search = doing('search', async event => {
    const wanted = query(new FormData(event.target))
    const rows = await get(`/v1/audit?newest=true&limit=${PAGE}&${wanted}`)
    setFound({ wanted, rows: rows.reverse(), more: rows.length === PAGE })
  })
  const older = doing('older', async () => {
    const before = found.rows[found.rows.length - 1].id
    const rows = await get(`/v1/audit?newest=true&limit=${PAGE}&before=${before}&${found.wanted}`)
    setFound({ ...found, rows: [...found.rows, ...rows.reverse()], more: rows.length === PAGE })
  })
  const save = doing('export', async () => {
    const lines = []
    let after = 0
    for (;;) {
      const rows = await get(`/v1/audit?limit=${PAGE}&after=${after}&${found.wanted}`)
      if (!rows.length || lines.length >= EXPORT_MAX) break
      for (const row of rows) lines.push(JSON.stringify(row))
      after = rows[rows.length - 1].id
    }
    const link = document.createElement('a')
    link.href = URL.createObjectURL(new Blob([`${lines.join('\n')}\n`], { type: 'application/x-ndjson' }))
    link.download = `tailkeep-audit-${new Date().toISOString().slice(0, 10)}.jsonl`
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), 60000)
  })
  const [verified, setVerified] = useState()
  const verify = doing('verify', async () => setVerified(await get('/v1/audit/verify')))
  return html`<div class="traffic">
    <div class="bar"><h1>Audit</h1>
      <button onClick=${verify} disabled=${busy !== ''}>${busy === 'verify' ? 'Checking…' : 'Check the chain'}</button>
      <button onClick=${save} disabled=${!found?.rows.length || busy !== ''}>${busy === 'export' ? 'Collecting…' : 'Export JSON lines'}</button></div>
    <form class="bar search" onSubmit=${search}>
      <input type="search" name="text" aria-label="Text" placeholder="Text in the action, agent, rule or reason" />
      <input type="text" name="node" aria-label="Node" placeholder="Node" />
      <input type="text" name="endpoint" aria-label="Endpoint" placeholder="Endpoint" />
      <input type="text" name="rule" aria-label="Rule" placeholder="Rule" />
      <select name="verdict" aria-label="Verdict"><option value="">Any verdict</option><option>allow</option><option>deny</option></select>
      <label class="inline">From <input type="datetime-local" name="since" /></label><label class="inline">to <input type="datetime-local" name="until" /></label>
      <button class="primary" disabled=${busy !== ''}>Search</button>
    </form>
    <${Problem} error=${error} />
    ${verified && html`<p class=${verified.fault ? 'problem' : 'note'} role="status">${verified.fault
      ? `The log was changed: ${verified.fault}`
      : html`${verified.records} records are as they were written. Note <code>${verified.last}:${verified.head}</code> on another machine, and a rewritten log shows.`}</p>`}
    ${!found ? html`<${Empty} title="Search the record"><p>Every verdict is in it since the gateway's first day, in a chain of hashes.</p><//>`
      : found.rows.length === 0 ? html`<${Empty} title="Nothing fits"><p>Take a word out of the search, or widen its time.</p><//>`
      : html`<${List} rows=${found.rows} cells=${Cells} label="Records, newest first" selected=${id} onSelect=${row => { location.hash = row ? `#/audit/${row.id}` : '#/audit' }} />
        ${found.more && html`<div class="bar foot"><button onClick=${older} disabled=${busy !== ''}>Older ones</button></div>`}`}
    ${id !== undefined && html`<${Action} key=${id} id=${id} known=${found?.rows.find(row => row.id === id)} back="#/audit" />`}
  </div>`
}
