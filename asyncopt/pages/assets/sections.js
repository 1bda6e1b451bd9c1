"use strict";
// The parts of the page that are figures and texts: the head, the tiles, the result, the cost, the manifest.

const STATES = { running: "running", finished: "finished", stopped: "stopped" };

function heading() {
  const title = h("h1", {});
  const state = h("span", { class: "state", role: "status" });
  const facts = h("p", { class: "facts" });
  return {
    box: h("div", { class: "title" }, h("div", { class: "title-line" }, title, state), facts),
    update: once((part) => {
      const { head } = part;
      document.title = `${head.task}, ${head.optimizer}`;
      title.replaceChildren(h("span", { class: "theirs" }, head.task), h("small", {}, ` ${head.optimizer}`));
      state.textContent = STATES[head.state] ?? head.state;
      state.className = `state ${head.state}`;
      const models = Object.entries(head.models).map(([role, name]) => [`${role} `, h("b", { class: "theirs" }, name)]);
      const parts = [...models, [`seed ${head.seed}`], [`began ${moment(head.started)}`], ["directory ", h("span", { class: "theirs" }, part.name)]];
      facts.replaceChildren(...parts.map((one) => h("span", {}, one)));
    }),
  };
}

function tile(label, value, note) {
  return h("div", { class: "tile" }, h("dt", {}, label), h("dd", {}, value), note && h("dd", { class: "note" }, note));
}

function tiles() {
  const box = h("dl", { class: "tiles" });
  return {
    box,
    update: once((part) => {
      const { head, cost, best, initial, held, busy } = part;
      const gain = held.best && held.initial ? points(held.best.score - held.initial.score) : null;
      const share = head.steps ? ` of ${head.steps}` : "";
      const all = [
        tile(head.scored === "share" ? "best in training" : "lowest loss", score(best?.score, head.scored), best ? `${interval(best.low, best.high)}${best.partial ? `, ${best.n} examples only` : ""}` || `from ${score(initial, head.scored)}` : null),
        held.best ? tile("held out", percent(held.best.score), `${interval(held.best.low, held.best.high)}${gain ? `, ${gain} points` : ""}`) : null,
        tile("steps", `${count(head.step)}${share}`, `${count(part.tried)} candidates`),
        tile("calls", compact(cost.calls), `${percent(cost.hit_share, 0)} from the cache`),
        tile("tokens", compact(cost.tokens), cost.usd ? money(cost.usd) : "no price known"),
        tile("time", duration(cost.seconds), cost.to_come && head.state === "running" ? `${duration(cost.to_come.seconds)} to come` : null),
        busy !== null ? tile("limit in use", percent(busy, 0), part.shared === null ? "mean share" : "mean share, whole sweep") : null,
      ];
      box.replaceChildren(...all.filter((one) => one !== null));
    }),
  };
}

function tileParts(doc) {
  const known = doc.activity.busy.filter((one) => one !== null);
  return {
    head: doc.head,
    cost: doc.cost,
    tried: doc.candidates.length + doc.left_out.candidates,
    best: doc.candidates.find((one) => one.rank === 1) ?? null,
    initial: doc.candidates.find((one) => one.step < 0 && one.score !== null)?.score,
    held: { best: doc.held_out.find((one) => one.which === "best")?.test, initial: doc.held_out.find((one) => one.which === "initial")?.test },
    shared: doc.activity.shared,
    busy: known.length ? known.reduce((sum, one) => sum + one, 0) / known.length : null,
  };
}

function outcome() {
  const box = h("div", {});
  return {
    box,
    update: once((part) => {
      const best = part.best;
      const lines = part.held_out.flatMap((one) =>
        ["train", "validation", "test"].filter((fold) => one[fold]).map((fold) => ({ ...one[fold], kind: one.which, name: `${one.which === "best" ? "best" : "initial"}, ${fold === "test" ? "held out" : fold}` })),
      );
      box.replaceChildren(
        ...(best ? [h("p", { class: "whole best" }, quoted(best.text, 1200)), h("p", { class: "note" }, `${best.source}, step ${stepName(best.step)}`)] : [h("p", { class: "note" }, "Nothing is scored yet.")]),
        ...(lines.length ? [intervals("Scores with 95 % intervals", lines)] : []),
        h("p", { class: "note" }, lines.some((line) => line.name.includes("held out")) ? "Percent with 95 % Wilson intervals. Held-out examples were never seen by the search." : part.held_out.length ? "Percent with 95 % Wilson intervals." : part.scored === "share" ? "Held-out scores come at the end of the run." : ""),
      );
    }),
  };
}

function costs() {
  const box = h("div", {});
  return {
    box,
    update: once(({ cost, outcomes, errors }) => {
      const names = { calls: count, hits: count, tokens: count, usd: money, seconds: duration };
      const labels = { calls: "calls", hits: "answers from the cache", tokens: "tokens", usd: "cost, where prices are known", seconds: "time" };
      const rows = Object.entries(names).map(([name, text]) => [labels[name], text(name === "usd" ? cost.usd || null : cost[name]), cost.to_come ? text(cost.to_come[name]) : NONE]);
      const ends = [...Object.entries(outcomes), ...Object.entries(errors)];
      box.replaceChildren(
        table("Cost so far and to come", ["", "so far", "to come"], rows),
        h("p", { class: "note" }, cost.to_come ? "To come: what a step took on average, times the steps that are left; the held-out measurement is not in it." : "Nothing is to come."),
        h("h3", {}, "How examples and calls ended"),
        ends.length ? table("How examples and calls ended", ["", "number"], ends.map(([name, value]) => [name, count(value)])) : h("p", { class: "note" }, "Nothing has ended yet."),
      );
    }),
  };
}

function manifest() {
  const command = h("pre", { class: "theirs", tabindex: "0" });
  const text = h("pre", { class: "theirs", tabindex: "0" });
  const problems = h("ul", { class: "problems" });
  return {
    box: h("div", {}, problems, h("p", {}, "To repeat it:"), command, h("details", {}, h("summary", {}, "Manifest"), text)),
    update: once((part) => {
      command.textContent = part.command ?? "This run was started by a program; its manifest says what decides its result.";
      text.textContent = JSON.stringify(part.manifest, null, 2);
      problems.replaceChildren(...part.problems.map((one) => h("li", { class: "theirs" }, one)));
    }),
  };
}
