// The page's frame: who is signed in, where one is, what waits.

import { html, render, useEffect, useRef, useState } from './vendor/preact-htm.js'
import { ask, follow, get, hasGuard, keepGuard, whenSignedOut } from './api.js'
import { SignIn, Invited } from './sign-in.js'
import { Approvals, open } from './approvals.js'
import { Traffic } from './traffic.js'
import { Audit } from './audit.js'
import { Agents } from './agents.js'
import { Policy } from './policy.js'
import { Draft } from './draft.js'
import { Credentials } from './credentials.js'
import { Gateway } from './gateway.js'

const PLACES = [
  ['approvals', 'Approvals'], ['traffic', 'Traffic'], ['agents', 'Agents'], ['policy', 'Policy'], ['credentials', 'Credentials'],
  ['audit', 'Audit'], ['gateway', 'Gateway']
]

function useHash() {
  const [hash, set] = useState(location.hash)
  useEffect(() => {
    const onChange = () => set(location.hash)
    addEventListener('hashchange', onChange)
    return () => removeEventListener('hashchange', onChange)
  }, [])
  const [place, ...rest] = hash.replace(/^#\//, '').split('/')
  return [place || 'approvals', rest.map(part => decodeURIComponent(part))]
}

// The held actions, live: every listing and change comes by one stream.
function useHeld() {
  const [held, set] = useState([])
  const [state, setState] = useState({ is: 'looking' })
  useEffect(() => {
    let fresh = new Set()
    return follow('/v1/approvals/watch', {
      onState: (is, why) => {
        // A new stream begins with all that are open: what it does not name is decided.
        if (is === 'live') {
          fresh = new Set()
          get('/v1/approvals').then(all => set(all), () => {})
        }
        setState({ is, why })
      },
      onEvent: (name, one) => {
        if (name !== 'approval') return
        fresh.add(one.id)
        set(before => [...before.filter(other => other.id !== one.id && other.state === 'pending'), one].sort((a, b) => a.id - b.id))
      }
    })
  }, [])
  return [held, state]
}

function Frame({ who, onSignOut }) {
  const [place, rest] = useHash()
  const [held, stream] = useHeld()
  const waits = open(held).length
  useEffect(() => {
    const name = PLACES.find(([key]) => key === place)?.[1] || 'Tailkeep'
    document.title = `${waits ? `(${waits}) ` : ''}${name} · Tailkeep`
  }, [place, waits])
  // On a telephone not all of them are in sight.
  const current = useRef()
  useEffect(() => current.current?.querySelector('[aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'center' }), [place])
  return html`<div class="frame">
    <a class="skip" href="#content" onClick=${event => { event.preventDefault(); document.getElementById('content').focus() }}>To the content</a>
    <header class="side">
      <a class="brand" href="#/approvals"><img src="/page/icon.svg" alt="" width="24" height="24" />Tailkeep</a>
      <nav aria-label="Pages" ref=${current}>${PLACES.map(([key, name]) => html`<a key=${key} href=${`#/${key}`} aria-current=${key === place ? 'page' : null}>
        ${name}${key === 'approvals' && waits > 0 && html`<span class="count" aria-label=${`${waits} wait`}>${waits}</span>`}</a>`)}</nav>
      <div class="who">
        <div class="state"><span class=${`dot ${stream.is}`}></span>${{ live: 'Live', lost: 'Connection lost', looking: 'Connecting', closed: 'Closed' }[stream.is]}</div>
        <div>${who.person}</div>
        <button class="quiet" onClick=${onSignOut}>Sign out</button>
      </div>
    </header>
    <main class="content" id="content" tabindex="-1">
      ${stream.is === 'lost' && html`<div class="notice" role="alert">${stream.why} What is shown may be old; trying again.</div>`}
      <${Place} place=${place} rest=${rest} held=${held} live=${stream.is === 'live'} who=${who} />
    </main>
    <div class="said" role="status" aria-live="polite">${waits ? `${waits} ${waits === 1 ? 'action waits' : 'actions wait'} for a decision` : ''}</div>
  </div>`
}

function Place({ place, rest, held, live, who }) {
  const id = rest[0] ? Number(rest[0]) : undefined
  if (place === 'traffic') return html`<${Traffic} id=${id} />`
  if (place === 'audit') return html`<${Audit} id=${id} />`
  if (place === 'agents') return html`<${Agents} />`
  if (place === 'policy') return rest[0] === 'files' ? html`<${Draft} />` : html`<${Policy} />`
  if (place === 'credentials') return html`<${Credentials} />`
  if (place === 'gateway') return html`<${Gateway} who=${who} />`
  return html`<${Approvals} held=${held} live=${live} id=${id} />`
}

function App() {
  const [who, setWho] = useState()
  const [place, rest] = useHash()
  const look = () => (hasGuard() ? get('/v1/session') : Promise.reject()).then(setWho, () => setWho(null))
  useEffect(() => {
    whenSignedOut(() => setWho(null))
    look()
  }, [])
  const enter = async () => {
    if (place === 'invitation') location.hash = '#/approvals'
    await look()
  }
  const leave = async () => {
    await ask('DELETE', '/v1/session').catch(() => {})
    keepGuard(null)
    setWho(null)
  }
  if (who === undefined) return null
  if (place === 'invitation') return html`<${Invited} invitation=${rest[0]} onDone=${enter} />`
  if (!who) return html`<${SignIn} onDone=${enter} />`
  return html`<${Frame} key=${who.person} who=${who} onSignOut=${leave} />`
}

const root = document.getElementById('app')
root.textContent = ''
render(html`<${App} />`, root)
