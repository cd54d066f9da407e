// The policy's files: a draft of one is checked, rehearsed against the last day, and written.

import { html, useEffect, useRef, useState } from './vendor/preact-htm.js'
import { ask, get } from './api.js'
import { Badge, Empty, Problem, Sure, printable, useLoaded } from './show.js'

// What was typed, by file, for one who looks at another page meanwhile.
const drafts = new Map()
// Why a policy is held back by `reload_guard`.
const HELD = 'it would change verdicts'

const said = of => html`<${Badge} of=${of.verdict} kind=${of.verdict === 'approve' ? 'wait' : undefined} /> ${of.rule ? html`<code>${of.rule}</code>` : html`<span class="dim">no rule</span>`}${of.approvers?.length > 0 && html` <span class="dim">asks ${of.approvers.join(', ')}</span>`}`

function Diagnostics({ of, kind, onGo }) {
  return html`<ul class="diagnostics">${of.map((one, at) => html`<li key=${at} class=${kind}>
    ${one.line ? html`<button class="quiet mono" onClick=${() => onGo(one)}>${one.file.split('/').pop()}:${one.line}:${one.column}</button>` : null}
    <span>${one.message}</span>${one.text && html`<pre class="value">${printable(one.text)}</pre>`}${one.help && html`<div class="dim">${one.help}</div>`}${one.other && html`<div class="dim">also ${one.other}</div>`}</li>`)}</ul>`
}

// What a rehearsal, or a coverage, did not look at.
export function LeftOut({ of }) {
  return of && html`<p class="note" role="status">${of.records} older records were left out: so many are looked at${of.bound === 'time' ? ' in the time that there is' : ''}.</p>`
}

function Rehearsal({ of }) {
  const rest = Object.values(of.not_replayed).reduce((sum, count) => sum + count, 0)
  return html`<section aria-label="Rehearsal"><h2 class="next">The last day by this draft</h2>
    <p role="status">${of.judged} verdicts judged anew, <strong>${of.changed} would change</strong>${rest > 0 && `, ${rest} cannot be told`}.${of.assumed > 0 && ` ${of.assumed} by the profile that was recorded.`}</p>
    <${LeftOut} of=${of.left_out} />
    ${of.changes.length > 0 && html`<div class="table" tabindex="0" role="region" aria-label="Changes"><table><thead><tr><th class="num">Times</th><th>Was</th><th>Would be</th><th>Where</th><th>Such as</th></tr></thead><tbody>
      ${of.changes.map((one, at) => html`<tr key=${at}><td class="num">${one.count}</td><td>${said(one.was)}</td><td>${said(one.would)}</td><td>${one.endpoint}<br/><span class="dim">${one.profile}</span></td>
        <td class="wide"><a href=${`#/traffic/${one.record}`}>#${one.record}</a> <span class="mono">${printable(one.summary)}</span></td></tr>`)}</tbody></table></div>`}
    ${rest > 0 && html`<ul class="dim">${Object.entries(of.not_replayed).map(([why, count]) => html`<li key=${why}>${count} × ${why}</li>`)}</ul>`}</section>`
}

export function Draft() {
  const [loaded, again] = useLoaded(() => get('/v1/policy/files'))
  const [name, setName] = useState()
  const [text, setText] = useState('')
  const [found, setFound] = useState({})
  const [busy, setBusy] = useState('')
  const [done, setDone] = useState()
  const field = useRef()
  const files = loaded.data?.files || []
  const open = (file, on_disk) => {
    setName(file)
    setText(drafts.get(file)?.text ?? on_disk ?? '')
    setFound({})
    setDone()
  }
  useEffect(() => {
    if (!loaded.data || name !== undefined) return
    const first = files.find(one => drafts.has(one.name)) || files.find(one => one.text !== null)
    if (first) open(first.name, first.text)
  }, [loaded.data])
  if (!loaded.data) return html`<div class="page"><div class="bar"><h1>Policy files</h1></div><${Problem} error=${loaded.error} />
    ${loaded.error?.status === 404 && html`<${Empty} title="No files"><p>The policy of this gateway is in no files.</p><//>`}</div>`
  const own = files.find(one => one.name === name)
  const isNew = !own
  const isChanged = isNew || own.text !== text
  const base = drafts.get(name)?.base ?? loaded.data.base
  const type = value => {
    setText(value)
    // A draft is of what stood there when it was begun.
    if (own && value === own.text) drafts.delete(name)
    else drafts.set(name, { text: value, base })
    setFound({})
    setDone()
  }
  const doing = (what, work) => async () => {
    if (busy) return
    setBusy(what)
    try {
      await work()
    } catch (error) {
      setFound(before => ({ ...before, error }))
    }
    setBusy('')
  }
  const check = doing('check', async () => setFound({ checked: await ask('POST', '/v1/policy/check', { file: name, text }) }))
  const rehearse = doing('rehearse', async () => {
    const checked = await ask('POST', '/v1/policy/check', { file: name, text })
    setFound({ checked, rehearsed: checked.version ? await ask('POST', '/v1/policy/rehearse', { file: name, text }) : undefined })
  })
  const write = accept => doing('write', async () => {
    const written = await ask('PUT', `/v1/policy/files/${encodeURIComponent(name)}`, { text, base, accept })
    drafts.delete(name)
    setFound({})
    setDone(written)
    again()
  })
  const go = one => {
    const lines = text.split('\n')
    const start = lines.slice(0, one.line - 1).reduce((sum, line) => sum + line.length + 1, 0)
    const at = start + [...(lines[one.line - 1] || '')].slice(0, one.column - 1).join('').length
    field.current.focus()
    field.current.setSelectionRange(at, start + (lines[one.line - 1] || '').length)
    field.current.scrollTop = Math.max(0, (one.line - 4) * 18)
  }
  const add = () => {
    const asked = prompt('Name of the new file, such as billing.hcl')?.trim()
    if (asked) open(asked, files.find(one => one.name === asked)?.text)
  }
  const { checked, rehearsed, error } = found
  const isHeld = error?.status === 409 && error.message.startsWith(HELD)
  const isOld = isChanged && !isNew && base !== loaded.data.base
  const key = event => {
    if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return
    event.preventDefault()
    check()
  }
  return html`<div class="page draft">
    <div class="bar"><h1>Policy files</h1>
      <select aria-label="File" value=${name} onChange=${event => open(event.target.value, files.find(one => one.name === event.target.value)?.text)}>
        ${isNew && name && html`<option value=${name}>${name} (new)</option>`}
        ${files.map(one => html`<option key=${one.name} value=${one.name} disabled=${one.text === null}>${one.name}${drafts.has(one.name) ? ' (draft)' : ''}${one.text === null ? ' (holds a secret)' : ''}</option>`)}</select>
      ${loaded.data.takes_new && html`<button onClick=${add}>New file</button>`}
      <a href="#/policy">Rules</a></div>
    ${!loaded.data.writable && html`<p class="note">These files are kept elsewhere, and nothing is written from here. A draft can be checked and rehearsed all the same.${' '}
      <code>gateway { dashboard_config_writes = true }</code> lets operators write them here.</p>`}
    ${isOld && html`<p class="problem" role="alert">The files have changed since this draft was begun. <button class="quiet" onClick=${() => { drafts.delete(name); open(name, own.text) }}>Take up what stands there</button></p>`}
    <label class="said" for="policy-text">Text of ${name}</label>
    <textarea id="policy-text" ref=${field} spellcheck=${false} autocapitalize="none" wrap="off" rows="24" value=${text} aria-describedby="policy-found" onInput=${event => type(event.target.value)} onKeyDown=${key}></textarea>
    <div class="bar actions">
      <button onClick=${check} disabled=${!name || busy}>${busy === 'check' ? 'Checking…' : 'Check'}</button>
      <button onClick=${rehearse} disabled=${!name || busy}>${busy === 'rehearse' ? 'Rehearsing…' : 'Rehearse'}</button>
      ${loaded.data.writable && !isHeld && html`<button class="primary" disabled=${busy || !isChanged || !rehearsed || checked?.refused} onClick=${write(false)}>${busy === 'write' ? 'Writing…' : 'Write and reload'}</button>`}
      ${isHeld && html`<${Sure} kind="no" what="Accept and write, though verdicts change" onSure=${write(true)}>Accept and write<//>`}
      ${isChanged && !isNew && html`<button class="quiet" onClick=${() => type(own.text)}>Undo all</button>`}
      <span class="dim">${loaded.data.writable ? 'Rehearse, then write.' : ''}</span></div>
    <div id="policy-found" aria-live="polite">
      ${error && html`<div class="problem" role="alert"><pre>${printable(error.message, true)}</pre></div>`}
      ${done && html`<p class="note" role="status">${done.in_force ? 'It is in force: version ' : 'It is written, and not in force yet: the gateway’s log says why. Version '}<code>${done.version}</code>.</p>`}
      ${checked?.version && html`<p class="note" role="status">It loads: ${checked.rules} ${checked.rules === 1 ? 'rule' : 'rules'}, version <code>${checked.version}</code>.</p>`}
      ${checked?.refused && html`<p class="problem" role="alert">${checked.refused}.</p>`}
      ${checked && checked.errors.length > 0 && html`<p class="problem" role="status">It does not load: ${checked.errors.length} ${checked.errors.length === 1 ? 'error' : 'errors'}.</p><${Diagnostics} of=${checked.errors} kind="error" onGo=${go} />`}
      ${rehearsed && html`<${Rehearsal} of=${rehearsed} />`}
      ${checked && checked.notes.length > 0 && html`<h2 class="sub">Notes</h2><${Diagnostics} of=${checked.notes} kind="" onGo=${go} />`}
    </div>
  </div>`
}
