// Why each rule does or does not match one recorded action: every part of its condition with its value.

import { html } from './vendor/preact-htm.js'
import { get } from './api.js'
import { Badge, Problem, printable, useLoaded } from './show.js'

// What a part was, and how it is marked.
function found(of) {
  if (of === 'not_evaluated') return ['not looked at', 'dim']
  if (of === 'not_shown') return ['not shown', 'dim']
  const [[kind, text]] = Object.entries(of)
  if (kind === 'value') return [text, text === 'true' ? 'is-true' : text === 'false' ? 'is-false' : '']
  return [`${kind === 'unknown' ? 'unknown' : 'error'}: ${text}`, 'is-none']
}

function Part({ of }) {
  const [text, kind] = found(of.found)
  return html`<li><code>${printable(of.text)}</code> <span class=${`mono ${kind}`}>${printable(text)}</span>
    ${of.parts?.length > 0 && html`<ul>${of.parts.map((one, at) => html`<${Part} key=${at} of=${one} />`)}</ul>`}</li>`
}

const kindOf = outcome => (outcome.startsWith('matched: allow') ? 'good' : outcome.startsWith('matched: deny') || outcome.startsWith('not evaluable') ? 'bad' : outcome.startsWith('matched') ? 'wait' : 'dull')

export function Why({ id }) {
  const [loaded] = useLoaded(() => get(`/v1/audit/${id}/explain`), [id])
  const told = loaded.data
  if (!told) return html`<${Problem} error=${loaded.error} />`
  return html`<section class="why" aria-label="Why each rule did or did not match"><h3>Why</h3>
    ${told.unknown && html`<p class="dim">It cannot be told: ${printable(told.unknown)}.</p>`}
    ${!told.unknown && !told.is_same && html`<p class="note">By the policy in force, which is not the one of then.</p>`}
    ${!told.unknown && told.steps.length === 0 && html`<p class="dim">No rule is for this endpoint and profile.</p>`}
    ${told.steps.map((step, at) => html`<details key=${at} open=${at === told.steps.length - 1}>
      <summary><strong>${step.rule}</strong> <${Badge} of=${step.outcome} kind=${kindOf(step.outcome)} />${step.place && html` <span class="dim mono">${step.place}</span>`}</summary>
      ${step.credential ? html`<p>${step.credential}</p>` : step.condition ? html`<ul><${Part} of=${step.condition} /></ul>` : html`<p class="dim">It has no condition.</p>`}
    </details>`)}
    ${!told.unknown && told.steps.length > 0 && !told.rule && html`<p class="dim">No rule matched: ${told.verdict}.</p>`}
  </section>`
}
