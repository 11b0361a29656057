"""A language model's training in the words of the original: names, orders and keywords of calls."""

import csv
import importlib
import logging
import math
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lmbench.distiller as distiller
from lmbench.distiller.compat import ALIASES, apputils
from lmbench.distiller.reports.data_loggers import CsvLogger, PythonLogger, TensorBoardLogger

WORDS, WIDTH, STEPS, BPTT, BATCH = 23, 8, 6, 5, 3
SCHEDULE = """
version: 1
pruners:
  rnn_pruner:
    class: AutomatedGradualPruner
    initial_sparsity: 0.05
    final_sparsity: 0.75
    weights: [rnn.weight_ih_l0, rnn.weight_hh_l0]
  embedding_pruner:
    class: AutomatedGradualPruner
    initial_sparsity: 0.05
    final_sparsity: 0.5
    weights: [encoder.weight]
policies:
  - pruner: {instance_name: rnn_pruner}
    starting_epoch: 0
    ending_epoch: 3
    frequency: 1
  - pruner: {instance_name: embedding_pruner}
    starting_epoch: 0
    ending_epoch: 3
    frequency: 1
"""


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(WORDS, WIDTH)
        self.rnn = nn.LSTM(WIDTH, WIDTH)
        self.decoder = nn.Linear(WIDTH, WORDS)
        self.decoder.weight = self.encoder.weight

    def forward(self, ids, hidden=None):
        output, hidden = self.rnn(self.encoder(ids), hidden)
        return self.decoder(output), hidden


@pytest.fixture
def root_logger():
    """Python's root logger, which goes back to what pytest made of it."""
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    yield root
    for handler in [h for h in root.handlers if h not in before[1]]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(before[0])


def test_a_training_in_the_words_of_the_original_prunes_logs_and_summarises(
    tmp_path, monkeypatch, capsys, caplog, root_logger
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agp.yaml").write_text(SCHEDULE)
    distiller.set_deterministic(0)
    model, criterion = LanguageModel(), nn.CrossEntropyLoss()
    stream = torch.randint(WORDS, (STEPS * BPTT + 1, BATCH))

    msglogger = apputils.config_pylogger("logging.conf", None)
    apputils.log_execution_env_state("agp.yaml", msglogger.logdir, gitroot=".")
    tflogger = TensorBoardLogger(msglogger.logdir)
    tflogger.log_gradients = True
    pylogger = PythonLogger(msglogger)
    compression_scheduler = distiller.config.file_config(model, None, "agp.yaml")
    optimizer = torch.optim.SGD(model.parameters(), 1.0, momentum=0.9, weight_decay=1e-4)

    for epoch in range(3):
        compression_scheduler.on_epoch_begin(epoch)
        hidden = None
        for batch, i in enumerate(range(0, STEPS * BPTT, BPTT)):
            compression_scheduler.on_minibatch_begin(
                epoch, minibatch_id=batch, minibatches_per_epoch=STEPS
            )
            output, hidden = model(stream[i : i + BPTT], hidden)
            hidden = tuple(h.detach() for h in hidden)
            loss = criterion(output.view(-1, WORDS), stream[i + 1 : i + 1 + BPTT].view(-1))
            loss = compression_scheduler.before_backward_pass(
                epoch,
                minibatch_id=batch,
                minibatches_per_epoch=STEPS,
                loss=loss,
                return_loss_components=False,
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
            compression_scheduler.on_minibatch_end(
                epoch, minibatch_id=batch, minibatches_per_epoch=STEPS
            )
            if batch == 3:
                distiller.log_training_progress(
                    (
                        "Performance/Training/",
                        OrderedDict([("Loss", loss.item()), ("Perplexity", math.exp(loss.item()))]),
                    ),
                    model.named_parameters(),
                    epoch,
                    batch + 1,
                    STEPS,
                    3,
                    [tflogger, pylogger],
                )
        distiller.log_weights_sparsity(model, epoch, loggers=[tflogger, pylogger])
        tflogger.log_training_progress(
            ("Performance/Validation/", OrderedDict([("Loss", 1.0)])), epoch, 0, total=1, freq=1
        )
        compression_scheduler.on_epoch_end(epoch)

    assert distiller.sparsity(model.rnn.weight_hh_l0) == pytest.approx(0.75)
    assert model.decoder.weight is model.encoder.weight
    _, total = distiller.weights_sparsity_tbl_summary(model, return_total_sparsity=True)
    assert total == pytest.approx(distiller.model_sparsity(model))

    log = Path(msglogger.log_filename).read_text(encoding="utf-8")
    assert "epoch 2: 4/6  Loss " in log
    assert f"total sparsity: {total:.2f}%" in log
    assert "rnn.weight_ih_l0" in log
    kept = tmp_path / msglogger.logdir / "configs" / "agp.yaml"
    assert kept.read_text() == SCHEDULE
    assert "pip install tensorboard" in caplog.text
    with (tmp_path / msglogger.logdir / "scalars.csv").open() as file:
        scalars = {
            (row["tag"], int(row["step"])): float(row["value"]) for row in csv.DictReader(file)
        }
    assert scalars["Performance/Validation/Loss", 2] == 1.0
    assert ("Performance/Training/Loss", 2 * STEPS + 4) in scalars
    assert scalars["sparsity/weights/total", 2] == pytest.approx(total)

    capsys.readouterr()
    for what in ("sparsity", "model", "modules", "percentile"):
        table = distiller.model_summary(model, what, "wikitext2")
        assert table.to_text() in capsys.readouterr().out

    def test_func(model):
        with torch.no_grad():
            logits, _ = model(stream[:-1])
        return F.cross_entropy(logits.view(-1, WORDS), stream[1:].view(-1)).item()

    found = distiller.perform_sensitivity_analysis(
        model, ["rnn.weight_hh_l0"], [0.0, 0.9], test_func, group="element"
    )
    assert found["rnn.weight_hh_l0"][0.0] == test_func(model)
    assert found["rnn.weight_hh_l0"][0.9] != found["rnn.weight_hh_l0"][0.0]
    distiller.sensitivities_to_csv(found, "sensitivity.csv")
    assert (tmp_path / "sensitivity.csv").read_text().startswith("parameter,sparsity,")


def test_with_tensorboard_the_numbers_and_distributions_go_to_its_writer(monkeypatch, tmp_path):
    written = []

    class SummaryWriter:
        def __init__(self, logdir):
            written.append(("open", logdir))

        def add_scalar(self, tag, value, step):
            written.append((tag, value, step))

        def add_histogram(self, tag, values, step):
            written.append((tag, tuple(values.shape), step))

        def flush(self):
            written.append(("flush",))

    module = types.ModuleType("torch.utils.tensorboard")
    monkeypatch.setattr(module, "SummaryWriter", SummaryWriter, raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    model = nn.Linear(3, 2)
    model(torch.ones(3)).sum().backward()
    logger = TensorBoardLogger(tmp_path)
    logger.log_gradients = True
    logger.log_weights_sparsity(model, 4)
    logger.log_weights_distribution(model.named_parameters(), 9)
    logger.log_activation_statsitic("train", "sparsity", {"rnn": 0.5}, 4)
    assert written[0] == ("open", str(tmp_path))
    assert ("sparsity/weights/weight", 0.0, 4) in written
    assert ("weight", (2, 3), 9) in written
    assert ("weight/grad", (2, 3), 9) in written
    assert ("bias", (2,), 9) not in written
    assert ("sparsity/activations/train/rnn", 0.5, 4) in written
    assert written[-1] == ("flush",)


def test_a_csv_logger_writes_the_sparsity_of_each_weight(tmp_path):
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight[0] = 0
    CsvLogger("run", tmp_path).log_weights_sparsity(model, 0)
    lines = (tmp_path / "run_weights_sparsity.csv").read_text().splitlines()
    assert lines[1:] == ['weight,"(2, 4)",8,4,50.0']


def test_activation_statistics_are_told_to_every_logger_and_nothing_without_a_collector(caplog):
    collector = types.SimpleNamespace(stat_name="sparsity", value=lambda: {"rnn": 12.5})
    with caplog.at_level("INFO"):
        distiller.log_activation_statistics(
            1, "valid", [PythonLogger(logging.getLogger("told"))], collector
        )
        distiller.log_activation_statsitics(1, "valid", [TensorBoardLogger], None)
    (record,) = caplog.records
    assert "rnn" in record.message
    assert "12.50" in record.message


def test_a_logging_configuration_is_used_and_a_broken_one_is_refused(
    tmp_path, monkeypatch, root_logger
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.conf").write_text("[loggers]\nkeys=root\n")
    with pytest.raises(distiller.DistillerError, match=r"broken\.conf: is no configuration of"):
        apputils.config_pylogger("broken.conf", "six")
    (tmp_path / "good.conf").write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=file\n[formatters]\nkeys=plain\n"
        "[logger_root]\nlevel=INFO\nhandlers=file\n"
        "[handler_file]\nclass=FileHandler\nformatter=plain\nargs=('%(logfilename)s',)\n"
        "[formatter_plain]\nformat=kept: %(message)s\n"
    )
    logger = apputils.config_pylogger("good.conf", "six", output_dir="out", verbose=True)
    logger.debug("a line")
    assert "kept: a line" in Path(logger.log_filename).read_text(encoding="utf-8")
    assert logger.logdir.startswith("out/six___")


def test_drawing_a_graph_is_refused_with_what_to_do_instead():
    with pytest.raises(distiller.DistillerError, match="export the model to ONNX"):
        distiller.SummaryGraph(nn.Linear(2, 2), torch.ones(2))
    with pytest.raises(distiller.DistillerError, match="export the model to ONNX"):
        distiller.draw_model_to_file(nn.Linear(2, 2), "rnn.png")


def test_a_distillation_policy_pulls_the_student_to_its_teacher_at_its_epochs():
    torch.manual_seed(1)
    student, teacher = LanguageModel(), LanguageModel()
    scheduler = distiller.CompressionScheduler(student)
    policy = distiller.KnowledgeDistillationPolicy(
        student, teacher, 2.0, distiller.DistillationLossWeights(0.7, 0.3, 0)
    )
    scheduler.add_policy(policy, epochs=[1])
    ids, targets = torch.randint(WORDS, (BPTT, BATCH)), torch.randint(WORDS, (BPTT, BATCH))

    def loss_at(epoch):
        scheduler.on_epoch_begin(epoch)
        scheduler.on_minibatch_begin(epoch, 0, 1)
        logits, _ = policy.forward(ids, None)
        own = F.cross_entropy(logits.view(-1, WORDS), targets.view(-1))
        loss = scheduler.before_backward_pass(epoch, 0, 1, own)
        scheduler.on_epoch_end(epoch)
        return own, loss, logits

    own, loss, _ = loss_at(0)
    assert loss is own
    own, loss, logits = loss_at(1)
    apart = distiller.distillation_loss(logits, teacher(ids)[0], 2.0)
    torch.testing.assert_close(loss, 0.3 * own + 0.7 * apart)
    scheduler.on_epoch_begin(1)
    logits, _ = policy.forward(ids, None)
    _, (part,) = scheduler.before_backward_pass(1, 0, 1, own, return_loss_components=True)
    assert part.name == "Distill Loss"
    # Without weight and temperature.
    torch.testing.assert_close(part.value, apart / 2.0**2)
    with pytest.raises(distiller.DistillerError, match="call the policy's forward"):
        scheduler.before_backward_pass(1, 0, 1, own)


@pytest.mark.parametrize(
    "module, names",
    [
        ("policy", "LossComponent"),
        ("thresholding", "threshold_mask"),
        ("regularization", "L1Regularizer GroupLassoRegularizer"),
        ("knowledge_distillation", "DistillationLossWeights"),
    ],
)
def test_a_module_holds_names_that_are_in_no_table(module, names):
    """`test_api_table.py` finds those that are."""
    found = importlib.import_module(f"lmbench.distiller.{module}")
    assert [name for name in names.split() if not hasattr(found, name)] == []


@pytest.mark.parametrize("alias", ALIASES)
def test_a_module_path_of_the_original_is_our_module_of_its_contents(alias):
    target = importlib.import_module(f"lmbench.distiller.{ALIASES[alias]}")
    assert importlib.import_module(f"lmbench.distiller.{alias}") is target
    spec = target.__spec__
    assert spec is not None
    assert spec.name == f"lmbench.distiller.{ALIASES[alias]}"


def test_a_module_path_of_the_original_is_found_without_an_import_of_its_own():
    program = (
        "import lmbench.distiller as distiller\n"
        "import lmbench.distiller.quantization\n"
        "distiller.quantization.q_utils.linear_quantize\n"
        "distiller.pruning.automated_gradual_pruner.AgpPruningRate\n"
        "distiller.data_loggers.collector.collect_quant_stats\n"
        "assert not hasattr(distiller.pruning, 'nothing_of_that_name')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_module_in_an_aliased_package_is_not_loaded_twice():
    backends = importlib.import_module("lmbench.distiller.data_loggers.backends")
    assert backends is importlib.import_module("lmbench.distiller.reports.data_loggers.backends")


@pytest.mark.parametrize("kind", [AssertionError, ValueError])
def test_wrong_arguments_raise_what_the_original_raises(kind):
    with pytest.raises(kind):
        distiller.pruning.MagnitudeParameterPruner("p", {"weight": 0.1})
    with pytest.raises(kind):
        distiller.pruning.L1RankedStructureParameterPruner("p", "Filters", 0.5, ["weight"])
    with pytest.raises(kind):
        distiller.AgpPruningRate(0.1, 0.5).step(0, 0, 5, 5)


class OwnPruner:
    """A pruner as a user of the original writes one."""

    def __init__(self, name, level):
        self.name, self.level = name, level

    def set_param_mask(self, param, param_name, zeros_mask_dict, meta):
        if param.dim() == 2:
            mask = distiller.create_mask_level_criterion(param, self.level)
            zeros_mask_dict[param_name].mask = mask


def test_a_pruner_with_set_param_mask_alone_prunes():
    model = nn.Linear(10, 10)
    scheduler = distiller.CompressionScheduler(model)
    scheduler.add_policy(distiller.PruningPolicy(OwnPruner("own", 0.3), None), epochs=[0])
    scheduler.on_epoch_begin(0)
    scheduler.on_minibatch_begin(0, 0, 1)
    assert distiller.sparsity(model.weight) == pytest.approx(0.3)
    assert distiller.sparsity(model.bias) == 0
    assert [step.pruner for step in scheduler.pruning_steps()] == ["own"]
