"""Text pieces: whole characters, nothing of a stop string, and together the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import byte_fallback_tokenizer, byte_level_tokenizer
from token_text import TextAssembler, TokenNames

TOKENIZERS = {"byte level": byte_level_tokenizer(), "byte fallback": byte_fallback_tokenizer()}
PROMPTS = {"byte level": "Once ", "byte fallback": "once"}

# Letters that the tokenizers merge, and characters of two to four bytes.
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="abc 你好世界🙂🎉👩‍é", max_size=60),
)


def pieces_of(name, text, stop=()):
    tokenizer = TOKENIZERS[name]
    prompt_ids = tokenizer.encode(PROMPTS[name]).ids
    token_ids = tokenizer.encode(PROMPTS[name] + text).ids
    if tokenizer.decode(token_ids[: len(prompt_ids)]) != tokenizer.decode(prompt_ids):
        prompt_ids = []  # The text's beginning merged into the prompt: continue from nothing.
    assembler = TextAssembler(tokenizer.decode, prompt_ids, stop)
    pieces = []
    for token_id in token_ids[len(prompt_ids) :]:
        pieces.append(assembler.append(token_id))
        if assembler.stopped:
            break
    pieces.append(assembler.finish())
    expected = PROMPTS[name] + text if not prompt_ids else text
    return pieces, expected


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=TEXTS)
def test_pieces_are_whole_characters_and_together_the_text(name, text):
    text = text.replace("\ufffd", "").replace("▁", "")
    pieces, expected = pieces_of(name, text)
    assert "".join(pieces) == expected
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=TEXTS, stop=st.lists(st.text(alphabet="abc 你好🙂", min_size=1, max_size=4), min_size=1, max_size=3))
def test_nothing_of_a_stop_string_is_released(name, text, stop):
    text = text.replace("\ufffd", "").replace("▁", "")
    pieces, expected = pieces_of(name, text, tuple(stop))
    result = "".join(pieces)
    assert not any(string in result for string in stop)
    assert expected.startswith(result)
    if not any(string in expected for string in stop):
        assert result == expected
    else:
        assert any(expected[len(result) :].startswith(string) for string in stop)


@given(token_ids=st.lists(st.integers(1, 399), max_size=200))
def test_tokens_that_are_no_text_neither_fail_nor_pile_up(token_ids):
    tokenizer = TOKENIZERS["byte level"]
    assembler = TextAssembler(tokenizer.decode, tokenizer.encode("Once").ids)
    pieces = [assembler.append(token_id) for token_id in token_ids] + [assembler.finish()]
    assert "".join(pieces) == tokenizer.decode(token_ids)
    assert len(assembler._window) < 100


def test_an_unfinished_character_at_the_end_shows_as_replacement_character():
    tokenizer = TOKENIZERS["byte level"]
    ids = tokenizer.encode("𝄞").ids
    assembler = TextAssembler(tokenizer.decode, [])
    assert [assembler.append(token_id) for token_id in ids[:-1]] == [""] * (len(ids) - 1)
    assert assembler.finish() == "\ufffd"


def test_a_stop_string_that_spans_tokens_is_never_shown_in_part():
    tokenizer = TOKENIZERS["byte level"]
    assembler = TextAssembler(tokenizer.decode, [], ("\n\nUser:",))
    pieces = [assembler.append(token_id) for token_id in tokenizer.encode("fine.\n\nUs\n\nUser: no").ids]
    assert "".join(pieces) == "fine.\n\nUs"
    assert assembler.stopped and assembler.finish() == ""


def test_names_of_tokens_keep_their_leading_space():
    tokenizer = TOKENIZERS["byte fallback"]
    names = TokenNames(lambda ids: tokenizer.decode(ids, skip_special_tokens=False), tokenizer.encode("a").ids[-1])
    assert names[tokenizer.token_to_id("▁")] == " "
    assert names[tokenizer.token_to_id("b")] == "b"
