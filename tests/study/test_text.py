"""Text becomes numbers by a fixed function of each row alone."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lossmith.study import StudyError, StudySpec, run
from lossmith.study.data.dataset import Dataset, Roles
from lossmith.study.data.tables import encode_table
from lossmith.study.report.command import command

REVIEWS = [f"{'good' if i % 2 else 'bad'} film number {i}" for i in range(20)]


def frame() -> pd.DataFrame:
    return pd.DataFrame({"review": REVIEWS, "stars": np.arange(20) % 5, "liked": np.arange(20) % 2})


def read(table: pd.DataFrame, *text: str, tokenizer: str | None = None) -> Dataset:
    return encode_table(table, "liked", "films.csv", Roles(text=text, tokenizer=tokenizer))


def test_words_and_pairs_fall_where_their_hash_says() -> None:
    from sklearn.utils import murmurhash3_32

    data = read(frame(), "review@32")
    wanted = np.zeros(32)
    words = REVIEWS[3].split()
    words = [word for word in words if len(word) > 1]  # the usual pattern of words: two letters or more
    for piece in (*words, *(f"{a} {b}" for a, b in pairwise(words))):
        code = murmurhash3_32(piece, seed=0)
        wanted[abs(code) % 32] += 1 if code >= 0 else -1
    assert data.features[3, :32] == pytest.approx(wanted / np.linalg.norm(wanted))
    assert [column.name for column in data.columns][31:] == ["review (31)", "stars"]


def test_a_row_is_a_function_of_itself() -> None:
    """Nothing of a row changes with the others: test rows can teach nothing."""
    whole, half = read(frame(), "review"), read(frame().head(10), "review")
    assert whole.features.shape == (20, 1025)
    assert np.array_equal(whole.features[:10], half.features)


def test_a_missing_text_is_empty() -> None:
    table = frame()
    table.loc[4, "review"] = None
    data = read(table, "review@16")
    assert (data.features[4, :16] == 0).all()
    assert any("1 missing texts count as empty" in note for note in data.notes)


def test_a_tokenizer_cuts_otherwise(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from sklearn.utils import murmurhash3_32

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "num", "##ber"]
    model = {"type": "WordPiece", "vocab": {piece: i for i, piece in enumerate(vocabulary)}, "unk_token": "[UNK]"}
    model |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "model": model}
    tokenizer |= {"pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}))
    data = read(frame(), "review@16", tokenizer=str(tmp_path))
    wanted = np.zeros(16)
    for piece in ("good", "film", "num", "##ber", "[UNK]"):
        code = murmurhash3_32(piece, seed=0)
        wanted[abs(code) % 16] += 1 if code >= 0 else -1
    assert data.features[3, :16] == pytest.approx(wanted / np.linalg.norm(wanted))
    with pytest.raises(StudyError, match="cannot be loaded"):
        read(frame(), "review", tokenizer=str(tmp_path / "nowhere"))


def test_bad_columns_are_one_line() -> None:
    for text, message in (
        ("reviews", "did you mean 'review'"),
        ("liked", "already the one of --target"),
        ("stars", "holds int"),
        ("review@1", "a whole number >= 2"),
        ("review@many", "a whole number >= 2"),
    ):
        with pytest.raises(StudyError, match=message):
            read(frame(), text)
    with pytest.raises(StudyError, match="name the columns of text with --text"):
        Roles(tokenizer="somewhere")
    with pytest.raises(StudyError, match="has another role"):
        encode_table(frame().assign(who=list("abcd") * 5), "liked", "films.csv", Roles(text=("who",), group="who"))


def test_a_study_of_text_learns_from_it(tmp_path: Path) -> None:
    frame()[["review", "liked"]].to_csv(tmp_path / "films.csv", index=False)
    spec = StudySpec(
        data=str(tmp_path / "films.csv"), target="liked", text="review@256", objectives="ce", model="linear", seeds=1, epochs=30,
        learning_rates=[0.01], references=False,
    )  # fmt: skip
    assert run(spec, jobs=1).values("accuracy").tolist() == [[1.0]]
    assert "--text review@256" in str(command(spec))
    assert StudySpec.from_dict(spec.as_dict()) == spec
    given = replace(spec, data=frame()[["review", "liked"]])
    assert given.load().fingerprint == spec.load().fingerprint
    with pytest.raises(StudyError, match="--text stars is for files with columns"):
        replace(given, text="stars").load()
