"""Commands whose models and results lie elsewhere: on the hub, and in a store that speaks S3."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import torch

from tests.cli.build import load, mlp, save, shuffled
from tests.cli.harness import ROOT, Done, fresh, rebasin

A = mlp(0)
B = shuffled(A, 1)
COMMIT = "a" * 40


def cached(home: Path, name: str, file: str, state: dict[str, torch.Tensor]) -> None:
    """Put a repository into a cache of the hub, as other programs leave it."""
    folder = home / "hub" / f"models--org--{name}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text("{}")
    save(snapshot / file, state)


def test_a_repository_in_the_cache_is_used_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    cached(tmp_path, "a", "model.safetensors", A)
    cached(tmp_path, "b", "pytorch_model.bin", B)
    env = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    args = ["align", "hf://org/a", "hf://org/b@main", "--spec", "mlp"]
    done = rebasin(*args, "--json", "--card", "-o", "out", cwd=tmp_path, env=env)
    assert done.code == 0, done.err
    assert done.events[1]["model"] == "hf://org/b@main"
    made = load(tmp_path / "out" / "pytorch_model.bin")
    assert all(torch.equal(made[name], A[name]) for name in A)
    assert (tmp_path / "out" / "config.json").exists()
    assert '- "org/b"' in (tmp_path / "out" / "README.md").read_text()
    done = rebasin(*args, cwd=tmp_path, env=env)
    assert done.code == 2 and "hf://org/b@main.aligned cannot be written to" in done.err
    done = rebasin("inspect", "hf://org/c", cwd=tmp_path, env=env)
    assert done.code == 4 and "not all of it is in the hub's cache" in done.err


class Hub(BaseHTTPRequestHandler):
    """A hub of one repository, org/a. asked: the files that were fetched."""

    files: ClassVar[dict[str, bytes]]
    asked: ClassVar[list[str]]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        name = path.partition(f"/resolve/{COMMIT}/")[2]
        if name in self.files:
            data, extra = self.files[name], {"X-Repo-Commit": COMMIT}
            extra["ETag"] = f'"{sha256(data).hexdigest()}"'
            self.asked.extend([name] * body)
        elif path in ("/api/models/org/a", "/api/models/org/a/revision/main"):
            names = [{"rfilename": name} for name in self.files]
            told = {"id": "org/a", "sha": COMMIT, "siblings": names}
            data, extra = json.dumps(told).encode(), {}
        elif path == f"/api/models/org/a/tree/{COMMIT}":
            data, extra = json.dumps(self.tree()).encode(), {}
        else:
            data, extra = b"", {"X-Error-Code": "RepoNotFound"}
        self.send_response(404 if "X-Error-Code" in extra else 200)
        for key, value in {**extra, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": sha256(data).hexdigest()[:40]}
            for name, data in self.files.items()
        ]

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_of_a_repository_the_weights_of_one_model_are_fetched(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    whole = save(tmp_path / "a.safetensors", A).read_bytes()
    index = {"metadata": {}, "weight_map": dict.fromkeys(A, "model-1-of-1.safetensors")}

    class OneModel(Hub):
        asked: ClassVar[list[str]] = []
        files: ClassVar[dict[str, bytes]] = {
            "config.json": b"{}",
            "model.safetensors.index.json": json.dumps(index).encode(),
            "model-1-of-1.safetensors": whole,
            "consolidated.safetensors": whole,
            "pytorch_model.bin": whole,
            "onnx/model.onnx": whole,
        }

    with served(OneModel) as url:
        env = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0"}
        done = rebasin("diff", "hf://org/a", "a.safetensors", cwd=tmp_path, env=env)
        assert done.code == 0 and "etching" not in done.err, done.err
        wanted = ["config.json", "model-1-of-1.safetensors", "model.safetensors.index.json"]
        assert sorted(OneModel.asked) == wanted
        done = rebasin("inspect", "hf://org/c", cwd=tmp_path, env=env)
        assert done.code == 3 and "the hub shows no such repository" in done.err
        done = rebasin("diff", "hf://org/a", "a.safetensors", cwd=tmp_path, env=env)
        assert done.code == 0 and sorted(OneModel.asked) == wanted


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", A)
    done = rebasin("inspect", f"file://{tmp_path}/a.safetensors", "--json", cwd=tmp_path)
    assert done.code == 0 and done.events[0]["path"] == f"{tmp_path}/a.safetensors"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a server that speaks S3, with a bucket, and tell the environment of it."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    s3fs = pytest.importorskip("s3fs")
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    store = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    store.mkdir("bucket")
    yield store
    store.rm("bucket", recursive=True)
    server.stop()


def run(*argv: str, cwd: Path) -> Done:
    """Run a command in an interpreter that finds the packages that this one finds."""
    return fresh(*argv, cwd=cwd, env={"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])})


@pytest.mark.slow
def test_models_in_a_bucket_are_worked_on_as_files_are(s3: Any, tmp_path: Path) -> None:
    for name, state in {"a.safetensors": A, "b.safetensors": B, "c.pt": B}.items():
        s3.put_file(str(save(tmp_path / name, state)), f"bucket/{name}")
    urls = [f"s3://bucket/{name}" for name in ("a.safetensors", "b.safetensors", "c.pt")]

    def same(*argv: str) -> bytes:
        """Run a command on the files and on the bucket, and return the same that both made."""
        here = [word.replace("s3://bucket/", "") for word in argv]
        there, local = run(*argv, cwd=tmp_path), rebasin(*here, cwd=tmp_path)
        assert there.code == local.code == 0, there.err + local.err
        assert there.lines[-1].replace("s3://bucket/", "") == local.lines[-1]
        made: bytes = s3.cat_file(there.lines[-1])
        assert made == (tmp_path / local.lines[-1]).read_bytes()
        return made

    (tmp_path / "new").mkdir()
    same("align", *urls[:2], "--save-permutation", "s3://bucket/p.safetensors")
    same("apply", "s3://bucket/p.safetensors", urls[2], "-o", "s3://bucket/new/c.pt")
    same("merge", *urls, "-o", "s3://bucket/new/soup.safetensors")
    same("lerp", *urls[:2], "--at", "0.5", "-o", "s3://bucket/new/half.safetensors")
    assert run("verify", *urls[:2], cwd=tmp_path).code == 0
    assert run("diff", *urls[:2], cwd=tmp_path).code == 1
    inspected = run("inspect", urls[0], "--json", cwd=tmp_path).events[0]
    assert inspected["path"] == urls[0]
    assert not [name for name in s3.find("bucket") if ".tmp" in name]


@pytest.mark.slow
def test_a_bucket_that_cannot_be_used_is_told(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.safetensors", A)
    done = run("inspect", "s3://bucket/a.pt", cwd=tmp_path)
    assert done.code == 3 and "s3://bucket/a.pt: no such file, folder or bucket" in done.err
    argv = ["merge", "a.safetensors", "a.safetensors", "-o", "s3://other/m.safetensors"]
    done = run(*argv, cwd=tmp_path)
    assert done.code == 4 and "cannot write: no such folder or bucket" in done.err
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    done = run("inspect", "s3://bucket/a.pt", cwd=tmp_path)
    assert done.code == 4 and "hint: credentials are taken from AWS_ACCESS_KEY_ID" in done.err
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    done = run("inspect", "s3://bucket/a.pt", cwd=tmp_path)
    assert done.code == 4 and "hint: check the address and the network" in done.err
