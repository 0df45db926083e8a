"""Formats of prompt pairs: tables, datasets, chat messages, several answers; and files that are none of these."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from basisbench.errors import TaskError
from basisbench.pairs.alignment import load_splits
from basisbench.pairs.lexicon import word_lists
from basisbench.pairs.task_file import load_task_file
from basisbench.types import SPLITS
from basisbench_baselines.pocket.corpus.stream import build_tokenizer

NOUNS = word_lists("attribution").nouns
OBJECTS = word_lists("attribution").objects
PROMPTS = [
    (f"The {noun.singular} near the {item.plural}", f"The {noun.plural} near the {item.plural}")
    for noun in NOUNS
    for item in OBJECTS[:6]
]


def table(header: str, cells: list[tuple[object, ...]], delimiter: str = ",") -> str:
    return "\n".join([header.replace(",", delimiter), *(delimiter.join(map(str, row)) for row in cells)]) + "\n"


def write(folder: Path, text: str, name: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def texts(task: object) -> set[tuple[object, ...]]:
    return {
        (pair.clean_text, pair.counterfactual_text, pair.answers, pair.foils)
        for split in SPLITS
        for pair in task.by_split[split]  # type: ignore[attr-defined] # a FileTask
    }


@pytest.mark.parametrize(
    ("name", "delimiter"), [("pairs.csv", ","), ("pairs.tsv", "\t"), ("semicolons.csv", ";"), ("unnamed", ",")]
)
def test_a_table_gives_the_pairs_of_the_same_json(tmp_path: Path, name: str, delimiter: str) -> None:
    rows = [(index, *both, " is", '"  are"') for index, both in enumerate(PROMPTS)]
    found = load_task_file(write(tmp_path, table(",clean,corrupted,answer,foil", rows, delimiter), name))
    same = [
        {"clean_prefix": clean, "patch_prefix": patch, "clean_answer": " is", "patch_answer": "  are"}
        for clean, patch in PROMPTS
    ]
    assert texts(found) == texts(load_task_file(write(tmp_path, json.dumps(same), "same.json")))


@pytest.mark.parametrize("names", ["correct_idx,incorrect_idx", "answers_idx,corrupted_answers_idx"])
def test_token_ids_are_those_of_the_models_tokenizer(tmp_path: Path, names: str) -> None:
    tokenizer = build_tokenizer()
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (" is", " has", " are", " have")]
    both = [(f"[{ids[0]}; {ids[1]}]", ids[2]), (ids[0], ids[2])]["correct" in names]
    cells = [(index, clean, patch, *both) for index, (clean, patch) in enumerate(PROMPTS)]
    text = table(f",clean,corrupted,{names}", cells).replace("[", '"[').replace("]", ']"').replace(";", ",")
    evaluation = load_splits(
        load_task_file(write(tmp_path, text, "ids.csv")), tokenizer, attribution=40, evaluation=40, seed=0
    )[1]
    expected = [ids[0]] if "correct" in names else ids[:2]
    for group in evaluation:
        assert (group.answers == expected).all()
        assert (group.foils == [ids[2]]).all()


def test_token_ids_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    cells = [(clean, patch, 50_000, 7) for clean, patch in PROMPTS]
    task = load_task_file(write(tmp_path, table("clean,corrupted,correct_idx,incorrect_idx", cells), "ids.csv"))
    with pytest.raises(
        TaskError, match=r"task 'ids': token id 50000 is beyond the tokenizer's \d+; .* another tokenizer"
    ):
        load_splits(task, build_tokenizer(), attribution=40, evaluation=40, seed=0)


def test_several_answers_are_the_mean_over_all_of_them(tmp_path: Path) -> None:
    rows = [
        {"clean": clean, "counterfactual": patch, "answers": [" is", " has", " is"], "foils": [" are", " have"]}
        for clean, patch in PROMPTS
    ]
    task = load_task_file(write(tmp_path, json.dumps(rows), "several.json"))
    evaluation = load_splits(task, build_tokenizer(), attribution=40, evaluation=40, seed=0)[1]
    assert all(group.answers.shape[1] == group.foils.shape[1] == 2 for group in evaluation)


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = {word for both in PROMPTS for text in both for word in text.split()}
    known = ["<s>", "<unk>", *sorted({*words, "is", "are", "user", "assistant", ".", "it"})]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }} {{ message['content'] }} . {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


def chat(text: str, *more: dict[str, str]) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, *more]


def test_chat_messages_go_through_the_models_template(tmp_path: Path) -> None:
    plain = [
        {
            "clean": f"user {clean} . assistant",
            "corrupted": f"user {patch} . assistant",
            "answer": " is",
            "foil": " are",
        }
        for clean, patch in PROMPTS
    ]
    talk = [
        row | {"clean": chat(clean), "corrupted": chat(patch)}
        for row, (clean, patch) in zip(plain, PROMPTS, strict=True)
    ]
    tasks = [load_task_file(write(tmp_path, json.dumps(rows), f"{at}.json")) for at, rows in enumerate((plain, talk))]
    tokenizer = word_tokenizer()
    with pytest.raises(TaskError, match="no chat template; give prompts as text"):
        load_splits(tasks[1], tokenizer, attribution=40, evaluation=40, seed=0)
    tokenizer.chat_template = TEMPLATE
    expected, found = (
        {tuple(row) for split in splits for group in split for row in group.clean.tolist()}
        for task in tasks
        for splits in [load_splits(task, tokenizer, attribution=200, evaluation=200, seed=0, bos="always")]
    )
    assert found == expected
    tokenizer.chat_template = "{{ raise_exception('no system\nplease') }}"
    with pytest.raises(TaskError, match=r"chat template refuses messages: no system$"):
        load_splits(tasks[1], tokenizer, attribution=40, evaluation=40, seed=0)


def test_a_message_of_the_assistant_is_continued(tmp_path: Path) -> None:
    rows = [
        {
            "clean": chat(clean, {"role": "assistant", "content": "it"}),
            "corrupted": chat(patch, {"role": "assistant", "content": "it"}),
            "answer": " is",
            "foil": " are",
        }
        for clean, patch in PROMPTS
    ]
    tokenizer = word_tokenizer()
    tokenizer.chat_template = TEMPLATE
    task = load_task_file(write(tmp_path, json.dumps(rows), "talk.json")).for_tokenizer(tokenizer)
    assert {pair.clean_text for pair in task.by_split["evaluation"]} <= {
        f"<s>user {clean} . assistant it" for clean, _ in PROMPTS
    }


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset in the layout of MIB's, which the `datasets` package finds by its name without a network."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mib" / "agreement"
    folder.mkdir(parents=True)
    rows = [
        {"prompt": clean, "choices": ["are", "is"], "answerKey": 1, "other": {"prompt": patch, "word": "are"}}
        for clean, patch in PROMPTS
    ]
    write(folder, "\n".join(map(json.dumps, rows)), "test.jsonl")
    return folder


COLUMNS = "clean=prompt&counterfactual=other.prompt&answer=+choices[answerKey]&foil=+other.word"


@pytest.mark.slow
@pytest.mark.usefixtures("dataset")
def test_a_dataset_of_the_hub_is_read_by_name_and_columns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    task = load_task_file(f"hub:mib/agreement?split=test&{COLUMNS}")
    assert task.name == "agreement"
    assert texts(task) == {(*both, (" is",), (" are",)) for both in PROMPTS}
    for wrong, said in (
        ("hub:mib/agreement?split=test", r"row 1: field 'clean_prefix' is missing"),
        (f"hub:mib/agreement?split=test&{COLUMNS}".replace("other.w", "other.x"), r"row 1: no column 'other.xord'"),
        (f"hub:mib/agreement?split=test&{COLUMNS}".replace("[answerKey]", "[prompt]"), "'choices' has nothing at 'The"),
        (f"hub:mib/agreement?{COLUMNS}", "cannot be loaded: .*train"),
    ):
        with pytest.raises(TaskError, match=said):
            load_task_file(wrong)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hub:mib", "expected hub:ORG/NAME, found 'mib'"),
        ("hub:a/b?split", "expected KEY=VALUE"),
        ("hub:a/b?splits=test", "'splits' is not known; use config, split, clean, counterfactual, answer, foil"),
        ("hub:a/b?split=a&split=b", "'split' is given twice"),
        ("hub:a/b?clean=a[b][c]", "is no column"),
    ],
)
def test_a_wrong_name_of_a_dataset_is_refused_before_anything_is_fetched(source: str, said: str) -> None:
    with pytest.raises(TaskError) as caught:
        load_task_file(source)
    assert said in str(caught.value)


GOOD = '{"clean": "a", "corrupted": "b", "answer": " x", "foil": " y"}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "line 1: nested too deep"),
        (f"{GOOD}\n" + '{"a":' * 200_000, "line 2: nested too deep"),
        (GOOD.replace('"a"', '"a\\ud800"'), r"line 1: field 'clean' holds half a character ('\ud800'"),
        (GOOD[:-1] + ', "answer": " z"}', "line 1: the key 'answer' is given twice in one object"),
        (GOOD.replace('" x"', "9" * 5000), "line 1: not JSON: Exceeds the limit"),
        (GOOD.replace('" x"', "[]"), "field 'answer' must be text or a list of texts, found an empty list"),
        (GOOD.replace('" x"', '[" x", 3]'), "field 'answer' must be text that is not empty, found 3"),
        (GOOD.replace('"a"', "[]"), "field 'clean' holds no message"),
        (GOOD.replace('"a"', '["a"]'), "field 'clean' must be text or chat messages"),
        (GOOD.replace('"a"', '[{"role": "user", "content": 3}]'), "field 'clean.content' must be text"),
        (GOOD.replace('"a"', '[{"role": "user", "content": "a"}]'), "one prompt is text and the other one chat"),
        (f"{GOOD}\n" + GOOD.replace("answer", "correct_idx").replace("foil", "incorrect_idx")
         .replace('" x"', "1").replace('" y"', "2"), "some pairs give answers as text, others as token ids"),
        ("clean,corrupted,correct_idx,incorrect_idx\na,b,1,-2", "line 2: field 'incorrect_idx' must be a token id"),
        ("clean,corrupted,correct_idx,incorrect_idx\na,b,true,2", "line 2: field 'correct_idx' must be a token id"),
        ("clean,corrupted,correct_idx\na,b,1", "line 2: field 'clean_answer' is missing"),
        ("clean,corrupted,answer,foil\na,b, x", "line 2: 3 cells, but the header has 4 columns"),
        ("clean,corrupted,answer,answer\na,b, x, y", "line 1: two columns are called 'answer'"),
        ('clean,corrupted,answer,foil\n"a,b, x, y', "not CSV"),
        ("clean,corrupted,answer,foil\n", "holds no pairs"),
        ("prompt,other\na,b", "line 1: not JSON: Expecting value at column 1; a CSV needs a header that names"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_pairs_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TaskError) as caught:
        load_task_file(write(tmp_path, text, "pairs"))
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
