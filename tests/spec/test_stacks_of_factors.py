"""An axis of names moves whole tensors between names: it has one group, in text and in values."""

import pytest
import torch

from rebasin_cli.errors import SpecError
from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.language.model import AxisExpr, Fixed, Named, Spec, concatenation, product
from rebasin_cli.tensors import TensorInfo

INFOS = {
    name: TensorInfo(name, (4, 5), torch.float32) for name in (f"experts.{k}.w" for k in range(6))
}


@pytest.mark.parametrize(
    "axis",
    [product([Named("team"), Fixed(3)]), concatenation([Named("team"), Named("rest")])],
    ids=["factors", "segments"],
)
def test_an_axis_of_names_with_several_parts_is_refused(axis: AxisExpr) -> None:
    spec = Spec(tensors={"experts.[e].w": (axis, Named("hidden"), Named("stream"))})
    with pytest.raises(SpecError, match="an axis of names belongs to one group"):
        bind(spec, INFOS)
