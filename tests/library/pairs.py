"""Models with an encoder and a decoder, or with two encoders, under the names of transformers."""

from __future__ import annotations

from tests.library.entry import Entry, Fields, hf

T5: Fields = {
    "vocab_size": 99,
    "d_model": 32,
    "d_kv": 8,
    "num_heads": 4,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 4,
}
T5_WIDE: Fields = {
    **T5,
    "num_layers": 8,
    "num_decoder_layers": 7,
    "d_model": 40,
    "d_kv": 6,
    "num_heads": 6,
}
UNTIED: Fields = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
BART: Fields = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 56,
    "max_position_embeddings": 64,
}
BART_WIDE: Fields = {**BART, "encoder_layers": 8, "decoder_layers": 7, "d_model": 60}
AUDIO: Fields = {
    "max_source_positions": 40,
    "max_target_positions": 50,
    "num_mel_bins": 12,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
TEXT: Fields = {
    "vocab_size": 99,
    "bos_token_id": 1,
    "eos_token_id": 98,
    "max_position_embeddings": 64,
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
}
VISION: Fields = {
    "image_size": 32,
    "patch_size": 8,
    "num_hidden_layers": 4,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_attention_heads": 5,
}
CLIP: Fields = {"projection_dim": 20, "text_config": TEXT, "vision_config": VISION}
CLIP_WIDE: Fields = {
    "projection_dim": 24,
    "text_config": {**TEXT, "num_hidden_layers": 12, "hidden_size": 48},
    "vision_config": {**VISION, "num_hidden_layers": 11, "hidden_size": 60},
}
HEADS = """Heads may change places; inside each head, the dims that queries and keys share (qk) and
    those that values and the output projection share (vo) have permutations of their own."""
LAYERS = r"model\.(encoder|decoder)\.layers\.(\d+)"
LAYER_GROUPS = {
    rf"{LAYERS}\.self_attn\.heads": r"\1.head.\2",
    rf"{LAYERS}\.self_attn\.(qk|vo)": r"\1.\3.\2",
    r"model\.decoder\.layers\.(\d+)\.encoder_attn\.heads": r"cross.head.\1",
    r"model\.decoder\.layers\.(\d+)\.encoder_attn\.(qk|vo)": r"cross.\2.\1",
    rf"{LAYERS}\.fc1": r"\1.hidden.\2",
}
HEADS_OF_BOTH = {
    "encoder_heads": "config.encoder_attention_heads",
    "decoder_heads": "config.decoder_attention_heads",
}
COUNTED_IN_BOTH = {
    r"encoder\.head\..*": "encoder_heads",
    r"(?:decoder|cross)\.head\..*": "decoder_heads",
}

ENTRIES = (
    Entry(
        name="t5",
        about="""T5, T5 1.1 and FLAN-T5 under the names of transformers. Encoder and decoder share
            the embedding, so there is one stream. The table of relative positions stands in the
            first block and serves all: the heads of self-attention have one permutation for the
            whole encoder, and one for the decoder. Inside each head, the dims that queries and
            keys share (qk) and those that values and the output projection share (vo) have
            permutations of their own in each layer; cross-attention has heads of its own.""",
        description="transformers T5 with a head; sizes come from config.json",
        needs="transformers",
        variants=(
            hf("t5", "T5ForConditionalGeneration", **T5),
            hf("t5", "T5ForConditionalGeneration", **T5, **UNTIED),
        ),
        larger=(
            hf("t5", "T5ForConditionalGeneration", **T5_WIDE),
            hf("t5", "T5ForConditionalGeneration", **T5_WIDE, **UNTIED),
        ),
        groups={
            r"(encoder|decoder)\.block\..*Self.*\.(?:heads|relative_attention_bias)": r"\1.head",
            r"(encoder|decoder)\.block\.heads": r"\1.head",
            r"(encoder|decoder)\.block\.(\d+)\.layer\.0\.SelfAttention\.(qk|vo)": r"\1.\3.\2",
            r"decoder\.block\.(\d+)\.layer\.1\.EncDecAttention\.heads": r"cross.head.\1",
            r"decoder\.block\.(\d+)\.layer\.1\.EncDecAttention\.(qk|vo)": r"cross.\2.\1",
            r"(encoder|decoder)\.block\.(\d+)\.layer\.\d\.DenseReluDense\.wi(?:_0)?": (
                r"\1.hidden.\2"
            ),
        },
        sizes={"heads": "config.num_heads"},
        counted={r"cross\.head\..*": "heads"},
        extra={"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight?": "[~, ~]"},
    ),
    Entry(
        name="bart",
        about=f"""BART under the names of transformers, for generation. Encoder and decoder share
            the embedding, so there is one stream. {HEADS}""",
        description="transformers BART for generation; sizes come from config.json",
        needs="transformers",
        variants=(hf("bart", "BartForConditionalGeneration", **BART),),
        larger=(hf("bart", "BartForConditionalGeneration", **BART_WIDE),),
        groups=LAYER_GROUPS,
        sizes=HEADS_OF_BOTH,
        counted=COUNTED_IN_BOTH,
    ),
    Entry(
        name="whisper",
        about=f"""Whisper under the names of transformers. Encoder and decoder have a stream each;
            cross-attention reads both. {HEADS}""",
        description="transformers Whisper; sizes come from config.json",
        needs="transformers",
        variants=(hf("whisper", "WhisperForConditionalGeneration", **BART, **AUDIO),),
        larger=(hf("whisper", "WhisperForConditionalGeneration", **BART_WIDE, **AUDIO),),
        groups={
            **LAYER_GROUPS,
            r"model\.(encoder|decoder)\.stream": r"\1.stream",
            r"model\.encoder\.conv1": "encoder.conv1",
        },
        sizes=HEADS_OF_BOTH,
        counted=COUNTED_IN_BOTH,
    ),
    Entry(
        name="clip",
        about=f"""CLIP under the names of transformers: two encoders with a stream each, and the
            space in which their outputs are compared (joint). {HEADS}""",
        description="transformers CLIP, both encoders; sizes come from config.json",
        needs="transformers",
        variants=(hf("clip", "CLIPModel", **CLIP),),
        larger=(hf("clip", "CLIPModel", **CLIP_WIDE),),
        groups={
            r"(text|vision)_model\.stream": r"\1.stream",
            r"(text|vision)_model\.encoder\.layers\.(\d+)\.self_attn\.heads": r"\1.head.\2",
            r"(text|vision)_model\.encoder\.layers\.(\d+)\.self_attn\.(qk|vo)": r"\1.\3.\2",
            r"(text|vision)_model\.encoder\.layers\.(\d+)\.mlp\.fc1": r"\1.hidden.\2",
            r"visual_projection": "joint",
        },
        sizes={
            "text_heads": "config.text_config.num_attention_heads",
            "vision_heads": "config.vision_config.num_attention_heads",
        },
        counted={r"text\.head\..*": "text_heads", r"vision\.head\..*": "vision_heads"},
        extra={"{text,vision}_model.embeddings.position_ids?": "[~]"},
    ),
)
