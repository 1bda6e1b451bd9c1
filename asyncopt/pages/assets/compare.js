"use strict";
// Several runs beside each other: their best scores over each other, and differences on the same held-out examples.

const LINES = [COLOURS.blue, COLOURS.vermillion, COLOURS.green, COLOURS.orange, COLOURS.purple, COLOURS.sky, COLOURS.grey, COLOURS.yellow];
const MOST_LINES = 24;
const MOST_NOTES = 3; // a sweep over many tasks has one for nearly every run

function warning(note) {
  return h("p", { class: "warning" }, note);
}

function comparison(documents, compared, choose) {
  const shown = documents.slice(0, MOST_LINES);
  return h(
    "section",
    { id: "comparison", class: "card whole-width" },
    h("h2", {}, `${documents.length} runs compared`),
    compared.notes.slice(0, MOST_NOTES).map(warning),
    compared.notes.length > MOST_NOTES && h("details", {}, h("summary", {}, `${compared.notes.length - MOST_NOTES} more notes`), compared.notes.slice(MOST_NOTES).map(warning)),
    curves(shown),
    h("div", { class: "scroll", tabindex: "0" }, runsTable(documents, compared, choose)),
    compared.paired.length > 0 && [
      h("h3", {}, "Against the first, on the same held-out examples"),
      h("div", { class: "scroll", tabindex: "0" }, pairsTable(compared)),
      h("p", { class: "note" }, `Points of percent by which the best candidate of each is above that of ${compared.first}; 95 % intervals by Bonett and Price, p by McNemar's exact test, or Student's where grades lie between 0 and 1. The verdict is at 5 % by the p that Holm adjusts for how many runs are compared. It is about these candidates on new examples: other seeds may find other candidates.`),
    ],
  );
}

function curves(documents) {
  const scored = documents[0].head.scored;
  const steps = [...new Set(documents.flatMap((doc) => doc.steps.map((row) => row.step)))].sort((a, b) => a - b);
  const series = documents.map((doc, place) => ({ label: doc.name, colour: LINES[place % LINES.length], dash: place >= LINES.length ? [6, 3] : [] }));
  const rows = documents.map((doc) => new Map(doc.steps.map((row) => [row.step, row.best])));
  const data = [steps.map((step) => step + 1), ...rows.map((row) => steps.map((step) => row.get(step) ?? null))];
  const words = legend(series);
  const ends = documents.map((doc) => doc.steps.at(-1)?.best);
  const show = (at) => words.show(rows.map((row, place) => score(at === null || at === undefined ? ends[place] : row.get(steps[at]), scored)));
  const picture = chart("The best training score so far of every run, by step", 260, () => ({
    scales: { x: { time: false } },
    axes: [axis({ incrs: WHOLE, label: "step", labelSize: 18, labelFont: "11px system-ui, sans-serif", size: 30 }), axis({ size: 52, values: (_, values) => values.map((value) => (scored === "share" ? `${Math.round(100 * value)} %` : compact(value))) })],
    series: [{}, ...series.map((one) => ({ stroke: one.colour, width: 2, dash: one.dash, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } }))],
    cursor: { y: false },
    hooks: { setCursor: [(plot) => show(plot.cursor.idx)] },
  }));
  picture.build(data);
  show(null);
  return h("div", {}, picture.box, words.box);
}

function runsTable(documents, compared, choose) {
  const rows = documents.map((doc, place) => {
    const best = doc.candidates.find((one) => one.rank === 1);
    const held = doc.held_out.find((one) => one.which === "best")?.test;
    const open = h("button", { type: "button", class: "small theirs", on: { click: () => choose(String(place)) } }, doc.name);
    return [open, h("span", { class: "theirs" }, `${doc.head.task}, ${doc.head.optimizer}`), score(best?.score, doc.head.scored), held ? [h("b", {}, percent(held.score)), ` ${interval(held.low, held.high)}`] : NONE, count(doc.head.step), compact(doc.cost.calls), money(doc.cost.usd), duration(doc.cost.seconds), h("span", { class: "theirs clip" }, best?.text.slice(0, 120) ?? NONE)];
  });
  return table("The runs", ["run", "problem", "training", "held out (95 %)", "steps", "calls", "cost", "time", "best"], rows);
}

function pValue(p) {
  return p < 0.001 ? "< 0.001" : p.toFixed(3);
}

function pairsTable(compared) {
  const rows = compared.paired.map((one) => [
    h("span", { class: "theirs" }, one.name),
    h("b", {}, points(one.difference)),
    `${points(one.low)} to ${points(one.high)}`,
    pValue(one.p),
    pValue(one.p_holm),
    one.verdict,
    one.left_out ? `${count(one.n)} (${count(one.left_out)} left out)` : count(one.n),
    `${count(one.only_this)} here, ${count(one.only_first)} there`,
  ]);
  return table("Paired differences", ["run", "difference", "95 % interval", "p", "p by Holm", "verdict", "n", "right in one alone"], rows);
}

/** Tables of published results beside the runs, as text columns made by the same code as the terminal's. */
function published(against) {
  return textCard("published", "Beside published results", against.lines);
}

/** A comparison of optimizers over their seeds, as the same text columns. */
function contests(compared) {
  return textCard("contests", "The optimizers beside each other", compared.lines);
}

function textCard(id, title, lines) {
  return h(
    "section",
    { id, class: "card whole-width" },
    h("h2", {}, title),
    h("pre", { class: "theirs", tabindex: "0" }, lines.join("\n")),
  );
}
