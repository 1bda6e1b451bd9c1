"use strict";
// Elements are made here and nowhere else, and texts only ever become text nodes: models and data sets wrote them.

const SVG = "http://www.w3.org/2000/svg";

/** A new element. `attributes` may have `class`, `on` (listeners by event) and any attribute; null ones are left out. */
function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for drawings. */
function svg(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false).map(asNode));
  return element;
}

function asNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

/** An element with a colour of its own; set through the style object, which a strict policy allows. */
function coloured(element, property, colour) {
  element.style.setProperty(property, colour);
  return element;
}

function swatch(colour, kind = "line") {
  return coloured(h("i", { class: `swatch ${kind}`, "aria-hidden": "true" }), "--colour", colour);
}

const SHOWN = 600; // characters of a text until somebody asks for all of it

/** A text that somebody else wrote, cut until "show all" is pressed. */
function quoted(text, shown = SHOWN) {
  const body = h("span", { class: "theirs", dir: "auto" }, text.slice(0, shown) || "(empty)");
  if (text.length <= shown) return body;
  const button = h("button", { type: "button", class: "small" }, `show all ${count(text.length)} characters`);
  button.addEventListener("click", () => {
    body.textContent = text;
    button.remove();
  });
  return h("span", {}, body, " … ", button);
}

/** A table with a caption for those who hear it; rows are lists of cells. */
function table(caption, head, rows) {
  return h(
    "table",
    { class: "plain" },
    h("caption", { class: "unseen" }, caption),
    h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell))))),
  );
}

/** The same figures as a chart, for those who cannot see it; `draw` is called when there are new ones. */
function asTable(caption, head, rows) {
  const body = h("div", { class: "scroll", tabindex: "0" });
  const box = h("details", { class: "figures" }, h("summary", {}, "As a table"), body);
  const draw = () => box.open && body.replaceChildren(table(caption, head, rows()));
  box.addEventListener("toggle", draw);
  return { box, draw };
}

/** Moves the focus among the elements that `selector` finds in `box`: arrows, Home and End. One of them is in the tab order. */
function roving(box, selector, columns = () => 1) {
  box.addEventListener("keydown", (event) => {
    const all = [...box.querySelectorAll(selector)];
    const here = all.indexOf(event.target.closest(selector));
    if (here < 0 || event.target.closest("button, a, input, select, summary")?.matches(selector) === false) return;
    const wide = columns();
    const steps = { ArrowLeft: wide > 1 ? -1 : 0, ArrowRight: wide > 1 ? 1 : 0, ArrowUp: -wide, ArrowDown: wide };
    const goal = event.key === "Home" ? 0 : event.key === "End" ? all.length - 1 : here + (steps[event.key] ?? 0);
    if (goal === here || goal < 0 || goal >= all.length) return;
    event.preventDefault();
    all[here].tabIndex = -1;
    all[goal].tabIndex = 0;
    all[goal].focus();
  });
}

/** Calls `draw` again only if what it draws has changed; a page that follows a run must not lose focus or selection. */
function once(draw) {
  let before;
  return (value) => {
    const now = JSON.stringify(value);
    if (now === before) return;
    before = now;
    draw(value);
  };
}
