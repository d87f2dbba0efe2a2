"""Modules of torch.nn by themselves."""

from __future__ import annotations

from torch import nn

from rebasin_cli.models.subject import Subject
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.tracer.derivation.unit_symmetry import Choices
from tests.library.entry import Entry, Model

OUTPUT = Choices(outputs=("0",))  # and not the last states, which depend on all layers


def encoder(width: int, heads: int, layers: int) -> Model:
    """Return an nn.TransformerEncoder."""

    def found() -> Subject:
        layer = nn.TransformerEncoderLayer(width, heads, width + 16, batch_first=True)
        return subject_of(nn.TransformerEncoder(layer, layers, enable_nested_tensor=False))

    return Model(found, sizes={"heads": heads})


def recurrent(kind: type[nn.RNNBase], layers: int, **arguments: bool) -> Model:
    """Return an nn.LSTM or nn.GRU; its output has to stay."""
    made = {"input_size": 6, "hidden_size": 4 * layers, "num_layers": layers, **arguments}
    return Model(lambda: subject_of(kind, model_args=made), choices=OUTPUT)


ENTRIES = (
    Entry(
        name="transformer_encoder",
        about="""nn.TransformerEncoder by itself. What it is fed and what it returns has to stay,
            and so the stream between its layers. Heads may change places; inside each head, the
            dims that queries and keys share (qk) and those that values and the output projection
            share (vo) have permutations of their own.""",
        description="torch.nn.TransformerEncoder, --set heads=N",
        needs="torch",
        variants=(encoder(32, 4, 3),),
        larger=(encoder(48, 6, 12),),
        groups={
            r"layers\.(\d+)\.self_attn\.heads": r"head.\1",
            r"layers\.(\d+)\.self_attn\.(qk|vo)": r"\2.\1",
            r"layers\.(\d+)\.linear1": r"hidden.\1",
        },
        sizes={"heads": "config.num_attention_heads"},
        counted={r"head\..*": "heads"},
    ),
    *(
        Entry(
            name=name,
            about=f"""nn.{kind.__name__} by itself, of two or more layers. The output of the last
                layer has to stay; the units of each layer before it may change places, in all
                gates alike. The last states of these layers are returned too: they come out in the
                new order.""",
            description=f"torch.nn.{kind.__name__} of several layers",
            needs="torch",
            variants=(recurrent(kind, 7),),
            larger=(recurrent(kind, 2), recurrent(kind, 4)),
            groups={r"(?:layer\.)?l(\d+)(?:\.stream)?": r"h.\1"},
        )
        for name, kind in (("lstm", nn.LSTM), ("gru", nn.GRU))
    ),
)
