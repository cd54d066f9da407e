// Held actions: the list, one of them whole, and the decision.

import { html, useLayoutEffect, useRef, useState } from './vendor/preact-htm.js'
import { ask, get } from './api.js'
import { Badge, Empty, Facts, Fields, Problem, Sample, Sure, ago, at, printable, span, useEvery, useLoaded, useNow, when } from './show.js'

// Seconds before the end that are shown as such.
const SOON_S = 60

export const open = held => held.filter(one => one.state === 'pending')

function Left({ held, now }) {
  const left = (held.expires_us / 1000 - now) / 1000
  return html`<span class=${`wait-time ${left < SOON_S ? 'soon' : ''}`}>${left > 0 ? `${span(left)} left` : 'time is over'}</span>`
}

function Item({ held, isCurrent, now }) {
  const { question } = held
  return html`<li><a href=${`#/approvals/${held.id}`} aria-current=${isCurrent ? 'true' : null} class="new">
    <div class="what">${printable(question.summary)}</div>
    <div class="by">
      <span>${printable(question.node)} · ${question.endpoint}</span>
      ${held.state === 'pending' ? html`<${Left} held=${held} now=${now} />` : html`<${Badge} of=${held.state} />`}
    </div></a></li>`
}

export function Approvals({ held, live, id }) {
  const now = useNow()
  const [all, setAll] = useState(false)
  const [past] = useLoaded(() => (all ? get('/v1/approvals?all=true') : Promise.resolve([])), [all, held])
  const pending = open(held)
  const listed = all ? past.data || [] : pending
  const current = id ?? null
  const step = by => {
    if (!listed.length) return
    const index = listed.findIndex(one => one.id === current)
    const next = listed[index < 0 ? 0 : Math.min(Math.max(index + by, 0), listed.length - 1)]
    location.hash = `#/approvals/${next.id}`
  }
  useLayoutEffect(() => {
    const onKey = event => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, textarea, select')) return
      if (event.key === 'j' || event.key === 'ArrowDown') step(1)
      else if (event.key === 'k' || event.key === 'ArrowUp') step(-1)
      else return
      event.preventDefault()
    }
    addEventListener('keydown', onKey)
    return () => removeEventListener('keydown', onKey)
  })
  return html`<div class=${`split ${current === null ? '' : 'has-one'}`}>
    <section class="left" aria-label="Held actions">
      <div class="bar"><h1>Approvals</h1>
        <button class="quiet" aria-pressed=${all} onClick=${() => setAll(!all)}>${all ? 'Only open' : 'Show decided'}</button></div>
      <${Problem} error=${past.error} />
      <${Grants} held=${held} now=${now} />
      ${listed.length
        ? html`<ul class="asked">${listed.map(one => html`<${Item} key=${one.id} held=${one} now=${now} isCurrent=${one.id === current} />`)}</ul>`
        : html`<${Empty} title=${live ? 'Nothing waits for you' : 'Looking…'}>${live && html`<p>An action appears here the moment a rule
            asks a person. Its agent waits meanwhile.</p><${Sample}>approve = [human_approver.ops]<//>`}<//>`}
    </section>
    <section class="right" aria-label="The action">
      ${current === null
        ? html`<${Empty} title=${listed.length ? 'Choose an action' : 'What is asked is shown here, whole'}>
            ${listed.length
              ? html`<p>With <kbd>j</kbd> and <kbd>k</kbd>, or a click. <kbd>a</kbd> approves, <kbd>d</kbd> denies, each after <kbd>Enter</kbd>.</p>`
              : html`<p>With what it would do, who asks, and how others like it were decided.</p>`}<//>`
        : html`<${Question} key=${current} id=${current} now=${now} listed=${held.find(one => one.id === current)} />`}
    </section>
  </div>`
}

// Approvals that were given beforehand.
function Grants({ held, now }) {
  const [loaded, again] = useLoaded(() => get('/v1/grants'), [held])
  const [error, setError] = useState()
  useEvery(10000, again)
  const grants = loaded.data || []
  if (!grants.length && !error) return null
  const revoke = async id => {
    setError()
    try {
      await ask('DELETE', `/v1/grants/${id}`)
    } catch (failed) {
      setError(failed)
    }
    again()
  }
  return html`<section class="grants" aria-label="Grants"><h2 class="sub">Grants</h2><${Problem} error=${error} />
    <ul>${grants.map(one => html`<li key=${one.id}>
      <div><strong>${printable(one.about.node)}</strong> · ${one.about.endpoint} · <code>${one.about.rule}</code></div>
      <div class="dim">${one.state === 'offered' ? 'waits until others agree to the same' : `${one.uses} of ${one.uses_max} uses, ${span((one.expires_us / 1000 - now) / 1000)} left`} · ${one.by.join(', ')}</div>
      <${Sure} kind="no" what=${`Take back grant ${one.id}`} onSure=${() => revoke(one.id)}>Take back<//></li>`)}</ul></section>`
}

const TOLD = { sent: ['told', 'good'], sending: ['being told', 'dull'], failed: ['not told', 'bad'] }

// How it went to tell a channel; what is wrong may be a stranger's text.
function Told({ of, now }) {
  const [says, kind] = TOLD[of.state] || [of.state, 'dull']
  return html`<div><code>${of.channel}</code> <${Badge} of=${says} kind=${kind} /> <span class="dim">${ago(of.at_us, now)}</span>${of.problem && html`<div class="dim">${printable(of.problem)}</div>`}</div>`
}

function Question({ id, listed, now }) {
  // The list may lack what is long; here nothing is left out.
  const [loaded, again] = useLoaded(() => get(`/v1/approvals/${id}`), [id, listed?.state, listed?.by.length, JSON.stringify(listed?.told)])
  const held = loaded.data
  if (!held) return loaded.error ? html`<div class="question"><${Problem} error=${loaded.error} /></div>` : null
  const { question } = held
  return html`<article class="question" aria-labelledby="asked">
      <a class="back" href="#/approvals">← All</a>
      <div class="headline"><h1 id="asked">${printable(question.node)} asks ${question.endpoint}</h1><${Badge} of=${held.state} />
        ${held.state === 'pending' && html`<${Left} held=${held} now=${now} />`}</div>
      ${held.state === 'pending' && !held.waiting && html`<p class="note">Its agent is not connected now. A decision holds for its next try of exactly this.</p>`}
      <h2 class="sub">${held.state === 'pending' ? 'What will happen, whole' : 'What was asked, whole'}</h2>
      <pre class="whole mono" tabindex="0" aria-label="The whole action">${printable(question.detail || question.summary, true)}</pre>
      <${Parameters} of=${question.facts?.parameters} />
      ${held.body && html`<h2 class="sub">Its body, as ${held.body.kind}</h2>
        <pre class="whole mono" tabindex="0" aria-label="Its body">${printable(held.body.text, true)}</pre>`}
      ${question.preview && html`<${Preview} of=${question.preview} />`}
      <h2 class="sub">Why you are asked</h2>
      <${Fields} rows=${[
        ['Rule', html`<code>${question.rule}</code>`],
        ['Reason', question.reason && printable(question.reason)],
        ['Endpoint', question.description && printable(question.description)],
        ['Approver', html`<code>${question.approver}</code>`],
        ['Channel', question.channel && printable(question.channel)],
        ['Told', held.told?.length > 0 && held.told.map(one => html`<${Told} key=${one.channel} of=${one} now=${now} />`)],
        ['Wanted', `${question.required} ${question.required === 1 ? 'person' : 'people'}${question.eligible?.length ? ` of ${question.eligible.join(', ')}` : ''}`],
        ['Never', question.excluded && `${question.excluded}, whose agent it is`],
        ['Later also', question.escalate_to && `${question.escalate_to.join(', ')}, after ${span(question.escalate_after_s)}`],
        ['Said before', question.earlier?.length > 0 && printable(question.earlier.map(one => `${one.person}${one.through ? ` through ${one.through}` : ''}`).join(', '))],
        ['Said so far', held.by.length ? held.by.join(', ') : null],
        ['Said why', held.reason && printable(held.reason)]
      ]} />
      <h2 class="sub">Who asks</h2>
      <${Fields} rows=${[
        ['Agent', html`<code>${printable(question.node)}</code>`],
        ['Came by', question.transport],
        ['Tags', question.tags?.length > 0 && printable(question.tags.join(', '))],
        ['Login', question.login && printable(question.login)],
        ['Profile', html`<code>${question.profile}</code>`],
        ['Credential', question.credential ? html`<code>${question.credential}</code> is put in by the gateway` : 'none'],
        ['Asked', `${when(held.asked_us)} (${ago(held.asked_us, now)})`]
      ]} />
      <${Asker} id=${id} state=${held.state} />
      <h2 class="sub">Facts</h2>
      <${Facts} facts=${question.facts} without=${question.detail ? ['statement', 'parameters'] : []} />
      <h2 class="sub">Bound to</h2>
      <${Fields} rows=${[
        ['Digest', html`<code>${question.digest}</code>`],
        ['Until', when(held.expires_us)],
        ['Policy', html`<code>${Number(question.policy).toString(16).padStart(16, '0')}</code>`],
        ['Number', String(held.id)]
      ]} />
    </article>
    ${held.state === 'pending' && html`<${Decide} id=${id} grantable=${question.grantable} onDone=${again} />`}`
}

// What a statement is run with, whether or not rules read it; a text in quotes, so that none passes for two.
function Parameters({ of }) {
  const values = Array.isArray(of) ? of : of?.shown || []
  if (!values.length) return null
  return html`<h2 class="sub">With these parameters</h2><pre class="whole mono" tabindex="0" aria-label="Its parameters">${values.map((value, index) =>
    html`<div key=${index}>$${index + 1} = ${value === null ? 'NULL' : printable(JSON.stringify(value))}</div>`)}</pre>`
}

// What its agent did of late, and how questions like it were decided.
function Asker({ id, state }) {
  const [loaded] = useLoaded(() => get(`/v1/approvals/${id}/asker`), [id, state])
  if (!loaded.data) return html`<${Problem} error=${loaded.error} />`
  const { did, alike } = loaded.data
  const stood = of => (of.length ? of.map(one => `${one.questions} ${one.state.replace('_', ' ')}`).join(', ') : 'none')
  return html`<h2 class="sub">Its last hour</h2>
    ${did.counts.length
      ? html`<${Fields} rows=${did.counts.map(one => [`${one.endpoint}: ${one.verdict}`, String(one.actions)])} />`
      : html`<p class="dim">It did nothing else.</p>`}
    ${!did.whole && html`<p class="note">There is much traffic: these are of the newest records alone.</p>`}
    ${did.actions.length > 0 && html`<div class="scroll" tabindex="0"><table><caption>Its last actions</caption>
      <thead><tr>${['When', 'Verdict', 'Endpoint', 'What'].map(name => html`<th scope="col">${name}</th>`)}</tr></thead><tbody>${did.actions.map(one => html`<tr key=${one.id}>
      <td class="tight">${at(one.at_us)}</td><td><${Badge} of=${one.verdict} /></td><td>${one.endpoint}</td><td class="mono">${printable(one.summary)}</td></tr>`)}</tbody></table></div>`}
    <h2 class="sub">By this rule before</h2>
    <${Fields} rows=${[['Like this', stood(alike.same)], ['Others', stood(alike.others)]]} />
    ${alike.newest.length > 0 && html`<div class="scroll" tabindex="0"><table><caption>The newest like this</caption>
      <thead><tr>${['When', 'How', 'Agent', 'What', 'By'].map(name => html`<th scope="col">${name}</th>`)}</tr></thead><tbody>${alike.newest.map(one => html`<tr key=${one.id}>
      <td class="tight">${one.closed_us ? when(one.closed_us) : ''}</td><td><${Badge} of=${one.state} /></td><td>${printable(one.node)}</td><td class="mono">${printable(one.summary)}</td>
      <td>${one.by.join(', ')}${one.reason && html`: ${printable(one.reason)}`}</td></tr>`)}</tbody></table></div>`}`
}

// What a yes may be given for; the first is once.
const TERMS = [['', 'once'], ['for_s=1800', 'for 30 minutes'], ['for_s=7200', 'for 2 hours'], ['uses=20', '20 times'], ['for_s=1800&uses=20', '20 times in 30 minutes']]

// What was found out before anybody said yes, or why nothing was.
function Preview({ of }) {
  const { does, none, plan, columns, sample, note, held_s: held } = of
  return html`<h2 class="sub">What it does</h2>
    ${none && html`<p class="note">Not tried: ${printable(none)}.${plan ? ` The server expects ${plan.rows} rows, at a cost of ${plan.cost}.` : ''}</p>`}
    ${does?.error && html`<p class="note">It fails: ${printable(does.error)}</p>`}
    ${does?.tag && html`<p>It has run and is held back: <code>${printable(does.tag)}</code>. A yes commits it. After ${held} s, or when others wait
      for it, it is rolled back; a yes then ${does.digest ? 'runs it once more, and commits only the same rows' : 'does nothing: the agent has to send it again'}.</p>`}
    ${does?.verb && html`<${Tried} does=${does} diff=${of.diff} />`}
    ${note && html`<p class="note">${printable(note)}.</p>`}
    ${sample?.length > 0 && html`<div class="scroll" tabindex="0"><table><caption>Some of its rows</caption>
      <thead><tr>${columns.map(name => html`<th scope="col">${printable(name)}</th>`)}</tr></thead>
      <tbody>${sample.map(row => html`<tr>${row.map(value => html`<td class="mono">${value === null ? 'NULL' : printable(value)}</td>`)}</tr>`)}</tbody></table></div>`}`
}

const SIGNS = { '+': 'added', '-': 'gone' }

// What an API server's dry run says of a change: on what it was tried, and line by line what would be otherwise.
function Tried({ does, diff }) {
  const where = [does.namespace, does.name].filter(Boolean).join('/')
  const bound = does.resource_version || does.objects !== undefined
  return html`<p>The API server's own dry run of this: <code>${does.verb}</code> <code>${printable(does.kind)}</code> ${where && html`<code>${printable(where)}</code>`}${
    does.resource_version ? html`, version <code>${printable(does.resource_version)}</code>` : does.objects !== undefined ? `, ${does.objects} objects` : ''}.
      ${bound ? ' A yes sends it only if that is still so then.' : ''}</p>
    ${does.uid && html`<p class="dim">uid <code>${printable(does.uid)}</code></p>`}
    ${diff?.length > 0 && html`<pre class="whole mono" tabindex="0" aria-label="What would change">${diff.map((line, at) =>
      html`<div key=${at} class=${SIGNS[line[0]]}>${printable(line)}</div>`)}</pre>`}`
}

function Decide({ id, grantable, onDone }) {
  const [armed, arm] = useState(null)
  const [reason, setReason] = useState('')
  const [terms, setTerms] = useState('')
  const [error, setError] = useState()
  const [busy, setBusy] = useState(false)
  const field = useRef()
  const decide = async what => {
    if (busy) return
    setBusy(true)
    setError()
    try {
      const query = [reason.trim() && `reason=${encodeURIComponent(reason.trim())}`, what === 'approve' && terms].filter(Boolean).join('&')
      await ask('POST', `/v1/approvals/${id}/${what}?${query}`)
      onDone()
    } catch (failed) {
      setError(failed)
      onDone()
    }
    setBusy(false)
    arm(null)
  }
  useLayoutEffect(() => {
    const onKey = event => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return
      const isTyping = event.target.closest('input, textarea, select')
      if (event.key === 'Escape') {
        arm(null)
        field.current?.blur()
      } else if (isTyping) return
      else if (event.key === 'a') arm('approve')
      else if (event.key === 'd') arm('deny')
      else return
      if (event.key !== 'Escape') field.current?.focus()
      event.preventDefault()
    }
    addEventListener('keydown', onKey)
    return () => removeEventListener('keydown', onKey)
  }, [])
  const submit = event => {
    event.preventDefault()
    if (armed) decide(armed)
  }
  return html`<form class="decide" onSubmit=${submit}>
    <${Problem} error=${error} />
    <input ref=${field} type="text" aria-label="Reason, which the agent reads" maxlength="1000"
      placeholder=${armed ? `Reason, then Enter to ${armed}` : 'Reason (the agent reads it)'} value=${reason} onInput=${event => setReason(event.target.value)} />
    ${grantable && html`<select aria-label="What the approval is for" value=${terms} onChange=${event => setTerms(event.target.value)}>
      ${TERMS.map(([value, name]) => html`<option key=${value} value=${value}>${name}</option>`)}</select>`}
    <button type="button" class="yes" disabled=${busy} onClick=${() => decide('approve')}>Approve<kbd>a</kbd></button>
    <button type="button" class="no" disabled=${busy} onClick=${() => decide('deny')}>Deny<kbd>d</kbd></button>
    <p class="hint" role="status">${armed
      ? html`<strong>Enter ${armed === 'approve' ? 'approves' : 'denies'}</strong>, Escape takes it back.`
      : terms
        ? 'Also lets pass, unseen, whatever else this agent asks for by this rule. LLM judges are asked each time.'
        : 'What is sent is exactly what stands above, once.'}</p>
  </form>`
}
