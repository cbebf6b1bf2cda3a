"""Several processes, or several parts of a batch, compute what one process computes at once."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import small_config
from own_folder import make_folder
from torch import nn

from setr_lib import load_checkpoint, load_record, train
from setr_lib.training.devices import RunOptions, split_batch
from setr_lib.training.loop import Run

CPU = RunOptions(device="cpu")
WAYS = [(average, micro) for average in ("all", "valid") for micro in (None, 1)]


@pytest.fixture
def recipe(small_recipe):
    return dataclasses.replace(small_recipe, batch=4, total_steps=8, evaluate_every=4)


@pytest.fixture
def batch():
    """Four crops whose ignored pixels are spread unevenly: the last has nothing else."""
    labels = torch.randint(0, 8, (4, 32, 32))
    labels[0, :28], labels[3] = 255, 255
    return torch.randn(4, 3, 32, 32), labels


def gradients(recipe, images, labels, execution=CPU):
    """Loss and gradients of one step on this process's share of a batch, batch norm frozen."""
    job = Run(recipe, None, "data", execution, False)
    for module in job.model.modules():
        module.train(not isinstance(module, nn.BatchNorm2d))
    share = list(range(job.team.rank, recipe.batch, job.team.size))
    parts = [share[i :: job.accumulate] for i in range(job.accumulate)]
    job.train_step([(images[part], labels[part]) for part in parts])
    job.read_losses()
    return {"loss": torch.tensor(job.loss), **{n: p.grad for n, p in job.model.named_parameters()}}


def assert_close(one, two):
    """Within a millionth of the largest gradient, and of the loss; seen: 0.35 of that."""
    largest = max(gradient.abs().max().item() for name, gradient in one.items() if name != "loss")
    for name in one:
        scale = one[name].item() if name == "loss" else largest
        assert (two[name] - one[name]).abs().max().item() <= 1e-6 * scale, name


def launch(function, *arguments):
    """Two processes on the CPU, started as from a notebook."""
    from accelerate import notebook_launcher

    port = str(20_000 + os.getpid() % 10_000)
    notebook_launcher(function, arguments, num_processes=2, use_port=port)


@pytest.mark.parametrize("average", ["all", "valid"])
@pytest.mark.parametrize("decoder", ["naive", "mla"])
def test_accumulation_has_the_gradient_of_the_whole_batch(recipe, batch, decoder, average):
    """Up to the order of sums; also where the parts hold different numbers of ignored pixels."""
    config = small_config(decoder, image_size=(32, 32))
    whole = dataclasses.replace(recipe, average=average, config=config)
    one = gradients(whole, *batch)
    for micro in (1, 2):
        assert_close(one, gradients(dataclasses.replace(whole, micro_batch=micro), *batch))


def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path, recipe, batch):
    """Each with half of the batch, whole or crop by crop, both averages of the loss."""

    def work():
        for average, micro in WAYS:
            way = dataclasses.replace(recipe, average=average, micro_batch=micro)
            torch.save(gradients(way, *batch), tmp_path / f"{average}{micro}{os.environ['RANK']}")

    launch(work)
    for average, micro in WAYS:
        one = gradients(dataclasses.replace(recipe, average=average), *batch)
        for rank in (0, 1):
            assert_close(one, torch.load(tmp_path / f"{average}{micro}{rank}"))


def test_parts_weigh_as_much_as_their_classes(recipe, batch):
    """With class weights and the mean over valid pixels, parts have the gradient of the whole."""
    whole = dataclasses.replace(recipe, average="valid", class_weights=True)
    one = gradients(whole, *batch)
    assert_close(one, gradients(dataclasses.replace(whole, micro_batch=1), *batch))
    plain = gradients(dataclasses.replace(whole, class_weights=False), *batch)
    assert one["loss"] != plain["loss"]


def test_the_scale_of_the_loss_leaves_the_step_as_it_is(recipe, batch):
    """As fp16 has it: a power of two, divided out of the gradients before the step."""
    steps = []
    for scaled in (False, True):
        job = Run(
            dataclasses.replace(recipe, micro_batch=2, optimizer="sgd"), None, "data", CPU, False
        )
        job.scaler = torch.amp.GradScaler("cpu", enabled=scaled)
        job.train_step([(part[0], part[1]) for part in zip(*(t.chunk(2) for t in batch))])
        steps.append(job.model.state_dict())
    assert all(torch.equal(steps[0][name], steps[1][name]) for name in steps[0])


def test_two_processes_stop_and_resume_as_one_run(tmp_path, recipe):
    """3 + 5 steps, the stop asked of one process only, equal 8 to the last bit; with workers."""
    do_step = Run.train_step

    def ask_in_step_three(job, batch):
        if job.step == 2 and job.team.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        do_step(job, batch)

    def work():
        run = {"progress": False, "execution": dataclasses.replace(CPU, workers=1)}
        train(recipe, tmp_path / "one", **run)
        Run.train_step = ask_in_step_three
        try:
            train(recipe, tmp_path / "two", **run)
        except KeyboardInterrupt:
            (tmp_path / f"stopped{os.environ['RANK']}").touch()
        Run.train_step = do_step
        train(recipe, tmp_path / "two", resume=True, **run)

    launch(work)
    assert (tmp_path / "stopped0").exists() and (tmp_path / "stopped1").exists()
    one, two = (
        load_checkpoint(tmp_path / name / "last.safetensors")[0].state_dict()
        for name in ("one", "two")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    sessions = load_record(tmp_path / "two")["sessions"]
    assert [(s["step"], s["processes"]) for s in sessions] == [(0, 2), (3, 2)]


def test_processes_see_together_what_one_would_see(recipe):
    """The shares of three processes, micro-batch by micro-batch, make up every batch."""
    recipe = dataclasses.replace(recipe, batch=6, micro_batch=1)
    job = Run(recipe, None, "data", CPU, False)
    job.step = 2
    whole = [images for images, *_ in job.loader(4)]
    job.team.size, job.accumulate = 3, 2
    shares = []
    for job.team.rank in range(3):
        shares.append([images for images, *_ in job.loader(4)])
    for step in range(2):
        wanted = torch.cat(whole[6 * step : 6 * step + 6])
        seen = [shares[rank][2 * step + part] for part in range(2) for rank in range(3)]
        assert torch.equal(torch.cat(seen), wanted)


def test_a_batch_is_shared_evenly_or_not_at_all(recipe):
    facts = [(8, None, 2, (4, 1)), (16, 2, 1, (2, 8)), (16, 2, 4, (2, 2)), (8, 1, 8, (1, 1))]
    for size, micro, processes, wanted in facts:
        found = split_batch(dataclasses.replace(recipe, batch=size, micro_batch=micro), processes)
        assert found == wanted
    for size, micro, processes in ((8, None, 3), (8, 3, 1), (2, None, 4)):
        with pytest.raises(ValueError, match=f"a batch of {size} does not split evenly"):
            split_batch(dataclasses.replace(recipe, batch=size, micro_batch=micro), processes)


def test_activation_checkpointing_has_the_same_gradient(recipe, batch):
    one = gradients(recipe, *batch)
    two = gradients(recipe, *batch, RunOptions(device="cpu", activation_checkpointing=True))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_activation_checkpointing_computes_the_blocks_twice(recipe, batch):
    from setr_lib.encoder import MLP

    counts = []
    for switch in (False, True):
        job = Run(
            recipe, None, "data", RunOptions(device="cpu", activation_checkpointing=switch), False
        )
        calls = []
        for module in job.model.modules():
            if isinstance(module, MLP):
                module.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        job.train_step([batch])
        counts.append(len(calls))
    assert counts == [4, 8]


def test_channels_last_has_the_same_gradient(recipe, batch):
    """Up to the order of sums inside the convolutions."""
    assert_close(
        gradients(recipe, *batch),
        gradients(recipe, *batch, RunOptions(device="cpu", channels_last=True)),
    )


def test_autocast_computes_the_network_in_bf16_and_the_loss_in_float32(recipe, batch):
    """The loss is that of the 16-bit scores, computed by torch in float32."""
    import torch.nn.functional as F

    job = Run(recipe, None, "data", RunOptions(device="cpu", precision="bf16"), False)
    images, labels = batch
    seen = []
    small = job.model.small_logits
    job.model.small_logits = lambda x: seen.extend(small(x)) or seen
    with job.autocast:
        loss = job.learner(images, labels)
    assert all(s.dtype == torch.bfloat16 for s, _ in seen) and loss.dtype == torch.float32
    main, *aux = (
        F.cross_entropy(
            F.interpolate(s.float(), size=(32, 32), mode="bilinear"), labels, ignore_index=255
        )
        for s, _ in seen
    )
    torch.testing.assert_close(loss, main + 0.4 * sum(aux), rtol=1e-5, atol=1e-6)
    job.train_step([batch])
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in job.model.parameters())


def test_a_run_in_bf16_goes_on_bit_for_bit(tmp_path, recipe):
    run = {"progress": False, "execution": RunOptions(device="cpu", precision="bf16")}
    train(recipe, tmp_path / "one", **run)
    train(recipe, tmp_path / "two", steps=3, **run)
    record = train(recipe, tmp_path / "two", resume=True, **run)
    assert {session["precision"] for session in record["sessions"]} == {"bf16"}
    one, two = (
        load_checkpoint(tmp_path / name / "last.safetensors")[0].state_dict()
        for name in ("one", "two")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_switches_that_cannot_be_are_explained(recipe):
    from setr_lib.baselines.fcn import FCNConfig

    with pytest.raises(ValueError, match="precision is 'half'; choose fp32, bf16, fp16"):
        RunOptions("half")
    with pytest.raises(ValueError, match=r"'fp16' on a CPU.*choose 'bf16'"):
        RunOptions("fp16", "cpu")
    with pytest.raises(ValueError, match="device is 'cuda:9', torch offers"):
        Run(recipe, None, "data", RunOptions(device="cuda:9"), False)
    fcn = dataclasses.replace(recipe, config=FCNConfig(50, 8))
    with pytest.raises(ValueError, match="FCN has no transformer blocks"):
        Run(fcn, None, "data", RunOptions(device="cpu", activation_checkpointing=True), False)


@pytest.mark.parametrize(
    "facts, words",
    [
        ({"workers": -2}, "workers is -2.*--workers"),
        ({"workers": 1.5}, "workers is 1.5"),
        ({"device": "gpu"}, "device is 'gpu', which torch does not know"),
    ],
)
def test_switches_are_checked_when_they_are_made(facts, words):
    with pytest.raises(ValueError, match=words):
        RunOptions(**facts)


def test_nothing_in_the_environment_changes_a_step(recipe, batch, monkeypatch):
    """Accelerate reads what its own launcher, or another program's shell, has left there."""
    one = gradients(dataclasses.replace(recipe, optimizer="sgd"), *batch)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("WORLD_SIZE", "")
    monkeypatch.setenv("RANK", "")
    two = gradients(dataclasses.replace(recipe, optimizer="sgd"), *batch)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_callers_own_accelerator_lives_on(tmp_path, recipe):
    """With its precision and its accumulation, as if no run had been."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    mine = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=3)
    train(recipe, tmp_path, steps=1, progress=False, execution=CPU)
    assert mine.mixed_precision == "bf16" and mine.gradient_accumulation_steps == 3
    layer = mine.prepare(nn.Linear(2, 2))
    mine.backward(layer(torch.ones(1, 2)).sum())
    assert layer.weight.grad is not None and mine.device.type == "cpu"
    AcceleratorState._reset_state(reset_partial_state=True)  # or no test could launch processes


def test_a_process_group_ends_with_the_run_that_made_it(tmp_path, recipe):
    """Also with one that was stopped; the caller's own lives on."""
    import torch.distributed as dist

    def work():
        train(recipe, tmp_path / "one", steps=1, progress=False, execution=CPU)
        alone = not dist.is_initialized()
        dist.init_process_group("gloo")
        train(recipe, tmp_path / "two", steps=1, progress=False, execution=CPU)
        number = torch.ones(1)
        dist.all_reduce(number)
        dist.destroy_process_group()
        if alone and number == 2:
            (tmp_path / f"right{os.environ['RANK']}").touch()

    launch(work)
    assert (tmp_path / "right0").exists() and (tmp_path / "right1").exists()


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node=2"],
    "accelerate launch": [
        "accelerate.commands.launch", "--multi_gpu", "--num_processes=2",
        f"--main_process_port={30_000 + os.getpid() % 10_000}",
    ],
}  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_of_the_command_line_start_one_run(tmp_path, launcher):
    """Two processes that know of each other, and one that speaks."""
    data = f"folder:{make_folder(tmp_path / 'data')}"
    flags = {"--dataset": data, "--device": "cpu", "--steps": "1", "--batch": "2"}
    flags |= {"--out": str(tmp_path / "run")}
    words = ["train", "shapes_naive_tiny", "--quiet", *(w for pair in flags.items() for w in pair)]
    start = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "setr_lib"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert load_record(tmp_path / "run")["sessions"][0]["processes"] == 2
    assert done.stdout.count("the record is") == 1


def test_who_waits_for_other_processes_says_so(capsys, monkeypatch):
    """After a while, with what the environment says; not where nobody is to come."""
    import time

    from setr_lib.training.devices import patience

    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with patience(0.01):
        time.sleep(0.1)
    assert not capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "node7")
    with patience(60):
        pass
    with patience(0.01):
        time.sleep(0.3)
    said = capsys.readouterr().err
    assert said.count("waiting") == 1 and "WORLD_SIZE=2" in said and "node7" in said


@pytest.mark.parametrize("kind", ["mps", "cuda", "xpu"])
def test_the_gpu_is_the_default_whoever_made_it(monkeypatch, kind):
    from setr_lib.training.devices import default_device

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device(kind))
    assert RunOptions().device == default_device() == kind
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert RunOptions().device == "cpu"


@pytest.mark.parametrize("device, index", [("mps", []), ("cuda:1", [torch.device("cuda:1")])])
def test_random_numbers_of_a_gpu_are_kept(monkeypatch, device, index):
    """Apple's functions take no device, the others do."""
    from setr_lib.training.checkpoint import rng_state, set_rng_state

    device, kept = torch.device(device), torch.arange(3)
    calls = []
    module = torch.get_device_module(device)
    monkeypatch.setattr(module, "get_rng_state", lambda *a: calls.append(a) or kept)
    monkeypatch.setattr(module, "set_rng_state", lambda *a: calls.append(a))
    state = rng_state(device)
    assert torch.equal(state[device.type], kept) and "cpu" in state
    set_rng_state(state, device)
    assert calls[0] == tuple(index) and calls[1][1:] == tuple(index)
    set_rng_state({"cpu": state["cpu"]}, device)
    assert len(calls) == 2


@pytest.mark.parametrize("kind, early", [("cuda", True), ("mps", False), ("xpu", False)])
def test_crops_are_copied_ahead_on_cuda_only(recipe, batch, monkeypatch, kind, early):
    """Elsewhere a copy out of ordinary memory may still be going on when it is read."""
    job = Run(recipe, None, "data", CPU, False)
    seen, to = [], torch.Tensor.to

    def record(tensor, *where, non_blocking=None, **how):
        if non_blocking is None:
            return to(tensor, *where, **how)
        seen.append(non_blocking)
        return tensor

    job.device = job.cut.device = torch.device(kind)
    monkeypatch.setattr(torch.Tensor, "to", record)
    job.train_step([batch])
    assert seen == [early, early]


def test_one_of_several_gpus_may_be_named(monkeypatch):
    """`cuda:1` of one process; several processes have one each."""
    from setr_lib.training.devices import own_device

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device(RunOptions(device="cuda:1"), 1) == torch.device("cuda:1")
    assert own_device(RunOptions(device="cuda"), 1) == torch.device("cuda")
    assert own_device(RunOptions(device="cpu"), 2) == torch.device("cpu")
    assert own_device(RunOptions(), 2) == torch.device("cuda:1")
    with pytest.raises(ValueError, match="device is 'cuda:2', torch offers"):
        own_device(RunOptions(device="cuda:2"), 1)
    with pytest.raises(ValueError, match="device is 'cuda:1'"):
        own_device(RunOptions(device="cuda:1"), 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="process 2 of this machine, which has 2 GPUs"):
        own_device(RunOptions(), 3)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch's SyncBN needs two GPUs")
def test_two_gpus_normalise_as_one_with_the_whole_batch(tmp_path, recipe, batch):
    """SyncBN: gradients and running means of two halves equal those of the whole, BN training."""

    def found(execution):
        job = Run(recipe, None, "data", execution, False)
        job.learner.train()
        share = slice(job.team.rank, None, job.team.size)
        job.train_step([(batch[0][share], batch[1][share])])
        means = {n: b for n, b in job.model.named_buffers() if "running" in n}
        grads = {n: p.grad for n, p in job.model.named_parameters()}
        return {name: tensor.cpu() for name, tensor in {**means, **grads}.items()}

    launch(lambda: torch.save(found(RunOptions()), tmp_path / os.environ["RANK"]))
    one = found(CPU)
    for rank in "01":
        two = torch.load(tmp_path / rank)
        for name in one:
            torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5, msg=name)
