"use strict";
// What all charts share: colours of the theme, sizes, legends with the figures under the pointer.

// Okabe and Ito's, which people of every colour vision can tell apart.
const COLOURS = {
  blue: "#0072b2", sky: "#56b4e9", green: "#009e73", orange: "#e69f00", vermillion: "#d55e00", purple: "#cc79a7", yellow: "#f0e442", grey: "#8a939c",
};

function themed(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]; // between the ticks of an axis of steps

function axis(more) {
  const line = { stroke: themed("line"), width: 1 };
  return { stroke: themed("muted"), font: "11px system-ui, sans-serif", grid: line, ticks: { ...line, size: 4 }, ...more };
}

/** A line under a chart: what is drawn, and the figures at the pointer, or else the last ones. */
function legend(series) {
  const cells = series.map(() => h("b", {}));
  const box = h(
    "div",
    { class: "legend" },
    series.map((one, place) => h("span", {}, swatch(one.colour, one.kind), one.label, " ", cells[place])),
  );
  const show = (texts) => texts.forEach((text, place) => (cells[place].textContent = text ?? ""));
  return { box, show };
}

/** A chart of uPlot in a box, made anew when the theme changes and wide as its box. */
function chart(label, height, options) {
  const box = h("div", { class: "chart", role: "img", "aria-label": label });
  let plot = null;
  let data = null;
  const build = () => {
    plot?.destroy();
    plot = null;
    if (!data || !box.clientWidth) return;
    plot = new uPlot({ width: box.clientWidth, height, legend: { show: false }, padding: [8, 12, 0, 0], ...options() }, data, box);
  };
  new ResizeObserver(() => {
    if (plot && plot.width !== box.clientWidth && box.clientWidth) plot.setSize({ width: box.clientWidth, height });
    else if (!plot) build();
  }).observe(box);
  document.addEventListener("theme", build);
  return {
    box,
    build(values) {
      data = values;
      build();
    },
    set(values) {
      data = values;
      if (plot) plot.setData(values);
      else build();
    },
  };
}

/** A drawing of horizontal bars, one a bucket, with marks at the percentiles. */
function histogram(label, bars, marks, wide) {
  const [high, base, room] = [166, 142, 40]; // the labels of the marks stand in the room above the bars
  const most = Math.max(...bars.map((bar) => bar.value), 1);
  const each = wide / bars.length;
  const every = Math.ceil(bars.length / Math.max(Math.floor(wide / 75), 1)); // a label takes so many pixels
  return svg(
    "svg",
    { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": label, class: "histogram" },
    bars.map((bar, place) => {
      const tall = (base - room) * (bar.value / most);
      const title = svg("title", {}, `${bar.label}: ${count(bar.value)}`);
      return svg("rect", { x: place * each + 1, y: base - tall, width: Math.max(each - 2, 1), height: tall, class: "bar" }, title);
    }),
    bars.map((bar, place) =>
      place % every || place * each > wide - 45 ? null : svg("text", { x: place * each, y: base + 14, class: "tick" }, bar.edge),
    ),
    svg("line", { x1: 0, x2: wide, y1: base, y2: base, class: "base" }),
    marks.map((mark) => {
      const x = mark.place * each;
      const late = x > wide - 75;
      const place = { x: x + (late ? -4 : 4), y: mark.row * 12 + 10, "text-anchor": late ? "end" : "start", class: "tick strong" };
      return [svg("line", { x1: x, x2: x, y1: mark.row * 12 + 2, y2: base, class: "mark" }), svg("text", place, mark.label)];
    }),
  );
}

/** Shares with their intervals, one a line: a dot on a whisker. */
function intervals(label, lines) {
  const low = Math.max(0, Math.min(...lines.map((line) => line.low)) - 0.03);
  const high = Math.min(1, Math.max(...lines.map((line) => line.high)) + 0.03);
  const at = (value) => 4 + 92 * ((value - low) / (high - low || 1));
  const row = (line) =>
    h(
      "div",
      { class: "interval" },
      h("span", { class: "name" }, line.name),
      svg(
        "svg",
        { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("line", { x1: 0, x2: 100, y1: 5, y2: 5, class: "base" }),
        svg("line", { x1: at(line.low), x2: at(line.high), y1: 5, y2: 5, class: `whisker ${line.kind}` }),
        svg("line", { x1: at(line.score), x2: at(line.score), y1: 1, y2: 9, class: `dot ${line.kind}` }),
      ),
      h("span", { class: "figure" }, h("b", {}, percent(line.score)), ` ${interval(line.low, line.high)}, n = ${line.n}`),
    );
  return h("div", { class: "intervals", role: "group", "aria-label": label }, lines.map(row));
}
