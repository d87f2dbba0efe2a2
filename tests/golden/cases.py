"""The command lines whose every word is held, a list for each golden text.

Those of one list run after one another in one folder with the files of inputs.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto


class Same(Enum):
    """What of the files is the same on every machine and with every version of torch."""

    BYTES = auto()  # permuted, or sums that are exact
    VALUES = auto()  # the same, in a .pt or beside something that zlib compressed
    NAMES = auto()  # the last bits of values differ


@dataclass(frozen=True)
class Run:
    """One command line; stdin: what is piped in."""

    words: str
    same: Same = Same.BYTES
    stdin: str = ""


def values(words: str) -> Run:
    """Return a run whose files have the same values in other bytes."""
    return Run(words, Same.VALUES)


def names(words: str) -> Run:
    """Return a run whose files differ from machine to machine in their last bits."""
    return Run(words, Same.NAMES)


AB = "a.safetensors b.safetensors"
ABC = f"{AB} c.safetensors"
FOUR = f"{ABC} same.safetensors"
NM = "n.safetensors m.safetensors"
NET, DATA = "--model user.py:net", "--data user.py:batches"
STATISTICS = "--statistics a.statistics.safetensors"
NORMED = f"--model user.py:normed {DATA}"
EVENTS = '{"event":"result","path":"a.safetensors"}\n{"event":"result","path":"b.safetensors"}\n'
BARRIER = f"barrier {AB} --spec mlp {NET}"

CASES: Mapping[str, Sequence[Run]] = {
    "align": (
        Run(f"align {AB} --json"),
        Run(f"align {AB} --force -v"),
        Run("align a.safetensors same.safetensors --json"),
        Run("align a.safetensors alone.safetensors -q"),
        Run(f"align {ABC} -o aligned/ --save-permutation aligned/"),
        Run(f"align {AB} --no-clobber"),
        Run(f"align {AB} --no-clobber --json"),
        Run(f"align {AB} --spec mlp --only 2.* --out some.safetensors"),
        Run("align a.safetensors same.safetensors -f -v --json"),
    ),
    "align-search": (
        Run(f"align {AB} --effort quick --json"),
        Run(f"align {AB} --effort best --seed 3 --restarts 2 -f"),
        Run(f"align {AB} --method weights --order forward --start identity -f"),
        Run(f"align {AB} --method frank-wolfe --start barycenter -f --json"),
        Run(f"align {AB} --method sinkhorn --loss l1 -f"),
        Run(f"align {AB} --save-permutation b.perm.safetensors -f -q"),
        Run(f"align {AB} --start b.perm.safetensors -f"),
    ),
    "align-forms": (
        Run(f"align {AB} --dtype bfloat16 --card"),
        values(f"align {AB} --format pt --json"),
        Run("align first second -o moved --json --card"),
        values("align a.pt b.pt -f --save-permutation b.perm.safetensors"),
        values("align a.pt b.pt --drop-rest -o weights.pt --json"),
        values("align a.pt b.pt --only-part model -o part.pt"),
        Run(f"align {AB} --rename '^([0-9])=layers.\\1' -f"),
        Run("align a.safetensors b.safetensors --in-place -o b.safetensors"),
    ),
    "align-model": (
        Run(f"align {AB} {NET} --json"),
        Run(f"align {AB} {NET} --check -f"),
        Run(f"align {AB} --method activations {NET} {DATA} --mix 0.5 -f --json"),
        Run(f"align {AB} --spec mlp --method activations {NET} {DATA} -f --json"),
        names(f"statistics {AB} {NET} {DATA} --json"),
        names(f"statistics {AB} {NET} {DATA} --point before --batches 2 -o s.safetensors"),
        names(f"align {AB} --method activations --mix 0.5 -f {STATISTICS}"),
    ),
    "align-learning": (
        names(f"align {AB} {NET} {DATA} --method straight-through --epochs 2 --json"),
        names(f"align {AB} {NET} {DATA} --method straight-through --epochs 1 -f --resume state"),
    ),
    "apply": (
        Run(f"align {AB} --save-permutation b.perm.safetensors -q"),
        Run("apply b.perm.safetensors b.safetensors --json"),
        Run("apply b.perm.safetensors b.permuted.safetensors --inverse -o back.safetensors"),
        Run("diff b.safetensors back.safetensors"),
        values("apply b.perm.safetensors b.pt"),
        Run("apply b.perm.safetensors second -o folder"),
        Run(f"apply b.perm.safetensors b.safetensors -f {NET}"),
        Run("apply b.perm.safetensors b.safetensors --no-clobber"),
        Run("apply b.perm.safetensors b.safetensors -f --dry-run"),
    ),
    "widen": (
        Run("widen a.safetensors --to hidden.0=12 --to hidden.*=2x --json"),
        Run("widen a.safetensors --to wide.safetensors -f"),
        Run(f"widen a.safetensors --to layer.*=20 -o run.safetensors {NET}"),
        Run("widen a.safetensors --to hidden.0=3 -o less.safetensors"),
        Run("align wide.safetensors b.safetensors --widen"),
    ),
    "merge": (
        Run(f"merge {AB} --json"),
        Run(f"merge {AB} -o half.safetensors --card -v"),
        Run(f"merge {ABC} -w 0.5,0.25,0.25 --strategy star -o star.safetensors"),
        Run(f"merge {ABC} -w 2 -w 1 -w 1 --strategy sync -o sync.safetensors --json"),
        Run(f"merge {ABC} -w 2,1,1 --strategy universe --ref b.safetensors -o u.safetensors"),
        Run(f"merge {AB} --strategy none --skip *.bias -o none.safetensors"),
        Run("merge -o piped.safetensors", stdin="a.safetensors\nb.safetensors\n"),
        Run("merge first second -o folder --dtype bfloat16"),
        values("merge a.pt b.pt --json"),
        Run(f"align {AB}"),
        Run("merge a.safetensors b.aligned.safetensors -o basin.safetensors"),
    ),
    "merge-data": (
        names(f"merge {AB} --renormalize rescale --spec mlp {NET} {DATA} --json"),
        names(f"merge {AB} --method zipit {NET} {DATA} -o zip.safetensors --json"),
        names(f"merge {AB} --method cca {NET} {DATA} -o cca.safetensors"),
        names(f"merge {AB} --method least-squares --width 1.5 {NET} {DATA} -o w.safetensors"),
        names(f"merge {AB} --preserve-first 1 {NET} -o trunk.safetensors --json"),
    ),
    "lerp": (
        Run(f"lerp {AB} --steps 3"),
        Run(f"lerp {AB} --at 0.25,0.5 --json -o two"),
        Run(f"lerp {AB} --align --at 0.5 -o mid.safetensors --card"),
        Run(f"lerp {ABC} --chain --steps 1 --endpoints -o chain"),
        names(f"lerp {AB} --at 0.5 --mode slerp -o arc.safetensors"),
        Run(f"lerp {AB} --steps 1 -o one --exec 'echo {{path}}'"),
        Run(f"lerp {AB} --steps 1 -o one --exec 'echo 0.125' --json"),
        Run(f"lerp {AB} --steps 1 --exec 'echo 7' --keep -o kept/"),
        values("lerp a.pt b.pt --at 0.5"),
        Run("lerp --at 0.5 -o piped.safetensors", stdin=EVENTS),
        Run(f"lerp {AB} --steps 2 --dry-run --json --device cpu --jobs 2"),
    ),
    "verify": (
        Run("verify a.safetensors same.safetensors --save-permutation same.perm.safetensors"),
        Run("verify a.safetensors same.safetensors --json"),
        Run(f"verify {AB}"),
        Run(f"verify {AB} --json"),
        Run(f"verify a.safetensors same.safetensors {NET} -v"),
    ),
    "related": (
        Run("related a.safetensors same.safetensors"),
        Run("related a.safetensors same.safetensors --json"),
        Run("related a.safetensors a.safetensors same.safetensors"),
        Run("related a.safetensors wide.safetensors"),
    ),
    "diff": (
        Run("diff a.safetensors a.safetensors"),
        Run(f"diff {AB}"),
        Run(f"diff {AB} --only 2.* --json"),
        Run(f"diff {AB} --spec mlp -v"),
        Run(f"diff {AB} --spec mlp --json"),
        Run("diff a.safetensors wide.safetensors"),
        Run("diff a.safetensors n.safetensors --json"),
    ),
    "inspect": (
        Run("inspect a.safetensors"),
        Run("inspect a.safetensors n.safetensors --json"),
        Run("inspect first --only *.bias"),
        values("inspect a.pt"),
        Run("inspect a.safetensors --dry-run"),
    ),
    "spec": (
        Run("spec list"),
        Run("spec list --json"),
        Run("spec show mlp"),
        Run("spec init a.safetensors"),
        Run("spec check mlp"),
        Run("spec check mlp a.safetensors"),
        Run("spec check my.yaml a.safetensors --json"),
        Run("spec check mlp n.safetensors"),
        Run("spec check bad.yaml"),
        Run("spec check bad.yaml a.safetensors --json"),
    ),
    "spec-trace": (
        values("spec trace user.py:net"),
        values("spec trace user.py:net --input-shape 2,6 -o net.yaml --json"),
        Run("spec check net.yaml a.safetensors"),
        values("spec trace user.py:normed --explain --no-cache"),
        values("spec trace user.py:net --dry-run"),
    ),
    "prune": (
        values("prune a.safetensors --sparsity 0.5"),
        values("prune a.safetensors --sparsity 0.25 --method layer-magnitude -f --json"),
        values("prune a.safetensors --sparsity 0.75 --only 2.* -f --dry-run"),
        values("prune first --sparsity 0.5 --skip 0.*"),
        values("prune a.safetensors --pattern 2:4 -f --json"),
        names(f"prune n.safetensors --sparsity 0.5 --renormalize reset {NORMED} --json"),
    ),
    "transport": (
        values("transport c.safetensors --from a.safetensors --to b.safetensors"),
        values("transport c.safetensors --from a.safetensors --to b.safetensors --as delta --json"),
        Run(f"transport c.safetensors --from a.safetensors --to b.safetensors -f {NET} {DATA}"),
        Run("transport c.safetensors --from a.safetensors --to b.safetensors --map layerwise"),
    ),
    "renormalize": (
        Run(f"merge {AB} -q -o mean.safetensors"),
        names(f"renormalize mean.safetensors --parents {AB} {NET} {DATA} --spec mlp --json"),
        names(
            f"renormalize mean.safetensors --parents {AB} {NET} --spec mlp --method calibrate -f"
        ),
        Run(f"merge {NM} -o bn.safetensors -q --model user.py:normed"),
        names(f"renormalize bn.safetensors --method reset {NORMED} -v"),
        names(f"renormalize bn.safetensors --method repair {NORMED} --parents {NM} -f --json"),
    ),
    "barrier": (
        names(f"{BARRIER} {DATA} --steps 3"),
        names(f"{BARRIER} {DATA} --at 0.5 --json --diagnose"),
        names(f"{BARRIER} --evaluate user.py:first_bias --steps 3 --no-align --json"),
        names(f"{BARRIER} {DATA} --steps 3 --renormalize rescale --resume points.ndjson"),
        names(f"barrier {ABC} --spec mlp {NET} {DATA} --plane --steps 3"),
        names(f"barrier --series {FOUR} --spec mlp {NET} {DATA} --steps 3 --align-by last"),
    ),
    "dry-runs": tuple(
        Run(f"{words} --dry-run")
        for words in (
            f"align {AB} --device cpu --jobs 2",
            f"merge {ABC} --strategy star --device cpu --jobs 2",
            f"verify {AB} --device cpu --jobs 2",
            f"diff {AB} --device cpu",
            f"{BARRIER} {DATA} --steps 3 --device cpu --jobs 2",
            f"statistics {AB} {NET} {DATA} --device cpu --jobs 2",
            f"renormalize a.safetensors --method reset {NORMED} --device cpu --jobs 2",
        )
    ),
    "refusals-usage": (
        Run("align a.safetensors"),
        Run(f"align {AB} --method guess"),
        Run(f"align {AB} --max-memory 0 --json"),
        Run(f"align {AB} --input-shape 1,6"),
        Run(f"align {AB} --spec mlp --set heads=many"),
        Run(f"lerp {AB}"),
        Run(f"lerp {AB} --at 0.5,x"),
        Run(f"merge {AB} -w 1,2,3 --json"),
        Run("merge -o x.safetensors", stdin='{"event":"error","message":"no"}\n'),
        Run(f"diff {AB} --spec none"),
        values("prune a.safetensors --sparsity 2"),
        Run(f"barrier {AB} {NET}"),
    ),
    "refusals-input": (
        Run("align a.safetensors missing.safetensors --json"),
        Run("align a.safetensors cut.safetensors"),
        Run("inspect junk.safetensors"),
        Run("align a.safetensors nan.safetensors"),
        Run("align a.safetensors wide.safetensors --json"),
        Run("align a.safetensors n.safetensors"),
        Run("align n.safetensors m.safetensors"),
        Run(f"align {AB} --spec mpl"),
        Run(f"align {AB} --spec bad.yaml"),
        Run("apply a.safetensors b.safetensors"),
        Run(f"merge {AB} -o merged.safetensors -q"),
        Run(f"merge {AB} -o merged.safetensors"),
        Run(f"merge {AB} -o a.safetensors --force"),
        Run(f"{BARRIER} --data user.py:broken --steps 3"),
        Run("spec trace user.py:nothing --json"),
        Run("spec init missing.safetensors"),
    ),
    "refusals-machine": (
        Run(f"align {AB} --device cuda:9"),
        Run(f"merge {AB} --strategy none -o user.py/m.safetensors --json"),
        Run("align a.safetensors b.safetensors wide.safetensors"),
        Run("align a.safetensors missing.safetensors c.safetensors -f --json"),
        Run("inspect a.safetensors missing.safetensors"),
        Run("align a.safetensors nan.safetensors c.safetensors -f --json"),
        Run(f"align {AB} --max-memory 1kB"),
        Run(f"lerp {AB} --steps 2 --exec false"),
    ),
}
