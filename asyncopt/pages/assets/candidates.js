"use strict";
// Everything that was tried, best first; a row opens to its whole text, its change and where it came from.

const ROWS = 15;
const ORDERS = {
  rank: (a, b) => (a.rank ?? Infinity) - (b.rank ?? Infinity),
  step: (a, b) => a.step - b.step || a.index - b.index,
  source: (a, b) => (a.source < b.source ? -1 : a.source > b.source ? 1 : ORDERS.rank(a, b)),
};

function candidates() {
  const state = { doc: null, order: "rank", all: false, sought: "", open: new Set() };
  const body = h("tbody", {});
  const more = h("button", { type: "button", class: "small" });
  const note = h("span", { class: "note", role: "status" });
  const search = h("input", { type: "search", placeholder: "Search the texts", "aria-label": "Search the candidates' texts" });
  const heads = { score: "rank", step: "step", source: "source" };
  for (const [name, order] of Object.entries(heads)) heads[name] = sortable(name, order, state, () => draw());
  const grid = h(
    "table",
    { class: "candidates" },
    h("caption", { class: "unseen" }, "Candidates with their training scores; Enter opens a row, arrows move"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "wide" }, "rank"), heads.score, h("th", { scope: "col", class: "wide" }, "n"), heads.step, heads.source, h("th", { scope: "col" }, "candidate"))),
    body,
  );
  const draw = () => drawCandidates(state, { body, more, note, heads, draw });
  search.addEventListener("input", () => ((state.sought = search.value.toLowerCase()), draw()));
  more.addEventListener("click", () => ((state.all = true), draw()));
  roving(body, "button.row");
  const update = once((part) => (Object.assign(state, part), draw()));
  return {
    box: h("div", {}, h("div", { class: "bar-line" }, search, note), grid, more),
    update: (doc) => update({ list: doc.candidates, scored: doc.head.scored, leftOut: doc.left_out.candidates }),
    show(place) {
      Object.assign(state, { all: true, sought: "" });
      search.value = "";
      const name = nameOf(state.list[place]);
      state.open.add(name);
      draw();
      const row = body.querySelector(`button.row[data-name="${name}"]`);
      row.scrollIntoView({ block: "center" });
      row.focus();
    },
  };
}

/** The name that a candidate keeps while its rank changes. */
function nameOf(one) {
  return `${one.step}.${one.index}`;
}

function sortable(name, order, state, draw) {
  const button = h("button", { type: "button", class: "plain", on: { click: () => ((state.order = order), draw()) } }, name);
  const cell = h("th", { scope: "col", class: name === "source" ? "wide" : null }, button);
  cell.order = order;
  return cell;
}

function drawCandidates(state, parts) {
  const focused = focusIn(parts.body);
  const found = state.list.map((one) => ({ ...one, name: nameOf(one) })).filter((one) => one.text.toLowerCase().includes(state.sought));
  found.sort(ORDERS[state.order]);
  const shown = state.all ? found : found.slice(0, ROWS);
  parts.body.replaceChildren(...shown.flatMap((one, at) => candidateRows(one, at === 0, state, parts.draw)));
  parts.more.hidden = shown.length === found.length;
  parts.more.textContent = `Show all ${count(found.length)}`;
  parts.note.textContent = state.sought ? `${count(found.length)} found` : state.leftOut ? `${count(state.leftOut)} more are left out of this page` : "";
  for (const head of Object.values(parts.heads)) head.setAttribute("aria-sort", head.order === state.order ? "ascending" : "none");
  focused?.buttons()[focused.at]?.focus();
}

/** The button with the focus: its place among those of its candidate, which are others when the table is drawn again. */
function focusIn(body) {
  const row = body.contains(document.activeElement) && document.activeElement.closest("tr");
  if (!row) return null;
  const { name } = (row.querySelector("button.row") ?? row.previousSibling.querySelector("button.row")).dataset;
  const buttons = () => {
    const own = body.querySelector(`button.row[data-name="${name}"]`)?.closest("tr");
    const detail = own?.classList.contains("open") ? own.nextSibling.querySelectorAll("button") : [];
    return own ? [own.querySelector("button.row"), ...detail] : [];
  };
  return { buttons, at: buttons().indexOf(document.activeElement) };
}

function candidateRows(one, first, state, draw) {
  const open = state.open.has(one.name);
  const toggle = () => {
    if (open) state.open.delete(one.name);
    else state.open.add(one.name);
    draw();
  };
  const button = h(
    "button",
    { type: "button", class: "row theirs", dir: "auto", "data-name": one.name, "aria-expanded": String(open), tabindex: first ? 0 : -1, on: { click: toggle } },
    one.text.slice(0, 300) || "(empty)",
  );
  const row = h(
    "tr",
    { class: open ? "open" : null },
    h("td", { class: "number wide" }, one.rank ?? NONE),
    h("td", { class: "number" }, scoreCell(one, state.scored)),
    h("td", { class: "number wide" }, count(one.n)),
    h("td", { class: "number" }, stepName(one.step)),
    h("td", { class: "wide" }, one.source),
    h("td", { class: "text" }, button),
  );
  return open ? [row, h("tr", { class: "detail" }, h("td", { colspan: 6 }, candidateDetail(one, state)))] : [row];
}

function scoreCell(one, scored) {
  const remark = one.stopped !== null ? `stopped after ${one.stopped}` : one.provisional ? "so far" : one.partial ? "partial" : null;
  return [
    h("b", {}, score(one.score, scored)),
    one.low !== null && h("span", { class: "range" }, interval(one.low, one.high)),
    remark && h("span", { class: "tag" }, remark),
  ];
}

function candidateDetail(one, state) {
  const jump = (place) =>
    h("button", { type: "button", class: "small theirs", on: { click: () => page.candidates.show(place) } }, `${score(state.list[place].score, state.scored)} ${state.list[place].text.slice(0, 60) || "(empty)"}`);
  const nearest = one.closest === null ? null : state.list[one.closest];
  return h(
    "div",
    {},
    h("p", { class: "figures-line" }, [`rank ${one.rank ?? NONE}`, `step ${stepName(one.step)}, sample ${one.index + 1}`, one.source, `${count(one.n)} examples`].filter(Boolean).join(" · ")),
    h("p", { class: "whole" }, quoted(one.text, 4000)),
    nearest && h("h4", {}, "Changed from the nearest candidate that its proposal saw"),
    nearest && difference(nearest.text, one.text),
    one.parents.length > 0 && h("h4", {}, "What its proposal saw"),
    one.parents.length > 0 && h("div", { class: "lineage" }, one.parents.map(jump)),
  );
}
