import pytest

from gradaxis.estimators.rollouts.answers import extract_answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("I add. <answer> 12 </answer>", "12"),
        ("<answer>1</answer> wait <Answer>2\n3</ANSWER>", "2\n3"),
        ("<answer></answer>", ""),
        (r"so \boxed{\frac{1}{2}} holds", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{3} then \boxed{4", "3"),
        ("thinking 11\nAnswer: 12", "12"),
        ("The final answer is 12.", "12"),
        ("**Answer:** -4\n", "-4"),
        ("answer: 1\nanswer: 2.5", "2.5"),
        (r"answer: 9 <answer>1</answer> \boxed{2}", "1"),
        (r"answer: 9 and \boxed{2}", "2"),
        ("the 12 is what I would answer", None),
        ("12", None),
        ("<answer>12", None),
        ("", None),
    ],
)
def test_the_final_answer_is_found_or_is_not_there(completion: str, answer: str | None) -> None:
    assert extract_answer(completion) == answer
