"""The heads of Hugging Face's models, small and at random, against the logits of their own forward pass."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lossmith
from lossmith.fused import head_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what these packages use in turn
transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()  # notes about generation, which is not asked for

CLASSES = 53
TOKENS = torch.randint(3, CLASSES, (2, 6), generator=torch.Generator().manual_seed(0))
NEXT = F.pad(TOKENS[:, 1:], (0, 1), value=-100)

LLAMA = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0, "decoder_start_token_id": 0}
BART = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 16, "dropout": 0.0, "decoder_start_token_id": 1,
}  # fmt: skip
BERT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
OPT = {
    "hidden_size": 16, "word_embed_proj_dim": 8, "ffn_dim": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 16, "dropout": 0.0,
}  # fmt: skip
MINICPM = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4, "dim_model_base": 4,
}  # fmt: skip

MODELS = {
    "Llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "Llama, tied": ("LlamaForCausalLM", "LlamaConfig", {**LLAMA, "tie_word_embeddings": True}),
    "Qwen": ("Qwen3ForCausalLM", "Qwen3Config", LLAMA),
    "Gemma 2": ("Gemma2ForCausalLM", "Gemma2Config", {**LLAMA, "final_logit_softcapping": 0.5}),
    "Gemma 3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**LLAMA, "final_logit_softcapping": 0.5}),
    "Cohere": ("CohereForCausalLM", "CohereConfig", {**LLAMA, "logit_scale": 0.3}),
    "Granite": ("GraniteForCausalLM", "GraniteConfig", {**LLAMA, "logits_scaling": 4.0}),
    "MiniCPM": ("MiniCPM3ForCausalLM", "MiniCPM3Config", MINICPM),
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "OPT": ("OPTForCausalLM", "OPTConfig", OPT),
    "T5": ("T5ForConditionalGeneration", "T5Config", T5),
    "T5, not tied": ("T5ForConditionalGeneration", "T5Config", {**T5, "tie_word_embeddings": False}),
    "BART": ("BartForConditionalGeneration", "BartConfig", BART),
    "BERT": ("BertForMaskedLM", "BertConfig", BERT),
}


def made(name: str) -> nn.Module:
    model, config, options = MODELS[name]
    torch.manual_seed(3)
    if not hasattr(transformers, model):
        pytest.skip(f"this transformers has no {model}")
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    found = getattr(transformers, model)(getattr(transformers, config)(vocab_size=CLASSES, **special, **options))
    with torch.no_grad():
        weight = found.get_output_embeddings().weight
        weight.mul_(0.3 / weight.std())  # most come with logits that are nearly all 0, and every model alike
    if name == "BART":
        found.final_logits_bias.normal_()  # 0 as it comes
    return found


def inputs(name: str) -> dict[str, Tensor]:
    given = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}
    return {**given, "decoder_input_ids": TOKENS} if name[:2] in ("T5", "BA") else given


def log_probs(logits) -> Tensor:
    return -lossmith.cross_entropy(logits, NEXT, reduction="none")


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    largest = max(g.abs().max().item() for g in theirs.values())
    for name, gradient in mine.items():
        scale = max(theirs[name].abs().max().item(), 1e-4 * largest)  # some are 0 but for rounding, as of an attention's key bias
        torch.testing.assert_close(gradient, theirs[name], rtol=0, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", MODELS)
def test_log_probs_and_gradients_are_those_of_the_models_own_logits(name):
    model, given = made(name), inputs(name)
    head = head_of(model)
    own = model(**given).logits
    expected = log_probs(own.movedim(-1, 1))
    assert own.std() > 0.05
    torch.testing.assert_close(head.loss(log_probs, **given), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(log_probs(head(head.hidden_states(**given))), expected, rtol=0, atol=1e-5)
    mine = gradients(model, head.loss(lambda logits: lossmith.focal_loss(logits, NEXT), **given))
    assert_same(mine, gradients(model, lossmith.focal_loss(model(**given).logits.movedim(-1, 1), NEXT)))


def test_what_a_mixture_of_experts_returns_beside_its_logits():
    options = {**LLAMA, "num_local_experts": 2, "output_router_logits": True}
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(vocab_size=CLASSES, **options))
    head = head_of(model)
    with pytest.raises(ValueError, match=r"MixtralForCausalLM returns 'aux_loss', which would be left out"):
        head.loss(log_probs, input_ids=TOKENS)
    found = head.loss(lambda logits, output: log_probs(logits).sum() + output.aux_loss, input_ids=TOKENS, with_output=True)
    own = model(input_ids=TOKENS)
    torch.testing.assert_close(found, log_probs(own.logits.movedim(-1, 1)).sum() + own.aux_loss)


def test_a_body_in_bfloat16_under_a_head_in_float32():
    model = made("Llama").bfloat16()
    model.lm_head.float()
    hidden = model.model(input_ids=TOKENS).last_hidden_state
    found = head_of(model).loss(log_probs, input_ids=TOKENS)
    torch.testing.assert_close(found, log_probs(model.lm_head(hidden.float()).movedim(-1, 1)), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
class TestPeft:
    """Adapters beside the head are fine, on it refused; a copy of it that is trained whole is taken."""

    def adapted(self, **options) -> nn.Module:
        import peft

        return peft.get_peft_model(made("Llama"), peft.LoraConfig(init_lora_weights=False, **options))

    @pytest.mark.parametrize("options", [{}, {"modules_to_save": ["lm_head"]}])
    def test_elsewhere(self, options):
        model = self.adapted(target_modules=["q_proj"], **options)
        mine = gradients(model, head_of(model).loss(lambda logits: lossmith.focal_loss(logits, NEXT), input_ids=TOKENS))
        theirs = gradients(model, lossmith.focal_loss(model(input_ids=TOKENS).logits.movedim(-1, 1), NEXT))
        assert any("lora" in name for name in theirs)
        assert any("lm_head" in name for name in theirs) == bool(options)
        assert_same(mine, theirs)

    def test_a_copy_of_the_head_that_is_laid_aside(self):
        model = self.adapted(target_modules=["q_proj"], modules_to_save=["lm_head"])
        head = head_of(model)
        with torch.no_grad():
            head.module.modules_to_save["default"].weight.mul_(2)
        with model.disable_adapter():
            expected = log_probs(model(input_ids=TOKENS).logits.movedim(-1, 1))
            torch.testing.assert_close(head.loss(log_probs, input_ids=TOKENS), expected, rtol=0, atol=1e-5)
        twice = log_probs(model(input_ids=TOKENS).logits.movedim(-1, 1))
        assert (twice - expected).abs().max() > 1e-2
        torch.testing.assert_close(head.loss(log_probs, input_ids=TOKENS), twice, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("options", [{}, {"use_dora": True}])
    def test_on_the_head(self, options):
        with pytest.raises(TypeError, match="LlamaForCausalLM's head 'lm_head' carries an adapter"):
            head_of(self.adapted(target_modules=["lm_head"], **options))
