import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from adamesh.data.text import embedded_text
from adamesh.data.vocabulary import Words
from adamesh.data.wordpiece import WordPiece

TEXTS = ["The dog's 3 dogs bark_loud; naïve 犬!\n\n And the dog <unk> barks.", "Another dog, another day."] * 3


@pytest.mark.parametrize("kind", [Words, WordPiece])
def test_a_vocabulary_keeps_to_its_size_and_comes_back_as_it_was_saved(kind):
    vocabulary = kind.learned(TEXTS, 280)
    encoded = vocabulary.encode(TEXTS)
    assert len(vocabulary) <= 280
    assert max(map(max, encoded)) < len(vocabulary)
    assert vocabulary.separator not in np.concatenate(encoded)
    assert kind.restored(vocabulary.saved()).encode(TEXTS) == encoded


@pytest.mark.parametrize("text", [*TEXTS, "never seen: \u2047 \t日本 __x_ \x00", ""])
@pytest.mark.parametrize("size", [257, 270, 8192])
def test_words_and_bytes_lose_nothing(text, size):
    vocabulary = Words.learned(TEXTS, size)
    assert vocabulary.decode(vocabulary.encode([text])[0]) == text


def test_wordpiece_encodes_as_bert_does():
    vocabulary = WordPiece.learned(TEXTS, 400)
    all_pieces = json.loads(vocabulary.saved())
    encoded = vocabulary.encode(["DOG", "<unk>", "[MASK]", "\u2603", "barkloud"])
    dog, left_out, mask, snowman, word = ([all_pieces[number] for number in numbers] for numbers in encoded)
    assert all_pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (dog, left_out, snowman) == (["dog"], ["[UNK]"], ["[UNK]"])
    assert "[MASK]" not in mask
    assert "".join(word).replace("##", "") == "barkloud"


def test_wordpiece_learns_the_same_in_every_process():
    """Left to itself, `tokenizers` does not."""
    script = (
        "import hashlib; from adamesh.data.wordpiece import WordPiece; from adamesh.data.text import embedded_text\n"
        "with embedded_text() as text: texts = [article.text for _, article in text.articles()][:8]\n"
        "print(hashlib.sha256(WordPiece.learned(texts, 1000).saved().encode()).hexdigest())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script], env=dict(os.environ), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    with embedded_text() as text:
        texts = [article.text for _, article in text.articles()][:8]
    here = hashlib.sha256(WordPiece.learned(texts, 1000).saved().encode()).hexdigest()
    assert [process.communicate()[0] for process in processes] == [f"{here}\n"] * 2
