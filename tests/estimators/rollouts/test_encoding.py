from types import SimpleNamespace

import pytest

from gradaxis.errors import InputError
from gradaxis.estimators.rollouts.encoding import encode_prompt, find_end_tokens, tokenizer_fingerprint
from gradaxis.estimators.rollouts.items import PromptItem

ITEM = PromptItem(text="1+2")
# ids: <pad> 0, <end> 1, <begin> 2, digits 3 to 12, + 13, = 14


def test_the_chat_template_writes_all_special_tokens(make_policy) -> None:
    prompt = encode_prompt(make_policy().tokenizer, ITEM)
    assert prompt.tokens == (2, 4, 13, 5, 14)  # <begin>1+2=, one <begin> although the tokenizer would add another
    assert prompt.text == "<begin>1+2="


def test_plain_text_gets_the_tokenizers_special_tokens_once(make_policy) -> None:
    tokenizer = make_policy().tokenizer
    assert encode_prompt(tokenizer, ITEM, plain=True).tokens == (2, 4, 13, 5)
    assert encode_prompt(tokenizer, PromptItem(text="<begin>1+2"), plain=True).tokens == (2, 4, 13, 5)


def test_an_end_token_that_the_tokenizer_puts_behind_the_text_is_taken_off(make_policy) -> None:
    from tokenizers import processors

    tokenizer = make_policy().tokenizer
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", 1)]
    )
    assert tokenizer("1+2")["input_ids"] == [4, 13, 5, 1]
    assert encode_prompt(tokenizer, ITEM, plain=True).tokens == (4, 13, 5)
    assert encode_prompt(tokenizer, PromptItem(text="1<end>"), plain=True).tokens == (4, 1)  # the user wrote one


def test_no_chat_template_names_the_remedy(make_policy) -> None:
    tokenizer = make_policy(template=None).tokenizer
    with pytest.raises(InputError, match=r"chat template.*--plain"):
        encode_prompt(tokenizer, ITEM)
    assert encode_prompt(tokenizer, ITEM, plain=True).tokens == (2, 4, 13, 5)


def test_templates_that_refuse_and_prompts_without_tokens(make_policy) -> None:
    refusing = make_policy(template="{{ raise_exception('no system role') }}").tokenizer
    with pytest.raises(InputError, match=r"no system role"):
        encode_prompt(refusing, ITEM)
    empty = make_policy(template="{{ '' }}").tokenizer
    with pytest.raises(InputError, match=r"no tokens"):
        encode_prompt(empty, ITEM)
    with pytest.raises(InputError, match=r"plain"):
        encode_prompt(refusing, PromptItem(text="x", messages=({"role": "user", "content": "x"},)), plain=True)


def test_end_tokens_of_model_and_tokenizer_are_joined() -> None:
    def find(generation, tokenizer):
        model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=generation))
        return find_end_tokens(model, SimpleNamespace(eos_token_id=tokenizer))

    assert find([9, 4], 2) == (2, 4, 9)
    assert find(2, 2) == (2,)
    assert find(None, 0) == (0,)
    with pytest.raises(InputError, match=r"end_tokens"):
        find(None, None)


def test_the_fingerprint_sees_the_vocabulary_and_nothing_else(make_policy) -> None:
    one, two, other = (make_policy().tokenizer for _ in range(3))
    two.chat_template = None
    other.add_tokens(["c"])
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(two) != tokenizer_fingerprint(other)
