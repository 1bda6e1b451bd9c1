"use strict";
// Candidates by examples: right, wrong, or no score and why. A cell opens the prompt and the answer.

const RIGHT = "9"; // a cell is a digit, 0 for wrong and 9 for right; "." was not asked for, "!" has no score
const NAMES = { ".": ["none", "not asked"], "!": ["failed", "no score"], 0: ["wrong", "wrong"], [RIGHT]: ["right", "right"] };

function matrix() {
  const state = { doc: null, chosen: null };
  const key = h("div", { class: "legend" }, Object.values(NAMES).map(([name, label]) => h("span", {}, h("i", { class: `cell ${name}`, "aria-hidden": "true" }), label)), h("span", {}, h("i", { class: "cell partly", "aria-hidden": "true" }), "partly right"));
  const body = h("tbody", {});
  const grid = h("table", { class: "matrix", role: "grid", "aria-label": "Candidates by examples; arrows move, Enter opens a cell" }, body);
  const panel = h("div", { class: "panel", "aria-live": "polite" }, h("p", { class: "note" }, "Choose a cell to see the answer."));
  const note = h("p", { class: "note" });
  roving(body, "td[data-row]", () => state.examples.length);
  const open = (event) => {
    const cell = event.target.closest("td[data-row]");
    if (!cell || (event.type === "keydown" && event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    for (const old of body.querySelectorAll("[aria-selected=true]")) old.removeAttribute("aria-selected");
    cell.setAttribute("aria-selected", "true");
    showCell(state, panel, Number(cell.dataset.row), Number(cell.dataset.column));
  };
  body.addEventListener("click", open);
  body.addEventListener("keydown", open);
  const update = once((part) => {
    Object.assign(state, part);
    note.textContent = state.leftOut ? `${count(state.leftOut)} more cells are left out of this page.` : "";
    const { row, column } = body.contains(document.activeElement) ? document.activeElement.dataset : {};
    body.replaceChildren(...state.rows.map((place, at) => matrixRow(state, place, at)));
    if (row !== undefined) body.querySelector(`td[data-row="${row}"][data-column="${column}"]`)?.focus();
  });
  const empty = h("p", { class: "note" }, "No scores by example were kept: no model scores this problem, its optimizer scores on changing batches, or nothing is scored yet.");
  const full = h("div", {}, key, h("div", { class: "scroll" }, grid), note, panel);
  return {
    box: h("div", {}, empty, full),
    update(doc) {
      state.doc = doc;
      empty.hidden = doc.matrix.rows.length > 0;
      full.hidden = !doc.matrix.rows.length;
      update({ ...doc.matrix, texts: doc.matrix.rows.map((place) => doc.candidates[place].text.slice(0, 80)), scores: doc.matrix.rows.map((place) => doc.candidates[place].score), leftOut: doc.left_out.cells });
    },
  };
}

function cellName(state, row, column) {
  const sign = state.cells[row][column];
  if (sign === "!") return ["failed", state.reasons[row][column] ?? "no score"];
  return NAMES[sign] ?? ["partly", `${sign} of 9`];
}

function matrixRow(state, place, row) {
  const head = h("th", { scope: "row" }, h("div", {}, h("span", { class: "number" }, percent(state.scores[row], 0)), h("span", { class: "theirs" }, state.texts[row] || "(empty)")));
  const cells = state.examples.map((example, column) => {
    const [name, label] = cellName(state, row, column);
    const first = row === 0 && column === 0;
    return h("td", { class: `cell ${name}`, tabindex: first ? 0 : -1, "data-row": row, "data-column": column, "aria-label": `candidate ${place + 1}, example ${example}: ${label}`, title: `example ${example}: ${label}` });
  });
  return h("tr", {}, head, cells);
}

async function showCell(state, panel, row, column) {
  const [place, example, [name, label]] = [state.rows[row], state.examples[column], cellName(state, row, column)];
  const chosen = (state.chosen = {});
  const head = h("p", {}, h("i", { class: `cell ${name}`, "aria-hidden": "true" }), ` Candidate ${place + 1}, training example ${example}: ${label}`);
  panel.replaceChildren(head, h("p", { class: "note" }, "Loading …"));
  let answers;
  try {
    answers = await page.source.answers(state.doc, place);
  } catch {
    answers = [];
  }
  if (state.chosen !== chosen) return; // another cell was chosen meanwhile
  const answer = answers.find((one) => one.fold === "train" && String(one.example) === String(example));
  panel.replaceChildren(head, ...(answer ? answerParts(answer) : [h("p", { class: "note" }, "The answer was not kept: the run was not traced, or this page leaves it out.")]));
}

function answerParts(answer) {
  const parts = { prompt: "Prompt", first_answer: "First answer", answer: "Answer", parsed: "Read from it", target: "Wanted" };
  return Object.entries(parts)
    .filter(([name]) => answer[name])
    .map(([name, title]) => h("div", { class: "said" }, h("h4", {}, title), h("p", { class: "whole" }, quoted(String(answer[name]), 3000))));
}
