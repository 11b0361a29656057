"""A quantizer written for the original: a subclass with its factory, functions and overrides."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmbench.distiller.quantization import QuantizationError, Quantizer
from lmbench.distiller.quantization.quantizer import (
    FP_BKP_PREFIX,
    QBits,
    hack_float_backup_parameter,
    has_bias,
)

ACTS, WTS, BIAS = "bits_activations", "bits_weights", "bits_bias"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool1(self.relu1(self.norm(self.conv1(x))))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block1 = Block()
        self.fc1 = nn.Linear(36, 10)
        self.relu2 = nn.ReLU()
        self.fc2 = nn.Linear(10, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.relu2(self.fc1(self.block1(x).flatten(1))))


class Wrapped(nn.Module):
    """What the factory puts in a module's place: it only remembers."""

    def __init__(self, module: nn.Module, bits: QBits, **own: Any) -> None:
        super().__init__()
        self.module, self.bits, self.own = module, bits, own

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def tenth(param_fp: Tensor, param_meta: Any) -> Tensor:
    """The image of a parameter: it shows the bits and sends the gradient back."""
    return param_fp * param_meta.num_bits


class Extension(Quantizer):
    """As the original's documentation tells to write one."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any = None,
        bits_activations: int | None = None,
        bits_weights: int | None = None,
        bits_bias: int | None = None,
        overrides: Any = None,
        train_with_fp_copy: bool = False,
    ) -> None:
        super().__init__(
            model,
            optimizer=optimizer,
            bits_activations=bits_activations,
            bits_weights=bits_weights,
            bits_bias=bits_bias,
            overrides=overrides,
            train_with_fp_copy=train_with_fp_copy,
        )
        self.order: list[str] = []

        def relu(module: nn.Module, name: str, qbits_map: Any, slope: Any = None) -> nn.Module:
            bits = qbits_map[name]
            return module if bits.acts is None else Wrapped(module, bits, slope=slope)

        def pool(module: nn.Module, name: str, qbits_map: Any) -> nn.Module:
            return nn.Sequential(module, nn.Conv2d(4, 4, 1))

        self.replacement_factory[nn.ReLU] = relu
        self.replacement_factory[nn.MaxPool2d] = pool
        self.param_quantization_fn = tenth

    def _pre_prepare_model(self, dummy_input: Any) -> None:
        self.order.append("pre")

    def _prepare_model_impl(self) -> None:
        super()._prepare_model_impl()
        self.order.append("impl")

    def _post_prepare_model(self) -> None:
        self.order.append("post")


def built(train_with_fp_copy: bool = False, **arguments: Any) -> Extension:
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Extension(model, optimizer, train_with_fp_copy=train_with_fp_copy, **arguments)


def test_defaults_hold_for_all_and_only_layers_with_weights_have_bits_for_them() -> None:
    quantizer = built(bits_activations=8, bits_weights=4, bits_bias=32)
    assert quantizer.default_qbits == QBits(acts=8, wts=4, bias=32)
    bits = quantizer.module_qbits_map
    assert set(bits) == {name for name, _ in Model().named_modules()}
    assert bits["block1.conv1"] == bits["fc1"] == bits["fc2"] == QBits(8, 4, 32)
    assert bits["block1.norm"] == bits["relu2"] == bits[""] == QBits(8, None, None)
    assert quantizer.overrides == OrderedDict()


@pytest.mark.parametrize(
    "overrides, changed",
    [
        ([("fc1", {WTS: 2})], {"fc1": QBits(8, 2, 32)}),
        ([("fc1", {ACTS: None, WTS: None, BIAS: None})], {"fc1": QBits(None, None, None)}),
        ([("fc.", {BIAS: None})], {"fc1": QBits(8, 4, None), "fc2": QBits(8, 4, None)}),
        (
            [("block1..*", {ACTS: 3, WTS: 2})],
            {
                "block1.conv1": QBits(3, 2, 32),
                "block1.norm": QBits(3, None, None),
                "block1.relu1": QBits(3, None, None),
                "block1.pool1": QBits(3, None, None),
            },
        ),
        # The first that matches the whole name wins.
        (
            [("fc1", {WTS: 2}), ("fc.*", {WTS: 6}), ("fc2", {WTS: 7}), ("f", {WTS: 9})],
            {"fc1": QBits(8, 2, 32), "fc2": QBits(8, 6, 32)},
        ),
        ([("(block1|nothing).(conv|relu)1", {ACTS: 5})], None),
    ],
)
def test_overrides_change_the_bits_of_the_modules_whose_whole_name_matches(
    overrides: Any, changed: Any
) -> None:
    plain = built(bits_activations=8, bits_weights=4, bits_bias=32).module_qbits_map
    changed = changed or {
        "block1.conv1": QBits(5, 4, 32),
        "block1.relu1": QBits(5, None, None),
    }
    given = OrderedDict(overrides)
    kept = copy.deepcopy(given)
    quantizer = built(bits_activations=8, bits_weights=4, bits_bias=32, overrides=given)
    assert quantizer.module_qbits_map == plain | changed
    assert given == kept


def test_overrides_need_an_order() -> None:
    with pytest.raises(TypeError, match="OrderedDict"):
        built(overrides={"fc1": {WTS: 2}})
    quantizer = built(bits_weights=8, overrides="fc1: {bits_weights: 2}")
    assert quantizer.module_qbits_map["fc1"] == QBits(None, 2, None)


def test_a_float_copy_needs_an_optimizer() -> None:
    with pytest.raises(ValueError, match="optimizer"):
        Extension(Model(), None, 8, 4, train_with_fp_copy=True)


def test_the_factory_replaces_modules_by_their_type_and_gets_the_other_overrides() -> None:
    overrides = OrderedDict([("relu2", {"slope": 0.5}), ("block1.relu1", {ACTS: None})])
    quantizer = built(bits_activations=8, overrides=overrides)
    conv = quantizer.model.get_submodule("block1.conv1")
    assert quantizer.prepare_model(torch.zeros(1)) is quantizer.model
    model = quantizer.model
    relu = model.get_submodule("relu2")
    assert isinstance(relu, Wrapped)
    assert relu.bits == QBits(8, None, None)
    assert relu.own == {"slope": 0.5}
    assert type(model.get_submodule("block1.relu1")) is nn.ReLU
    assert model.get_submodule("block1.conv1") is conv
    assert quantizer.order == ["pre", "impl", "post"]
    assert quantizer.module_overrides_map["relu2"] == {"slope": 0.5}
    assert quantizer.module_overrides_map["fc1"] == {}
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 5)


def test_a_leaf_that_becomes_a_container_hands_its_bits_on() -> None:
    quantizer = built(
        bits_activations=8, bits_weights=4, overrides=OrderedDict([("block1.pool1", {WTS: 2})])
    )
    quantizer.prepare_model()
    bits = quantizer.module_qbits_map
    assert bits["block1.pool1"] == QBits(8, None, None)
    assert bits["block1.pool1.0"] == QBits(8, None, None)
    assert bits["block1.pool1.1"].acts == 8
    assert isinstance(quantizer.model.get_submodule("block1.pool1.1"), nn.Conv2d)


def test_what_the_replacing_function_does_not_take_is_refused() -> None:
    quantizer = built(bits_activations=8, overrides=OrderedDict([("relu2", {"speed": 1})]))
    with pytest.raises(TypeError, match=r"'relu2'.*takes no speed"):
        quantizer.prepare_model()
    quantizer = built(overrides=OrderedDict([("relu2", {"slope": 1})]))
    with pytest.raises(ValueError, match="not quantized"):
        quantizer.prepare_model()


def test_a_shared_module_is_replaced_once() -> None:
    model = Model()
    model.relu2 = model.block1.relu1
    quantizer = Extension(model, None, 8)
    with pytest.warns(
        UserWarning, match="Module 'relu2' references to same module as 'block1.relu1'."
    ):
        quantizer.prepare_model()
    assert isinstance(model.relu2, Wrapped)
    assert model.get_submodule("relu2") is model.get_submodule("block1.relu1")


@pytest.mark.parametrize("fp_copy", [False, True])
@pytest.mark.parametrize("bias", [None, 32])
def test_parameters_are_listed_with_their_bits_and_quantized_by_the_function(
    fp_copy: bool, bias: int | None
) -> None:
    overrides = OrderedDict([("fc2", {WTS: None}), ("fc1", {WTS: 6})])
    quantizer = built(fp_copy, bits_weights=4, bits_bias=bias, overrides=overrides)
    before = {n: p.detach().clone() for n, p in quantizer.model.named_parameters()}
    quantizer.prepare_model()
    listed = {
        f"{meta.module_name}.{meta.q_attr_name}": meta.num_bits
        for meta in quantizer.params_to_quantize
    }
    wanted = {"block1.conv1.weight": 4, "fc1.weight": 6}
    biases = {"block1.conv1.bias": 32, "fc1.bias": 32}
    assert listed == wanted | (biases if bias else {})
    quantizer.quantize_params()
    for meta in quantizer.params_to_quantize:
        name = f"{meta.module_name}.{meta.q_attr_name}"
        image = getattr(meta.module, meta.q_attr_name)
        torch.testing.assert_close(image, before[name] * listed[name])
        floats = dict(meta.module.named_parameters())
        if fp_copy:
            assert meta.fp_attr_name == FP_BKP_PREFIX + meta.q_attr_name
            assert torch.equal(floats[meta.fp_attr_name], before[name])
            assert meta.q_attr_name in dict(meta.module.named_buffers())
            assert meta.q_attr_name not in floats
        else:
            assert meta.fp_attr_name == meta.q_attr_name
            assert isinstance(image, nn.Parameter)
    assert torch.equal(quantizer.model.get_parameter("fc2.weight"), before["fc2.weight"])


def test_the_optimizer_trains_the_float_copies_through_the_images() -> None:
    quantizer = built(True, bits_activations=8, bits_weights=4)
    quantizer.prepare_model()
    optimizer = quantizer.optimizer
    assert optimizer is not None
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in quantizer.model.parameters()}
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9]
    floats = quantizer.model.get_parameter("fc1.float_weight")
    before = floats.detach().clone()
    quantizer.quantize_params()
    quantizer.model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert floats.grad is not None
    optimizer.step()
    assert not torch.equal(floats, before)


class WithBound(Extension):
    """Learns a bound beside the weights, with a decay of its own."""

    def _pre_prepare_model(self, dummy_input: Any) -> None:
        self.model.bound = nn.Parameter(torch.ones(1))


class OwnGroups(WithBound):
    def _get_updated_optimizer_params_groups(self) -> list[dict[str, Any]]:
        others = [p for p in self.model.parameters() if p is not self.model.bound]
        return [{"params": others}, {"params": [self.model.bound], "weight_decay": 0.5}]


class NewGroups(WithBound):
    def _get_new_optimizer_params_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.model.bound], "weight_decay": 0.5}]


@pytest.mark.parametrize("kind", [WithBound, OwnGroups, NewGroups])
def test_new_parameters_join_the_optimizer_in_the_groups_that_the_subclass_names(kind: Any) -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    kind(model, optimizer, 8, 4, train_with_fp_copy=True).prepare_model()
    groups = optimizer.param_groups
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert all(group["momentum"] == 0.9 for group in groups)
    if kind is not WithBound:
        assert [p is model.bound for p in groups[1]["params"]] == [True]
        assert [group["weight_decay"] for group in groups] == [0, 0.5]


def test_parameters_to_quantize_need_a_function() -> None:
    quantizer = Quantizer(nn.Sequential(nn.Linear(2, 2)), bits_weights=4)
    quantizer.prepare_model()
    with pytest.raises(QuantizationError, match="param_quantization_fn"):
        quantizer.quantize_params()


def test_a_model_in_data_parallel_is_matched_without_the_word_module() -> None:
    model = nn.DataParallel(Model())
    quantizer = Extension(model, None, 8, 4, overrides=OrderedDict([("fc1", {WTS: 2})]))
    assert quantizer.module_qbits_map["module.fc1"] == QBits(8, 2, None)
    quantizer.prepare_model()
    assert isinstance(model.get_submodule("module.relu2"), Wrapped)


def test_a_name_that_ends_in_module_is_matched_whole() -> None:
    model = nn.ModuleDict({"submodule": nn.Sequential(nn.Linear(2, 2))})
    overrides = OrderedDict([("submodule.0", {WTS: 2})])
    quantizer = Extension(model, None, 8, 4, overrides=overrides)
    assert quantizer.module_qbits_map["submodule.0"].wts == 2


def test_what_a_model_was_quantized_with_stays_on_it() -> None:
    overrides = OrderedDict([("fc1", {WTS: 2})])
    quantizer = built(bits_activations=8, overrides=overrides)
    kept: Any = quantizer.model.quantizer_metadata
    assert kept["type"] is Extension
    assert kept["params"] == {ACTS: 8, WTS: None, BIAS: None, "overrides": overrides}


def test_a_parameter_gets_a_float_copy_under_the_prefix() -> None:
    layer = nn.Linear(3, 2)
    weight = layer.weight
    hack_float_backup_parameter(layer, "weight", 4)
    assert layer.get_parameter("float_weight") is weight
    assert torch.equal(layer.get_buffer("weight"), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="no parameter named 'wait'"):
        hack_float_backup_parameter(layer, "wait", 4)
    assert has_bias(layer)
    assert not has_bias(nn.Linear(3, 2, bias=False))
