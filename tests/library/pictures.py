"""Transformers for pictures, under the names of transformers, torchvision and timm."""

from __future__ import annotations

from tests.library.entry import Entry, Fields, Model, called, hf, listed

VIT: Fields = {
    "image_size": 32,
    "patch_size": 8,
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
}
VIT_WIDE: Fields = {**VIT, "num_hidden_layers": 12, "hidden_size": 60, "num_attention_heads": 6}
HEADS = """Heads may change places; inside each head, the dims that queries and keys share (qk)
    and those that values and the output projection share (vo) have permutations of their own."""

HF_GROUPS = {
    r"vit\.layers\.(\d+)\.attention\.heads": r"head.\1",
    r"vit\.layers\.(\d+)\.attention\.(qk|vo)": r"\2.\1",
    r"vit\.layers\.(\d+)\.mlp\.fc1": r"hidden.\1",
}
TV_VIT: Fields = {
    "image_size": 32,
    "patch_size": 8,
    "num_layers": 3,
    "num_heads": 4,
    "hidden_dim": 32,
    "mlp_dim": 48,
    "num_classes": 10,
}
TV_VIT_WIDE: Fields = {**TV_VIT, "num_layers": 12, "num_heads": 6, "hidden_dim": 60}
VIT_GROUPS = {
    r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.heads": r"head.\1",
    r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.(qk|vo)": r"\2.\1",
    r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.0": r"hidden.\1",
}
SWIN: Fields = {"patch_size": [4, 4], "window_size": [2, 2], "num_classes": 10}
TIMM_BLOCK = r"layers\.(\d+)\.blocks\.(\d+)"
PICTURE = (2, 3, 64, 64)


def vit(width: int, heads: int, layers: int) -> Model:
    """Return a ViT of torchvision that has the width and the heads of a published one."""
    arguments = {**TV_VIT, "num_layers": layers, "num_heads": heads, "hidden_dim": width}
    return called("torchvision.models:VisionTransformer", {"heads": heads}, **arguments)


VIT_LAYER = "vit.encoder.layer.{i}"

ENTRIES = (
    Entry(
        name="vit",
        about=f"Vision transformers for classification, as transformers writes them. {HEADS}",
        description="transformers ViT; the number of heads comes from config.json",
        needs="transformers",
        variants=(hf("vit", "ViTForImageClassification", **VIT),),
        larger=(hf("vit", "ViTForImageClassification", **VIT_WIDE),),
        groups=HF_GROUPS,
        sizes={"heads": "config.num_attention_heads"},
        counted={r"head\..*": "heads"},
        files=True,
    ),
    Entry(
        name="vit_modules",
        about=f"""Vision transformers for classification under the names of the modules of
            transformers 5, which its own files do not use. {HEADS}""",
        description="transformers 5 ViT, a saved state dict; heads from config.json or --set",
        needs="transformers",
        variants=(hf("vit", "ViTForImageClassification", **VIT),),
        larger=(hf("vit", "ViTForImageClassification", **VIT_WIDE),),
        groups=HF_GROUPS,
        sizes={"heads": "config.num_attention_heads"},
        counted={r"head\..*": "heads"},
    ),
    Entry(
        name="tv_vit",
        about=f"""Vision transformers as torchvision names them. {HEADS} Tensors do not tell the
            number of heads: vit_b, vit_l and vit_h have specs of their own, this one is for others
            and takes --set heads=N.""",
        description="torchvision VisionTransformer of any size, --set heads=N",
        needs="torchvision",
        variants=(called("torchvision.models:VisionTransformer", {"heads": 4}, **TV_VIT),),
        larger=(called("torchvision.models:VisionTransformer", {"heads": 6}, **TV_VIT_WIDE),),
        groups=VIT_GROUPS,
        sizes={"heads": "config.num_heads"},
        counted={r"head\..*": "heads"},
    ),
    *(
        Entry(
            name=f"tv_vit_{size}",
            about=f"""Vision transformers as torchvision names them. {HEADS} Tensors do not tell the
                number of heads; a stream of {width} units says that it is vit_{size}, with
                {heads}.""",
            description=f"torchvision {names}",
            needs="torchvision",
            variants=(vit(width, heads, 3),),
            groups=VIT_GROUPS,
            counted={r"head\..*": heads, "stream": width},
        )
        for size, width, heads, names in (
            ("b", 768, 12, "vit_b_16, vit_b_32"),
            ("l", 1024, 16, "vit_l_16, vit_l_32"),
            ("h", 1280, 16, "vit_h_14"),
        )
    ),
    Entry(
        name="swin",
        about=f"""Swin transformers as torchvision names them. Each stage has a stream; between
            stages, four neighbouring patches stand side by side. {HEADS} The table of relative
            positions has a column for each head, which tells their number.""",
        description="torchvision swin_t, swin_s, swin_b",
        needs="torchvision",
        variants=(
            called(
                "torchvision.models:SwinTransformer",
                shape=PICTURE,
                embed_dim=24,
                depths=[4, 4, 4, 4],
                num_heads=[2, 3, 4, 6],
                **SWIN,
            ),
        ),
        larger=(
            called(
                "torchvision.models:SwinTransformer",
                shape=PICTURE,
                embed_dim=48,
                depths=[2, 2, 18, 2],
                num_heads=[3, 6, 12, 24],
                **SWIN,
            ),
        ),
        groups={
            r"features\.(\d+)\.stream": r"stage.\1",
            r"features\.(\d+)\.(\d+)\.attn\.(?:heads|relative_position_bias_table)": r"head.\1.\2",
            r"features\.(\d+)\.(\d+)\.attn\.(?:qkv\.)?(qk|vo)": r"\3.\1.\2",
            r"features\.(\d+)\.(\d+)\.mlp\.0": r"hidden.\1.\2",
        },
        extra={"features.{i}.{j}.attn.relative_position_index?": "[~]"},
    ),
    Entry(
        name="timm_swin",
        about=f"""Swin transformers as timm names them. Each stage has a stream; between stages,
            four neighbouring patches stand side by side. {HEADS} The table of relative positions
            has a column for each head, which tells their number.""",
        description="timm swin_*",
        needs="timm",
        variants=(
            listed(
                "timm:swin_tiny_patch4_window7_224",
                shape=PICTURE,
                img_size=64,
                window_size=2,
                embed_dim=24,
                depths=[4, 4, 4, 4],
                num_heads=[2, 3, 4, 6],
            ),
        ),
        larger=(
            listed(
                "timm:swin_tiny_patch4_window7_224",
                shape=PICTURE,
                img_size=64,
                window_size=2,
                embed_dim=48,
                depths=[2, 2, 18, 2],
                num_heads=[3, 6, 12, 24],
            ),
        ),
        groups={
            r"stream": "stage.0",
            r"layers\.(\d+)\.stream": r"stage.\1",
            rf"{TIMM_BLOCK}\.attn\.(?:heads|relative_position_bias_table)": r"head.\1.\2",
            rf"{TIMM_BLOCK}\.attn\.(?:qkv\.)?(qk|vo)": r"\3.\1.\2",
            rf"{TIMM_BLOCK}\.mlp\.fc1": r"hidden.\1.\2",
        },
        extra={
            "layers.{i}.blocks.{j}.attn.relative_position_index?": "[~]",
            "layers.{i}.blocks.{j}.attn_mask?": "[~]",
        },
    ),
)
