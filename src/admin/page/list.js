// A list of any length: only what is in sight is drawn.

import { html, useEffect, useLayoutEffect, useRef, useState } from './vendor/preact-htm.js'

const ROW_PX = 32
// Rows that are drawn above and below what is in sight.
const MARGIN = 8

// `rows` have an `id`; `cells(row)` draws one; the newest are first, and stay out of the way of who reads further down.
export function List({ rows, cells, label, selected, onSelect }) {
  const box = useRef()
  const before = useRef({ first: null })
  const [view, setView] = useState({ top: 0, height: 600 })
  const look = () => {
    const { scrollTop: top, clientHeight: height } = box.current
    setView(was => (was.top === top && was.height === height ? was : { top, height }))
  }
  useEffect(() => {
    const seen = new ResizeObserver(look)
    seen.observe(box.current)
    return () => seen.disconnect()
  }, [])
  // What comes in above moves nothing for one who has scrolled.
  useLayoutEffect(() => {
    const { first } = before.current
    const index = first === null ? 0 : rows.findIndex(row => row.id === first)
    if (index > 0 && box.current.scrollTop > 0) box.current.scrollTop += index * ROW_PX
    before.current.first = rows.length ? rows[0].id : null
    look()
  }, [rows])
  const at = rows.findIndex(row => row.id === selected)
  const choose = index => {
    const next = Math.min(Math.max(index, 0), rows.length - 1)
    if (!rows[next]) return
    const { scrollTop, clientHeight } = box.current
    if (next * ROW_PX < scrollTop) box.current.scrollTop = next * ROW_PX
    else if ((next + 1) * ROW_PX > scrollTop + clientHeight) box.current.scrollTop = (next + 1) * ROW_PX - clientHeight
    onSelect(rows[next])
  }
  const page = Math.max(1, Math.floor(view.height / ROW_PX) - 1)
  const onKeyDown = event => {
    const moves = {
      ArrowDown: () => choose(at + 1), ArrowUp: () => choose(at < 0 ? 0 : at - 1), j: () => choose(at + 1), k: () => choose(at < 0 ? 0 : at - 1),
      Home: () => choose(0), End: () => choose(rows.length - 1), PageDown: () => choose(at + page), PageUp: () => choose(at - page),
      Escape: () => onSelect(null)
    }
    if (event.ctrlKey || event.metaKey || event.altKey || !moves[event.key]) return
    event.preventDefault()
    moves[event.key]()
  }
  const first = Math.max(0, Math.floor(view.top / ROW_PX) - MARGIN)
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / ROW_PX) + MARGIN)
  const drawn = rows.slice(first, last)
  return html`<div class="rows" ref=${box} role="listbox" tabindex="0" aria-label=${label} onScroll=${look} onKeyDown=${onKeyDown}
      aria-activedescendant=${at >= first && at < last ? `row-${selected}` : null}>
    <div class="length" style=${{ height: `${rows.length * ROW_PX}px` }} role="presentation">
      ${drawn.map((row, index) => html`<div key=${row.id} id=${`row-${row.id}`} class="row" role="option" aria-selected=${row.id === selected ? 'true' : 'false'}
        aria-setsize=${rows.length} aria-posinset=${first + index + 1} style=${{ top: `${(first + index) * ROW_PX}px`, height: `${ROW_PX}px` }}
        onClick=${() => onSelect(row)}>${cells(row)}</div>`)}
    </div>
  </div>`
}
