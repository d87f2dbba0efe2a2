"""What the fields of a transformers configuration count, told from their names."""

from __future__ import annotations

import re


def _limits(*lines: str) -> tuple[tuple[re.Pattern[str], int], ...]:
    """Return patterns of whole names with the largest value that each keeps."""
    pairs = (line.rsplit(maxsplit=1) for line in lines)
    return tuple((re.compile(pattern), int(value)) for pattern, value in pairs)


# Widths are divisible by 8: up to 4 heads of even size. No two kinds of numbers share a value, so
# that equal sizes hide no relation.
HIDDEN = (32, 40, 56, 64, 72, 80, 88, 104, 112, 120, 128, 136, 144, 152, 160, 168, 176, 184)
GROUPED = tuple(range(32, 512, 32))
FEEDFORWARD = (48, 52, 60, 68, 76, 84, 92, 100, 108, 116, 124, 132, 140, 148, 156, 164)
VOCABULARY = 99

# The first pattern that fits a name decides, and a smaller value stays.
LIMITS = _limits(
    rf".*vocab_size(_per_layer_input)?|.*_vocab|n_tokens {VOCABULARY}",
    rf"num_hash_buckets|num_embeddings {VOCABULARY}",
    r"num_kv_shared_layers 0",
    r"(num|n|moe_num|num_local|n_routed)_(local_|routed_)?experts 6",
    r".*(num_experts_per_tok|num_experts_per_token|moe_topk|moe_k|router_top_k|top_k_experts) 2",
    r"(n|num|.*_n|.*_num)_(expert_)?groups? 2",
    r"topk_group|first_k_dense_replace|.*_offset|num_dense_layers 1",
    r".*(period|_interval|sparse_step|_frequency|_every_n_layers|sliding_window_pattern) 2",
    r"(?!max_window)(?!num_feat_extract).*(layers|n_layer|num_blocks|depths?|num_hidden_groups) 3",
    r"qk_rope_head_dim|rotary_dim 4",
    r"v_head_dim 6",
    r"q_lora_rank 12",
    r"kv_lora_rank 10",
    r".*_rank 6",
    r".*(d_state|state_size) 6",
    r"max_source_positions 20",
    r".*max.*position.*|n_positions|n_ctx|max_seq_len|context_length|max_length|seq_length 64",
    r".*(sliding_window|local_attention|attention_window|window_len|context_left) 16",
    r".*(chunk_size|block_size|index_topk|chunk_length) 8",
    r".*(num_queries|query_tokens|num_latents|query_num) 7",
    r".*(conv_pos_embeddings|image_seq_length|num_position_embeddings|num_patches) 16",
    r"num_conv_pos_embedding_groups|mm_tokens_per_image 4",
    r".*(codebook_size|num_codevectors_per_group|num_codebooks) 16",
)
_MEANINGS = {
    "shared heads": re.compile(r".*(key_value_heads|kv_heads|num_key_heads)|n_head_kv"),
    "head counts": re.compile(
        r"(.*_)?(num_attention_heads|num_heads|n_heads?|attention_heads|heads)"
    ),
    "head sizes": re.compile(r".*(head_dim|d_kv|d_head|dim_head|kv_channels|head_size)"),
    "tokens": re.compile(
        r".*(token_id|token_index|_tokens_ids?|mask_index|unk_index|_start_id|_end_id)"
    ),
    "patches": re.compile(r"(?!temporal).*patch_size"),
    "images": re.compile(r".*(image_size|img_size|crop_size)"),
    "indices": re.compile(r".*(indexes|indices|hook_ids|extract_layers|layers_idx)"),
    "kept": re.compile(
        r".*(kernel|stride|num_labels|window_size|merge_size|padding|scale|factor|ratio|pool_shape).*"
        r"|num_channels|num_stages|num_encoder_blocks"
    ),
    "widths": re.compile(
        r".*(hidden_size|d_model|n_embd|dim(s|ension)?|width|units|channels|hidden_sizes|embed_size"
        r"|embedding_size|output_size|proj_size|projection_size|filters|planes|intermediate_size|ffn.*"
        r"|d_ff|d_inner|n_inner|dff|dim_feedforward|dim_ff|channel_list|upsample_groups|d_ssm)"
    ),
    "inner": re.compile(
        r".*(intermediate|ffn|mlp|d_ff|inner|feedforward|dff|dim_ff|feed_forward).*"
    ),
}


def means(what: str, name: str) -> bool:
    """Return whether a field counts something: what is a key of the table above."""
    return bool(_MEANINGS[what].fullmatch(name))
