"""Text that models write: its law, its length, whose it is, and which models can write any."""

import re

import pytest
import torch
from torch import nn

from rebasin_cli.errors import UsageError, UserCodeError
from rebasin_cli.models.module_weights import held_infos
from rebasin_cli.models.subject import Subject
from rebasin_cli.models.user.given_inputs import examples_of_shape
from rebasin_cli.models.user.user_model import subject_of
from rebasin_cli.network.language_model import LONGEST, TOKENS, SequencePlan, plan_sequences
from rebasin_cli.network.network import Network, UserCode
from rebasin_cli.network.sampled_text import data_of, draw_sequences
from rebasin_cli.options.data import SAMPLED, Data
from rebasin_cli.options.machine import Machine
from rebasin_cli.progress import silent
from rebasin_cli.tensors import InMemory
from rebasin_cli.tensors.blocks import Window
from tests.models.llama import Llama
from tests.models.transformer import CharGpt, FlatVit

CHAIN = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.15, 0.8], [0.5, 0.0, 0.5]])


class Chain(nn.Module):
    """What follows a token depends on it alone."""

    def __init__(self, chances=CHAIN):
        super().__init__()
        self.logits = nn.Parameter(chances.log())

    def forward(self, tokens):
        return self.logits[tokens]


class Counting(nn.Module):
    """The next token is the number of tokens so far: all of them have to be read."""

    def forward(self, tokens):
        ones = torch.ones_like(tokens).cumsum(1)
        return 1000.0 * nn.functional.one_hot(ones, 20)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(model, count, length, first=None, seed=0):
    plan = SequencePlan(count, length, first)
    return draw_sequences(model, count, plan, seeded(seed), told=lambda done: None)


def shares(rows):
    """Return how often each token follows each other one, as shares of its followers."""
    pairs = torch.stack([rows[:, :-1].flatten(), rows[:, 1:].flatten()])
    size = int(rows.max()) + 1
    counts = torch.zeros(size, size).index_put_(tuple(pairs), torch.tensor(1.0), accumulate=True)
    return counts / counts.sum(1, keepdim=True)


def test_tokens_follow_one_another_as_often_as_the_model_says():
    rows = drawn(Chain(), 1500, 20)
    assert torch.allclose(shares(rows), CHAIN, atol=0.02)
    assert not (shares(rows)[2, 1] > 0)
    starts = rows[:, 0].bincount() / len(rows)
    assert torch.allclose(starts, torch.full((3,), 1 / 3), atol=0.05)


def test_all_that_was_written_is_read_again():
    rows = drawn(Counting(), 5, 12)
    assert rows[:, 1:].tolist() == [list(range(1, 12))] * 5


def test_sequences_start_with_the_token_that_the_model_names_if_it_knows_it():
    assert drawn(Chain(), 9, 3, first=2)[:, 0].tolist() == [2] * 9
    assert set(drawn(Chain(), 60, 3, first=3)[:, 0].tolist()) == {0, 1, 2}


def test_the_same_seed_draws_the_same_and_leaves_the_numbers_of_others_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    rows = drawn(Chain(), 300, 20)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(rows, drawn(Chain(), 300, 20))
    assert not torch.equal(rows, drawn(Chain(), 300, 20, seed=1))
    assert len(rows.unique(dim=0)) == 300  # also where more are drawn than run at a time


def test_answers_that_are_not_finite_are_told():
    with pytest.raises(UserCodeError, match="its own text with what is not finite"):
        drawn(Chain(torch.full((3, 3), float("nan"))), 2, 5)


def code_for(model, plan, batches=None):
    names = {name: Window.whole(info) for name, info in held_infos(model).items()}
    network = Network(subject_of(type(model)), names)
    return UserCode(network, Data(data=SAMPLED, batches=batches), sequences=plan)


def always(token):
    chances = torch.full((3, 3), 1e-30)
    chances[:, token] = 1.0
    return InMemory({"logits": chances.log()})


def tokens_of(batches):
    return torch.cat([batch.example.args[0] for batch in batches])


MACHINE = Machine("cpu", 1, 10**9)


@pytest.mark.parametrize("count", [40, 41])
def test_each_model_writes_as_much_and_a_pass_takes_from_them_in_turn(count):
    code = code_for(Chain(), SequencePlan(count, 5))
    batches = data_of(code, (always(1), always(2)), MACHINE, silent)
    rows = tokens_of(batches)
    assert rows.shape == (count, 5)
    assert rows[:, 1:].tolist() == [[1 + k % 2] * 4 for k in range(count)]
    assert torch.equal(rows, tokens_of(batches))
    assert sum(1 for _ in batches) >= 10  # so that a share of them can be held out


def test_batches_are_of_some_2000_tokens_and_only_so_many_as_are_asked_for():
    code = code_for(Chain(), SequencePlan(1000, 64), batches=3)
    batches = data_of(code, (always(1),), MACHINE, silent)
    assert [batch.rows for batch in batches] == [32] * 3


def test_whoever_waits_is_told_how_many_tokens_there_are():
    told = []
    code = code_for(Chain(), SequencePlan(300, 64))
    data_of(code, (always(1), always(2)), MACHINE, lambda *call: told.append(call))
    assert {what for what, _, _ in told} == {"drawing 300 sequences of 64 tokens from the models"}
    done = [number for _, number, _ in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 300 * 64)
    assert {total for _, _, total in told} == {300 * 64}


def planned(model, count=None, **options):
    return plan_sequences(subject_of(model), count, shaped=False, **options)


class Configured(Chain):
    """A model with a configuration, as hand-written ones often have."""

    def __init__(self, **fields):
        super().__init__()
        self.config = type("Config", (), fields)()


def test_the_length_is_what_the_model_takes():
    assert planned(lambda: CharGpt(context=9)).length == 9
    assert planned(lambda: CharGpt(context=100)).length == 100
    assert planned(Llama).length == LONGEST
    assert planned(lambda: Configured(block_size=12)).length == 12
    assert planned(lambda: Configured(n_positions=5000)).length == LONGEST


def test_the_number_is_what_is_asked_for_or_enough():
    assert planned(Llama).count == TOKENS // LONGEST
    assert planned(Llama, 7).count == 7
    assert planned(lambda: Configured(bos_token_id=2)).first == 2
    assert planned(Llama).first is None


def test_an_input_that_the_user_describes_has_the_length():
    subject = subject_of(Llama, examples=examples_of_shape((1, 31)))
    assert plan_sequences(subject, None, shaped=True).length == 31


@pytest.mark.parametrize("shape", [(31,), (2, 1), (2, 5, 3)])
def test_an_input_that_is_no_text_says_nothing_of_a_length(shape):
    subject = subject_of(Llama, examples=examples_of_shape(shape))
    with pytest.raises(UsageError, match="--input-shape 1,64 draws sequences of 64 tokens"):
        plan_sequences(subject, None, shaped=True)


class Ahead(nn.Module):
    """An encoder: a token is answered by what stands behind it too."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 11)

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head(x + x.mean(1, keepdim=True))


class Tagger(Ahead):
    """Classes of tokens, of which there are not as many as tokens."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 4)

    def forward(self, tokens):
        return self.head(self.embed(tokens))


class Classifier(Ahead):
    def forward(self, tokens):
        return super().forward(tokens).mean(1)


class Silent(Ahead):
    def forward(self, tokens):
        return "nothing"


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (FlatVit, r"given tokens \(2, 4\): RuntimeError"),
        (Ahead, "what it answers to a token depends on the tokens behind it"),
        (Tagger, "it tells 4 classes apart, and takes 11 tokens"),
        (Classifier, r"given tokens \(2, 4\) it returns \(2, 11\)"),
        (Silent, "the model returns a str, not logits"),
        (lambda: Configured(vocab_size=4), "it tells 3 classes apart, and takes 4 tokens"),
    ],
)
def test_what_is_no_language_model_is_refused(model, why):
    with pytest.raises(UsageError, match="only language models can be sampled from") as caught:
        planned(model)
    assert re.search(why, str(caught.value))


def test_what_cannot_be_made_small_is_tried_as_it_is():
    def refuse():
        raise UsageError("no such size")

    small = Subject("small", refuse, lambda model: ())
    subject = Subject("own", lambda: CharGpt(context=9).eval(), lambda model: (), small=small)
    assert plan_sequences(subject, None, shaped=False).length == 9
