"""The travelling salesman demo: instances, the proven optimum, the heuristics, and whole studies with scripted models."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt import OPRO, ConfigError, Engine, RandomSearch, Result, Study
from asyncopt.cli.summary import summary_lines
from asyncopt.optimizers.base import Seen
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.opro.tours import TourDomain
from asyncopt.result import result_of
from asyncopt.tasks import TSP, catalogue, load
from asyncopt.tasks.shortest_tour import branch_and_cut, held_karp
from asyncopt.tasks.tours import (
    Points,
    farthest_insertion,
    format_tour,
    nearest_neighbour,
    parse_tour,
    tour_length,
)
from asyncopt.testing import AnswerModel, SimulatedAPI, run_virtual
from asyncopt.testing.tours import descend_from_random, propose_tour, two_opt

SQUARE = [(0, 0), (10, 10), (10, 0), (0, 10)]


def is_tour(tour: list[int], nodes: int) -> bool:
    return tour[0] == 0 and sorted(tour) == list(range(nodes))


def listed(candidate: str) -> list[int]:
    return [int(node) for node in candidate.split(",")]


# -- instances ---------------------------------------------------------------------------------------------------------


def test_an_instance_is_the_same_everywhere() -> None:
    assert TSP(4).points == ((-85, -62), (-67, 95), (-43, -77), (-35, 22))
    assert TSP().fingerprint == "82570ed6380b1299a2c45980d093c7a5c1fa267633191550ecbedbf93461cc30"
    others = [TSP(), TSP(instance=1), TSP(11), TSP(starts=4)]
    assert len({task.fingerprint for task in others}) == 4


@pytest.mark.parametrize("nodes", [4, 10, 50, 200])
def test_points_are_whole_numbers_in_the_square_and_all_different(nodes: int) -> None:
    for instance in range(5):
        points = TSP(nodes, instance).points
        assert len(set(points)) == len(points) == nodes
        assert all(type(value) is int and -100 < value < 100 for point in points for value in point)


def test_points_fill_the_square() -> None:
    values = [value for instance in range(20) for point in TSP(200, instance).points for value in point]
    assert abs(sum(values)) / len(values) < 3
    assert min(values) == -99
    assert max(values) == 99


@pytest.mark.parametrize("instance", range(5))
def test_starting_points_are_different_tours_and_no_optimum(instance: int) -> None:
    task = TSP(10, instance)
    starts = task.initial()
    assert len(set(starts)) == 5
    assert all(is_tour(listed(tour), 10) and not task.solved(tour) for tour in starts)
    assert starts == TSP(10, instance).initial() != TSP(10, instance + 1).initial()
    assert len(TSP(10, instance, starts=7).initial()) == 7


def test_of_six_tours_through_four_points_those_that_are_not_shortest_are_the_starting_points() -> None:
    task = TSP(4)
    every = [format_tour([0, *rest]) for rest in itertools.permutations((1, 2, 3))]
    assert sorted(task.initial()) == sorted(tour for tour in every if not task.solved(tour))
    assert len(task.initial()) == 4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"nodes": 3}, "nodes of tsp is 3; it must be an integer from 4 to 200"),
        ({"nodes": 201}, "nodes"),
        ({"nodes": 10.0}, "nodes"),
        ({"nodes": "10"}, "nodes"),
        ({"instance": -1}, "instance"),
        ({"instance": True}, "instance"),
        ({"starts": 0}, "starts"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        TSP(**options)


def test_it_is_loaded_by_name_and_the_seed_chooses_the_instance() -> None:
    assert load("tsp", seed=3) == TSP(10, 3)
    assert load("tsp", seed=3, options={"nodes": 5, "instance": 1, "starts": 2}) == TSP(5, 1, 2)
    assert "tsp" in [info.name for info in catalogue()]
    with pytest.raises(ConfigError, match="did you mean 'nodes'"):
        load("tsp", options={"node": 5})


def test_loading_computes_the_optimum() -> None:
    # Later it would be computed within the event loop of the study.
    assert "optimum" in vars(load("tsp", options={"nodes": 13}))


# -- tours -------------------------------------------------------------------------------------------------------------


def test_lengths_of_known_tours() -> None:
    assert tour_length([(0, 0), (3, 0), (3, 4)], [0, 1, 2]) == 12.0
    assert tour_length(SQUARE, [0, 2, 1, 3]) == 40.0
    assert tour_length(SQUARE, [0, 1, 2, 3]) == pytest.approx(20 + 20 * math.sqrt(2), rel=1e-15)


@given(st.integers(0, 1000), st.integers(0, 9))
def test_neither_direction_nor_start_changes_a_length(seed: int, turn: int) -> None:
    task = TSP(10, seed)
    tour = listed(task.random(Random(seed)))
    length = tour_length(task.points, tour)
    assert length == tour_length(task.points, tour[::-1]) == tour_length(task.points, tour[turn:] + tour[:turn])


def test_nearest_neighbour_goes_on_to_the_nearest_and_of_equals_to_the_first() -> None:
    assert nearest_neighbour([(0, 0), (3, 0), (1, 0), (-2, 0), (3, 1)]) == [0, 2, 1, 4, 3]
    assert nearest_neighbour([(0, 0), (0, 1), (1, 0), (0, -1)]) == [0, 1, 2, 3]


def test_farthest_insertion_takes_the_dearest_point_at_its_cheapest_place() -> None:
    # From [0, 2], the farthest point, point 1 costs 4 + 3 - 5 and point 3 only 2 + sqrt(17) - 5: so 1 comes first.
    assert farthest_insertion([(0, 0), (4, 0), (4, 3), (0, 2)]) == [0, 1, 2, 3]
    # From [0, 3], point 2 costs 1 + 4 - 3 at either place, and then point 1 nothing between 2 and 3, but 2 before.
    assert farthest_insertion([(0, 0), (0, 1), (0, -1), (0, 3)]) == [0, 2, 1, 3]


def by_hand(points: Points) -> list[int]:
    """Farthest insertion by measuring every tour that there could be next."""
    tour = [0]
    while len(tour) < len(points):
        left = [node for node in range(len(points)) if node not in tour]
        grown = {node: [[*tour[:i], node, *tour[i:]] for i in range(1, len(tour) + 1)] for node in left}
        best = {node: min(tours, key=lambda tour: tour_length(points, tour)) for node, tours in grown.items()}
        tour = best[max(left, key=lambda node: tour_length(points, best[node]))]
    return tour


@pytest.mark.parametrize("nodes", [4, 10, 15])
def test_farthest_insertion_is_that_of_whole_tours(nodes: int) -> None:
    for instance in range(5):
        points = TSP(nodes, instance).points
        assert tour_length(points, farthest_insertion(points)) == pytest.approx(tour_length(points, by_hand(points)))


# -- the optimum -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [4, 5, 6, 7])
def test_dynamic_programming_finds_the_shortest_of_all_tours(nodes: int) -> None:
    for instance in range(5):
        points = TSP(nodes, instance).points
        every = (tour_length(points, [0, *rest]) for rest in itertools.permutations(range(1, nodes)))
        tour = held_karp(points)
        assert is_tour(tour, nodes)
        assert tour_length(points, tour) == pytest.approx(min(every), rel=1e-12)


@pytest.mark.parametrize("nodes", range(4, 13))
def test_integer_programming_agrees_with_dynamic_programming(nodes: int) -> None:
    for instance in range(12):  # 108 instances in all
        points = TSP(nodes, instance).points
        tour = branch_and_cut(points)
        assert is_tour(tour, nodes)
        assert tour_length(points, tour) == pytest.approx(tour_length(points, held_karp(points)), abs=1e-9)


# By a plain integer program over all edges, without bounds on which of them can be in a shortest tour.
OPTIMA = {
    (15, 0): 588.779944088626, (15, 1): 738.7422940491969, (15, 2): 771.1407035869511,
    (20, 0): 829.5094293169226, (20, 1): 679.6262103319619, (20, 2): 759.9315548941174,
    (50, 0): 1093.9721817333502, (50, 1): 1137.8509511181462, (50, 2): 1194.4429646583624,
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "instance"), OPTIMA)
def test_optima_of_the_papers_sizes(nodes: int, instance: int) -> None:
    task = TSP(nodes, instance)
    assert is_tour(task.optimum, nodes)
    assert task.optimum_loss == pytest.approx(OPTIMA[nodes, instance], abs=1e-6)


def test_the_shortest_tour_through_points_on_a_circle_goes_round_it() -> None:
    ring = [(round(10**6 * math.cos(0.1256 * k)), round(10**6 * math.sin(0.1256 * k))) for k in range(50)]
    order = Random(0).sample(range(50), 50)
    tour = branch_and_cut([ring[k] for k in order])
    steps = {(order[b] - order[a]) % 50 for a, b in zip(tour, tour[1:] + tour[:1], strict=True)}
    assert steps in ({1}, {49})


def test_of_many_shortest_tours_on_a_grid_one_is_found() -> None:
    grid = [(x, y) for x in range(6) for y in range(5)]
    assert tour_length(grid, branch_and_cut(grid)) == 30.0


def test_far_groups_are_joined_by_one_tour() -> None:
    # The relaxation would go round each group on its own.
    points = [(x + far, y + far) for far in (0, 10**4, 3 * 10**4) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1), (2, 3))]
    tour = branch_and_cut(points)
    assert is_tour(tour, 15)
    between = sum(a // 5 != b // 5 for a, b in zip(tour, tour[1:] + tour[:1], strict=True))
    assert between == 4  # out to each group and back: all three lie on one line


@pytest.mark.parametrize("instance", range(5))
def test_the_shortest_of_all_tours_are_solutions_in_both_directions_and_no_others_are(instance: int) -> None:
    task = TSP(6, instance)
    every = [[0, *rest] for rest in itertools.permutations(range(1, 6))]
    least = min(tour_length(task.points, tour) for tour in every)
    solved = [tour for tour in every if task.solved(format_tour(tour))]
    assert solved == [tour for tour in every if tour_length(task.points, tour) < least + 1e-6]
    assert [0, *task.optimum[:0:-1]] in solved
    assert task.optimum in solved


def test_the_report_holds_the_gap_against_the_optimum_and_both_heuristics() -> None:
    task = TSP(15, 2)
    best = task.initial()[0]
    report = task.report(best, {*task.initial(), "more"})
    assert report["unique_tours"] == 6
    assert report["start"] == [[tour, task.loss_of(tour)] for tour in task.initial()]
    assert report["gap"] == pytest.approx(100 * (task.loss_of(best) / OPTIMA[15, 2] - 1))
    assert not report["solved"]
    assert task.report(format_tour(task.optimum), [])["gap"] == 0.0
    lengths = report["baselines"]
    assert list(lengths) == ["nearest_neighbour", "farthest_insertion"]
    assert all(length >= task.optimum_loss for length in lengths.values())


def test_heuristics_are_as_far_from_the_optimum_as_in_the_paper() -> None:
    # Table 3, five problems of 50 nodes: 19.7 +- 3.1 % and 9.8 +- 1.5 %.
    reports = [TSP(50, instance).report(TSP(50, instance).initial()[0], []) for instance in range(3)]
    for name, low, high in (("nearest_neighbour", 10, 35), ("farthest_insertion", 3, 15)):
        gaps = [100 * (report["baselines"][name] / report["optimum_loss"] - 1) for report in reports]
        assert low < sum(gaps) / len(gaps) < high


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tour"),
    [
        ("<trace>0,3,1,2</trace>", [0, 3, 1, 2]),
        ("Shorter: <trace> 0, 3,\n1 ,2 </trace>.", [0, 3, 1, 2]),
        ("<trace>0,1,2,3</trace> or <trace>0,3,1,2</trace>", [0, 1, 2, 3]),  # the first
        ("<trace>0,three,3,,1,2.5,2</trace>", [0, 3, 1, 2]),  # what is no integer is passed over
        ("</trace><trace>0,1,2,3</trace>", [0, 1, 2, 3]),
        ("<trace>+0,01,0002,3</trace>", [0, 1, 2, 3]),
        ("<trace>0,1,2</trace>", None),
        ("<trace>0,1,2,3,0</trace>", None),
        ("<trace>0,1,1,2,3</trace>", None),
        ("<trace>1,0,2,3</trace>", None),
        ("<trace>0,1,2,4</trace>", None),
        ("<trace>0,1,2,-1</trace>", None),  # Python would take -1 for 3, and the reference does
        ("<trace>0 1 2 3</trace>", None),
        ("<trace>0,1,2,3", None),
        ("0,1,2,3</trace>", None),
        ("0,1,2,3", None),
        ("<TRACE>0,1,2,3</TRACE>", None),
        ("between <trace> and </trace>: <trace>0,1,2,3</trace>", None),
        ("", None),
    ],
)
def test_tours_are_read_as_in_the_reference(text: str, tour: list[int] | None) -> None:
    assert parse_tour(text, 4) == tour
    assert TourDomain(TSP(4)).read("meta-prompt", text).text == (tour and format_tour(tour))


@given(st.text(alphabet="<>/trace0123-, \n٣_") | st.text())
def test_no_text_raises_and_what_is_read_is_a_tour(text: str) -> None:
    for answer in (text, f"<trace>{text}</trace>"):
        tour = parse_tour(answer, 3)
        assert tour is None or is_tour(tour, 3)


@given(st.permutations(range(1, 12)))
def test_a_formatted_tour_reads_back(rest: list[int]) -> None:
    assert parse_tour(f"<trace> {format_tour([0, *rest])} </trace>", 12) == [0, *rest]


@pytest.mark.parametrize("piece", ["<trace>", "</trace>", "0,", ",", "9", "-", "<trace>0,1,2,3</trac"])
def test_a_hostile_megabyte_is_read(piece: str) -> None:
    # Quadratic time would run into the suite's time limit.
    many = piece * (1_000_000 // len(piece))
    for text in (many, f"<trace>{many}</trace>"):
        assert parse_tour(text, 4) is None


# -- the meta-prompt ---------------------------------------------------------------------------------------------------


def asked(task: TSP, lengths: dict[str, float], limit: int = 10) -> str:
    history = History(
        maximize=False, entries=[Entry(tour, length, 0, i, 1) for i, (tour, length) in enumerate(lengths.items())]
    )
    ask = TourDomain(task).ask("meta-prompt", history.view(limit), Seen(0, history), Random(0))
    assert isinstance(ask.prompt, str)
    return ask.prompt


def test_the_meta_prompt_has_the_papers_structure() -> None:
    prompt = asked(TSP(4), {"0,3,1,2": 512.9, "0,1,2,3": 498.2, "0,2,1,3": 700.0})
    points, explained, *blocks, request = prompt.split("\n\n")
    assert points.splitlines()[1] == "(0): (-85, -62), (1): (-67, 95), (2): (-43, -77), (3): (-35, 22)."
    assert "descending order" in explained
    assert blocks == [
        "<trace> 0,2,1,3 </trace>\nlength:\n700",
        "<trace> 0,3,1,2 </trace>\nlength:\n512",
        "<trace> 0,1,2,3 </trace>\nlength:\n498",
    ]
    for wish in ("different from all", "lower than all", "every point exactly once", "<trace> and </trace>"):
        assert wish in request


def test_only_the_shortest_are_shown_the_longest_of_them_first() -> None:
    task = TSP(10)
    tours = {task.random(Random(seed)): 0.0 for seed in range(25)}
    prompt = asked(task, {tour: task.loss_of(tour) for tour in tours})
    shown = [int(length) for length in re.findall(r"length:\n(\d+)", prompt)]
    assert shown == sorted((int(task.loss_of(tour)) for tour in tours), reverse=True)[-10:]


def test_the_grammar_states_how_many_nodes_there_are() -> None:
    ask = TourDomain(TSP(7)).ask("meta-prompt", [], Seen(0, History(maximize=False)), Random(0))
    assert ask.grammar is not None
    assert '"<trace> 0" ("," node){6} " </trace>"' in ask.grammar


# -- whole studies -----------------------------------------------------------------------------------------------------


class Climber(AnswerModel):
    """Multi-start 2-opt: every sample is a random tour made better until no exchange of two edges helps."""

    def judged(self, prompt: str, draw: str = "") -> tuple[str, bool]:
        return descend_from_random(prompt, draw), False


def searched(
    task: TSP, model: AnswerModel, steps: int, directory: Path | None = None
) -> tuple[Result, SimulatedAPI, Study]:
    api = SimulatedAPI(answers=model)
    task.optimum  # noqa: B018

    async def main() -> tuple[Result, SimulatedAPI, Study]:
        async with Engine() as engine:
            proposer = engine.model("m", endpoint=api.endpoint())
            optimizer = OPRO(steps=steps, history_size=10)
            study = Study(task=task, optimizer=optimizer, proposer=proposer, seed=task.instance, directory=directory)
            return await study.run(), api, study

    return run_virtual(main)


@pytest.mark.parametrize("instance", range(10))
def test_multi_start_local_search_ends_at_the_optimum(instance: int) -> None:
    task = TSP(10, instance)
    result, api, study = searched(task, Climber(0), steps=20)
    assert (result.solved, result.gap) == (True, 0.0)
    assert result.best is not None
    assert result.best.loss == pytest.approx(task.optimum_loss)
    tried = [entry.candidate for entry in study.history.entries]
    assert all(is_tour(listed(tour), 10) for tour in tried)
    assert result.unique_tours == len(set(tried))
    prompts = [entry.prompt for entry in api.ledger.entries]
    assert result.steps == len(set(prompts))  # the samples of a step share their prompt
    assert all(5 <= prompt.count("length:") <= 10 for prompt in prompts if prompt)


def test_the_simulated_model_walks_towards_shorter_tours() -> None:
    task = TSP(10, 1)
    result, _, study = searched(task, AnswerModel(0), steps=30)
    assert result.best is not None
    assert result.best.loss is not None
    assert result.best.loss < min(task.loss_of(tour) for tour in task.initial())
    assert all(is_tour(listed(entry.candidate), 10) for entry in study.history.entries)
    blind = run_virtual(lambda: Study(task=task, optimizer=RandomSearch(steps=result.steps), seed=1).run())
    assert blind.best is not None
    assert blind.best.loss is not None
    assert result.best.loss < blind.best.loss


def test_a_result_is_read_back_and_summed_up(tmp_path: Path) -> None:
    result, _, _ = searched(TSP(10, 2), AnswerModel(0), steps=2, directory=tmp_path / "run")
    blind = run_virtual(lambda: Study(task=TSP(10, 2), optimizer=RandomSearch(steps=2)).run())
    assert result_of(result.to_json()) == result
    assert result.best is not None
    text = "\n".join(summary_lines(result, blind, tmp_path, None))
    assert f"optimum  length {result.optimum_loss:.3f}" in text
    assert "nearest neighbour: length " in text
    assert "farthest insertion: length " in text
    assert (
        f"best {result.best.candidate} with length {result.best.loss:.3f}, gap {result.gap:.2f} %, not found in 2 steps"
        in text
    )
    assert re.search(r"random +best 0,[\d,]+ with length [\d.]+, gap [\d.]+ %, .* unique tours", text)


# -- the simulated model -----------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
def test_a_proposal_is_a_tour_that_is_not_shown(seed: int) -> None:
    task = TSP(6)
    prompt = asked(task, {tour: task.loss_of(tour) for tour in task.initial()})
    answer = propose_tour(Random(seed), prompt)
    assert answer is not None
    tour = parse_tour(answer, 6)
    assert tour is not None
    assert format_tour(tour) not in task.initial()


def test_without_traces_there_is_no_proposal() -> None:
    assert propose_tour(Random(0), "Give a new trace between <trace> and </trace>.") is None
    assert "trace" not in AnswerModel(0).answer("What is 2 plus 3?")


def test_two_opt_ends_where_no_exchange_helps() -> None:
    assert tour_length(SQUARE, two_opt(SQUARE, [0, 1, 2, 3])) == 40.0
    for seed in range(20):
        task = TSP(8, seed)
        tour = two_opt(list(task.points), listed(task.random(Random(seed))))
        assert is_tour(tour, 8)
        length = tour_length(task.points, tour)
        for i, j in itertools.combinations(range(1, 9), 2):
            assert tour_length(task.points, tour[:i] + tour[i:j][::-1] + tour[j:]) >= length - 1e-9
