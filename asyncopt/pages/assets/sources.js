"use strict";
// Where documents come from: out of this very file, or from the server, which sends them again when the run goes on.

/** The data that a report carries. */
function carried(data) {
  return {
    live: false,
    runs: async () => data.documents.map((doc, place) => ({ id: String(place), name: doc.name, task: doc.head.task, state: doc.head.state })),
    follow(id, take) {
      take(data.documents[Number(id)]);
      return () => {};
    },
    answers: async (doc, place) => doc.answers[place] ?? [],
    control: null,
  };
}

async function asked(path, options) {
  const answer = await fetch(path, { credentials: "same-origin", ...options });
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(value.error ?? `the server said ${answer.status}`), { status: answer.status });
  return value;
}

/** The server that this page came from. `show` is told how the connection is, and what the run's controls say. */
function served(show) {
  const at = (id, what = "") => `api/runs/${encodeURIComponent(id)}${what}`;
  let current = null;
  return {
    live: true,
    runs: () => asked("api/runs"),
    follow(id, take) {
      current = id;
      let [stream, waiting, closed, doc] = [null, null, false, {}];
      const open = () => {
        stream = new EventSource(at(id, "/events"));
        stream.addEventListener("open", () => show.connection("live"));
        // The whole document first, then the parts of it that have changed.
        stream.addEventListener("document", (event) => take((doc = JSON.parse(event.data))));
        stream.addEventListener("change", (event) => take((doc = { ...doc, ...JSON.parse(event.data) })));
        stream.addEventListener("status", (event) => show.status(JSON.parse(event.data)));
        stream.addEventListener("error", () => {
          show.connection("lost");
          // A browser tries again by itself, unless the answer was an error.
          if (stream.readyState !== EventSource.CLOSED || closed) return;
          waiting = setTimeout(open, 3000);
          why().then((state) => closed || stream.readyState !== EventSource.CLOSED || show.connection(state));
        });
      };
      // An event stream does not say why it was refused.
      const why = () =>
        asked("api/runs").then(
          (runs) => (runs.some((run) => run.id === id) ? "lost" : "gone"),
          (error) => (error.status === 401 ? "refused" : "lost"),
        );
      show.connection("connecting");
      show.status(null);
      open();
      return () => ((closed = true), clearTimeout(waiting), stream.close());
    },
    answers(doc, place) {
      const { step, index } = doc.candidates[place];
      return asked(at(current, `/answers?candidate=${step}.${index}`));
    },
    control: (command) =>
      asked(at(current, "/control"), { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(command) }),
  };
}

const CONNECTION = {
  live: "connected",
  connecting: "connecting",
  lost: "connection lost, trying again",
  refused: "not let in: open the address that asyncopt view printed last",
  gone: "the run's folder has gone",
};

function connection() {
  const box = h("span", { class: "connection", role: "status" });
  return {
    box,
    show(state) {
      box.className = `connection ${state}`;
      box.textContent = CONNECTION[state];
    },
  };
}

const SAID = { running: "", paused: "paused: nothing new starts", stopping: "stopping: calls in flight may end" };

/** Buttons for a run that goes on; what it answers is shown, and it is asked again what it does. */
function controls(source) {
  const said = h("span", { class: "note", role: "status" });
  const pause = h("button", { type: "button" }, "Pause");
  const number = h("input", { type: "number", min: "1", max: "100000", inputmode: "numeric", "aria-label": "Calls in flight at most", id: "concurrency" });
  const set = h("button", { type: "submit" }, "Set");
  const stop = h("button", { type: "button", class: "danger" }, "Stop");
  const sure = h("button", { type: "button", class: "danger", hidden: true }, "Yes, stop");
  const no = h("button", { type: "button", hidden: true }, "No");
  const form = h("form", { class: "set" }, h("label", { for: "concurrency" }, "Concurrency"), number, set);
  const box = h("div", { class: "controls", role: "group", "aria-label": "Controls of the run", hidden: true }, pause, form, stop, sure, no, said);
  let paused = false;
  const asks = (asking) => {
    stop.hidden = asking;
    sure.hidden = no.hidden = !asking;
    (asking ? sure : stop).focus();
  };
  const show = (status) => {
    box.hidden = status === null;
    if (status === null) return;
    paused = status.state === "paused";
    pause.textContent = paused ? "Resume" : "Pause";
    pause.disabled = stop.disabled = status.state === "stopping";
    const all = (name) => status.endpoints.reduce((sum, one) => sum + one[name], 0);
    const now = `${count(all("in_flight"))} in flight of at most ${count(all("concurrency"))}`;
    said.textContent = [SAID[status.state] ?? status.state, now].filter(Boolean).join("; ");
  };
  const tell = async (command) => {
    said.textContent = "…";
    try {
      show(await source.control(command));
    } catch (error) {
      said.textContent = `${command.do}: ${error.message}`;
    }
  };
  pause.addEventListener("click", () => tell({ do: paused ? "resume" : "pause" }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const value = Number(number.value);
    if (Number.isInteger(value) && value >= 1) tell({ do: "set", concurrency: value });
    else said.textContent = "concurrency: a whole number from 1 on";
  });
  stop.addEventListener("click", () => asks(true));
  no.addEventListener("click", () => asks(false));
  sure.addEventListener("click", () => (asks(false), tell({ do: "stop" })));
  return { box, show };
}
