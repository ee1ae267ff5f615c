import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from gradaxis.errors import InputError, UsageError
from gradaxis.estimators.rollouts.items import PromptItem
from gradaxis.estimators.rollouts.tasks import load_task

REWARDS = """
import math
def exact(prompt, completion, row): return float(completion == row["target"])
def named(prompt, completion, row): return {"right": completion == row["target"], "short": -0.5 * len(completion)}
def echo(prompt, completion, row): return {"prompt": len(prompt), "keys": len(row)}
def broken(prompt, completion, row): return 1 / 0
def nan(prompt, completion, row): return math.nan
def text(prompt, completion, row): return "1.0"
def none(prompt, completion, row): return None
def empty(prompt, completion, row): return {}
def infinite(prompt, completion, row): return {"a": 1.0, "b": math.inf}
constant = 3
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "rewards.py").write_text(REWARDS)
    rows = [{"prompt": f"{i}+1", "target": str(i + 1)} for i in range(5)]
    (tmp_path / "prompts.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    return tmp_path


def load(files: Path, function: str = "exact", **options: Any):
    return load_task(str(files / "prompts.jsonl"), reward=f"{files / 'rewards.py'}:{function}", **options)


def test_a_file_of_prompts_is_scored_by_the_named_function(files: Path) -> None:
    task = load(files, max_new_tokens=7)
    items = task.prompts(5, 0)
    assert [item.text for item in items] == ["0+1", "1+1", "2+1", "3+1", "4+1"]
    assert (task.name, task.max_new_tokens) == ("prompts.jsonl", 7)
    assert task.score(items[2], "3") == {"reward": 1.0}
    assert task.score(items[2], "4") == {"reward": 0.0}
    assert load(files, "named").score(items[2], "33") == {"right": 0.0, "short": -1.0}


def test_the_function_gets_the_prompt_and_the_whole_row_and_nothing_of_ours(files: Path) -> None:
    task = load(files, "echo")
    assert task.score(task.prompts(5, 0)[0], "") == {"prompt": 3.0, "keys": 2.0}  # "0+1"; prompt and target


def test_prompts_are_drawn_without_replacement_by_seed(files: Path) -> None:
    task = load(files)
    draws = [[item.text for item in task.prompts(3, seed)] for seed in range(30)]
    assert all(len(set(draw)) == 3 and draw == sorted(draw) for draw in draws)
    assert draws[0] == [item.text for item in task.prompts(3, 0)]
    assert len({tuple(draw) for draw in draws}) > 5
    with pytest.raises(InputError, match=r"count: got 6, expected 1 to 5"):
        task.prompts(6, 0)


@pytest.mark.parametrize("function", ["broken", "nan", "text", "none", "empty", "infinite"])
def test_a_reward_that_fails_names_the_function_and_the_row(files: Path, function: str) -> None:
    task = load(files, function)
    with pytest.raises(InputError, match=rf"rewards\.py:{function} on prompts\.jsonl:5"):  # blank lines count
        task.score(task.prompts(5, 0)[2], "3")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"bad\.jsonl:3: got Expecting property name.* at column 2"),
        ("[1]", r"bad\.jsonl:3: got a JSON list"),
        ('{"question": "x"}', r"bad\.jsonl:3: got the keys \['question'\]"),
        ('{"prompt": ""}', r"bad\.jsonl:3"),
        ('{"prompt": 3}', r"bad\.jsonl:3"),
        ('{"messages": [{"role": "user"}]}', r"bad\.jsonl:3: got messages"),
        ('{"messages": []}', r"bad\.jsonl:3: got messages"),
    ],
)
def test_a_bad_line_is_named_by_its_number(files: Path, line: str, message: str) -> None:
    bad = files / "bad.jsonl"
    bad.write_text('{"prompt": "a"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=message):
        load_task(str(bad), reward=f"{files / 'rewards.py'}:exact")


def test_messages_are_kept_whole(files: Path) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1+1"}]
    (files / "chat.jsonl").write_text(json.dumps({"messages": messages, "target": "2"}))
    item = load_task(str(files / "chat.jsonl"), reward=f"{files / 'rewards.py'}:exact").prompts(1, 0)[0]
    assert item.text == "1+1"
    assert item.conversation == messages


def test_no_reward_no_file_no_function(files: Path) -> None:
    prompts = str(files / "prompts.jsonl")
    with pytest.raises(InputError, match=r"reward: got none"):
        load_task(prompts)
    with pytest.raises(InputError, match=r"no file"):
        load_task(prompts, reward="missing.py:f")
    with pytest.raises(InputError, match=r"'exakt'.*Did you mean 'exact'"):
        load(files, "exakt")
    with pytest.raises(InputError, match=r"'constant', which"):
        load(files, "constant")
    with pytest.raises(InputError, match=r"file\.py:function"):
        load_task(prompts, reward="exact")
    with pytest.raises(InputError, match=r"no_such_module_of_ours"):
        load_task(prompts, reward="no_such_module_of_ours:f")
    (files / "syntax.py").write_text("def f(:")
    with pytest.raises(InputError, match=r"SyntaxError"):
        load_task(prompts, reward=f"{files / 'syntax.py'}:f")
    with pytest.raises(InputError, match=r"missing\.jsonl"):
        load_task(str(files / "missing.jsonl"), reward=f"{files / 'rewards.py'}:exact")
    (files / "nothing.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match=r"no prompts"):
        load_task(str(files / "nothing.jsonl"), reward=f"{files / 'rewards.py'}:exact")
    with pytest.raises(InputError, match=r"max_tokens"):
        load(files, max_tokens=3)


def test_a_function_of_an_importable_module(files: Path) -> None:
    task = load_task(str(files / "prompts.jsonl"), reward="difflib:get_close_matches")
    with pytest.raises(InputError, match=r"difflib:get_close_matches"):  # it returns a list, which is no reward
        task.score(task.prompts(1, 0)[0], "x")


def test_unknown_tasks_name_the_closest() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'arithmetic'"):
        load_task("arithmetics")
    with pytest.raises(UsageError, match=r"did you mean 'reasoning-gym'"):
        load_task("reasoning_gym:chain_sum")
    with pytest.raises(InputError, match=r"a file of prompts only"):
        load_task("arithmetic", reward="file.py:f")


def test_the_embedded_task_loads() -> None:
    task = load_task("arithmetic")
    assert task.name == "arithmetic"
    item = task.prompts(1, 0)[0]
    assert sum(task.score(item, item.data["answer"]).values()) == pytest.approx(1.0)


class TestReasoningGym:
    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip("reasoning_gym")

    def test_containment_pays_nothing(self) -> None:
        task = load_task("reasoning-gym:chain_sum")
        item = task.prompts(1, 0)[0]
        right = item.data["answer"]
        for completion in (right, f"it is {right}", f"<answer>1 2 3 {right} 5</answer>", f"<answer>{right}0</answer>"):
            assert task.score(item, completion) == {"right": 0.0}, completion
        for completion in (f"<answer>{right}</answer>", f"hm\nAnswer: {right}", rf"\boxed{{{right}}}"):
            assert task.score(item, completion) == {"right": 1.0}, completion

    def test_the_library_itself_pays_for_containment(self) -> None:
        """Why the answer is extracted: were this to fail, the library has changed and the docstring must too."""
        import reasoning_gym

        problems = reasoning_gym.create_dataset("chain_sum", seed=0, size=1)
        assert problems.score_answer("1 2 3 " + problems[0]["answer"] + " 5", problems[0]) > 0

    def test_prompts_repeat_by_seed_and_can_be_stored(self) -> None:
        task = load_task("reasoning-gym:knights_knaves")
        items = task.prompts(3, 5)
        assert items == load_task("reasoning-gym:knights_knaves").prompts(3, 5)
        assert items != task.prompts(3, 6)
        stored = [PromptItem(text=item.text, data=json.loads(json.dumps(item.data))) for item in items]
        for item in stored:  # scoring survives a round trip through a file
            assert task.score(item, f"<answer>{item.data['answer']}</answer>") == {"right": 1.0}
            assert task.score(item, "<answer>nobody</answer>") == {"right": 0.0}

    def test_form_threshold_and_whole_completions(self) -> None:
        graded = load_task("reasoning-gym:chain_sum", form_reward=0.2)
        item = graded.prompts(1, 0)[0]
        right = item.data["answer"]
        assert graded.score(item, f"<answer>{right}</answer>") == {"right": 1.0, "form": 0.2}
        assert graded.score(item, f"<answer>x{right}</answer>") == {"right": 0.0, "form": 0.2}
        assert graded.score(item, "no idea") == {"right": 0.0, "form": 0.0}
        whole = load_task("reasoning-gym:chain_sum", extract="whole")
        assert "<answer>" not in whole.prompts(1, 0)[0].text
        assert "<answer>" in item.text
        assert whole.score(item, f" {right}\n") == {"right": 1.0}
        assert whole.score(item, f"{right} or so") == {"right": 0.0}
        # The scorer gives |answer| / |text| for containment: here .5, since both halves are equally long.
        loose = load_task("reasoning-gym:chain_sum", threshold=0.5)
        assert loose.score(item, f"<answer>{'x' * len(right)}{right}</answer>") == {"right": 1.0}
        for name, value in (("threshold", 0.0), ("threshold", 1.5), ("extract", "half")):
            options: dict[str, Any] = {name: value}
            with pytest.raises(InputError, match=name):
                load_task("reasoning-gym:chain_sum", **options)

    def test_a_scorer_that_raises_on_a_malformed_answer_scores_it_wrong(self) -> None:
        task = load_task("reasoning-gym:prime_factorization")
        item = task.prompts(1, 0)[0]
        assert task.score(item, "<answer>foo 5</answer>") == {"right": 0.0}
        assert task.score(item, f"<answer>{item.data['answer']}</answer>") == {"right": 1.0}

    def test_options_in_the_name(self) -> None:
        task = load_task("reasoning-gym:chain_sum[min_terms=2,max_terms=2, max_digits=1]")
        assert task.name == "reasoning-gym:chain_sum[max_digits=1,max_terms=2,min_terms=2]"
        assert all(sum(map(item.data["question"].count, "+-")) == 1 for item in task.prompts(20, 0))
        with pytest.raises(InputError, match=r"max_term'.*max_terms"):
            load_task("reasoning-gym:chain_sum[max_term=2]")
        with pytest.raises(InputError, match=r"task options"):
            load_task("reasoning-gym:chain_sum[min_terms=9,max_terms=2]")
        with pytest.raises(InputError, match=r"option=value"):
            load_task("reasoning-gym:chain_sum[fast]")

    def test_unknown_data_sets_name_the_closest(self) -> None:
        with pytest.raises(UsageError, match=r"did you mean chain_sum"):
            load_task("reasoning-gym:chain_sums")

    def test_another_release_that_asks_something_else_is_an_error(self) -> None:
        task = load_task("reasoning-gym:chain_sum")
        item = task.prompts(1, 0)[0]
        other = PromptItem(text=item.text, data={**item.data, "question": "1 + 1 ="})
        with pytest.raises(InputError, match=r"release of reasoning-gym"):
            task.score(other, "<answer>2</answer>")


def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object):
        if name == "reasoning_gym":
            raise ImportError(name)
        return real(name, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'gradaxis\[tasks\]'"):
        load_task("reasoning-gym:chain_sum")
