// How things are shown: texts of agents, times, facts, states without content.

import { html, useEffect, useState } from './vendor/preact-htm.js'

// What stands escaped, as `visible.rs` has it: what is not seen or is a blank that is none, alphabets that are drawn like
// ASCII's, and in a word with ASCII letters those of others.
const HIDDEN = /[\0-\x1f\x7f-\xa0\xad\u0334-\u0338\u034f\u037e\u061c\u070f\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\u{13430}-\u{1345f}\u{16fe4}\u{1bca0}-\u{1bca3}\u{1d159}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]/gu
const WORD = /[\p{Alphabetic}\p{N}\p{M}_]+/gu
const DISGUISED = /[\u13a0-\u13ff\u2100-\u214f\u2160-\u2188\ua4d0-\ua4ff\uab70-\uabbf\uff10-\uff19\uff21-\uff3a\uff3f\uff41-\uff5a\u{10400}-\u{1044f}\u{1d400}-\u{1d7ff}]/gu
const FOREIGN = /(?![\0-\u024f\u1e00-\u1eff\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\u{20000}-\u{3ffff}])\p{Alphabetic}/gu

// A text that an agent may have written. What is no visible character of it, or may be taken for another, stands
// escaped: it could turn round, hide or overwrite what stands beside it, or say something else than it does.
export function printable(of, keepsLines) {
  const text = String(of)
  const found = [...text.matchAll(HIDDEN)].filter(one => !(keepsLines && (one[0] === '\n' || one[0] === '\t'))).map(one => [one.index, one[0]])
  for (const word of text.matchAll(WORD)) {
    if (!/[^\0-\x7f]/.test(word[0])) continue
    const own = [...word[0].matchAll(DISGUISED), ...(/[A-Za-z]/.test(word[0]) ? word[0].matchAll(FOREIGN) : [])]
    own.forEach(one => found.push([word.index + one.index, one[0]]))
  }
  found.sort((a, b) => a[0] - b[0])
  const out = []
  let last = 0
  for (const [at, char] of found) {
    if (at < last) continue
    out.push(text.slice(last, at))
    const code = char.codePointAt(0).toString(16).padStart(4, '0')
    out.push(html`<span class="escaped" title="a character that is not seen, or is not what it looks like">${char === '\n' ? '⏎' : `\\u{${code}}`}</span>`)
    last = at + char.length
  }
  out.push(text.slice(last))
  return out
}

// The instant, ticking once a second while something is shown that depends on it.
export function useNow(everyMs = 1000) {
  const [now, set] = useState(Date.now())
  useEffect(() => {
    const timer = setInterval(() => set(Date.now()), everyMs)
    return () => clearInterval(timer)
  }, [everyMs])
  return now
}

export function span(seconds) {
  const s = Math.max(0, Math.round(seconds))
  if (s < 60) return `${s} s`
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, '0')} s`
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`
}

export const ago = (us, now) => (now - us / 1000 < 1500 ? 'now' : `${span((now - us / 1000) / 1000)} ago`)

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' })
const day = new Intl.DateTimeFormat('en-GB', { year: 'numeric', month: 'short', day: '2-digit', hour: '2-digit', minute: '2-digit', second: '2-digit' })

export const at = us => clock.format(us / 1000)
export const when = us => day.format(us / 1000)

export function bytes(n) {
  if (n == null) return ''
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let unit = 0
  for (; n >= 1024 && unit < units.length - 1; unit++) n /= 1024
  return `${unit ? n.toFixed(1) : n} ${units[unit]}`
}

export function took(us) {
  if (us == null) return ''
  return us < 1000 ? `${us} µs` : us < 1e6 ? `${(us / 1000).toFixed(1)} ms` : `${(us / 1e6).toFixed(1)} s`
}

const VERDICTS = {
  allow: 'good', allowed: 'good', used: 'good', deny: 'bad', denied: 'bad',
  pending: 'wait', timed_out: 'dull', withdrawn: 'dull'
}

export const Badge = ({ of, kind }) =>
  html`<span class="badge ${kind || VERDICTS[of] || 'dull'}">${String(of).replace('_', ' ')}</span>`

function value(of) {
  if (of === null || of === undefined || of === '') return html`<span class="dim">–</span>`
  if (Array.isArray(of)) {
    if (!of.length) return html`<span class="dim">none</span>`
    const isPlain = of.every(one => typeof one !== 'object' || one === null)
    if (isPlain) return of.map(one => html`<code class="chip">${printable(String(one))}</code> `)
  }
  if (typeof of === 'object') return html`<pre class="value">${printable(JSON.stringify(of, null, 2), true)}</pre>`
  if (typeof of === 'boolean') return html`<span class="flag">${of ? 'yes' : 'no'}</span>`
  const text = String(of)
  return text.length > 120 || text.includes('\n')
    ? html`<pre class="value">${printable(text, true)}</pre>`
    : html`<code>${printable(text)}</code>`
}

export function Facts({ facts, without = [] }) {
  const rows = Object.entries(facts || {}).filter(([name]) => !without.includes(name))
  if (!rows.length) return html`<p class="dim">No facts were read of this action.</p>`
  return html`<dl class="facts">${rows.map(([name, of]) => html`<div key=${name}><dt>${name}</dt><dd>${value(of)}</dd></div>`)}</dl>`
}

export const Fields = ({ rows }) =>
  html`<dl class="fields">${rows.filter(row => row && row[1] !== undefined && row[1] !== null && row[1] !== false && row[1] !== '').map(
    ([name, of]) => html`<div key=${name}><dt>${name}</dt><dd>${of}</dd></div>`)}</dl>`

export const Empty = ({ title, children }) => html`<div class="empty"><h2>${title}</h2><div>${children}</div></div>`

// Lines of a policy, as they are to be written.
export const Sample = ({ children }) => html`<pre class="sample">${children}</pre>`

export const Problem = ({ error }) => (error ? html`<p class="problem" role="alert">${String(error.message || error)}</p>` : null)

// As a `ref`: what appears has the keyboard.
export const focus = element => element && queueMicrotask(() => element.focus())

// Loads once, and again when `key` changes or the returned function is called.
export function useLoaded(load, keys = []) {
  const [state, set] = useState({ loading: true })
  const [round, again] = useState(0)
  useEffect(() => {
    let gone = false
    load().then(
      data => gone || set({ data }),
      error => gone || set(before => ({ data: before.data, error }))
    )
    return () => { gone = true }
  }, [...keys, round])
  return [state, () => again(count => count + 1)]
}

// Does something every so often while it is shown.
export function useEvery(ms, action) {
  useEffect(() => {
    const timer = setInterval(() => { if (!document.hidden) action() }, ms)
    return () => clearInterval(timer)
  }, [ms])
}

// A button that wants to be pressed twice.
export function Sure({ kind, what, onSure, children }) {
  const [asked, ask] = useState(false)
  useEffect(() => {
    if (!asked) return
    const timer = setTimeout(() => ask(false), 5000)
    return () => clearTimeout(timer)
  }, [asked])
  return html`<button class=${asked ? kind : ''} aria-label=${asked ? `Really: ${what}` : what} onClick=${() => {
    if (asked) onSure()
    ask(!asked)
  }}>${asked ? 'Really?' : children}</button>`
}
