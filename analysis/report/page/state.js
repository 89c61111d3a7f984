/** The state of the view, which is the fragment of the address: a finding is a link. */

/** @type {Object<string, string>} */
let state = {};
const readState = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

/**
 * Change the state and draw what depends on it.
 * @param {Object<string, string|number|null>} changes null or "" removes
 * @param {boolean} replace whether the step back of the browser skips it, as while a slider is drawn
 */
function change(changes, replace = false) {
  const next = { ...state };
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") delete next[name];
    else next[name] = String(value);
  }
  const fragment = `#${new URLSearchParams(next)}`;
  if (replace) history.replaceState(null, "", fragment);
  else history.pushState(null, "", fragment);
  update(next);
}

/** An address with these entries; the theme is kept. */
const linkTo = (changes) => `#${new URLSearchParams({ ...(state.theme ? { theme: state.theme } : {}), ...changes })}`;

/** A number of the state, or a default where it is missing or no number. */
function numeric(name, otherwise) {
  const value = Number.parseFloat(state[name]);
  return Number.isFinite(value) ? value : otherwise;
}
