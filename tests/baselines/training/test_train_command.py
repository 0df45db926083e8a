"""The command `train`: its arguments, an interruption, and what it says where there is no terminal."""

from __future__ import annotations

import pytest

from basisbench.cli import main
from basisbench.commands.train import parse_layers
from basisbench.errors import BasisBenchError
from basisbench_baselines.training.progress import Progress


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to read: give --text FILE..., --dataset HUB or --samples"),
        (["--samples", "2k", "--tokens", "3k"], "--samples 2000: without --text or --dataset all tokens are samples"),
        (["--dataset", "a/b", "--samples"], "say how many of the 4,000,000 tokens are samples"),
        (["--dataset", "a/b", "--samples", "5k", "--tokens", "5k"], "of the 5,000 tokens are samples"),
        (["--samples", "--site", "mlp_up"], "no site to write to named 'mlp_up'; did you mean mlp_out"),
        (["--samples", "--kind", "sea"], "no kind of dictionary named 'sea'; did you mean sae?"),
        (["--samples", "--kind", "clt", "--site", "attn_z"], "a transcoder goes from mlp_in to mlp_out"),
        (["--samples", "--kind", "transcoder", "--site", "attn_z"], "a transcoder goes from mlp_in to mlp_out"),
        (["--text", "nowhere.txt"], "--text nowhere.txt: no such file; expected a text file"),
        (["--samples", "--tokens", "1k", "--snapshots", "1k"], "--snapshots 1000: not before the end of the training"),
        (["--samples", "--dtype", "float8"], "no type named 'float8'"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "gpt2-small", "--out", "out", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(
    "arguments", [["--samples", "--tokens", "4G"], ["--samples", "--width", "0x"], ["--samples", "--k", "0"]]
)
def test_bad_arguments_are_told_by_the_parser(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "gpt2-small", "--out", "out", *arguments])
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_interruption_says_what_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("basisbench.commands.train.execute", stop)
    assert main(["train", "gpt2-small", "--samples", "--out", "out"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    monkeypatch.setattr("basisbench.commands.compare.execute", stop)
    assert main(["compare", "results"]) == 130
    assert capsys.readouterr().err == "basisbench: interrupted\n"


def test_layers() -> None:
    assert parse_layers(None, 3) == (0, 1, 2)
    assert parse_layers("4,0-2, 1", 5) == (0, 1, 2, 4)
    for text, message in (
        ("10-19", "the model has no layer 19; it has 0 to 11"),
        ("3-1", "found '3-1'"),
        ("", "found ''"),
        ("-1", "found '-1'"),
    ):
        with pytest.raises(BasisBenchError, match=message):
            parse_layers(text, 12)


def test_progress_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr("basisbench_baselines.training.progress.time.monotonic", lambda: now[0])
    progress = Progress(said=now[0])
    with progress.bar("tokens", 4_000_000, 1_000_000) as bar, progress.bar("samples", None) as inner:
        for seconds in (30, 31, 29, 31):
            now[0] += seconds
            bar.set_postfix_str("FVU 0.3", refresh=False)
            bar.update(250_000)
            inner.update(7)
        now[0] += 61
        inner.update(7)
        progress.line("written")
    assert capsys.readouterr().err.splitlines() == [
        "tokens: 1,500,000 of 4,000,000, 01:01 gone, 05:05 left, FVU 0.3",
        "tokens: 2,000,000 of 4,000,000, 02:01 gone, 04:02 left, FVU 0.3",
        "samples: 35, 03:02 gone",
        "written",
    ]
    Progress(enabled=False).line("never")
    assert capsys.readouterr().err == ""
