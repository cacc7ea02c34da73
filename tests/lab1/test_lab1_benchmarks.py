"""The benchmark's own parts: its command line, its load and its tables. No speed is measured here."""

import json
import threading

import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks import load, model, openvino_engine, report


def test_help_names_the_parts(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # so that no name is broken
    with pytest.raises(SystemExit) as exit:
        command.main(["--help"])
    assert exit.value.code == 0
    shown = capsys.readouterr().out
    assert "--rounds" in shown and all(part in shown for part in command.PARTS)


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--only", "nothing"]])
def test_bad_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        command.main(arguments)
    assert exit.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_load_sends_every_prompt_once_from_as_many_threads_as_clients():
    together, sent, lock = threading.Barrier(3, timeout=20), [], threading.Lock()

    def send(prompt):
        together.wait()
        with lock:
            sent.append(prompt)

    prompts = model.prompts(6)
    assert load.requests_per_second(send, prompts, clients=3) > 0
    assert sorted(sent) == sorted(prompts)


def test_prompts_are_32_words_and_the_same_every_time():
    assert model.prompts(4, seed=3) == model.prompts(4, seed=3)
    assert {len(prompt.split()) for prompt in model.prompts(4)} == {model.PROMPT_TOKENS}


def test_tables_are_written_for_people_and_programs(tmp_path):
    table = report.Table("Speed", ["clients", "ratio"])
    table.add(8, "3.1")
    with pytest.raises(ValueError, match="3 cells for 2 columns"):
        table.add(1, 2, 3)
    path = report.write(tmp_path / "out", "a machine", [table], ["a note"])
    assert path.read_text() == ("a machine\n\n**Speed**\n\n| clients | ratio |\n| --- | --- |\n| 8 | 3.1 |\n\na note\n")
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["tables"][0]["rows"] == [["8", "3.1"]]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["bench.json", "bench.md"]


def test_where_openvino_is_absent_the_part_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(openvino_engine.importlib.util, "find_spec", lambda name: None if name == "nncf" else object())
    assert openvino_engine.why_not().startswith("nncf not installed. It is optional")
    monkeypatch.setattr(openvino_engine.importlib.util, "find_spec", lambda name: object())
    assert openvino_engine.why_not() is None
