// Credentials: whether each is there, and where from. A value goes in, and never comes out.

import { html, useState } from './vendor/preact-htm.js'
import { get, putBytes } from './api.js'
import { Badge, Empty, Problem, Sample, focus, useEvery, useLoaded } from './show.js'

export function Credentials() {
  const [loaded, again] = useLoaded(() => get('/v1/credentials'))
  const [setting, setSetting] = useState()
  const [error, setError] = useState()
  const [done, setDone] = useState()
  useEvery(10000, again)
  const save = async event => {
    event.preventDefault()
    setError()
    const value = new FormData(event.target).get('value')
    try {
      const name = setting.credential.split('.').slice(1).join('.')
      await putBytes(`/v1/credentials/${encodeURIComponent(name)}?slot=${encodeURIComponent(setting.slot)}`, value)
      setDone(`${setting.credential} is set.`)
      setSetting()
    } catch (failed) {
      setError(failed)
    }
    event.target?.reset()
    again()
  }
  if (!loaded.data) return html`<div class="page"><div class="bar"><h1>Credentials</h1></div><${Problem} error=${loaded.error} /></div>`
  const slots = loaded.data.flatMap(one => one.slots.map(slot => ({ ...slot, credential: one.credential })))
  return html`<div class="page">
    <div class="bar"><h1>Credentials</h1></div>
    <p class="dim">The gateway puts them in where an agent's request has a placeholder. No page and no command shows a value.</p>
    <${Problem} error=${loaded.error} />
    ${done && html`<p class="note" role="status">${done}</p>`}
    ${slots.length === 0 ? html`<${Empty} title="No credentials"><p>Declare one in the policy:</p>
        <${Sample}>${'credential "bearer_token" "pat" {\n  endpoint = https.api\n}'}<//><//>`
      : html`<div class="table" tabindex="0" role="region" aria-label="Credentials"><table><thead><tr><th>Credential</th><th>Slot</th><th>State</th><th>From</th><th><span class="said">Actions</span></th></tr></thead><tbody>
        ${slots.map(slot => html`<tr key=${slot.credential + slot.slot}><td class="wide"><strong>${slot.credential}</strong></td><td>${slot.slot || html`<span class="dim">–</span>`}</td>
          <td class="wide">${slot.ready ? html`<${Badge} of="ready" kind="good" />` : html`<${Badge} of="missing" kind="bad" /> <span class="dim">${slot.missing}</span>`}</td>
          <td class="wide"><code>${slot.source}</code></td>
          <td class="tight">${slot.source === 'store' && html`<button onClick=${() => { setDone(); setError(); setSetting(slot) }}>${slot.ready ? 'Replace' : 'Set'}</button>`}</td></tr>`)}</tbody></table></div>`}
    ${setting && html`<form class="card next" onSubmit=${save}><h2>${setting.credential}${setting.slot && ` (${setting.slot})`}</h2><${Problem} error=${error} />
      <input class="said" type="text" autocomplete="username" value=${setting.credential} readonly tabindex="-1" aria-label="Credential" />
      <label>New value<input type="password" name="value" autocomplete="new-password" required ref=${focus} /></label>
      <div class="bar next"><button class="primary">Save</button><button type="button" onClick=${() => setSetting()}>Cancel</button></div></form>`}
  </div>`
}
