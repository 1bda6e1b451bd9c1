"use strict";
// Scores over the steps, the calls or the money: the best so far, the mean of each step, every candidate as a dot.

const AXES = { step: "step", calls: "calls", tokens: "tokens", usd: "US dollars", seconds: "seconds" };
const SOURCES = [COLOURS.sky, COLOURS.orange, COLOURS.purple, COLOURS.green, COLOURS.yellow, COLOURS.vermillion];

function scoreChart() {
  const state = { doc: null, axis: "step", x: [], made: "" };
  const picture = chart("Scores of all candidates, the best so far and the mean of each step", 280, () => scoreOptions(state, lines));
  const lines = legend([
    { label: "best so far", colour: COLOURS.blue },
    { label: "mean of the step", colour: COLOURS.grey },
    { label: "validation", colour: COLOURS.green, kind: "mark" },
  ]);
  const sources = h("div", { class: "legend" });
  const choice = h("div", { class: "choice", role: "group", "aria-label": "Horizontal axis" });
  const figures = asTable("Scores by step", ["step", "best so far", "mean", "calls", "cost"], () =>
    state.doc.steps.map((row) => [stepName(row.step), bestScore(row, state.doc.head.scored), score(row.mean, state.doc.head.scored), count(row.calls), money(row.usd)]),
  );
  const draw = once((part) => {
    drawScores(state, picture, part, { lines, sources, choice, redraw: () => draw({ ...part, axis: state.axis }) });
    figures.draw();
  });
  return {
    box: h("div", {}, h("div", { class: "bar-line" }, choice), picture.box, lines.box, sources, figures.box),
    update(doc) {
      state.doc = doc;
      const dots = doc.candidates.map((one) => [one.step, one.score, one.source]);
      draw({ steps: doc.steps, dots, validations: doc.validations, scored: doc.head.scored, axis: state.axis });
    },
  };
}

function drawScores(state, picture, part, parts) {
  Object.assign(state, part);
  const known = Object.keys(AXES).filter((name) => name === "step" || part.steps.some((row) => row[name] > 0));
  parts.choice.replaceChildren(
    ...known.map((name) =>
      h("button", { type: "button", "aria-pressed": String(name === state.axis), on: { click: () => ((state.axis = name), parts.redraw()) } }, AXES[name]),
    ),
  );
  state.places = new Map(part.steps.map((row) => [row.step, state.axis === "step" ? row.step + 1 : row[state.axis]]));
  state.colours = new Map([...new Set(part.dots.map((dot) => dot[2]))].map((name, place) => [name, SOURCES[place % SOURCES.length]]));
  parts.sources.replaceChildren(...[...state.colours].map(([name, colour]) => h("span", {}, swatch(colour, "dot"), name)));
  const rows = part.steps;
  const data = [rows.map((row) => state.places.get(row.step)), rows.map((row) => row.best), rows.map((row) => row.mean)];
  state.showLast = () => showScores(state, parts.lines, rows.length - 1);
  // A logarithm is chosen when a chart is made; and so is the name of its axis.
  const shape = `${state.axis} ${logarithmic(state)}`;
  if (shape === state.made) picture.set(data);
  else picture.build(data);
  state.made = shape;
  state.showLast();
}

// A best on a part of the examples may be followed by a lower one on all of them.
function bestScore(row, scored) {
  return `${score(row.best, scored)}${row.only ? ` on ${row.only} examples only` : ""}`;
}

function showScores(state, lines, place) {
  const row = state.steps[place];
  const validated = row && state.validations.filter((one) => one.step <= row.step).map((one) => one.score);
  lines.show(row ? [bestScore(row, state.scored), score(row.mean, state.scored), validated.length ? score(Math.max(...validated), state.scored) : NONE] : []);
}

function heights(state) {
  const dots = state.dots.map((dot) => dot[1]).filter((value) => value !== null);
  const known = [...dots, ...state.validations.flatMap((one) => [one.low, one.high])];
  return known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
}

function logarithmic(state) {
  const [low, high] = heights(state);
  return state.scored === "loss" && low > 0 && high / low > 50;
}

function scoreOptions(state, lines) {
  const shown = (values) => values.map((value) => (value === null ? "" : state.scored === "share" ? `${Math.round(100 * value)} %` : compact(value)));
  return {
    scales: {
      x: { time: false, range: (_, low, high) => [low === high ? low - 1 : low, high + (high - low) * 0.02 + (low === high)] },
      y: { distr: logarithmic(state) ? 3 : 1, range: () => scoreRange(state) },
    },
    axes: [axis({ incrs: state.axis === "step" ? WHOLE : undefined, label: AXES[state.axis], labelSize: 18, labelFont: "11px system-ui, sans-serif", size: 30 }), axis({ size: 52, values: (_, values) => shown(values), ...(logarithmic(state) && { splits: powersOfTen }) })],
    series: [
      {},
      { stroke: COLOURS.blue, width: 2, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } },
      { stroke: COLOURS.grey, width: 1.5, dash: [4, 3], points: { show: false }, spanGaps: true },
    ],
    cursor: { y: false, points: { size: 6 } },
    hooks: {
      drawAxes: [(plot) => drawCloud(plot, state)],
      setCursor: [(plot) => showScores(state, lines, plot.cursor.idx ?? state.steps.length - 1)],
    },
  };
}

function powersOfTen(plot) {
  const { min, max } = plot.scales.y;
  const [first, last] = [Math.ceil(Math.log10(min)), Math.floor(Math.log10(max))];
  return Array.from({ length: Math.max(last - first + 1, 0) }, (_, place) => 10 ** (first + place));
}

function scoreRange(state) {
  const [low, high] = heights(state);
  if (logarithmic(state)) return [low / 1.5, high * 1.5];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return state.scored === "share" ? [Math.max(0, low - room), Math.min(1.01, high + room)] : [low - room, high + room];
}

function drawCloud(plot, state) {
  const { ctx } = plot;
  const size = 2.6 * devicePixelRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(plot.bbox.left - size, plot.bbox.top - size, plot.bbox.width + 2 * size, plot.bbox.height + 2 * size);
  ctx.clip();
  ctx.globalAlpha = 0.65;
  for (const [step, value, source] of state.dots) {
    if (value === null || !state.places.has(step)) continue;
    ctx.fillStyle = state.colours.get(source);
    ctx.beginPath();
    ctx.arc(plot.valToPos(state.places.get(step), "x", true), plot.valToPos(value, "y", true), size, 0, 2 * Math.PI);
    ctx.fill();
  }
  ctx.globalAlpha = 1;
  ctx.strokeStyle = COLOURS.green;
  ctx.lineWidth = 1.5 * devicePixelRatio;
  for (const one of state.validations) if (state.places.has(one.step) && one.score !== null) drawWhisker(plot, state.places.get(one.step), one);
  ctx.restore();
}

function drawWhisker(plot, place, one) {
  const x = plot.valToPos(place, "x", true);
  const [low, middle, high] = [one.low, one.score, one.high].map((value) => plot.valToPos(value, "y", true));
  const wide = 3 * devicePixelRatio;
  plot.ctx.beginPath();
  plot.ctx.moveTo(x, low);
  plot.ctx.lineTo(x, high);
  plot.ctx.moveTo(x - wide, middle);
  plot.ctx.lineTo(x + wide, middle);
  plot.ctx.stroke();
}
