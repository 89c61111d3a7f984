/**
 * Elements are made from text nodes and attributes, never from strings of HTML: what a model wrote stays text.
 *
 * @param {string} tag
 * @param {Object<string, any>} attributes `on…` are listeners, `class` and `style` texts; null and false are left out
 * @param {...(Node|string|number|null)} children
 */
function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(3)) {
    if (child !== null && child !== undefined) element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Put content in the place of what an element holds; null is nothing. */
function put(element, content) {
  element.replaceChildren(...[content].flat(4).filter((child) => child !== null && child !== undefined));
}

/** A table from rows of texts, the first being its head. */
function tableOf([head, ...rows], caption, kind = null) {
  const body = rows.map((row) =>
    h(
      "tr",
      {},
      row.map((cell, at) => (at ? h("td", {}, cell) : h("th", { scope: "row" }, cell))),
    ),
  );
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      { class: kind },
      h("caption", { class: "hidden" }, caption),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          head.map((cell) => (cell === "" ? h("td", {}) : h("th", { scope: "col" }, cell))),
        ),
      ),
      h("tbody", {}, body),
    ),
  );
}

/** A labelled select; options are `[value, text]`. */
function choice(label, options, value, change) {
  return h(
    "label",
    {},
    label,
    h(
      "select",
      { "aria-label": label, onchange: (event) => change(event.target.value) },
      options.map(([key, text]) => h("option", { value: key, selected: String(key) === String(value) }, text)),
    ),
  );
}

/** A labelled input. */
function entry(label, attributes, change) {
  return h(
    "label",
    {},
    label,
    h("input", { "aria-label": label, ...attributes, onchange: (event) => change(event.target.value) }),
  );
}

/** Say something to readers of the screen alone. */
function say(text) {
  document.getElementById("said").textContent = text;
}
