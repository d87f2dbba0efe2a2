"""Language models that predict the next token, under the names of transformers."""

from __future__ import annotations

from collections.abc import Mapping

from tests.library.entry import Entry, Fields, hf

SMALL: Fields = {"vocab_size": 99, "max_position_embeddings": 64}
TOKENS: Fields = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ROPE: Fields = {
    **SMALL,
    **TOKENS,
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
WIDE: Fields = {
    **ROPE,
    "num_hidden_layers": 12,
    "hidden_size": 96,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 10,
    "intermediate_size": 72,
}
LAYER = r"model\.layers\.(\d+)"
LLAMA_GROUPS = {
    rf"{LAYER}\.self_attn\.heads": r"kv.\1",
    rf"{LAYER}\.self_attn\.queries": r"q.\1",
    rf"{LAYER}\.self_attn\.vo": r"vo.\1",
    rf"{LAYER}\.mlp\.gate_proj": r"hidden.\1",
    rf"{LAYER}\.mlp\.sign": r"sign.\1",
}

GPT2: Fields = {
    **TOKENS,
    "vocab_size": 99,
    "n_positions": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_embd": 32,
}
GPT2_WIDE: Fields = {**GPT2, "n_layer": 12, "n_head": 6, "n_embd": 60}

MOE: Fields = {**ROPE, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40}
KV_SIZES = {"kv": "config.num_key_value_heads"}
KV_COUNTED: Mapping[str, int | str] = {r"kv\..*": "kv", r"(?:\w+-)?sign\..*": 1}
ROPE_HELD = {rf"{LAYER}\.self_attn\.[qk]_(?:proj|norm)\.(?:weight|bias)": r"rope.\1"}
KV_HEADS = """Each key/value head serves several query heads: key/value heads may change places with
    all their queries (kv), queries inside one of them (q), and the dims of its values (vo). Rotary
    positions fix the order of the dims that queries and keys share (rope)."""
MOE_GROUPS = {
    **LLAMA_GROUPS,
    rf"{LAYER}\.mlp\.experts": r"expert.\1",
    rf"{LAYER}\.mlp\.experts\.gate_up_proj": r"inner.\1",
    rf"{LAYER}\.mlp\.experts\.sign": r"inner-sign.\1",
    rf"{LAYER}\.mlp\.shared_expert\.gate_proj": r"shared.\1",
    rf"{LAYER}\.mlp\.shared_expert\.sign": r"shared-sign.\1",
}
MIXTRAL: Fields = {**ROPE, "num_local_experts": 5, "num_experts_per_tok": 2}
MIXTRAL_WIDE: Fields = {
    **WIDE,
    "num_local_experts": 7,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 5,
}
QWEN: Fields = {**MOE, "num_experts": 5, "num_experts_per_tok": 2}
# Every layer without experts, but for one more: with it, the spec fits.
QWEN_DENSE: Fields = {**QWEN, "num_hidden_layers": 4, "mlp_only_layers": [0, 1, 2]}
QWEN_WIDE: Fields = {**QWEN, **WIDE, "num_experts": 7, "num_hidden_layers": 5}
NEOX: Fields = {
    **SMALL,
    **TOKENS,
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "rotary_pct": 0.25,
}
NEOX_WIDE: Fields = {**NEOX, "num_hidden_layers": 12, "hidden_size": 96, "num_attention_heads": 6}

ENTRIES = (
    Entry(
        name="gpt2",
        about="""GPT-2 in the names of transformers (gpt2 ... gpt2-xl, DistilGPT2 and their
            descendants), with or without `transformer.` in front. Its linear layers are stored as
            (in, out). Heads may change places; inside each head, the dims that queries and keys
            share (qk) and those that values and the output projection share (vo) have
            permutations of their own. Files without an lm_head use the embedding as the head.""",
        description="transformers GPT-2; the number of heads comes from config.json",
        needs="transformers",
        variants=(
            hf("gpt2", "GPT2LMHeadModel", **GPT2),
            hf("gpt2", "GPT2LMHeadModel", **GPT2, tie_word_embeddings=False),
        ),
        larger=(hf("gpt2", "GPT2LMHeadModel", **GPT2_WIDE),),
        groups={
            r"transformer\.h\.(\d+)\.attn\.heads": r"head.\1",
            r"transformer\.h\.(\d+)\.attn\.c_attn\.qk": r"qk.\1",
            r"transformer\.h\.(\d+)\.attn\.vo": r"vo.\1",
            r"transformer\.h\.(\d+)\.mlp\.c_fc": r"hidden.\1",
        },
        sizes={"heads": "config.n_head"},
        counted={r"head\..*": "heads"},
        spelled={r"^transformer\.": "{,transformer.}"},
        extra={"{,transformer.}h.{i}.attn.{bias,masked_bias}?": "[~]"},
    ),
    Entry(
        name="llama",
        about="""Llama and what copies it (Mistral, Qwen 2 and 3, Gemma 1 to 3, TinyLlama, SmolLM,
            ...), under the names of transformers. Each key/value head serves several query heads:
            key/value heads may change places with all their queries (kv), queries inside one of
            them (q), and the dims of its values (vo). Rotary positions fix the order of the dims
            that queries and keys share (rope); these have a name so that a norm of queries and
            keys must be one over these dims, as in Qwen 3, and not over heads.""",
        description="transformers Llama, Mistral, Qwen 2 and 3, Gemma; sizes come from config.json",
        needs="transformers",
        variants=(
            hf("llama", "LlamaForCausalLM", **ROPE),
            hf("llama", "LlamaForCausalLM", **ROPE, attention_bias=True, mlp_bias=True),
            hf("mistral", "MistralForCausalLM", **ROPE),
            hf("qwen2", "Qwen2ForCausalLM", **ROPE),
            hf("qwen3", "Qwen3ForCausalLM", **ROPE),
            hf("gemma", "GemmaForCausalLM", **ROPE),
            hf("gemma2", "Gemma2ForCausalLM", **ROPE),
            hf("gemma3_text", "Gemma3ForCausalLM", **ROPE),
        ),
        larger=(
            hf("llama", "LlamaForCausalLM", **WIDE),
            hf("qwen3", "Qwen3ForCausalLM", **WIDE, tie_word_embeddings=True),
            hf("gemma3_text", "Gemma3ForCausalLM", **WIDE),
        ),
        alike=("granite", "seed_oss", "cwm", "ministral3"),
        groups=LLAMA_GROUPS,
        sizes=KV_SIZES,
        counted=KV_COUNTED,
        held=ROPE_HELD,
        extra={"model.layers.{i}.self_attn.rotary_emb.inv_freq?": "[~]"},
    ),
    Entry(
        name="mixtral",
        about=f"""Mixtral as files hold it: each expert has tensors of its own. {KV_HEADS} Experts
            may change places (with their rows of the router), and the hidden units inside each
            expert.""",
        description="transformers Mixtral, one file entry an expert; sizes come from config.json",
        needs="transformers",
        variants=(hf("mixtral", "MixtralForCausalLM", **MIXTRAL),),
        larger=(hf("mixtral", "MixtralForCausalLM", **MIXTRAL_WIDE),),
        groups={
            **LLAMA_GROUPS,
            rf"{LAYER}\.mlp\.experts": r"expert.\1",
            rf"{LAYER}\.mlp\.experts\.gate_up_proj": r"hidden.\1",
            rf"{LAYER}\.mlp\.experts\.sign": r"sign.\1",
        },
        sizes=KV_SIZES,
        counted=KV_COUNTED,
        held=ROPE_HELD,
        files=True,
    ),
    Entry(
        name="qwen_moe",
        about=f"""Qwen 2 and 3 with experts, as files hold them: each expert has tensors of its own.
            {KV_HEADS} Experts may change places (with their rows of the router), and the hidden
            units inside each expert (inner). Layers without experts have hidden units as usual.""",
        description="transformers Qwen2-MoE, Qwen3-MoE; sizes come from config.json",
        needs="transformers",
        variants=(
            hf("qwen2_moe", "Qwen2MoeForCausalLM", **QWEN),
            hf("qwen3_moe", "Qwen3MoeForCausalLM", **QWEN),
            hf("qwen2_moe", "Qwen2MoeForCausalLM", **QWEN_DENSE),
        ),
        larger=(
            hf("qwen2_moe", "Qwen2MoeForCausalLM", **QWEN_WIDE, mlp_only_layers=[1, 2]),
            hf("qwen3_moe", "Qwen3MoeForCausalLM", **QWEN_WIDE),
        ),
        groups=MOE_GROUPS,
        sizes=KV_SIZES,
        counted=KV_COUNTED,
        held=ROPE_HELD,
        required=r".*\.mlp\.(?:experts|gate)\..*",
        files=True,
    ),
    Entry(
        name="moe_stacked",
        about=f"""Mixtral and Qwen with experts under the names of the modules of transformers 5,
            which keep all experts of a layer in one tensor. {KV_HEADS} Experts may change places
            (with their rows of the router), and the hidden units inside each expert (inner).
            Layers without experts have hidden units as usual.""",
        description="Mixtral, Qwen2-MoE, Qwen3-MoE with stacked experts; sizes from config.json",
        needs="transformers",
        variants=(
            hf("mixtral", "MixtralForCausalLM", **{**MIXTRAL, "intermediate_size": 24}),
            hf("qwen2_moe", "Qwen2MoeForCausalLM", **QWEN),
            hf("qwen3_moe", "Qwen3MoeForCausalLM", **QWEN),
            hf("qwen2_moe", "Qwen2MoeForCausalLM", **QWEN_DENSE),
        ),
        larger=(
            hf("mixtral", "MixtralForCausalLM", **MIXTRAL_WIDE),
            hf("qwen2_moe", "Qwen2MoeForCausalLM", **QWEN_WIDE, mlp_only_layers=[1, 2]),
        ),
        groups=MOE_GROUPS,
        sizes=KV_SIZES,
        counted=KV_COUNTED,
        held=ROPE_HELD,
        required=r".*\.mlp\.(?:experts|gate)\..*",
    ),
    Entry(
        name="gpt_neox",
        about="""GPT-NeoX and Pythia under the names of transformers. Each head's rows for queries,
            keys and values stand together: heads may change places, and the dims of values (vo)
            inside each. Of the dims that queries and keys share, the rotary ones keep their order
            (rotary, in number rotary_pct times the size of a head), the others may be permuted
            (qk). config.json does not have this number, so it is given: Pythia's head of 64 dims
            has --set rotary=16.""",
        description="transformers GPT-NeoX, Pythia; heads from config.json, --set rotary=N",
        needs="transformers",
        variants=(
            hf("gpt_neox", "GPTNeoXForCausalLM", {"rotary": 2}, **NEOX),
            hf("gpt_neox", "GPTNeoXForCausalLM", {"rotary": 2}, **NEOX, tie_word_embeddings=True),
        ),
        larger=(hf("gpt_neox", "GPTNeoXForCausalLM", {"rotary": 4}, **NEOX_WIDE),),
        groups={
            r"gpt_neox\.layers\.(\d+)\.attention\.heads": r"head.\1",
            r"gpt_neox\.layers\.(\d+)\.attention\.query_key_value\.qk": r"qk.\1",
            r"gpt_neox\.layers\.(\d+)\.attention\.vo": r"vo.\1",
            r"gpt_neox\.layers\.(\d+)\.mlp\.dense_h_to_4h": r"hidden.\1",
        },
        sizes={"heads": "config.num_attention_heads", "rotary": "config.rotary_ndims"},
        counted={r"head\..*": "heads"},
        held={r".*\.query_key_value\.(?:weight|bias)": "rotary"},
        spelled={"embed_out": "{embed_out,lm_head}"},
        extra={
            "gpt_neox.layers.{i}.attention.{bias,masked_bias}?": "[~]",
            "gpt_neox.layers.{i}.attention.rotary_emb.inv_freq?": "[~]",
        },
        files=True,
    ),
)
