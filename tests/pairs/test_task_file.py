"""Tasks from files: what is read, how it is split, and what a malformed file is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from basisbench.errors import TaskError
from basisbench.pairs.alignment import load_splits
from basisbench.pairs.lexicon import word_lists
from basisbench.pairs.task_file import SMALLEST_SHARE, load_task_file
from basisbench.protocols import Task
from basisbench.types import SPLITS
from basisbench_baselines.pocket.corpus.stream import build_tokenizer

NOUNS = word_lists("attribution").nouns
OBJECTS = word_lists("attribution").objects
ROWS = [
    {
        "clean_prefix": f"The {noun.singular} near the {item.plural}",
        "patch_prefix": f"The {noun.plural} near the {item.plural}",
        "clean_answer": " is",
        "patch_answer": " are",
        "case": "singular_plural",
    }
    for noun in NOUNS
    for item in OBJECTS[:6]
]
GOOD = json.dumps(ROWS[0])


def write(folder: Path, text: str, name: str = "pairs.json") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def lines(rows: list[dict[str, str]]) -> str:
    return "\n".join(map(json.dumps, rows)) + "\n"


def test_lines_and_array_give_the_same_pairs(tmp_path: Path) -> None:
    by_lines = load_task_file(write(tmp_path, lines(ROWS)))
    by_array = load_task_file(write(tmp_path, json.dumps(ROWS, indent=1), "array.json"))
    assert by_lines.by_split == by_array.by_split
    assert isinstance(by_lines, Task)
    assert by_lines.name == "pairs"
    first = next(by_lines.candidates("attribution", 0))
    assert first.answers == (" is",)
    assert first.foils == (" are",)


def test_version_follows_the_content(tmp_path: Path) -> None:
    version = load_task_file(write(tmp_path, lines(ROWS))).version
    assert re.fullmatch(r"[0-9a-f]{12}", version)
    assert load_task_file(write(tmp_path, lines(ROWS), "other.json")).version == version
    assert load_task_file(write(tmp_path, lines(ROWS[1:]))).version != version


def test_a_file_works_as_a_task(tmp_path: Path) -> None:
    task = load_task_file(write(tmp_path, lines(ROWS)))
    attribution, evaluation = load_splits(task, build_tokenizer(), attribution=50, evaluation=40, seed=0)
    assert (attribution.pair_count, evaluation.pair_count) == (50, 40)
    assert attribution[0].roles == ("bos", *["prompt"] * 5)
    assert attribution[0].version == task.version


def test_a_file_may_name_clusters(tmp_path: Path) -> None:
    plain = load_task_file(write(tmp_path, lines(ROWS)))
    rows = [row | {"clusters": {"noun": row["clean_prefix"].split()[1]}} for row in ROWS]
    named = load_task_file(write(tmp_path, json.dumps(rows), "named.json"))
    for task, factor in ((plain, "words"), (named, "noun")):
        _, evaluation = load_splits(task, build_tokenizer(), attribution=50, evaluation=40, seed=0)
        for group in evaluation:
            words = [text.split()[1] for text in group.clean_text]
            expected = [noun if factor == "noun" else f"{noun} {noun}s" for noun in words]
            assert group.clusters.keys() == {factor}
            assert [level.split()[0] for level in group.clusters[factor]] == [level.split()[0] for level in expected]


def test_pairs_that_share_a_differing_word_stay_together(tmp_path: Path) -> None:
    task = load_task_file(write(tmp_path, lines(ROWS)))
    assert task.words_disjoint
    attribution, evaluation = ({word for pair in task.by_split[split] for word in pair.words} for split in SPLITS)
    assert attribution
    assert evaluation
    assert not attribution & evaluation
    sizes = [len(task.by_split[split]) for split in SPLITS]
    assert sum(sizes) == len(ROWS)
    assert min(sizes) >= SMALLEST_SHARE * len(ROWS)


def test_where_words_cannot_be_kept_apart_prompts_still_are(tmp_path: Path) -> None:
    rows = [
        row | {"clean_prefix": f"He saw {index}", "patch_prefix": f"She saw {index}"} for index, row in enumerate(ROWS)
    ]
    task = load_task_file(write(tmp_path, lines(rows)))
    assert not task.words_disjoint
    assert len(task.by_split["attribution"]) == len(task.by_split["evaluation"]) == len(ROWS) / 2


@given(
    chosen=st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh"), st.sampled_from("xyz")).filter(
            lambda triple: triple[0] != triple[1]
        ),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_prompt_is_in_both_splits(tmp_path: Path, chosen: list[tuple[str, str, str]]) -> None:
    rows = [
        {
            "clean_prefix": f"{first} {end}",
            "patch_prefix": f"{second} {end}",
            "clean_answer": " p",
            "patch_answer": " q",
        }
        for first, second, end in chosen
    ]
    task = load_task_file(write(tmp_path, lines(rows)))
    prompts = [
        {text for pair in task.by_split[split] for text in (pair.clean_text, pair.counterfactual_text)}
        for split in SPLITS
    ]
    assert not prompts[0] & prompts[1]
    assert sum(map(len, task.by_split.values())) == len({tuple(row.values()) for row in rows})
    if task.words_disjoint:
        words = [{word for pair in task.by_split[split] for word in pair.words} for split in SPLITS]
        assert not words[0] & words[1]


def test_order_comes_from_the_seed_alone(tmp_path: Path) -> None:
    task = load_task_file(write(tmp_path, lines(ROWS)))
    first = list(task.candidates("evaluation", 0))
    assert first == list(task.candidates("evaluation", 0))
    other = list(task.candidates("evaluation", 1))
    assert first != other
    assert set(first) == set(other)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (f"{GOOD}\n{GOOD[:-1]}\n", 2, "not JSON"),
        (f"{GOOD}\n\n[1, 2]\n", 3, "expected an object"),
        (f"{GOOD}\n{json.dumps(ROWS[1] | {'patch_answer': 3})}\n", 2, "field 'patch_answer' must be text"),
        (f"{GOOD}\n{json.dumps(ROWS[1] | {'clean_prefix': ' '})}\n", 2, "field 'clean_prefix' must be text"),
        (f'{GOOD}\n{{"clean_prefix": "The boy", "clean_answer": " is"}}\n', 2, "field 'patch_prefix' is missing"),
        (f"{GOOD}\n{json.dumps(ROWS[1] | {'patch_answer': ' is'})}\n", 2, "field 'patch_answer' equals 'clean_answer'"),
        (f"[\n{GOOD},\n{GOOD}\n{GOOD}]", 4, "expected ',' or ']'"),
        (f"[\n{GOOD},\n{{}}\n]", 3, "field 'clean_prefix' is missing"),
        (f"[\n{GOOD},\n", 3, "not JSON"),
        (f"[\n{GOOD}\n]\n{GOOD}", 4, "after the end of the array"),
        (f"[{GOOD},]", 1, "not JSON"),
        (
            f"{GOOD}\n{json.dumps(ROWS[1] | {'clusters': ['doctor']})}\n",
            2,
            "field 'clusters' must be an object of levels",
        ),
        (
            f"{GOOD}\n{json.dumps(ROWS[1] | {'clusters': {'noun': 3}})}\n",
            2,
            "by factor, each a text, found {'noun': 3}",
        ),
    ],
)
def test_a_malformed_file_is_refused_with_the_line_at_fault(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(TaskError) as caught:
        load_task_file(path)
    message = str(caught.value)
    assert message.startswith(f"task file {path}, line {line}: ")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["", "\n \n", "[]", "[ ]\n"])
def test_a_file_without_pairs_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TaskError, match="holds no pairs"):
        load_task_file(write(tmp_path, text))


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"missing\.json: cannot be read"):
        load_task_file(tmp_path / "missing.json")
    path = tmp_path / "bytes.json"
    path.write_bytes(GOOD.encode() + b"\n\xff\n")
    with pytest.raises(TaskError, match="line 2: not UTF-8"):
        load_task_file(path)


def test_a_file_whose_pairs_do_not_align_names_the_reason(tmp_path: Path) -> None:
    task = load_task_file(write(tmp_path, lines([row | {"clean_answer": " is not"} for row in ROWS])))
    with pytest.raises(TaskError, match=r"'pairs' has no usable attribution pairs .* single token"):
        load_splits(task, build_tokenizer(), attribution=10, evaluation=10, seed=0)
