/** The start, and what is drawn anew when the address changes. */

const VIEWS = {
  overview: ["Overview", drawOverview],
  rollouts: ["Rollouts", drawRollouts],
  panel: ["Held-out prefixes", drawPanel],
  plane: ["Phase plane", drawPlane],
};
const QUIET = new Set(["sign", "size", "eta", "u", "v"]); // of the what-if sliders, which draw themselves
const LIST = new Set(["step", "page"]); // change the list alone, so that the slider keeps the pointer

const viewOf = (state_) => (Object.hasOwn(VIEWS, state_.view ?? "") ? state_.view : "overview");

/** Take over a state and draw what it changes. */
function update(next) {
  const changed = [...new Set([...Object.keys(state), ...Object.keys(next)])].filter(
    (name) => state[name] !== next[name],
  );
  state = next;
  if (changed.every((name) => QUIET.has(name))) return;
  if (viewOf(state) === "rollouts" && changed.every((name) => LIST.has(name)) && document.getElementById("list")) {
    put(document.getElementById("list"), listOf());
    say(document.getElementById("found").textContent);
    return;
  }
  if (viewOf(state) === "panel" && changed.every((name) => name === "at")) {
    refreshDetail();
    return;
  }
  draw();
}

function refreshDetail() {
  document.getElementById("detail").replaceWith(detailOf());
}

/** Close the token and go back to it in the list. */
function closeToken() {
  const kept = document.querySelector(".t.chosen")?.dataset.token;
  change({ token: null });
  if (kept) document.querySelector(`[data-token="${kept}"]`)?.focus();
}

function draw() {
  const view = viewOf(state);
  applyTheme();
  const focused = document.activeElement?.closest?.("label")?.firstChild?.textContent;
  document
    .getElementById("views")
    .replaceChildren(
      ...Object.entries(VIEWS).map(([key, [name]]) =>
        h(
          "a",
          { href: `#${new URLSearchParams({ ...state, view: key })}`, "aria-current": key === view ? "page" : null },
          name,
        ),
      ),
    );
  document.getElementById("main").replaceChildren(h("h2", { class: "hidden" }, VIEWS[view][0]), VIEWS[view][1]());
  if (focused)
    [...document.querySelectorAll("#main label")]
      .find((label) => label.firstChild?.textContent === focused)
      ?.querySelector("select, input")
      ?.focus({ preventScroll: true });
  document.title = `${header.name} · ${VIEWS[view][0]}`;
}

/** Light and dark: that of the system, unless the address names one. */
function applyTheme() {
  const dark = state.theme ? state.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  document.getElementById("theme").textContent = dark ? "Light theme" : "Dark theme";
}

function listen() {
  window.addEventListener("popstate", () => update(readState()));
  window.addEventListener("hashchange", () => update(readState()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
  document
    .getElementById("theme")
    .addEventListener("click", () =>
      change({ theme: document.documentElement.dataset.theme === "dark" ? "light" : "dark" }),
    );
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button[data-token]");
    if (button) openToken(Number(button.dataset.token));
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    moveFocus(event);
    if (event.target.closest?.("input, select")) return;
    const view = Object.keys(VIEWS)[Number(event.key) - 1];
    if (view) change({ view });
    else if (event.key === "Escape" && state.token) closeToken();
  });
}

try {
  await unpack();
  indexTokens();
  indexPrefixes();
  listen();
  state = readState();
  draw();
} catch (error) {
  document
    .getElementById("main")
    .replaceChildren(h("p", { class: "warn" }, `This page cannot be shown: ${error.message}`));
  throw error;
}
