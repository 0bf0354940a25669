"""The training harness, through its command and through a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from marks import opens_pickles
from PIL import Image
from skimage.data import astronaut
from train_stages import TinyConfig, TinyStage, config, tiny

import train.__main__ as command
from bfr_core.errors import InputMediaError, SettingsError, TrainError, WeightsError
from bfr_core.models.checkpoints.files import load_state
from train import export as exporting
from train.checkpoint import Checkpoints, read_checkpoint
from train.config import load_config, to_dict
from train.data import Feed
from train.loop import train as run_training
from train.optim import Muon, learning_rate, orthogonalise
from train.pictures import Pictures, list_sources
from train.run import Run, Tally, TrainOptions

NAME = ("irn.tiny", "compact")


def write_faces(folder: Path, count: int = 3, side: int = 80) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        top, left = 5 * index, 150 + 7 * index
        image = Image.fromarray(astronaut()[top : top + 192, left : left + 192]).resize((side, side))
        image.save(folder / f"{index}.png")
    (folder / "LICENCE.txt").write_text("CC0\n")
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))


def options(faces: Path, out: Path, **changes) -> TrainOptions:
    return TrainOptions(**{"out": out, "data": [faces], "val": [faces], "workers": 0, "cpu": True, **changes})


def newest(out: Path) -> dict:
    state = Checkpoints(out).load(lambda text: None)
    assert state is not None
    return state


def log_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def assert_same(a, b, where="") -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{index}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Forget the precision that accelerate keeps for a whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def declared(monkeypatch):
    """Let the command find the tiny stage."""
    monkeypatch.setattr(command, "find_stage", lambda name: TinyStage)
    monkeypatch.setattr(exporting, "find_stage", lambda name: TinyStage)


def call(*arguments: object) -> int:
    return command.main([str(argument) for argument in arguments])


# The command


def test_the_command_trains_validates_and_exports(declared, faces, tmp_path, capsys):
    out = tmp_path / "run"
    assert call("irn.tiny", "--data", faces, "--val", faces, "--out", out, "--workers", 0, "--cpu") == 0
    said = capsys.readouterr().out
    assert "one 12/12" in said and "images/s" in said and "min left" in said and "waiting" in said
    log = log_of(out)
    validated = [entry for entry in log if "validation" in entry]
    assert [entry["total"] for entry in validated] == [8, 12, 16, 20]
    assert {"psnr", "sharpness"} <= validated[-1]["validation"].keys()
    assert {entry["phase"] for entry in log if "phase" in entry} == {"one", "two"}
    assert "adversarial" in log[-3] or any("adversarial" in entry for entry in log)
    assert json.loads((out / "config.json").read_text())["stage"] == "irn.tiny"
    sheet = np.asarray(Image.open(sorted((out / "sheets").glob("*.png"))[-1]))
    assert sheet.shape[1] > 3 * 200 and sheet.std() > 10
    assert any((out / "tensorboard").iterdir())

    target = tmp_path / "tiny.safetensors"
    assert call("export", out, "-o", target) == 0
    card = json.loads(target.with_suffix(".json").read_text())
    assert card["images"].endswith("CC0") and "3 pictures" in card["images"]
    assert card["images_seen"] == 20 and card["metrics"]["validation"] == validated[-1]["validation"]
    assert str(tmp_path) not in card["command"] and "python -m train irn.tiny" in card["command"]
    averages = newest(out)["averages"]["net"]
    exported = load_state(target)
    assert exported.keys() == averages.keys()
    for key, tensor in exported.items():
        assert torch.allclose(tensor.float(), averages[key], atol=1e-3)
    assert not torch.equal(averages["stem.1.weight"], newest(out)["networks"]["net"]["stem.1.weight"])


def test_a_finished_run_stays_finished(faces, tmp_path):
    assert run_training(NAME, tiny(), options(faces, tmp_path)) == "done"
    before = newest(tmp_path)
    assert run_training(NAME, tiny(), options(faces, tmp_path)) == "done"
    assert_same(before["networks"], newest(tmp_path)["networks"])


def test_training_learns(faces, tmp_path):
    longer = config(
        phases=(config().phases[0].__class__("one", 96, batch=4, size=48, lr=(0.02, 0.002), weights={"l1": 1}),)
    )
    stage = TinyStage(longer, {})
    run_training(NAME, stage, options(faces, tmp_path))
    log = log_of(tmp_path)
    baseline = next(entry["baseline"] for entry in log if "baseline" in entry)
    assert newest(tmp_path)["figures"]["validation"]["psnr"] > baseline["psnr"] + 0.2


def test_dry_run_says_what_it_would_cost_and_writes_nothing(declared, faces, tmp_path, capsys):
    out = tmp_path / "run"
    assert call("irn.tiny", "--data", faces, "--out", out, "--dry-run", "--workers", 0, "--cpu") == 0
    said = capsys.readouterr().out
    count = sum(weight.numel() for weight in tiny().networks()["net"].parameters())
    assert f"net: {count / 1e6:.2f} M parameters" in said
    assert "GFLOP an image" in said and "MiB" in said and "images/s" in said and "Nothing was written" in said
    assert not out.exists()


def test_the_arithmetic_of_the_dry_run_is_that_of_the_convolutions(faces, tmp_path):
    from train.estimate import _arithmetic

    run = Run(NAME, tiny(), options(faces, tmp_path))
    run.prepare()
    phase = run.config.phases[0]
    batch = {"low": torch.rand(2, 3, 48, 48), "truth": torch.rand(2, 3, 48, 48), "enlarged": torch.zeros(2).bool()}
    flops, activations = _arithmetic(run, phase, batch)
    macs = 0
    handles = []

    def count(module, inputs, output):
        nonlocal macs
        macs += output.numel() * module.weight[0].numel()

    for module in run.nets["net"].modules():
        if isinstance(module, torch.nn.Conv2d):
            handles.append(module.register_forward_hook(count))
    run.nets["net"](batch["low"])
    first = run.nets["net"].stem[1]
    skipped = 2 * 24 * 24 * first.out_channels * first.weight[0].numel()  # no gradient reaches the picture
    assert flops * 2 == pytest.approx(2 * (3 * macs - skipped), rel=0.02)
    assert activations > batch["low"].numel() * 4


def test_stages_are_listed_and_explained(capsys):
    assert call("list") == 0
    said = capsys.readouterr().out
    assert "irn.irn: Identity recovery network" in said and "D_cos" in said
    with pytest.raises(SystemExit) as ended:
        call("irn.irn", "--help")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "--recogniser" in said and "Eq. 11" in said and "accelerate launch" in said
    assert call("irn.nothing", "--data", "x") == 1
    assert "irn.irn" in capsys.readouterr().err


def test_a_missing_file_is_named_before_anything_starts(faces, tmp_path, capsys):
    out = tmp_path / "run"
    status = call("irn.irn", "--data", faces, "--val", faces, "--recogniser", tmp_path / "none.pt", "--out", out)
    assert status == 1 and "none.pt" in capsys.readouterr().err and not out.exists()


@opens_pickles
@pytest.mark.parametrize(("config_name", "network"), [("compact", "RestoreUNet"), ("paper", "SwinIR")])
def test_the_identity_recovery_network_trains(faces, tmp_path, shared, config_name, network, capsys):
    small = tmp_path / "small.json"
    phase = {"name": "faces", "images": 2, "batch": 1, "size": 64, "lr": [1e-4, 1e-4]}
    weights = {"l1": 1.0, "identity": 0.1}
    fields = {"base": config_name, "face_size": 64, "precision": "no", "phases": [{**phase, "weights": weights}]}
    small.write_text(json.dumps({**fields, "validate_limit": 1}))
    out, recogniser = tmp_path / "run", shared / "weights/mobilefacenet.pt"
    places = ("--data", faces, "--val", faces, "--out", out)
    assert call("irn.irn", "--config", small, *places, "--recogniser", recogniser, "--workers", 0, "--cpu") == 0
    state = newest(out)
    assert state["config"]["network"] == config_name and state["position"]["steps"] == 2
    assert "identity" in state["figures"]["validation"] and "identity" in capsys.readouterr().out
    target = tmp_path / "irn.safetensors"
    assert call("export", out, "-o", target, "--dtype", "float32") == 0
    from bfr_core.restorer import load_restorer

    restorer = load_restorer("irn", config_name, weights=target)
    assert type(restorer.net).__name__ == network


def test_every_config_file_beside_the_code_loads():
    from train.stage import find_stage

    root = Path(__file__).resolve().parents[2]
    files = sorted((root / "train/configs").glob("*.toml"))
    assert files
    for path in files:
        command_line = next(line for line in path.read_text().splitlines() if "python -m train" in line)
        stage = find_stage(command_line.split()[4])
        assert path.name in command_line and load_config(str(path), stage.configs).phases


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works with a GPU")
def test_half_precision_without_a_gpu_is_refused(faces, tmp_path):
    with pytest.raises(SettingsError, match="Cannot train in fp16"):
        Run(NAME, tiny(precision="fp16"), options(faces, tmp_path))


# Resuming


def test_row61_a_resumed_run_equals_an_uninterrupted_one(faces, tmp_path):
    run_training(NAME, tiny(), options(faces, tmp_path / "whole"))
    for stop in (4, 12, 16):  # in the first phase, between the two, in the second
        assert run_training(NAME, tiny(), options(faces, tmp_path / "parts", stop_after=stop)) == "time limit"
    assert run_training(NAME, tiny(), options(faces, tmp_path / "parts")) == "done"
    whole, parts = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    for part in ("networks", "averages", "optimisers", "position", "figures"):
        assert_same(whole[part], parts[part], part)


def test_workers_change_nothing(faces, tmp_path):
    run_training(NAME, tiny(), options(faces, tmp_path / "none", stop_after=8))
    run_training(NAME, tiny(), options(faces, tmp_path / "two", stop_after=8, workers=2))
    assert_same(newest(tmp_path / "none")["networks"], newest(tmp_path / "two")["networks"])


def test_the_time_limit_ends_with_a_checkpoint(faces, tmp_path):
    assert run_training(NAME, tiny(), options(faces, tmp_path, time_limit=0.0)) == "time limit"
    assert newest(tmp_path)["position"]["total"] == 4


def test_another_config_is_refused_by_name(faces, tmp_path):
    run_training(NAME, tiny(), options(faces, tmp_path, stop_after=4))
    with pytest.raises(SettingsError, match=r"seed was 0 and is 1.*--init"):
        run_training(NAME, tiny(seed=1), options(faces, tmp_path))
    with pytest.raises(SettingsError, match=r"stage was irn\.tiny"):
        run_training(("irn.irn", "compact"), tiny(), options(faces, tmp_path))
    assert run_training(NAME, tiny(save_minutes=1.0), options(faces, tmp_path)) == "done"


def test_changed_pictures_are_said(faces, tmp_path, capsys):
    data = write_faces(tmp_path / "data")
    run_training(NAME, tiny(), options(data, tmp_path / "run", stop_after=4))
    write_faces(data, 4)
    run_training(NAME, tiny(), options(data, tmp_path / "run", stop_after=8))
    assert "changed since the last checkpoint: 3 then, 4 now" in capsys.readouterr().out


def test_a_new_run_starts_from_given_weights(declared, faces, tmp_path):
    run_training(NAME, tiny(), options(faces, tmp_path / "a"))
    call("export", tmp_path / "a", "-o", tmp_path / "a.safetensors", "--dtype", "float32")
    run = Run(NAME, tiny(), options(faces, tmp_path / "b", init=tmp_path / "a.safetensors"))
    averages = dict(newest(tmp_path / "a")["averages"]["net"])
    assert_same(dict(run.nets["net"].state_dict()), averages)
    assert_same(dict(run.averages["net"].state_dict()), averages)
    checkpoint = sorted((tmp_path / "a/checkpoints").glob("*.pt"))[-1]
    assert (run.started_from["name"], run.started_from["images_seen"]) == ("a.safetensors", 20)
    again = Run(NAME, tiny(), options(faces, tmp_path / "b", init=checkpoint))
    assert again.started_from["images_seen"] == 20
    card = tmp_path / "a.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "command": "first"}))
    options_b = options(faces, tmp_path / "b", init=tmp_path / "a.safetensors", stop_after=4, command="second")
    run_training(NAME, tiny(), options_b)
    call("export", tmp_path / "b", "-o", tmp_path / "b.safetensors")
    exported = json.loads((tmp_path / "b.json").read_text())
    assert (exported["images_seen"], exported["command"]) == (24, "first; then second")
    assert_same(dict(again.nets["net"].state_dict()), averages)
    other = tmp_path / "other.safetensors"
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(WeightsError, match="Tiny restorer"):
        Run(NAME, tiny(), options(faces, tmp_path / "c", init=other))


# Checkpoints


def test_row60_a_damaged_checkpoint_gives_way_to_the_one_before(faces, tmp_path, capsys):
    run_training(NAME, tiny(), options(faces, tmp_path, stop_after=4))
    run_training(NAME, tiny(), options(faces, tmp_path, stop_after=8))
    older, last = sorted((tmp_path / "checkpoints").glob("*.pt"))
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1  # a bit that torch.load would not miss
    last.write_bytes(data)
    run_training(NAME, tiny(), options(faces, tmp_path, stop_after=12))
    said = capsys.readouterr().out
    assert last.name in said and "sha256" in said and f"Going on from {older.name}, after 4 images" in said
    run_training(NAME, tiny(), options(faces, tmp_path / "clean", stop_after=12))
    assert_same(newest(tmp_path)["networks"], newest(tmp_path / "clean")["networks"])


def test_row60_with_no_whole_checkpoint_nothing_is_overwritten(faces, tmp_path):
    run_training(NAME, tiny(), options(faces, tmp_path, stop_after=4))
    only = next((tmp_path / "checkpoints").glob("*.pt"))
    only.write_bytes(only.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="Name another --out"):
        run_training(NAME, tiny(), options(faces, tmp_path))
    assert only.stat().st_size == 1000


def test_row60_killed_while_saving_leaves_a_whole_checkpoint(tmp_path):
    script = (
        "import sys, torch\nfrom pathlib import Path\nfrom train.checkpoint import Checkpoints\n"
        "keeper = Checkpoints(Path(sys.argv[1]))\n"
        "for n in range(1, 10**6):\n"
        "    keeper.save({'n': n, 'x': torch.full((300_000,), float(n))}, n)\n"
        "    print(n, flush=True)\n"
    )
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=root)
    assert child.stdout is not None
    for _ in range(5):
        child.stdout.readline()
    time.sleep(0.0137)
    os.kill(child.pid, signal.SIGKILL)
    reached = 5 + len(child.stdout.read().split())
    child.wait()
    state = Checkpoints(tmp_path).load(lambda text: pytest.fail(text))
    assert state is not None and reached <= state["n"] <= reached + 1
    assert torch.equal(state["x"], torch.full((300_000,), float(state["n"])))


def test_only_the_last_two_checkpoints_are_kept(tmp_path):
    keeper = Checkpoints(tmp_path)
    for total in (1, 2, 3, 3):
        keeper.save({"x": total}, total)
    assert [path.name for path in sorted(keeper.folder.glob("*.pt"))] == ["0000000002.pt", "0000000003.pt"]


def test_other_files_are_no_checkpoints(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="not a checkpoint"):
        read_checkpoint(tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"b\.pt"):
        read_checkpoint(tmp_path / "b.pt")


# Losses that are no numbers


def test_row62_a_bad_step_is_left_out_and_counted(faces, tmp_path, capsys):
    run_training(NAME, tiny(poison=(8,)), options(faces, tmp_path / "bad", stop_after=12))
    run_training(NAME, tiny(), options(faces, tmp_path / "good", stop_after=8))
    bad, good = newest(tmp_path / "bad"), newest(tmp_path / "good")
    assert bad["position"]["skipped"] == 1 and bad["position"]["total"] == 12
    assert "not finite at image 12: step left out (1 so far)" in capsys.readouterr().out
    assert_same(bad["networks"]["net"], good["networks"]["net"])
    assert_same(bad["averages"]["net"], good["averages"]["net"])


def test_row62_a_loss_scaler_leaves_the_step_out_and_goes_on(faces, tmp_path):
    def scaled() -> Run:
        run = Run(NAME, tiny(poison=(4,)), options(faces, tmp_path))
        run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        run.prepare()
        return run

    run, tally = scaled(), Tally()
    pictures = run.stage.pictures([faces], held=False, align=False, store=None, memory=1 << 24)
    phase = run.config.phases[1]
    feed = Feed(run.stage.examples(pictures, phase), start=0, batch=4, workers=0)
    weights = []
    for _ in range(3):
        run.step(feed, phase, tally)
        weights.append({key: value.clone() for key, value in run.nets["net"].state_dict().items()})
    assert_same(weights[0], weights[1])
    assert not torch.equal(weights[1]["stem.1.weight"], weights[2]["stem.1.weight"])
    assert run.position.skipped == 1 and run.position.skipped_in_a_row == 0
    assert tally.counts["l1"] == 2 and tally.sums["l1"].isfinite()
    run.save()
    again = scaled()
    assert again.resume()
    assert again.accelerator.scaler.get_scale() == run.accelerator.scaler.get_scale() == 512.0


def test_row62_too_many_bad_steps_end_the_run_with_its_state_saved(faces, tmp_path):
    stage = tiny(poison=(4, 8), bad_steps=2)
    with pytest.raises(TrainError, match=r"2 steps in a row.*000000012\.pt"):
        run_training(NAME, stage, options(faces, tmp_path))
    saved = newest(tmp_path)
    assert all(bool(weight.isfinite().all()) for weight in saved["networks"]["net"].values())
    assert saved["position"]["skipped_in_a_row"] == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sede=1", "Did you mean 'seed'"),
        ("phases.one.imagse=3", "Did you mean 'images'"),
        ("phases.onee.images=3", "Did you mean 'one'"),
        ("seed=soon", "seed is 'soon'"),
        ("phases.one.batch=0", "phases.0.batch"),
        ("phases.one.lr=[1e-3]", "phases.0.lr"),
        ("precision=half", "precision"),
        ("seed", "no '='"),
    ],
)
def test_row62_unknown_keys_and_wrong_values_are_refused(override, message):
    with pytest.raises(SettingsError) as caught:
        load_config("compact", {"compact": config()}, [override])
    assert message in str(caught.value)


def test_config_files_and_overrides(tmp_path):
    presets = {"compact": config(), "other": config(seed=5)}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"base": "other", "clip": 0.5}))
    loaded = load_config(str(path), presets, ["phases.two.images=30", "phases.two.weights.l1=2"])
    assert (loaded.seed, loaded.clip, loaded.phases[1].images) == (5, 0.5, 30)
    assert loaded.phases[1].weights == {"l1": 2, "adversarial": 0.01, "discriminator": 1.0} and isinstance(
        loaded, TinyConfig
    )
    if sys.version_info >= (3, 11):
        path = tmp_path / "mine.toml"
        path.write_text('seed = 9\n[[phases]]\nname = "a"\nimages = 10\nbatch = 2\nlr = [1e-3, 1e-4]\n')
        assert load_config(str(path), presets).phases[0].lr == (1e-3, 1e-4)
    for text, message in (
        ('{"clp": 1}', "Did you mean 'clip'"),
        ("[1]", "list"),
        ("{", "mine.json"),
        ('{"base": "x"}', "other"),
    ):
        path = tmp_path / "mine.json"
        path.write_text(text)
        with pytest.raises(SettingsError, match=message):
            load_config(str(path), presets)
    with pytest.raises(SettingsError, match="did you mean 'compact'"):
        load_config("compct", presets)
    assert to_dict(config())["phases"][0]["name"] == "one"


def test_weights_of_losses_are_checked(faces, tmp_path):
    phase = config().phases[0]
    for weights, message in (({"l1": 1.0, "l3": 1.0}, "l3"), ({}, "does not weigh l1")):
        changed = type(phase)(phase.name, 4, batch=4, size=48, lr=phase.lr, weights=weights)
        with pytest.raises(SettingsError, match=message):
            run_training(NAME, tiny(phases=(changed,)), options(faces, tmp_path))


# Pictures


def test_row59_a_broken_picture_is_named_counted_and_bounded(faces, tmp_path, capsys):
    data = write_faces(tmp_path / "data", 5)
    (data / "1.png").write_bytes(b"nothing")
    assert run_training(NAME, tiny(bad_images=0.3), options(data, tmp_path / "run")) == "done"
    said = capsys.readouterr().out
    assert said.count("Bad picture") == 1 and "1.png" in said and "1 bad" in said
    assert list(newest(tmp_path / "run")["bad"]) == [str(data / "1.png")]
    Image.new("RGB", (90, 60)).save(data / "2.png")
    Image.new("RGB", (20, 20)).save(data / "3.png")
    with pytest.raises(TrainError, match=r"of 5 cannot be used, expected at most 1") as caught:
        run_training(NAME, tiny(), options(data, tmp_path / "strict", val=[faces]))
    assert ".png" in str(caught.value) and newest(tmp_path / "strict")["position"]["total"] > 0


def test_row59_wrong_sizes_say_so(tmp_path):
    Image.new("RGB", (90, 60)).save(tmp_path / "wide.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "tiny.png")
    pictures = Pictures([tmp_path])
    for index, size in enumerate(("20 x 20", "90 x 60")):
        with pytest.raises(InputMediaError, match=size):
            pictures[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_row59_when_no_picture_is_usable_the_run_ends(tmp_path, faces, workers):
    data = tmp_path / "data"
    data.mkdir()
    for index in range(3):
        (data / f"{index}.png").write_bytes(b"nothing")
    with pytest.raises(InputMediaError, match=r"\.png"):
        run_training(NAME, tiny(), options(data, tmp_path / "run", val=[faces], workers=workers))


def test_row59_empty_and_missing_folders_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, found in (("empty", "holds none"), ("missing", "does not exist")):
        with pytest.raises(InputMediaError, match=found) as caught:
            list_sources([tmp_path / name])
        assert name in str(caught.value)


def test_row59_licences(declared, faces, tmp_path, capsys):
    data = write_faces(tmp_path / "data")
    (data / "LICENCE.txt").unlink()
    run_training(NAME, tiny(), options(data, tmp_path / "run", stop_after=4))
    assert f"No licence is stated for the pictures in {data}" in capsys.readouterr().out
    assert call("export", tmp_path / "run", "-o", tmp_path / "a.safetensors") == 1
    assert "--licence" in capsys.readouterr().err and not (tmp_path / "a.safetensors").exists()
    assert call("export", tmp_path / "run", "-o", tmp_path / "a.safetensors", "--licence", "mine") == 0
    (data / "licences.tsv").write_text("0.png\tCC0\n1.png\tpublic domain\n")
    with pytest.raises(InputMediaError, match=r"leaves 1 of 3 pictures out.*2\.png"):
        run_training(NAME, tiny(), options(data, tmp_path / "other"))
    (data / "licences.tsv").write_text("0.png\tCC0\n1.png\tpublic domain\n2.png\tCC0\n")
    run_training(NAME, tiny(), options(data, tmp_path / "other", stop_after=4))
    assert newest(tmp_path / "other")["data"]["licences"] == "CC0 (2), public domain (1)"


def test_a_shard_gives_what_its_folder_gives(faces, tmp_path):
    shard = tmp_path / "faces-000.tar"
    with tarfile.open(shard, "w") as archive:
        for path in sorted(faces.iterdir()):
            archive.add(path, path.name)
    inside, outside = Pictures([shard]), Pictures([faces])
    assert len(inside) == len(outside) == 3
    for index in range(3):
        assert np.array_equal(inside[index], outside[index])
    assert inside.sources[0].name.endswith("faces-000.tar:0.png")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(InputMediaError, match=r"faces-000\.tar"):
        list_sources([shard])


def test_photos_are_aligned_while_they_are_read(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(astronaut()).save(photos / "a.png")
    Image.new("RGB", (200, 200)).save(photos / "b.png")
    pictures = Pictures([photos], align=True, store=tmp_path / "store")
    face = pictures[0]
    assert face.shape == (512, 512, 3)
    from bfr_core.faces.align import FFHQ_TEMPLATE
    from bfr_core.faces.detect import load_detector

    found = load_detector().detect(torch.from_numpy(face).permute(2, 0, 1)[None].float() / 255)[0]
    assert np.abs(found[0].points - FFHQ_TEMPLATE).max() < 20
    stored = list((tmp_path / "store").glob("*.png"))
    assert len(stored) == 1
    again = Pictures([photos], align=True, store=tmp_path / "store")
    assert np.array_equal(again[0], face)
    with pytest.raises(InputMediaError, match="no face"):
        pictures[1]


def test_memory_for_pictures_is_bounded(faces):
    pictures = Pictures([faces], memory=80 * 80 * 3 * 2)
    for _ in range(2):
        for index in range(3):
            pictures[index]
    assert len(pictures._kept) == 2


def test_folders_are_drawn_as_often_as_they_weigh(faces, tmp_path):
    common, rare = write_faces(tmp_path / "common" / "train"), write_faces(tmp_path / "rare" / "train")
    pictures = Pictures([common, rare], folder_weights={"rare": 3.0})
    rng = np.random.default_rng(0)
    picks = np.array([pictures.pick(rng) for _ in range(4000)])
    assert (picks >= 3).mean() == pytest.approx(0.75, abs=0.03)


# Arithmetic of a step


def test_parts_of_a_batch_give_the_step_of_the_whole(faces, tmp_path):
    class Quiet(TinyStage):
        def _restore(self, nets, batch, step):
            return {"l1": (nets["net"](batch["low"]) - batch["truth"]).square().mean()}

    phase = type(config().phases[0])("one", 8, batch=4, size=48, lr=(0.01, 0.005), weights={"l1": 1.0})
    for name, parts in (("whole", 1), ("parts", 4)):
        stage = Quiet(config(phases=(phase,), accumulate=parts, optimiser="adamw", clip=0.0), {})
        run_training(NAME, stage, options(faces, tmp_path / name))
    whole, parts = (newest(tmp_path / name)["networks"]["net"] for name in ("whole", "parts"))
    for key in whole:
        assert torch.allclose(whole[key], parts[key], atol=2e-5), key
    with pytest.raises(SettingsError, match="multiple of"):
        Run(NAME, tiny(accumulate=3), options(faces, tmp_path / "x"))


def test_each_objective_moves_only_its_own_networks(faces, tmp_path):
    stage = tiny()
    run = Run(NAME, stage, options(faces, tmp_path))
    run.prepare()
    before = {key: {k: v.clone() for k, v in net.state_dict().items()} for key, net in run.nets.items()}

    def moved(key):
        return any(not torch.equal(v, before[key][k]) for k, v in run.nets[key].state_dict().items())

    for phase, critic in zip(run.config.phases, (False, True), strict=True):
        feed = Feed(
            stage.examples(stage.pictures([faces], held=False, align=False, store=None, memory=1 << 24), phase),
            start=0,
            batch=4,
            workers=0,
        )
        run.step(feed, phase, Tally())
        assert moved("net") and moved("critic") is critic


def test_bf16_runs_and_stays_close_to_float32(faces, tmp_path):
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)
        run_training(NAME, tiny(precision=precision), options(faces, tmp_path / precision, stop_after=8))
    plain, half = (newest(tmp_path / name)["networks"]["net"] for name in ("no", "bf16"))
    assert all(value.dtype == torch.float32 for value in half.values())
    difference = sum((plain[key] - half[key]).square().sum() for key in plain) / sum(
        v.square().sum() for v in plain.values()
    )
    assert 0 < difference < 0.02


SCRIPT = """
import dataclasses, sys
sys.path[:0] = ['tests/support', 'tests/train', '.']
import train.__main__ as command
from train_stages import TinyStage, config
if __name__ == '__main__':
    phase = dataclasses.replace(config().phases[0], images=int(sys.argv.pop(1)))
    TinyStage.configs = {'compact': config(phases=(phase,), validate_images=10**6)}
    command.find_stage = lambda name: TinyStage
    sys.exit(command.main(sys.argv[1:]))
"""


def start(folder: Path, faces: Path, images: int, workers: int) -> subprocess.Popen:
    """Start a run of the tiny stage in a process of its own."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    arguments = ["irn.tiny", "--data", faces, "--val", faces, "--out", folder / "run", "--workers", workers]
    return subprocess.Popen(
        [sys.executable, str(script), str(images), *map(str, arguments), "--cpu", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
        text=True,
    )


def test_interrupting_saves_and_says_how_to_go_on(tmp_path, faces):
    child = start(tmp_path, faces, 10**6, workers=0)
    assert child.stdout is not None
    while "from the beginning" not in child.stdout.readline():
        assert child.poll() is None
    time.sleep(1.0)
    child.send_signal(signal.SIGINT)
    said, _ = child.communicate(timeout=20)
    assert child.returncode == 130 and "the same command continues" in said
    assert newest(tmp_path / "run")["position"]["total"] > 0


def test_workers_end_without_a_word(tmp_path, faces):
    child = start(tmp_path, faces, 40, workers=2)
    said, complained = child.communicate(timeout=60)
    assert child.returncode == 0 and "Done: 40 images" in said
    assert "terminate" not in complained and "Traceback" not in complained


@pytest.mark.release
def test_a_compiled_network_learns_the_same(tmp_path, faces):
    for name, compiled in (("plain", False), ("compiled", True)):
        run_training(NAME, tiny(compile=compiled), options(faces, tmp_path / name, stop_after=8))
    plain, compiled = (newest(tmp_path / name)["networks"]["net"] for name in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    for key in plain:
        assert torch.allclose(plain[key], compiled[key], atol=1e-5), key


@pytest.mark.release
def test_two_processes_learn_what_one_learns(tmp_path, faces):
    root = Path(__file__).resolve().parents[2]
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(root / 'tests' / 'support')!r}, {str(root)!r}]\n"
        "import train.__main__ as command\nfrom train_stages import TinyStage, config\n"
        "class Quiet(TinyStage):\n"
        "    def _restore(self, nets, batch, step):\n"
        "        return {'l1': (nets['net'](batch['low']) - batch['truth']).square().mean()}\n"
        "phase = config().phases[0]\n"
        "Quiet.configs = {'compact': config(phases=(phase,), optimiser='adamw')}\n"
        "command.find_stage = lambda name: Quiet\n"
        "sys.exit(command.main(sys.argv[1:]))\n"
    )
    for count in (1, 2):
        # On CPUs `accelerate launch` wants MPI; torchrun sets the same variables.
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        arguments = [
            "irn.tiny",
            "--data",
            faces,
            "--val",
            faces,
            "--out",
            tmp_path / str(count),
            "--workers",
            "0",
            "--cpu",
        ]
        done = subprocess.run([*launch, str(script), *map(str, arguments)], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (newest(tmp_path / str(count))["networks"]["net"] for count in (1, 2))
    for key in one:
        assert torch.allclose(one[key], two[key], atol=1e-4), key
    assert "2 x cpu" in (tmp_path / "2/log.jsonl").read_text()


# Optimisers


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.5 and values.max() < 1.5


def test_what_muon_leaves_to_adamw_moves_as_adamw_moves_it():
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(5)) for _ in range(2)]
    with torch.no_grad():
        weights[1].copy_(weights[0])
    ours = Muon([], [weights[0]], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    theirs = torch.optim.AdamW([weights[1]], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(20):
        for weight, optimiser in zip(weights, (ours, theirs), strict=True):
            weight.grad = torch.sin(weight.detach() * (step + 1))
            optimiser.step()
    assert torch.allclose(weights[0], weights[1], atol=1e-6)


def test_the_learning_rate_rises_and_falls_along_a_cosine():
    phase = type(config().phases[0])("x", 100, batch=1, lr=(1.0, 0.2), warmup=10, weights={})
    assert learning_rate(phase, 0) == pytest.approx(0.1)
    assert learning_rate(phase, 50) == pytest.approx(0.6)
    assert learning_rate(phase, 100) == pytest.approx(0.2)
