// Signing in: by password, by the tailnet, or with an invitation that sets a first password.

import { html, useEffect, useState } from './vendor/preact-htm.js'
import { ask, get, keepGuard } from './api.js'
import { Problem, focus } from './show.js'

const PASSWORD_CHARS_MIN = 12

function Frame({ title, children }) {
  return html`<main class="sign-in"><div class="card">
    <img src="/page/icon.svg" alt="" width="40" height="40" />
    <h1>${title}</h1>${children}
  </div></main>`
}

export function SignIn({ onDone }) {
  const [ways, setWays] = useState()
  const [error, setError] = useState()
  const [busy, setBusy] = useState(false)
  useEffect(() => { get('/v1/sign-in').then(setWays, setError) }, [])
  const enter = work => async event => {
    event.preventDefault()
    setBusy(true)
    setError()
    try {
      const said = await work(new FormData(event.target))
      keepGuard(said.guard)
      onDone()
    } catch (failed) {
      setError(failed)
    }
    setBusy(false)
  }
  if (!ways) return html`<${Frame} title="Tailkeep"><${Problem} error=${error} /><//>`
  if (ways.tailnet) {
    return html`<${Frame} title="Sign in to Tailkeep">
      <p>The tailnet says that you are <strong>${ways.tailnet}</strong>.</p>
      <${Problem} error=${error} />
      <form onSubmit=${enter(() => ask('POST', '/v1/sign-in/tailnet'))}>
        <button class="primary" disabled=${busy} ref=${focus}>Continue as ${ways.tailnet}</button>
      </form><//>`
  }
  return html`<${Frame} title="Sign in to Tailkeep">
    <${Problem} error=${error} />
    ${!ways.has_operators && html`<p class="note">Nobody has a password yet. On the gateway, run<br/>
      <code>tailkeep operators invite NAME</code><br/>and open the link that it prints.</p>`}
    <form onSubmit=${enter(form => ask('POST', '/v1/sign-in', { name: form.get('name').trim(), password: form.get('password') }))}>
      <label>Name<input name="name" autocomplete="username" autocapitalize="none" spellcheck=${false} required ref=${focus} /></label>
      <label>Password<input name="password" type="password" autocomplete="current-password" required /></label>
      <button class="primary" disabled=${busy}>Sign in</button>
    </form><//>`
}

export function Invited({ invitation, onDone }) {
  const [name, setName] = useState()
  const [error, setError] = useState()
  const [busy, setBusy] = useState(false)
  useEffect(() => {
    ask('POST', '/v1/sign-in/invitation', { invitation }).then(said => setName(said.name), setError)
  }, [invitation])
  const enter = async event => {
    event.preventDefault()
    const form = new FormData(event.target)
    if (form.get('password') !== form.get('again')) return setError('The two passwords differ.')
    setBusy(true)
    setError()
    try {
      const said = await ask('POST', '/v1/sign-in/invitation', { invitation, password: form.get('password') })
      keepGuard(said.guard)
      onDone()
    } catch (failed) {
      setError(failed)
    }
    setBusy(false)
  }
  if (!name) return html`<${Frame} title="Invitation"><${Problem} error=${error} />
    ${error && html`<p><a href="#/approvals">Sign in</a></p>`}<//>`
  return html`<${Frame} title="Welcome, ${name}">
    <p>Choose a password of at least ${PASSWORD_CHARS_MIN} characters. It is yours alone: what you approve is recorded under your name.</p>
    <${Problem} error=${error} />
    <form onSubmit=${enter}>
      <input class="said" type="text" name="name" autocomplete="username" value=${name} readonly tabindex="-1" aria-label="Name" />
      <label>Password<input name="password" type="password" autocomplete="new-password" minlength=${PASSWORD_CHARS_MIN} required ref=${focus} /></label>
      <label>Once more<input name="again" type="password" autocomplete="new-password" required /></label>
      <button class="primary" disabled=${busy}>Set the password and sign in</button>
    </form><//>`
}
