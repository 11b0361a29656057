"""The modular recurrent layers against torch.nn's."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from lmbench.distiller.modules import (
    DistillerGRU,
    DistillerLSTM,
    DistillerLSTMCell,
    DistillerRNN,
    EltwiseAdd,
    EltwiseMult,
    EltwiseSub,
    convert_model_to_distiller_lstm,
    convert_model_to_modular,
    convert_model_to_pytorch,
)

KINDS = {
    "lstm": (nn.LSTM, DistillerLSTM, {}),
    "gru": (nn.GRU, DistillerGRU, {}),
    "tanh": (nn.RNN, DistillerRNN, {"nonlinearity": "tanh"}),
    "relu": (nn.RNN, DistillerRNN, {"nonlinearity": "relu"}),
}


def close(left, right):
    if isinstance(left, tuple):
        assert isinstance(right, tuple)
        for a, b in zip(left, right, strict=True):
            close(a, b)
    else:
        torch.testing.assert_close(left, right, rtol=0, atol=1e-6)


def state_for(kind, layers, batch, hidden, generator):
    shape = (layers, batch, hidden)
    draw = [torch.randn(shape, generator=generator) for _ in range(2)]
    return tuple(draw) if kind == "lstm" else draw[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_converted_layer_computes_what_torch_does(kind, bidirectional, batch_first, bias):
    theirs_type, ours_type, options = KINDS[kind]
    torch.manual_seed(0)
    theirs = theirs_type(
        5, 7, 3, bias=bias, batch_first=batch_first, bidirectional=bidirectional, **options
    ).eval()
    ours = ours_type.from_pytorch_impl(theirs)
    x = torch.randn(4, 6, 5)
    batch = 4 if batch_first else 6
    hidden = state_for(kind, 6 if bidirectional else 3, batch, 7, torch.Generator().manual_seed(1))
    close(ours(x, hidden), theirs(x, hidden))
    close(ours(x), theirs(x))
    close(ours(x[0]), theirs(x[0]))
    drawn = torch.get_rng_state()
    back = ours.to_pytorch_impl()
    assert torch.equal(torch.get_rng_state(), drawn), "saving a copy must not change a training"
    for (name, a), (other, b) in zip(
        back.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences_of_different_lengths_match_torch(kind, bidirectional):
    theirs_type, ours_type, options = KINDS[kind]
    torch.manual_seed(0)
    theirs = theirs_type(5, 7, 2, bidirectional=bidirectional, **options).eval()
    ours = ours_type.from_pytorch_impl(theirs)
    packed = pack_sequence([torch.randn(n, 5) for n in (3, 6, 1, 6)], enforce_sorted=False)
    hidden = state_for(kind, 4 if bidirectional else 2, 4, 7, torch.Generator().manual_seed(1))
    for given in (None, hidden):
        mine, my_state = ours(packed, given)
        expected, state = theirs(packed, given)
        close(pad_packed_sequence(mine)[0], pad_packed_sequence(expected)[0])
        close(my_state, state)


def test_bidirectional_type_1_is_two_stacks_joined_at_the_top():
    torch.manual_seed(0)
    both = DistillerLSTM(5, 7, 2, bidirectional=True, bidirectional_type=1).eval()
    forth, back = DistillerLSTM(5, 7, 2).eval(), DistillerLSTM(5, 7, 2).eval()
    forth.cells.load_state_dict(both.cells.state_dict())
    back.cells.load_state_dict(both.cells_reverse.state_dict())
    x = torch.randn(4, 3, 5)
    output, state = both(x)
    expected_forth, state_forth = forth(x)
    expected_back, state_back = back(x.flip(0))
    close(output, torch.cat([expected_forth, expected_back.flip(0)], dim=2))
    close(state[0][0::2], state_forth[0])
    close(state[1][1::2], state_back[1])
    with pytest.raises(ValueError, match="no counterpart"):
        both.to_pytorch_impl()


def test_dropout_between_the_layers_acts_only_in_training():
    layer = DistillerLSTM.from_pytorch_impl(nn.LSTM(5, 7, 2, dropout=0.5))
    x = torch.randn(4, 3, 5)
    assert layer.training
    assert layer.dropout.p == 0.5
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


@pytest.mark.parametrize("cell_type", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_single_cells_convert_both_ways(cell_type):
    torch.manual_seed(0)
    theirs = cell_type(5, 7)
    model = nn.ModuleDict({"cell": copy.deepcopy(theirs)})
    convert_model_to_modular(model)
    x = torch.randn(3, 5)
    close(model["cell"](x), theirs(x))
    assert type(model["cell"]) is not cell_type
    convert_model_to_pytorch(model)
    close(model["cell"](x), theirs(x))


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_cell_goes_there_and_back_in_double_precision_and_draws_nothing(kind):
    theirs = kind(5, 7).double()
    ours = convert_model_to_modular(theirs)
    drawn = torch.get_rng_state()
    back = convert_model_to_pytorch(ours)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(map(torch.equal, back.parameters(), theirs.parameters()))


def test_gradients_reach_every_weight_as_in_torch():
    torch.manual_seed(0)
    theirs = nn.LSTM(5, 7, 2)
    ours = DistillerLSTM.from_pytorch_impl(theirs)
    x = torch.randn(4, 3, 5)
    theirs(x)[0].square().sum().backward()
    ours(x)[0].square().sum().backward()
    mine = dict(ours.named_parameters())["cells.1.fc_gate_h.weight"].grad
    torch.testing.assert_close(mine, theirs.weight_hh_l1.grad, rtol=1e-4, atol=1e-6)


def test_converting_a_model_keeps_the_decoder_tied_and_other_layers():
    model = nn.ModuleDict(
        {"encoder": nn.Embedding(9, 6), "rnn": nn.LSTM(6, 6), "decoder": nn.Linear(6, 9)}
    )
    model["decoder"].weight = model["encoder"].weight
    convert_model_to_distiller_lstm(model)
    assert isinstance(model["rnn"], DistillerLSTM)
    assert model["decoder"].weight is model["encoder"].weight
    assert {"rnn.cells.0.fc_gate_x", "rnn.cells.0.eltwiseadd_gate"} <= {
        name for name, _ in model.named_modules()
    }


def test_a_layer_in_two_places_stays_one_layer():
    shared = nn.LSTM(3, 3)
    model = nn.ModuleDict({"a": shared, "b": shared, "c": nn.ModuleDict({"d": shared})})
    for convert in (convert_model_to_modular, convert_model_to_pytorch):
        convert(model)
        assert model["a"] is model["b"] is model.get_submodule("c.d") is not shared


def test_the_lstm_conversion_leaves_a_gru_alone():
    model = nn.ModuleDict({"rnn": nn.GRU(3, 3)})
    convert_model_to_distiller_lstm(model)
    assert isinstance(model["rnn"], nn.GRU)


def test_a_cell_starts_from_zeros_without_a_state():
    cell = DistillerLSTMCell(3, 4)
    x = torch.randn(2, 3)
    zeros = torch.zeros(2, 4)
    close(cell(x), cell(x, (zeros, zeros)))


def test_elementwise_modules_combine_any_number_of_operands():
    a, b, c = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([5.0])
    assert EltwiseAdd()(a, b, c) == 8
    assert EltwiseMult()(a, b, c) == 10
    assert EltwiseSub()(c, b, a) == 2
    assert EltwiseAdd(inplace=True)(a, b) is a


def test_bad_shapes_are_refused_with_a_reason():
    with pytest.raises(ValueError, match="less than 1"):
        DistillerLSTM(3, 3, 0)
    with pytest.raises(ValueError, match="neither 1 nor 2"):
        DistillerLSTM(3, 3, 1, bidirectional_type=3)
    with pytest.raises(ValueError, match="empty"):
        DistillerLSTM(3, 3)(torch.zeros(0, 2, 3))
    with pytest.raises(ValueError, match="projections"):
        DistillerLSTM.from_pytorch_impl(nn.LSTM(4, 4, proj_size=2))
    with pytest.raises(ValueError, match="neither 'tanh'"):
        DistillerRNN(3, 3, nonlinearity="sigmoid")
