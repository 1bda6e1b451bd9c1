"""Text that models and data sets write: shown, sent, kept and exported as text, and nothing else."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from fakes import FakeEndpoint, run_virtual
from hostile import DELIMITERS, EVERYTHING, FORMULAE, MEGABYTE, SHORT, TERMINAL
from served import good, serving
from shell import Ran, Shell

from asyncopt import Completion, Engine, Example, Generate, Task, codec
from asyncopt.assess import evaluate_instructions
from asyncopt.cli.items import write_files
from asyncopt.cli.run import new_directory
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import ConfigError, StudyFailed
from asyncopt.optimizers import OPRO
from asyncopt.optimizers.dln.proposals import read_prompt
from asyncopt.optimizers.dln.roles import HIDDEN_FORMS, POSTERIORS, Case, Templates
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.opro.candidates import LONGEST
from asyncopt.repetitions import results_csv
from asyncopt.study import Study
from asyncopt.sweep import Ended, Planned, study_name
from asyncopt.templates import LONGEST as LONGEST_RENDERED
from asyncopt.templates import compiled

# What the live panel needs to draw over itself: hide and show the cursor, erase a line, go up, begin the line anew; and
# its styles: plain, bold, dim and the colours of its bars.
OURS = re.compile(r"\x1b\[\?25[lh]|\x1b\[2K|\x1b\[[0-9]*A|\x1b\[(?:0|1|2|38;5;[0-9]+)m|\r")
REPLACED = {name: codec.clean(text) for name, text in SHORT.items()}
INSTRUCTIONS = pytest.mark.parametrize("name", SHORT)


def is_plain(text: str) -> bool:
    return all(char == "\n" or char.isprintable() for char in text)


# -- one function for each kind of sink --------------------------------------------------------------------------------


@pytest.mark.row("X03")
@INSTRUCTIONS
def test_what_is_printed_is_one_line_that_moves_nothing(name: str) -> None:
    line = codec.printable(SHORT[name])
    assert line.isprintable()
    assert len(line) <= 200


@pytest.mark.row("X01", "X02")
@INSTRUCTIONS
def test_what_is_written_as_json_comes_back(name: str) -> None:
    assert json.loads(codec.dumps({"text": SHORT[name]}))["text"] == REPLACED[name]
    assert codec.dumps({"text": SHORT[name]}).count(b"\n") == 0


@pytest.mark.row("X02")
def test_a_megabyte_on_one_line_is_shown_in_a_few_characters_and_kept_whole() -> None:
    assert len(codec.printable(MEGABYTE)) <= 200
    assert json.loads(codec.dumps(MEGABYTE)) == MEGABYTE
    assert codec.csv_cell(MEGABYTE) == MEGABYTE


@pytest.mark.row("X08")
@INSTRUCTIONS
def test_no_cell_is_a_formula_and_the_text_is_still_there(name: str) -> None:
    cell = codec.csv_cell(SHORT[name])
    assert cell[:1] not in tuple("=+-@\t\r\n＝")
    assert cell.removeprefix("'") == REPLACED[name]


@pytest.mark.row("X08")
def test_numbers_stay_numbers() -> None:
    for text in ("-5", "+1.25", "0", "12"):
        assert codec.csv_cell(text) == text


@pytest.mark.row("X09")
@INSTRUCTIONS
def test_a_name_is_one_name_on_every_system(name: str, tmp_path: Path) -> None:
    for made in (
        codec.file_name(SHORT[name]),
        study_name(SHORT[name], SHORT[name], 3),
        new_directory(SHORT[name]).name,
    ):
        assert re.fullmatch(r"[\w.-]+", made)
        assert not made.startswith(".")
        assert not made.endswith(".")
        assert len(made.encode()) <= 255
        assert not re.match(r"(con|nul|com[0-9¹²³])(\.|$)", made, re.IGNORECASE)
        (tmp_path / made).write_bytes(b"")
        assert [path.name for path in tmp_path.iterdir()] == [made]
        (tmp_path / made).unlink()


@pytest.mark.row("X09")
def test_a_long_title_of_wide_letters_is_still_a_name_that_a_folder_can_have(tmp_path: Path) -> None:
    (tmp_path / new_directory("\U00020000" * 60)).mkdir(parents=True)


@pytest.mark.row("X09")
def test_a_name_that_is_one_already_stays_as_it_is() -> None:
    assert codec.file_name("gsm8k-default") == "gsm8k-default"
    assert codec.file_name("Straße_2.1") == "Straße_2.1"


# -- values in templates -----------------------------------------------------------------------------------------------


@pytest.mark.row("X04")
@INSTRUCTIONS
@pytest.mark.parametrize("position", ["before_Q", "Q_begin", "Q_end", "A_begin"])
def test_candidate_and_data_stand_verbatim_in_the_scorers_prompt(name: str, position: Any) -> None:
    text = SHORT[name]
    task = Task("t", "text", train=(Example(0, text, "x"),), test=(), position=position, frame=True)
    assert text in task.render("Say it.", text)
    assert text in task.render(text, "a question")


def proposing(candidates: list[str]) -> Callable[[Generate, int], Answer]:
    """Proposes these in turn, and answers everything else with a hostile word."""
    proposals = iter(candidates)

    def respond(request: Generate, number: int) -> Completion:
        asks = request.sampling.temperature > 0
        return Completion(next(proposals, "nothing") if asks else f"yes {EVERYTHING}")

    return respond


@pytest.mark.row("X04")
@pytest.mark.parametrize("styles", [("meta-prompt",), ("rewrite",), ("induction",)])
def test_what_a_model_proposed_goes_verbatim_into_every_later_prompt(styles: Any, tmp_path: Path) -> None:
    wanted = "Use {{ 7*7 }} {% raw %} ${x} %s {0.__class__}."
    data = "{{ 7*7 }} {% raw %} ${x} %s {0.__class__} data"
    endpoint = FakeEndpoint(proposing([f"[{wanted}]" if styles == ("meta-prompt",) else wanted] * 3))
    task = Task("t", "text", train=(Example(0, data, "yes"),), test=(Example(1, data, "yes"),), initial=(wanted[:-1],))
    study(task, OPRO(steps=3, samples_per_step=1, styles=styles), endpoint, tmp_path)
    assert any(wanted in prompt and data in prompt for prompt in endpoint.prompts)
    proposals = [prompt for prompt in endpoint.prompts if data in prompt and wanted not in prompt]
    assert styles != ("induction",) or proposals
    assert not any("49" in prompt for prompt in endpoint.prompts)


@pytest.mark.row("X04")
@INSTRUCTIONS
def test_every_template_of_language_networks_shows_it_verbatim(name: str) -> None:
    text = f"a{SHORT[name]}b"  # they strip what they are put together to
    case = Case(text, text, text, 1.0)
    for form in HIDDEN_FORMS:
        templates = Templates(hidden_form=form)
        rendered = [
            templates.forward(text, text),
            templates.residual(text, text),
            templates.hidden(text, text),
            *(templates.posterior(kind, case, text, text, "Wish.") for kind in POSTERIORS),
            *(Templates(proposal_form=wish).proposal(text, [case], "Wish.") for wish in ("sections", "concise")),
        ]
        assert all(text in prompt for prompt in rendered)


TRICKS = {
    "attributes": "{{ ''.__class__.__mro__ }}",
    "items": "{{ ''['__class__'] }}",
    "filter": "{{ input|attr('__class__') }}",
    "behind a condition": "{% if input == 'x' %}{{ input.__class__ }}{% endif %}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "call": "{{ lipsum(n=100000) }}",
    "memory": '{{ "a" * 300000000 }}',
    "memory by a format": '{{ "%300000000d" % 1 }}',
    "memory by powers": "{{ 10 ** 10 ** 10 }}",
    "memory by a filter": "{{ input|center(300000000) }}",
    "memory by doubling": "{% set a = input ~ input %}{{ a }}",
    "time": "{% for i in range(10**9) %}{% endfor %}",
    "time by loops": "{% for a in input %}{% for b in input %}{% endfor %}{% endfor %}",
    "time by recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "depth": "{{ " + "(" * 5000 + "input" + ")" * 5000 + " }}",
    "no template": "{{ input ",
}


@pytest.mark.row("X04")
@pytest.mark.parametrize("name", TRICKS)
def test_a_template_that_could_run_code_or_for_ever_is_refused_before_anything_is_sent(name: str) -> None:
    with pytest.raises(ConfigError, match="the template"):
        compiled(TRICKS[name])


@pytest.mark.row("X04")
def test_what_a_loop_shows_is_bounded() -> None:
    render = compiled("{% for char in input %}{{ input }}{% endfor %}")
    assert render(input="abc") == "abcabcabc"
    with pytest.raises(ConfigError, match=f"more than {LONGEST_RENDERED} characters"):
        render(input="x" * 1_000_000)


@pytest.mark.row("X04")
def test_templates_as_people_write_them_are_read() -> None:
    template = (
        "{% if instruction %}{{ instruction|trim }}\n{% endif %}Q: {{ input[:9]|upper }}{% raw %} {{ {% endraw %}"
    )
    assert compiled(template)(instruction=" Do. ", input="a question") == "Do.\nQ: A QUESTIO {{ "


# -- the proposals -----------------------------------------------------------------------------------------------------


def study(task: Task, optimizer: Any, endpoint: FakeEndpoint, folder: Path, notes: list[str] | None = None) -> History:
    class Notes:
        def notify(self, event: Any) -> None:
            if notes is not None and hasattr(event, "text"):
                notes.append(event.text)

    async def main() -> History:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint)
            made = Study(
                task=task,
                optimizer=optimizer,
                scorer=model,
                proposer=model,
                directory=folder / "run",
                trace=True,
                observers=[Notes()],
            )
            await made.run()
            return made.history

    return run_virtual(main)


TASK = Task("toy", "text", train=(Example(0, "a", "yes"),), test=(Example(1, "b", "yes"),), initial=("Start.",))


def traced(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "run" / "trace.jsonl").read_bytes().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "proposal"]


@pytest.mark.row("X05")
@pytest.mark.parametrize("name", DELIMITERS)
def test_marks_in_an_answer_cannot_become_an_entry_of_the_history(name: str, tmp_path: Path) -> None:
    endpoint = FakeEndpoint(proposing([f"Sure. [{DELIMITERS[name]}] [Then do it.]", "[Last.]"]))
    history = study(TASK, OPRO(steps=2, samples_per_step=1), endpoint, tmp_path)
    candidates = [entry.candidate for entry in history.entries]
    assert all(candidate.isprintable() for candidate in candidates)
    assert not any(mark in candidate for candidate in candidates for mark in ("<INS>", "<TEXT>", "</Start>"))
    last = [prompt for prompt in endpoint.prompts if "square brackets" in prompt][-1]
    shown = re.findall(r"^text:\n(.*)\nscore:\n[0-9]+$", last, re.MULTILINE)
    assert sorted(shown) == sorted(candidates[:-1])  # one entry for each candidate, and no other


REJECTED = {
    "empty": ("[]", "empty"),
    "blanks": ("[ \t\u00a0\u2003 ]", "empty"),
    "invisible": ("[\u200b\u202e\x00]", "empty"),
    "huge": (f"[{'x' * 100_000}]", "too long"),
    "marked": ("[Do <INS> it]", "with a mark of the format"),
    "forbidden": ("[Add 3 numbers]", "forbidden by the task"),
    "known": ("[Start.]", "tried before"),
    "known with other blanks": ("[  Start. \t ]", "tried before"),
}


@pytest.mark.row("X06")
@pytest.mark.parametrize("name", REJECTED)
def test_a_proposal_that_is_not_scored_is_recorded_with_the_reason(name: str, tmp_path: Path) -> None:
    answer, reason = REJECTED[name]
    task = Task("toy", "text", TASK.train, TASK.test, initial=("Start.",), forbid=re.compile(r"\d"))
    notes: list[str] = []
    history = study(task, OPRO(steps=1, samples_per_step=1), FakeEndpoint(proposing([answer])), tmp_path, notes)
    assert [entry.candidate for entry in history.entries] == ["Start."]
    (row,) = traced(tmp_path)
    assert (row["answer"], row["rejected"]) == (answer, reason)
    if reason != "tried before":  # that is a solution, though not a new one
        assert notes[0].startswith(f"1 of 1 answers of the proposer held no usable solution (1 {reason})")


@pytest.mark.row("X06")
def test_one_answer_gives_one_candidate_and_equal_ones_are_scored_once(tmp_path: Path) -> None:
    answers = ["[One.] [Two.] [Three.]", "[ one. ]", "[One.]", "[Faites-le en français.]"]
    endpoint = FakeEndpoint(proposing(answers))
    history = study(TASK, OPRO(steps=1, samples_per_step=4), endpoint, tmp_path)
    assert [entry.candidate for entry in history.entries] == ["Start.", "One.", "Faites-le en français."]
    assert [row["rejected"] for row in traced(tmp_path)] == ["", "", "", ""]


@pytest.mark.row("X06")
def test_prompts_of_language_networks_are_capped_too() -> None:
    assert read_prompt("x" * 100_000, ()) is None
    assert read_prompt(" \n\u200b ", ()) is None
    assert read_prompt("Do \x1b[31mit.", ()) == "Do [31mit."


@pytest.mark.row("X06")
@INSTRUCTIONS
def test_whatever_is_proposed_no_control_character_gets_into_a_prompt(name: str, tmp_path: Path) -> None:
    endpoint = FakeEndpoint(proposing([f"[{SHORT[name]}]", "[Last.]"]))
    study(TASK, OPRO(steps=2, samples_per_step=1), endpoint, tmp_path)
    assert all(is_plain(prompt) for prompt in endpoint.prompts)
    assert all(len(entry) <= LONGEST for entry in endpoint.prompts if "square brackets" not in entry)


@pytest.mark.row("N05")
def test_equals_are_ordered_by_their_place_and_not_by_their_arrival() -> None:
    entries = [Entry(text, 0.5, step, index, 1) for text, step, index in [("a", 0, 1), ("b  ", 0, 0), ("b", 1, 0)]]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        history = History(maximize=True, entries=[entries[place] for place in order])
        assert [entry.candidate for entry in history.ranked()] == ["b  ", "a", "b"]
        best = history.best()
        assert best is not None
        assert best.candidate == "b  "


# -- kept and exported -------------------------------------------------------------------------------------------------

NAMES = list(SHORT)
HOSTILE = Task(
    EVERYTHING,
    "text",
    train=(Example(0, "x", "x"),),
    test=tuple(Example(number, f"{name}\n{SHORT[name]}", SHORT[name] or "-") for number, name in enumerate(NAMES)),
)


@pytest.mark.row("X01", "X02", "X08")
def test_the_files_of_an_evaluation_have_every_text_exactly_and_no_formula(tmp_path: Path) -> None:
    texts = {f"{name}\n{text}": text for name, text in SHORT.items()}

    def answer(request: Generate, number: int) -> Completion:
        return Completion(texts[request.prompt[-1].content])

    async def main() -> Any:
        async with Engine() as engine:
            model = engine.model(codec.clean(EVERYTHING), endpoint=FakeEndpoint(answer))
            return await evaluate_instructions(model, HOSTILE, [""])

    write_files(tmp_path, run_virtual(main))
    rows = [json.loads(line) for line in (tmp_path / "items.jsonl").read_bytes().split(b"\n") if line]
    assert [row["answer"] for row in rows] == [REPLACED[name] for name in NAMES]
    assert [row["prompt"] for row in rows] == [f"{name}\n{REPLACED[name]}" for name in NAMES]
    cells = list(csv.reader(io.StringIO((tmp_path / "items.csv").read_bytes().decode(), newline="")))
    answers = [row[cells[0].index("answer")] for row in cells[1:]]
    assert [cell.removeprefix("'") for cell in answers] == [row["answer"] for row in rows]
    assert not any(cell[:1] in tuple("=+-@\t\r＝") for row in cells for cell in row if cell)
    assert json.loads((tmp_path / "summary.json").read_bytes())["task"]["name"] == codec.clean(EVERYTHING)


@pytest.mark.row("X08")
@pytest.mark.parametrize("name", FORMULAE)
def test_the_table_of_a_sweep_has_no_formula(name: str) -> None:
    text = FORMULAE[name]
    planned = Planned(text, text, 0, None)  # type: ignore[arg-type]  # a study that failed has used no configuration
    table = results_csv([Ended(planned, error=StudyFailed(text))]).decode()
    (_, row) = csv.reader(io.StringIO(table, newline=""))
    assert not any(cell[:1] in tuple("=+-@\t\r＝") for cell in row if cell)
    assert row[0] == codec.csv_cell(text)


@pytest.mark.parametrize("path", sorted((Path(codec.__file__).parent).rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_unpickled_or_run_from_text(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    forbidden = r"\b(import (pickle|marshal|shelve|dill|yaml)|yaml\.load|allow_pickle=True|os\.system)\b|shell=True"
    assert re.search(forbidden, source) is None
    assert re.search(r"(?<![.\w])(eval|exec)\(", source) is None
    assert re.search(r"noqa: S\d{3}(?! - \w)", source) is None  # a rule of security is set aside with its reason


# -- on a terminal -----------------------------------------------------------------------------------------------------

TYPED = codec.clean(EVERYTHING).replace("\x00", "")  # as it can stand on a command line
MODEL = "m" + "".join(TERMINAL.values()).replace("\x00", "") + "[bold]x[/]"


async def hostile_server(request: web.Request) -> web.Response:
    """Proposes and answers the whole corpus, now and then as an error."""
    if request.method == "GET":
        return web.Response(status=404, text=codec.clean(EVERYTHING))
    prompt = orjson.loads(await request.read())["messages"][-1]["content"]
    number = sum(prompt.encode())
    if number % 7 == 0 and "square brackets" not in prompt:
        message = {"error": {"message": EVERYTHING, "code": EVERYTHING, "type": EVERYTHING}}
        return web.Response(status=400, body=codec.dumps(message), content_type="application/json")
    texts = list(SHORT.values())
    text = f"[Say {texts[number % len(texts)]} it.]" if "square brackets" in prompt else "yes " + EVERYTHING
    return web.Response(body=good(codec.clean(text)), content_type="application/json")


def check_terminal(ran: Ran) -> str:
    text = ran.out.decode()
    bare = OURS.sub("", text)
    strange = sorted({char for char in bare if char != "\n" and not char.isprintable()})
    assert strange == [], bare
    return text


def own_task(folder: Path) -> str:
    """A task whose file, rows and name are hostile."""
    path = folder / "t\x1b[2J\u202e[bold]x.jsonl"
    rows = [{"input": f"{number} {text}", "target": "yes"} for number, text in enumerate(SHORT.values())]
    path.write_bytes(b"\n".join(codec.dumps(row) for row in rows))
    return str(path)


@pytest.mark.real
@pytest.mark.anyio
@pytest.mark.row("X03")
async def test_only_our_own_codes_reach_the_terminal(tmp_path: Path) -> None:
    shell, task = Shell(tmp_path), own_task(tmp_path)
    async with serving(hostile_server) as url:
        models = ["--scorer", MODEL, "--base-url", url, "--limit", "12"]
        run = ["run", task, *models, "--steps", "2", "--directory", "run", "--trace"]
        ran = await shell.on_terminal(*run)
        assert ran.code in (0, 1), ran.out.decode()
        shown = check_terminal(ran)
        assert "\x1b[2K" in shown  # the live panel was there
        assert "best" in shown
        for command in (
            ["show", "run"],
            ["resume", "run"],
            ["eval", task, TYPED, *models],
            ["run", task, *models, "--dry-run"],
            ["run", f"{TYPED[:200]}.jsonl", *models],
            ["show", "\x1b[2Jnowhere"],
            ["run", task, *models, "--set", "task.kind=\x1b[2J"],
            ["run", task, *models, "--set", "optimizer.\x1b[2Jsteps=2"],
            ["run", task, *models, "--steps", "1", "--directory", "\x1b[2J\u202erun", "--json"],
            ["show", "\x1b[2J\u202erun"],
            ["show", "run", "--json"],
            ["eval", task, TYPED, *models, "--json"],
            ["run", task, *models, "--dry-run", "--json"],
            ["tasks", "ls"],
            ["best", "run"],
            ["best", "run", "--json"],
            ["compare", "run", "\x1b[2J\u202erun"],
            ["compare", "run", "\x1b[2J\u202erun", "--json"],
            ["export", "run", "--what", "calls"],
            ["export", "run", "--format", "csv"],
            ["report", "\x1b[2J\u202erun"],
            ["ctl", "\x1b[2J\u202erun"],
            ["ctl", "run", "\x1b[2J"],
            ["plan", task, *models, "--pilot", "4"],
            ["plan", task, *models, "--pilot", "0", "--json"],
        ):
            ran = await shell.on_terminal(*command)
            assert ran.code in (0, 1, 2), ran.out.decode()
            assert check_terminal(ran)


@pytest.mark.real
@pytest.mark.anyio
@pytest.mark.row("X03")
async def test_a_sweep_too_shows_nothing_but_text(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    setting = orjson.dumps("s\x1b[2J\u202e[bold]x").decode()
    file = f'name = {setting}\ntasks = ["capital"]\nseeds = [0, 1]\n[settings.{setting}]\noptimizer.steps = 1\n'
    (tmp_path / "sweep.toml").write_text(file.replace("\u202e", "\\u202e"))
    async with serving(hostile_server) as url:
        on = ["--scorer", MODEL, "--base-url", url, "--set", "task.limit=5"]
        ran = await shell.on_terminal("sweep", "sweep.toml", *on, "--directory", "swept")
        assert ran.code in (0, 1), ran.out.decode()
        check_terminal(ran)
        assert check_terminal(await shell.on_terminal("show", "swept"))


@pytest.mark.real
@pytest.mark.anyio
@pytest.mark.row("T12")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
async def test_a_stream_that_has_not_all_characters_costs_nobody_a_result(encoding: str, tmp_path: Path) -> None:
    shell, task = Shell(tmp_path), own_task(tmp_path)
    shell.environment["PYTHONIOENCODING"] = encoding
    async with serving(hostile_server) as url:
        on = ["--scorer", MODEL, "--base-url", url, "--limit", "12"]
        for command in (["run", task, *on, "--steps", "1", "--directory", "run"], ["eval", task, TYPED, *on]):
            for json_lines in ([], ["--json"]):
                ran = await shell.run(*command, *json_lines)
                assert ran.code in (0, 1), ran.err.decode(encoding)
                assert b"Traceback" not in ran.err
                assert all(json.loads(line) for line in ran.out.splitlines() if json_lines)


@pytest.mark.real
@pytest.mark.anyio
@pytest.mark.row("X01", "X03")
async def test_json_lines_stay_json_and_have_every_text_exactly(tmp_path: Path) -> None:
    shell, task = Shell(tmp_path), own_task(tmp_path)
    async with serving(hostile_server) as url:
        on = ["--scorer", MODEL, "--base-url", url, "--limit", "12", "--json"]
        ran = await shell.run("run", task, *on, "--steps", "2", "--directory", "run")
        lines = [json.loads(line) for line in ran.out.split(b"\n") if line]
        assert lines[0]["models"]["scorer"]["name"] == MODEL
        assert lines[0]["task"]["name"] == Path(task).stem
        assert lines[-1]["event"] == "done"
        assert is_plain(ran.err.decode())
        shown = json.loads((await shell.run("show", "run", "--json")).out)
        assert shown["manifest"]["subject"]["models"]["scorer"]["name"] == MODEL
        kept = {row["candidate"] for record in shown["records"] for row in record.get("entries", ())}
        told = {line["candidate"] for line in lines if line["event"] == "candidate"}
        assert kept == told
        evaluated = await shell.run("eval", task, TYPED, *on)
        last = json.loads(evaluated.out.split(b"\n")[-2])
        assert last["instructions"][0]["instruction"] == TYPED
