// Every action as it is judged, one of them whole, and the search through those of before.

import { html, useEffect, useMemo, useRef, useState } from './vendor/preact-htm.js'
import { follow, get } from './api.js'
import { List } from './list.js'
import { Why } from './why.js'
import { Badge, Empty, Facts, Fields, Problem, at, bytes, printable, took, useLoaded, when } from './show.js'

// Actions that are kept in sight of the filter.
const KEPT_MAX = 5000
const FIRST = 1000
// Milliseconds between two drawings: actions may come by the thousand.
const DRAW_MS = 150

const words = text => text.toLowerCase().split(/\s+/).filter(Boolean)

function hay(row) {
  row.hay ??= [row.verdict, row.node, row.login, row.endpoint, row.summary, row.rule, row.cause, row.profile, row.reason]
    .filter(Boolean).join(' ').toLowerCase()
  return row.hay
}

// `-word` leaves out what has it.
const fits = (row, wanted) => wanted.every(word => (word.length > 1 && word[0] === '-' ? !hay(row).includes(word.slice(1)) : hay(row).includes(word)))

function useTraffic(isPaused) {
  const [rows, set] = useState([])
  const [state, setState] = useState({ is: 'looking' })
  const kept = useRef({ after: null, came: [] })
  useEffect(() => {
    if (isPaused) return
    let stop = () => {}
    let gone = false
    const draw = setInterval(() => {
      const { came } = kept.current
      if (!came.length) return
      kept.current.came = []
      set(before => [...came.reverse(), ...before].slice(0, KEPT_MAX))
    }, DRAW_MS)
    const start = async () => {
      if (kept.current.after === null) {
        const first = await get(`/v1/audit?newest=true&limit=${FIRST}`)
        kept.current.after = first.length ? first[first.length - 1].id : 0
        set(first.reverse())
      }
      if (gone) return
      stop = follow(() => `/v1/audit/follow?after=${kept.current.after}`, {
        onState: (is, why) => setState({ is, why }),
        onEvent: (name, row) => {
          if (name !== 'record' || row.id <= kept.current.after) return
          kept.current.after = row.id
          kept.current.came.push(row)
        }
      })
    }
    start().catch(error => setState({ is: 'lost', why: error.message }))
    return () => { gone = true; clearInterval(draw); stop() }
  }, [isPaused])
  return [rows, state]
}

const Cells = row => html`<span class="dim">${at(row.at_us)}</span><${Badge} of=${row.verdict} />
  <span class="extra" title=${row.node}>${printable(row.node)}</span><span class="extra dim" title=${row.endpoint}>${row.endpoint}</span>
  <span class="mono" title=${row.summary}>${printable(row.summary)}</span>
  <span class="extra num dim">${row.outcome ? took(row.outcome.took_us) : ''}</span>`

export function Traffic({ id }) {
  const [isPaused, pause] = useState(false)
  const [filter, setFilter] = useState('')
  const [rows, state] = useTraffic(isPaused)
  const shown = useMemo(() => {
    const wanted = words(filter)
    return wanted.length ? rows.filter(row => fits(row, wanted)) : rows
  }, [rows, filter])
  const field = useRef()
  useEffect(() => {
    const onKey = event => {
      if (event.key !== '/' || event.target.closest('input, select')) return
      event.preventDefault()
      field.current.focus()
    }
    addEventListener('keydown', onKey)
    return () => removeEventListener('keydown', onKey)
  }, [])
  return html`<div class="traffic">
    <div class="bar"><h1>Traffic</h1>
      <input ref=${field} type="search" placeholder="Filter: deny billing -select" aria-label="Filter, by words" value=${filter} onInput=${event => setFilter(event.target.value)} />
      <button aria-pressed=${isPaused} onClick=${() => pause(!isPaused)}>${isPaused ? 'Go on' : 'Pause'}</button>
      <span class="dim num">${shown.length === rows.length ? `${rows.length} ${rows.length === 1 ? 'action' : 'actions'}` : `${shown.length} of ${rows.length}`}</span></div>
    ${state.is === 'lost' && html`<${Problem} error=${state.why} />`}
    ${rows.length === 0 && state.is !== 'looking'
      ? html`<${Empty} title="No agent has done anything yet"><p>Enrol a machine with <code>tailkeep peers add NAME</code>, or tag a node of the tailnet;
          each of its actions appears here as it is judged.</p><//>`
      : html`<${List} rows=${shown} cells=${Cells} label="Actions, newest first" selected=${id}
          onSelect=${row => { location.hash = row ? `#/traffic/${row.id}` : '#/traffic' }} />`}
    ${id !== undefined && html`<${Action} key=${id} id=${id} known=${rows.find(row => row.id === id)} back="#/traffic" />`}
  </div>`
}

export function Action({ id, known, back }) {
  const [loaded] = useLoaded(() => (known ? Promise.resolve(known) : get(`/v1/audit?after=${id - 1}&limit=1`).then(found => found[0])), [id])
  const row = loaded.data
  if (loaded.error) return html`<section class="drawer" aria-label="The action"><${Problem} error=${loaded.error} /></section>`
  if (!row) return null
  const outcome = row.outcome
  return html`<section class="drawer" aria-label="The action">
    <div class="bar"><${Badge} of=${row.verdict} /><h2 class="mono">${printable(row.summary)}</h2><a href=${back}>Close</a></div>
    <div class="columns">
      <div><h3>Verdict</h3>
        <${Fields} rows=${[
          ['Cause', row.cause?.replaceAll('_', ' ')], ['Rule', row.rule && html`<code>${row.rule}</code>`], ['Reason', row.reason && printable(row.reason)],
          ['Detail', row.detail && html`<pre>${printable(row.detail, true)}</pre>`],
          ['Decided by', (row.approvers || []).join(', ')], ['Shadow rules', (row.shadow || []).join(', ')],
          ['Judged in', took(row.judge_us)], ['Waited', row.wait_us ? took(row.wait_us) : null]]} />
        <h3>Agent</h3>
        <${Fields} rows=${[
          ['Node', printable(row.node)], ['Login', row.login && printable(row.login)], ['Profile', row.profile], ['Address', row.address], ['Transport', row.transport],
          ['Endpoint', html`<code>${row.endpoint}</code>`], ['Credential', row.credential && html`<code>${row.credential}</code>`]]} />
        <h3>Outcome</h3>
        ${outcome ? html`<${Fields} rows=${[['Status', printable(outcome.status)], ['Sent', bytes(outcome.bytes_up)], ['Received', bytes(outcome.bytes_down)], ['Took', took(outcome.took_us)]]} />`
          : html`<p class="dim">${row.verdict === 'deny' ? 'Nothing was sent upstream.' : 'None yet.'}</p>`}</div>
      <div><h3>Facts</h3><${Facts} facts=${row.facts} />
        <h3>Record</h3>
        <${Fields} rows=${[['Number', String(row.id)], ['At', when(row.at_us)], ['Digest', html`<code>${row.digest}</code>`], ['Chain', html`<code>${row.hash}</code>`]]} /></div>
    </div>
    ${row.step === 'request' && row.verdict !== 'note' && html`<${Why} id=${row.id} />`}
  </section>`
}
