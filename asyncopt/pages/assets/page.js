"use strict";
// The page: built once, then told of every new document. Live and as a report it is the same.

const RUNS_EVERY = 10_000; // milliseconds between two looks for new runs
const THEMES = ["auto", "light", "dark"];

/** What a browser may not keep (from a file, or in private) is forgotten, and nothing else happens. */
function remembered(name, value) {
  try {
    if (value === undefined) return localStorage.getItem(name);
    localStorage.setItem(name, value);
  } catch {
    // nothing is kept then
  }
  return null;
}

function themeButton() {
  const button = h("button", { type: "button", class: "theme" });
  const show = (theme) => {
    if (theme === "auto") document.documentElement.removeAttribute("data-theme");
    else document.documentElement.setAttribute("data-theme", theme);
    button.textContent = `Theme: ${theme}`;
    button.dataset.theme = theme;
    document.dispatchEvent(new Event("theme"));
  };
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(button.dataset.theme) + 1) % THEMES.length];
    remembered("theme", next);
    show(next);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("theme")));
  const kept = remembered("theme");
  show(THEMES.includes(kept) ? kept : "auto");
  return button;
}

function card(id, title, part, wide) {
  return h("section", { id, class: wide ? "card whole-width" : "card", "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title), part.box);
}

const page = {};

function build(source, status, extra) {
  const parts = { heading: heading(), tiles: tiles(), scores: scoreChart(), outcome: outcome(), candidates: candidates(), matrix: matrix(), timeline: timeline(), latency: latency(), costs: costs(), manifest: manifest() };
  if (source.live) parts.controls = controls(source);
  Object.assign(page, { source, candidates: parts.candidates, controls: parts.controls });
  const cards = [
    ["scores", "Scores", parts.scores],
    ["result", "Best candidate", parts.outcome],
    ["candidates", "Candidates", parts.candidates, true],
    ["examples", "Examples", parts.matrix, true],
    ["engine", "Engine", parts.timeline, true],
    ["latency", "Latency of calls", parts.latency],
    ["cost", "Cost", parts.costs],
    ["manifest", "How to repeat it", parts.manifest, true],
  ];
  const compared = extra.some(Boolean); // what concerns all runs stands above the title of the one that is shown
  const links = h("nav", { "aria-label": "Sections" }, cards.map(([id, title]) => h("a", { href: `#${id}` }, title)));
  const chooser = h("select", { "aria-label": "Run", hidden: true });
  const top = h("header", {}, h("div", { class: "bar" }, h("strong", { class: "mark" }, "asyncopt"), chooser, h("span", { class: "room" }), source.live && status.box, themeButton()), compared ? null : parts.heading.box, parts.controls?.box, links);
  const main = h("main", {}, extra, compared ? parts.heading.box : null, parts.tiles.box, h("div", { class: "cards" }, cards.map((one) => card(...one))));
  document.body.append(h("a", { class: "skip", href: "#scores" }, "Skip to the scores"), top, main);
  return { parts, chooser };
}

function update(parts, doc) {
  parts.heading.update({ head: doc.head, name: doc.name });
  parts.tiles.update(tileParts(doc));
  parts.scores.update(doc);
  parts.outcome.update({ best: doc.candidates.find((one) => one.rank === 1) ?? null, held_out: doc.held_out, scored: doc.head.scored });
  parts.candidates.update(doc);
  parts.matrix.update(doc);
  parts.timeline.update(doc.activity);
  parts.latency.update(doc.latency);
  parts.costs.update({ cost: doc.cost, outcomes: doc.outcomes, errors: doc.errors });
  parts.manifest.update({ command: doc.command, manifest: doc.manifest, problems: doc.problems });
}

async function start() {
  const element = document.getElementById("data");
  const data = element && JSON.parse(element.textContent);
  const status = connection();
  const show = { connection: status.show, status: (value) => page.controls.show(value) };
  const source = data ? carried(data) : served(show);
  let leave = () => {};
  let choose = () => {};
  const extra = [
    data?.contests && contests(data.contests),
    data?.comparison && comparison(data.documents, data.comparison, (id) => choose(id)),
    data?.against && published(data.against),
  ];
  const { parts, chooser } = build(source, status, extra);
  let shown = ""; // the run that is followed
  choose = (id) => {
    leave();
    chooser.value = shown = id;
    leave = source.follow(id, (doc) => update(parts, doc));
  };
  chooser.addEventListener("change", () => choose(chooser.value));
  const notice = h("p", { class: "warning", hidden: true });
  document.querySelector("main").prepend(notice);
  const say = (text) => ((notice.textContent = text), (notice.hidden = !text));
  const look = async () => {
    const runs = await source.runs();
    chooser.replaceChildren(...runs.map((run) => h("option", { value: run.id }, `${run.name} (${run.state})`)));
    chooser.hidden = runs.length < 2;
    chooser.value = shown;
    const first = runs.find((run) => run.state === "running") ?? runs[0];
    if (first && !shown) choose(first.id); // perhaps long after the page was opened
    say(first || shown ? "" : "There are no runs here yet.");
  };
  const looking = () => look().catch((error) => shown || say(`The list of runs did not come: ${error.message}`));
  await looking();
  if (source.live) setInterval(() => document.activeElement !== chooser && looking(), RUNS_EVERY);
}

start();
