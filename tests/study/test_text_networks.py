"""Networks that read text: the pieces of a text and the padding behind them, against transformers called by hand; and whole studies."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lossmith.study import Dataset, StudyError, StudySpec, run
from lossmith.study.data.splits import make_split
from lossmith.study.probed import findings
from lossmith.study.report.page import render
from lossmith.study.report.winner import write_winner
from lossmith.study.summary import Summary
from lossmith.study.training.hubs import ROWS_AT_ONCE, pieces_of
from lossmith.study.training.models import build_model

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about weights that are new

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "very", "num", "##ber", "a", "long"]
REVIEWS = [f"{'very ' * (i % 4)}{'good' if i % 2 else 'bad'} film" for i in range(40)]


def save_tokenizer(folder: Path) -> None:
    """WordPiece with the pieces around a text that BERT has, made without a network."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with random weights, saved in half precision, and its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=12
    )
    transformers.BertForSequenceClassification(config).to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def films(folder: Path, **columns: Any) -> None:
    frame = pd.DataFrame({"review": REVIEWS, "stars": np.arange(40) % 5, "liked": np.arange(40) % 2}).assign(**columns)
    frame.to_csv(folder / "films.csv", index=False)


def spec(folder: Path, model: Path, **options: Any) -> StudySpec:
    plain = {"data": str(folder / "films.csv"), "target": "liked", "text": "review", "objectives": ["ce"], "model": f"hf:{model}"}
    return StudySpec(**{**plain, "seeds": 1, "epochs": 2, "learning_rates": [3e-3], "batch_size": 8, "duplicates": "apart", **options})


def test_a_row_is_the_numbers_of_its_pieces(bert: Path, tmp_path: Path) -> None:
    films(tmp_path, review=["good number", "", "a long film unheard", *REVIEWS[3:]])
    data = spec(tmp_path, bert).load()
    assert data.features.shape == (40, 12)  # as many as the network has positions for
    assert data.features[0].tolist() == [2, 5, 9, 10, 3] + [-1] * 7
    assert data.features[1].tolist() == [2, 3] + [-1] * 10
    assert data.features[2].tolist() == [2, 11, 12, 7, 1, 3] + [-1] * 6
    assert any("1 missing texts count as empty" in note for note in data.notes)
    assert f"stars: left out, hf:{bert} reads text alone" in data.notes
    assert data.describe()["inputs"] == "texts of up to 12 pieces"
    split = make_split(data, 0)
    np.testing.assert_array_equal(split.x_train.numpy(), data.features[split.rows_train])  # nothing is scaled
    cut = spec(tmp_path, bert, text="review@4").load()
    assert cut.features[2].tolist() == [2, 11, 12, 3]
    assert any("longer texts are cut" in note for note in cut.notes)


def by_hand(model: Any, texts: list[list[int]]) -> torch.Tensor:
    """Each text by itself, without any padding or mask."""
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([text])).logits for text in texts])


TEXTS = [[2, 5, 7, 3], [2, 6, 3], [2, 8, 8, 8, 5, 7, 3], [3]]


def padded(texts: list[list[int]], longest: int = 12) -> torch.Tensor:
    return torch.tensor([text + [-1] * (longest - len(text)) for text in texts], dtype=torch.float32)


def test_padding_changes_nothing(bert: Path) -> None:
    model = build_model(f"hf:{bert}", (12,), 3, 0).eval()
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(8)  # the weights that transformers draws are so small that pieces hardly look at each other
    wanted = by_hand(model.model, TEXTS)
    many = padded(TEXTS * ROWS_AT_ONCE)
    with torch.no_grad():
        torch.testing.assert_close(model(padded(TEXTS)), wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model(padded(TEXTS[:1])), wanted[:1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model(many), wanted.repeat(ROWS_AT_ONCE, 1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model(many), wanted.repeat(ROWS_AT_ONCE, 1), rtol=1e-5, atol=1e-6)
    unmasked = model.model(input_ids=padded(TEXTS).clamp(min=0).long()).logits
    assert (unmasked - wanted).abs().max() > 1e-3  # so that a mask that is forgotten would show
    assert model(padded([[], [2, 3]])).isfinite().all()


def test_a_network_that_reads_from_left_to_right_answers_at_the_last_piece(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=12, bos_token_id=0, eos_token_id=0)
    config.save_pretrained(tmp_path)
    model = build_model(f"hf:{tmp_path}", (12,), 2, 0).eval()
    torch.testing.assert_close(model(padded(TEXTS)), by_hand(model.model, TEXTS), rtol=1e-5, atol=1e-6)


def test_a_network_that_answers_at_padding_is_refused(tmp_path: Path) -> None:
    """XLNet takes the last place for its answer, whether a piece is there or padding."""
    transformers.XLNetConfig(vocab_size=20, d_model=16, n_layer=1, n_head=2, d_inner=16).save_pretrained(tmp_path)
    with pytest.raises(StudyError, match="XLNetForSequenceClassification answers otherwise when a text is padded"):
        build_model(f"hf:{tmp_path}", (12,), 2, 0)


def test_a_network_with_two_halves_answers_at_the_end_of_the_text(tmp_path: Path) -> None:
    config = transformers.BartConfig(
        vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=12,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    model = build_model(f"hf:{tmp_path}", (12,), 2, 0).eval()
    texts = [[5, 6, 2], [7, 8, 9, 4, 2]]
    torch.testing.assert_close(model(padded(texts)), by_hand(model.model, texts), rtol=1e-5, atol=1e-6)


def test_weights_are_the_seed_s_or_the_name_s(bert: Path) -> None:
    from safetensors.torch import load_file

    first, again, other = (build_model(f"hf:{bert}", (12,), 2, seed).state_dict() for seed in (0, 0, 1))
    name = "model.bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    saved = load_file(bert / "model.safetensors")
    kept = build_model(f"hf:{bert}@pretrained", (12,), 4, 0).state_dict()
    assert torch.equal(kept[name], saved[name.removeprefix("model.")].float())
    assert kept["model.classifier.weight"].shape == (4, 16)


def test_positions_that_padding_takes_are_not_there(tmp_path: Path) -> None:
    transformers.RobertaConfig(vocab_size=20, hidden_size=16, num_attention_heads=2, max_position_embeddings=14).save_pretrained(tmp_path)
    pieces = pieces_of(f"hf:{tmp_path}", None)
    assert pieces is not None
    assert pieces.longest == 12
    model = build_model(f"hf:{tmp_path}", (12,), 2, 0)
    assert model(torch.full((2, 12), 7.0)).isfinite().all()
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        model(torch.full((2, 13), 7.0))


def test_a_study_learns_from_text(bert: Path, tmp_path: Path) -> None:
    films(tmp_path)
    asked = spec(tmp_path, bert, objectives=["ce", "gce"], epochs=12, probes="collapse,margins,cost", learning_rates=[0.01])
    found = run(asked, jobs=1)
    assert found.values("accuracy").tolist() == [[1.0], [1.0]]
    assert not found.references
    np.testing.assert_array_equal(found.values("log_loss"), run(asked, jobs=1).values("log_loss"))
    assert {"collapse", "margins", "cost"} <= {one.probe for one in findings(found)}
    assert "texts of up to 12 pieces" in render(Summary(found))


def test_the_winner_is_trained_again_by_its_script(bert: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    films(tmp_path)
    summary = Summary(run(spec(tmp_path, bert), jobs=1))
    path = write_winner(summary, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    assert f"accuracy on 4 test rows: {summary.result.values('accuracy')[0, 0]:.6f}" in said


def test_what_does_not_fit_is_one_line(bert: Path, tmp_path: Path) -> None:
    films(tmp_path, more=REVIEWS)
    (tmp_path / "few").mkdir()
    config = json.loads((bert / "config.json").read_text())
    (tmp_path / "few" / "config.json").write_text(json.dumps({**config, "vocab_size": 6}))
    for model, options, said in (
        (bert, {"data": "wine", "target": None, "text": ()}, "reads text, and wine has none for it: name one column of text"),
        (bert, {"text": ()}, r"reads text, and films\.csv has none for it"),
        (bert, {"text": "review,more"}, r"reads one column of text; got 2 \(review, more\)"),
        (bert, {"text": "review@13"}, "reads 12 pieces at most"),
        (tmp_path / "few", {"tokenizer": str(bert)}, "numbers pieces up to 8, and .* knows 6 of them"),
        (tmp_path / "few", {}, f"--tokenizer {tmp_path / 'few'} cannot be loaded"),
        (bert, {"probes": "corruptions"}, "corruptions are of numbers and images, and these rows are texts"),
        (bert, {"probes": "fgsm:0.1"}, "these rows are texts; leave fgsm and pgd out"),
        (bert, {"probes": "missing"}, "probes are"),
    ):
        with pytest.raises(StudyError, match=said) as caught:
            spec(tmp_path, model, **options).load()
        assert "\n" not in str(caught.value)
    noisy = spec(tmp_path, bert, noise="instance:0.2")
    with pytest.raises(StudyError, match="instance noise depends on rows of numbers"):
        run(noisy, jobs=1)
    pictures = Dataset.from_arrays("pictures", np.zeros((12, 1, 8, 8)), np.arange(12) % 2)
    with pytest.raises(StudyError, match="reads text, and pictures has none"):
        StudySpec(data=pictures, objectives=["ce"], model=f"hf:{bert}").load()
    with pytest.raises(StudyError, match="takes the numbers of its pieces, and these are not whole"):
        build_model(f"hf:{bert}", (12,), 2, 0)(torch.full((2, 12), 0.5))
