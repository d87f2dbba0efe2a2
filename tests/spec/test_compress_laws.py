"""Laws of compression: the short spec says the same, also of deeper models."""

from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_cli.spec.binding.bind import bind
from rebasin_cli.spec.compression.compress import compress
from rebasin_cli.spec.language.dump import dump
from rebasin_cli.spec.language.model import Declaration, Fixed, Named, Product, Spec, Sum
from rebasin_cli.spec.language.parse import parse
from rebasin_cli.spec.library import load_spec
from rebasin_cli.tensors import InMemory
from rebasin_cli.tensors import infos as infos_of
from tests.models import EXAMPLES
from tests.proof import stored
from tests.spec.explicit import explicit
from tests.spec.shapes import infos
from tests.test_specs import CASES, case

N = 4  # the size of every group


def meaning(spec, headers):
    bound = bind(spec, headers)
    return bound.tensors, list(bound.groups.items()), bound.untouched, bound.buffers


def check_the_law(spec, headers):
    """Compress, without the net that would catch a wrong template, and compare."""
    with patch("rebasin_cli.spec.compression.compress._largest", side_effect=AssertionError):
        short = compress(spec, headers)
    assert meaning(short, headers) == meaning(spec, headers)
    assert parse(dump(short)) == short
    return short


def example(name):
    sizes = EXAMPLES[name].sizes
    spec, headers = case(name)[0], infos_of(InMemory(stored(EXAMPLES[name].model())))
    known = {key: size for key, size in sizes.items() if key in spec.sizes}
    return explicit(spec, headers, known), headers


@pytest.mark.parametrize("name", CASES)
def test_the_short_form_of_a_network_says_the_same(name):
    spec, headers = example(name)
    short = check_the_law(spec, headers)
    assert len(dump(short)) <= len(dump(spec))


def repeated(headers, place, count):
    """Return headers with as many layers, the others like the second one."""
    shapes = {}
    for name, info in headers.items():
        for k in range(2, count) if name.startswith(f"{place}1.") else ():
            shapes[name.replace(f"{place}1.", f"{place}{k}.", 1)] = info.shape
        shapes[name] = info.shape
    return infos(shapes)


def chain(prefix, step):
    layer = {"weight": (5, 5), "bias": (5,)}
    return infos({f"{prefix}{step * k}.{end}": layer[end] for k in range(12) for end in layer})


DEEPER = [
    ("mlp_sequential", "mlp", lambda _: chain("", 2)),
    ("mlp_layers", "mlp", lambda _: chain("layers.", 1)),
    ("llama", "llama", lambda h: repeated(h, "model.layers.", 12)),
    ("char_gpt", "preln-gpt", lambda h: repeated(h, "blocks.", 12)),
    ("vit_timm", "preln-vit", lambda h: repeated(h, "blocks.", 12)),
    ("vgg11", "vgg", lambda _: example("vgg19")[1]),
    ("resnet18", "resnet-basic", lambda _: example("resnet34")[1]),
    ("resnet50", "resnet-bottleneck", lambda _: example("resnet101")[1]),
    ("resnet20_stages", "resnet20-cifar", lambda h: repeated(h, "stages.0.", 9)),
]


@pytest.mark.parametrize(("name", "bundled", "deeper"), DEEPER)
def test_what_is_compressed_from_a_shallow_model_fits_a_deep_one(name, bundled, deeper):
    spec, headers = example(name)
    deep = deeper(headers)
    wanted = bind(load_spec(bundled), deep, sizes=dict(EXAMPLES[name].sizes))
    found = bind(compress(spec, headers), deep)
    assert found.tensors == wanted.tensors
    assert found.groups == wanted.groups


NUMBERS = st.sampled_from(["0", "1", "2", "3", "10"])
COMPONENTS = st.one_of(
    NUMBERS,
    st.sampled_from(["a", "b", "last"]),
    NUMBERS.map("x{}".format),
    NUMBERS.map("y_{}".format),
)
NAMES = st.lists(COMPONENTS, min_size=1, max_size=4).map(".".join)
GROUP_NAMES = st.lists(COMPONENTS, max_size=3).map(lambda parts: ".".join(["g", *parts]))


def axis_of(draw, groups):
    """Draw an axis expression and its size."""
    kind = draw(st.sampled_from(["group", "group", "group", "any", "number", "times", "sum"]))
    group = Named(draw(st.sampled_from(groups)))
    found = {
        "group": (group, N),
        "any": (Fixed(), 3),
        "number": (Fixed(3), 3),
        "times": (Product((group, Fixed(2))), 2 * N),
        "sum": (Sum((group, Fixed(3))), N + 3),
    }
    return found[kind]


@st.composite
def random_specs(draw):
    """Draw an explicit spec of unrelated entries, and headers that it binds to.

    Every group is written and read by a matrix of its own, so any entries beside it bind.
    """
    groups = sorted(draw(st.sets(GROUP_NAMES, min_size=1, max_size=6)))
    names = draw(st.lists(NAMES, unique=True, max_size=14))
    tensors, shapes = {}, {}
    for name in names:
        axes = [axis_of(draw, groups) for _ in range(draw(st.integers(0, 2)))]
        shapes[name] = tuple(size for _, size in axes)
        if draw(st.integers(0, 5)):
            tensors[name] = tuple(tree for tree, _ in axes)
    declared = {}
    for k, group in enumerate(groups):
        tensors[f"tie.{k}.w"], shapes[f"tie.{k}.w"] = (Named(group),) * 2, (N, N)
        if draw(st.booleans()):
            declared[group] = Declaration(size=N)
        if draw(st.booleans()):
            child = draw(st.sampled_from([f"kid.{k}", f"{group}.kid", f"kid.{k}.x"]))
            tensors[f"tie.{k}.v"] = (Product((Named(group), Named(child))),) * 2
            shapes[f"tie.{k}.v"] = (N * N, N * N)
            declared[child] = Declaration(per=group)
    buffers = tuple(name for name in shapes if draw(st.booleans()))
    transposed = tuple(name for name in names if draw(st.booleans()))
    spec = Spec(tensors, buffers=buffers, transposed=transposed, groups=declared)
    return spec, infos(shapes)


@given(random_specs())
@settings(deadline=None, max_examples=60)
def test_unrelated_entries_are_compressed_without_a_change(drawn):
    check_the_law(*drawn)


@st.composite
def repeating_specs(draw):
    """Draw layers that follow a rule, some of them with exceptions."""
    indices = sorted(draw(st.sets(st.integers(0, 12), min_size=2, max_size=6)))
    inner = sorted(draw(st.sets(st.integers(0, 3), min_size=1, max_size=3)))
    place = draw(st.sampled_from(["", "h.", "layer", "a.b_"]))
    layers, shapes, used = {}, {}, set()
    for role in draw(
        st.lists(st.sampled_from(["up", "down", "n1", "n2"]), unique=True, min_size=1)
    ):
        step = draw(st.sampled_from([0, -1, 1, None]))
        for at, i in enumerate(indices):
            for j in inner:
                near = indices[max(0, min(len(indices) - 1, at + (step or 0)))]
                group = "g.0" if step is None else f"g.{near}.{j}"
                if draw(st.integers(0, 7)) == 0:
                    group = draw(st.sampled_from(["g.0", "other", f"g.{i}.{j}"]))
                name = f"{place}{i}.{j}.{role}.w"
                layers[name], shapes[name] = (Named(group), Fixed()), (N, 3)
                used.add(group)
    missing = draw(st.sets(st.sampled_from(sorted(layers)), max_size=1))
    ties = {f"tie{k}": (Named(group), Named(group)) for k, group in enumerate(sorted(used))}
    said = {name: entry for name, entry in layers.items() if name not in missing}
    return Spec({**said, **ties}), infos(shapes | dict.fromkeys(ties, (N, N)))


@given(repeating_specs())
@settings(deadline=None, max_examples=60)
def test_repeating_layers_with_exceptions_are_compressed_without_a_change(drawn):
    check_the_law(*drawn)


@given(repeating_specs())
@settings(deadline=None, max_examples=30)
def test_compressing_again_changes_nothing(drawn):
    spec, headers = drawn
    short = compress(spec, headers)
    assert compress(short, headers) == short
