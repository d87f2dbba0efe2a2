"""Command lines on the shared checkpoints, for compare_checkouts.py."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """A command line; what of it is piped in; whether it is among the quickest."""

    words: str
    stdin: str = ""
    short: bool = False


def quick(words: str, stdin: str = "") -> Command:
    """Return a command of the short form."""
    return Command(words, stdin, short=True)


DATA = """

def mlp(): return build("mlp_512x3")
def vgg(): return build("vgg_bn")
def resnet(): return build("resnet20_bn_x1")
def vit(): return build("vit_small")
def gpt(): return build("char_gpt")


def _read(name):
    from pathlib import Path
    from safetensors.torch import load_file
    return load_file(Path(__file__).parent / "data.safetensors")[name]


def images():
    x = ((_read("train_images")[:400].float() / 255 - 0.2860) / 0.3530)[:, None]
    yield from zip(x.split(100), _read("train_labels")[:400].long().split(100))


def text_input():
    return _read("test_windows")[:2, :-1].long()


def text():
    for windows in _read("test_windows")[:64].long().split(16):
        yield windows[:, :-1], windows[:, 1:]
"""


def write_folder(folder: Path, checkpoints: Path) -> None:
    """Write what the commands read: copies of the checkpoints under short names, and code."""
    folder.mkdir()
    for path in sorted(checkpoints.glob("*.safetensors")):
        name = path.name.replace("_512x3", "").replace("20_bn_x1", "").replace("_bn", "")
        target = folder / name.replace("_small", "").replace("char_", "")
        shutil.copyfile(path, target)
    code = (checkpoints / "models.py").read_text("utf-8")
    (folder / "user.py").write_text(code + DATA, "utf-8")


def files(network: str, count: int = 2) -> str:
    """Return the names of the checkpoints of a network."""
    return " ".join(f"{network}_s{seed}.safetensors" for seed in range(count))


MLP, VGG, RESNET, VIT, GPT = map(files, ("mlp", "vgg", "resnet", "vit", "gpt"))
THREE = {name: files(name, 3) for name in ("mlp", "vgg", "resnet", "vit", "gpt")}
MODEL = {name: f"--model user.py:{name}" for name in THREE}
RUN = {name: f"{MODEL[name]} --data user.py:images" for name in THREE}
STATISTICS = "vgg_s0.statistics.safetensors"
EVENT = '{{"event":"result","path":"mlp_s{}.safetensors"}}\n'

COMMANDS = (
    quick("--help"),
    quick("align --help"),
    Command("spec trace --help"),
    quick(f"align {MLP} --effort quick --json"),
    Command(f"align {THREE['mlp']} -v -o aligned/ --save-permutation perms/"),
    Command(f"align {VGG} {MODEL['vgg']} --json --save-permutation vgg.perm.safetensors"),
    Command(f"align {RESNET} {MODEL['resnet']} --effort best --seed 3 -v"),
    Command(f"align {VIT} {MODEL['vit']} --method frank-wolfe --start identity --card"),
    Command(f"align {VIT} {MODEL['vit']} --method sinkhorn -f"),
    Command(f"align {GPT} {MODEL['gpt']} --restarts 1 --json"),
    Command(f"align {VGG} {RUN['vgg']} --method activations --mix 0.5 -o act.safetensors"),
    Command(f"align {MLP} {RUN['mlp']} --method straight-through --epochs 1 -o st.pt --json"),
    quick(f"align {MLP} --dry-run -o plan.safetensors"),
    Command("apply vgg.perm.safetensors vgg_s0.safetensors --json"),
    Command("apply perms/mlp_s1.permutation.safetensors mlp_s1.safetensors -o p.pt"),
    Command("apply perms/mlp_s1.permutation.safetensors p.pt --inverse -o back.safetensors"),
    Command(f"merge {THREE['mlp']} -w 0.5,0.3,0.2 -o soup.safetensors --json"),
    Command(f"merge {THREE['vit']} {MODEL['vit']} --strategy universe -o vit.safetensors --card"),
    Command(f"merge {THREE['gpt']} {MODEL['gpt']} --strategy sync -o gpt.pt"),
    Command(f"merge {VGG} --renormalize reset {RUN['vgg']} -o vgg.safetensors --json"),
    quick("merge --strategy none -o piped.safetensors", EVENT.format(0) + EVENT.format(1)),
    Command(f"merge {VGG} --method zipit {RUN['vgg']} -o zip.safetensors"),
    Command(f"merge {MLP} --method cca {RUN['mlp']} -o cca.safetensors --json"),
    Command(f"merge {RESNET} --preserve-first stages.0.* {MODEL['resnet']} -o kept.safetensors"),
    Command(f"lerp {MLP} --align --steps 3 --endpoints"),
    quick(f"lerp {VIT} --at 0.3 --mode slerp --dtype bfloat16 -o arc.safetensors --json"),
    Command(f"lerp {GPT} --steps 2 --exec 'wc -c {{path}}'"),
    Command("verify mlp_s1.safetensors aligned/mlp_s1.aligned.safetensors --json"),
    Command(f"verify {VIT} {MODEL['vit']}"),
    quick(f"diff {VIT} --json"),
    quick(f"diff {MLP} --spec mlp -v"),
    quick(f"inspect {THREE['resnet']}"),
    quick("inspect gpt_s0.safetensors data.safetensors --json"),
    quick("spec list --json"),
    quick("spec check mlp mlp_s0.safetensors"),
    Command("spec init resnet_s0.safetensors"),
    Command("spec trace user.py:resnet --explain"),
    Command("spec trace user.py:gpt --input user.py:text_input -o gpt.yaml --json"),
    Command("spec trace user.py:vit -o vit.yaml --no-cache"),
    Command("spec check vit.yaml vit_s0.safetensors --json"),
    Command("prune mlp_s0.safetensors --sparsity 0.8"),
    Command(f"prune vgg_s0.safetensors --sparsity 0.9 --renormalize reset {RUN['vgg']} --json"),
    Command(f"statistics {VGG} {RUN['vgg']} --json"),
    Command(f"align {VGG} --method activations --statistics {STATISTICS} -o stat.safetensors"),
    Command(f"renormalize soup.safetensors --parents {THREE['mlp']} {RUN['mlp']} -v"),
    Command(f"renormalize soup.safetensors --parents {MLP} -f --method calibrate {MODEL['mlp']}"),
    Command(
        f"renormalize vit.safetensors --parents {THREE['vit']} {RUN['vit']} --sequential --json"
    ),
    Command(f"barrier {MLP} --spec mlp {RUN['mlp']} --steps 5 --plot curve.html"),
    Command(
        f"barrier {VGG} {RUN['vgg']} --steps 3 --renormalize reset --resume points.ndjson --json"
    ),
    Command(f"barrier {VIT} {RUN['vit']} --at 0.5 --diagnose --plot layers.svg"),
    Command(f"barrier {GPT} {MODEL['gpt']} --data user.py:text --batches 2 --at 0.5 --no-align"),
    Command(f"barrier {THREE['mlp']} {RUN['mlp']} --plane --steps 3"),
    quick(f"align {MLP} vgg_s0.safetensors --json"),
    Command("align mlp_s0.safetensors missing.safetensors"),
)
SHORT = tuple(command for command in COMMANDS if command.short)
