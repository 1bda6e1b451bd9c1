"use strict";
// What the engine did over time: calls in flight below their limit, why not more, calls and refusals a second.

const LIMITING = {
  concurrency: [COLOURS.blue, "concurrency: every slot is taken"],
  quota: [COLOURS.orange, "quota: the rate limit is spent"],
  proposals: [COLOURS.sky, "proposals: waiting for the proposer"],
  tail: [COLOURS.purple, "tail: waiting for the last answers"],
  pause: [COLOURS.grey, "pause: after a refusal, an outage or by hand"],
  cpu: [COLOURS.vermillion, "cpu: this process is too slow"],
};

function limitingOf(name) {
  return LIMITING[name] ?? [COLOURS.yellow, name];
}

function timeline() {
  const state = { activity: null };
  const flight = timed("Calls in flight, their limit, and calls queued", 170, state, flightOptions, [
    { label: "in flight", colour: COLOURS.blue, column: "in_flight" },
    { label: "limit", colour: COLOURS.grey, column: "limit" },
    { label: "queued", colour: COLOURS.orange, column: "queued" },
  ]);
  const rates = timed("Calls, refusals and failures a second", 130, state, ratesOptions, [
    { label: "calls/s", colour: COLOURS.green, column: "calls" },
    { label: "429/s", colour: COLOURS.vermillion, column: "throttled" },
    { label: "failed/s", colour: COLOURS.purple, column: "failed" },
  ]);
  const busy = timed("Share of the binding limit in use", 110, state, busyOptions, [
    { label: "of the limit in use", colour: COLOURS.blue, column: "busy", text: (value) => percent(value, 0) },
  ]);
  const why = h("div", { class: "legend", "aria-label": "Why not more calls were in flight" });
  const empty = h("p", { class: "note" }, "Nothing was recorded of what the engine did.");
  const shared = h("p", { class: "note" });
  const figures = asTable("What the engine did", ["second", "in flight", "limit", "queued", "calls/s", "429/s", "limiting"], () => {
    const { t, in_flight, limit, queued, calls, throttled, limiting, names } = state.activity;
    return t.map((second, at) => [second, in_flight[at], limit[at], queued[at], calls[at], throttled[at], names[limiting[at]] ?? NONE].map((cell) => cell ?? NONE));
  });
  const pictures = h("div", {}, shared, flight.box, why, rates.box, busy.box, figures.box);
  return {
    box: h("div", {}, empty, pictures),
    update: once((activity) => {
      state.activity = activity;
      const known = activity.t.length > 0;
      empty.hidden = known;
      pictures.hidden = !known;
      if (!known) return;
      shared.textContent = ofSweep(activity);
      shared.hidden = activity.shared === null;
      why.replaceChildren(...shares(activity).map(([name, share]) => h("span", { title: limitingOf(name)[1] }, swatch(limitingOf(name)[0], "band"), limitingOf(name)[1], " ", h("b", {}, percent(share, 0)))));
      for (const one of [flight, rates, busy, figures]) one.draw();
    }),
  };
}

/** What is to be said where several studies share one engine. */
function ofSweep(part) {
  return part.shared === null ? "" : `Of all studies of the sweep ${part.shared} together: one engine serves them.`;
}

/** How much of the time each reason held, longest first. */
function shares(activity) {
  const known = activity.limiting.filter((place) => place !== null);
  const counts = activity.names.map((name, place) => [name, known.filter((one) => one === place).length / (known.length || 1)]);
  return counts.filter(([, share]) => share > 0).sort((a, b) => b[1] - a[1]);
}

function timed(label, height, state, options, series) {
  const words = legend(series);
  const show = (at) =>
    words.show(series.map((one) => (one.text ?? compact)(state.activity[one.column][at ?? state.activity.t.length - 1])));
  const picture = chart(label, height, () => ({
    ...options(state),
    cursor: { y: false, sync: { key: "engine" }, points: { size: 6 } },
    hooks: { setCursor: [(plot) => show(plot.cursor.idx)], drawAxes: options === flightOptions ? [(plot) => drawBands(plot, state)] : [] },
  }));
  let made = false;
  return {
    box: h("div", {}, picture.box, words.box),
    draw() {
      const data = [state.activity.t, ...series.map((one) => state.activity[one.column])];
      if (made) picture.set(data);
      else picture.build(data);
      made = true;
      show(null);
    },
  };
}

const SECONDS = () => axis({ size: 24, values: (_, values) => values.map((value) => (value >= 120 ? `${+(value / 60).toFixed(1)} min` : `${value} s`)) });
const ALONG = { time: false, range: (_, low, high) => [low, Math.max(high, low + 1)] };
const FROM_ZERO = { range: (_, low, high) => [0, Math.max(1, high * 1.08)] };

function lineOf(colour, more) {
  return { stroke: colour, width: 1.5, points: { show: false }, ...more };
}

function flightOptions() {
  return {
    scales: { x: ALONG, y: FROM_ZERO, queued: FROM_ZERO },
    axes: [SECONDS(), axis({ size: 46, values: (_, values) => values.map(compact) }), axis({ scale: "queued", side: 1, size: 46, grid: { show: false }, values: (_, values) => values.map(compact) })],
    series: [{}, lineOf(COLOURS.blue, { fill: `${COLOURS.blue}33` }), lineOf(COLOURS.grey, { dash: [5, 3] }), lineOf(COLOURS.orange, { scale: "queued" })],
    padding: [16, 0, 0, 0],
  };
}

function ratesOptions() {
  return {
    scales: { x: ALONG, y: FROM_ZERO },
    axes: [SECONDS(), axis({ size: 46, values: (_, values) => values.map(compact) })],
    series: [{}, lineOf(COLOURS.green, { fill: `${COLOURS.green}22` }), lineOf(COLOURS.vermillion, { width: 2 }), lineOf(COLOURS.purple)],
    padding: [8, 46, 0, 0],
  };
}

function busyOptions() {
  return {
    scales: { x: ALONG, y: { range: () => [0, 1.05] } },
    axes: [SECONDS(), axis({ size: 46, values: (_, values) => values.map((value) => `${Math.round(100 * value)} %`) })],
    series: [{}, lineOf(COLOURS.blue, { fill: `${COLOURS.blue}22` })],
    padding: [8, 46, 0, 0],
  };
}

/** A strip above the chart, coloured by what kept more calls from being in flight. */
function drawBands(plot, state) {
  const { t, limiting, names } = state.activity;
  const high = 5 * devicePixelRatio;
  for (let at = 0; at < t.length; at++) {
    if (limiting[at] === null) continue;
    const x = plot.valToPos(t[at], "x", true);
    const next = at + 1 < t.length ? plot.valToPos(t[at + 1], "x", true) : plot.bbox.left + plot.bbox.width;
    plot.ctx.fillStyle = limitingOf(names[limiting[at]])[0];
    plot.ctx.fillRect(x, plot.bbox.top - high - 4 * devicePixelRatio, Math.max(next - x, 1), high);
  }
}

function latency() {
  const state = { latency: null, bars: [], wide: 0 };
  const empty = h("p", { class: "note" }, "No latencies were recorded.");
  const [picture, words, shared] = [h("div", {}), h("p", { class: "note" }), h("p", { class: "note" })];
  const figures = asTable("Latency of calls", ["latency", "calls"], () => state.bars.map((bar) => [bar.label, count(bar.value)]));
  const full = h("div", { hidden: true }, picture, words, shared, figures.box);
  const draw = () => {
    state.wide = picture.clientWidth;
    if (state.bars.length) picture.replaceChildren(histogram(`Latency of ${count(state.total)} calls`, state.bars, state.marks, state.wide || 600));
  };
  // Its letters are as wide as the chart was drawn for.
  new ResizeObserver(() => picture.clientWidth && picture.clientWidth !== state.wide && draw()).observe(picture);
  return {
    box: h("div", {}, empty, full),
    update: once((latency) => {
      const total = latency.counts.reduce((sum, one) => sum + one, 0);
      empty.hidden = total > 0;
      full.hidden = !total;
      if (!total) return;
      const bars = latencyBars(latency);
      const marks = ["p50", "p90", "p99"].map((name, row) => ({ label: `${name} ${duration(latency[name])}`, place: latencyPlace(latency, bars, latency[name]), row }));
      Object.assign(state, { total, bars, marks });
      words.textContent = [...marks.map((mark) => mark.label), `${count(total)} calls`].join(" · ");
      shared.textContent = ofSweep(latency);
      shared.hidden = latency.shared === null;
      draw();
      figures.draw();
    }),
  };
}

/** The buckets from the first to the last that has any calls. */
function latencyBars({ counts, edges }) {
  const first = counts.findIndex((one) => one);
  return counts.slice(first, counts.findLastIndex((one) => one) + 1).map((value, place) => {
    const [low, high] = [edges[first + place - 1] ?? 0, edges[first + place]];
    return { value, edge: duration(low), label: high === undefined ? `over ${duration(low)}` : `${duration(low)} to ${duration(high)}` };
  });
}

/** Where a latency stands among the bars, from 0 on. */
function latencyPlace({ counts, edges }, bars, value) {
  const bucket = edges.findIndex((edge) => value <= edge);
  if (bucket < 0) return bars.length - 0.5;
  const [low, high] = [edges[bucket - 1] ?? 0, edges[bucket]];
  return bucket - counts.findIndex((one) => one) + (value - low) / (high - low);
}
