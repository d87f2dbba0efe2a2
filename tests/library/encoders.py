"""Encoders of text, under the names of transformers."""

from __future__ import annotations

from tests.library.entry import Entry, Fields, hf

BERT: Fields = {
    "vocab_size": 99,
    "max_position_embeddings": 64,
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
}
WIDE: Fields = {**BERT, "num_hidden_layers": 12, "hidden_size": 60, "num_attention_heads": 6}
BLOCK = r"(?:bert|roberta)\.encoder\.layer\.(\d+)"
GROUPS = {
    rf"{BLOCK}\.attention\.heads": r"head.\1",
    rf"{BLOCK}\.attention\.self\.qk": r"qk.\1",
    rf"{BLOCK}\.attention\.vo": r"vo.\1",
    rf"{BLOCK}\.intermediate\.dense": r"hidden.\1",
}
HEADS = """Heads may change places; inside each head, the dims that queries and keys share (qk) and
    those that values and the output projection share (vo) have permutations of their own."""

ENTRIES = (
    Entry(
        name="bert",
        about=f"""BERT with the head that predicts masked tokens, under the names of transformers
            (LayerNorm.gamma and beta are those of old files). {HEADS} The transform in front of
            the head and the residual connections tie everything to one stream. A pooler, which
            some files hold and the head does not read, keeps its units.""",
        description="transformers BERT for masked tokens; sizes come from config.json",
        needs="transformers",
        variants=(hf("bert", "BertForMaskedLM", **BERT),),
        larger=(hf("bert", "BertForMaskedLM", **WIDE),),
        groups=GROUPS,
        sizes={"heads": "config.num_attention_heads"},
        counted={r"head\..*": "heads"},
        spelled={r"LayerNorm\.\{weight,bias\}": "LayerNorm.{weight,bias,gamma,beta}"},
        extra={
            "bert.embeddings.position_ids?": "[~]",
            "bert.pooler.dense.weight?": "[~, stream]",
            "bert.pooler.dense.bias?": "[~]",
        },
    ),
    Entry(
        name="roberta",
        about=f"""RoBERTa and XLM-RoBERTa with the head that predicts masked tokens, under the names
            of transformers. {HEADS} A pooler, which some files hold and the head does not read,
            keeps its units.""",
        description="transformers RoBERTa, XLM-R for masked tokens; sizes come from config.json",
        needs="transformers",
        variants=(
            hf("roberta", "RobertaForMaskedLM", **BERT),
            hf("xlm-roberta", "XLMRobertaForMaskedLM", **BERT),
        ),
        larger=(hf("roberta", "RobertaForMaskedLM", **WIDE),),
        groups=GROUPS,
        sizes={"heads": "config.num_attention_heads"},
        counted={r"head\..*": "heads"},
        extra={
            "roberta.embeddings.position_ids?": "[~]",
            "roberta.pooler.dense.weight?": "[~, stream]",
            "roberta.pooler.dense.bias?": "[~]",
        },
    ),
    Entry(
        name="bert-pretraining",
        about=f"""BERT as it was published, with both heads: masked tokens and next sentence, under
            the names of transformers (LayerNorm.gamma and beta are those of old files). {HEADS}
            The pooler has units of its own.""",
        description="transformers BERT with both heads; sizes come from config.json",
        needs="transformers",
        variants=(hf("bert", "BertForPreTraining", **BERT),),
        larger=(hf("bert", "BertForPreTraining", **WIDE),),
        groups={**GROUPS, r"bert\.pooler\.dense": "pooler"},
        sizes={"heads": "config.num_attention_heads"},
        counted={r"head\..*": "heads"},
        spelled={r"LayerNorm\.\{weight,bias\}": "LayerNorm.{weight,bias,gamma,beta}"},
        extra={"bert.embeddings.position_ids?": "[~]"},
    ),
)
