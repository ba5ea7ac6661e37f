"""What a user calls a model. The hub is a local one; nothing leaves this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from arkinfer.errors import ResourceError, UsageError
from arkinfer.frontend.hub import demo_checkpoint, resolve
from arkinfer.testing import make_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ID = "openbmb/MiniCPM4-Tiny"


class Hub:
    """The few answers of a hub that a download needs, for one model in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[str] = []
        self.resumed: list[int] = []
        self.break_after: int | None = None
        """Bytes of a weight file after which the connection breaks, once."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.split("?")[0]
        self.requests.append(f"{request.command} {path}")
        file = self.folder / path.rpartition("/")[2]
        if path == f"/api/models/{ID}":
            files = [
                {"rfilename": f.name, "size": f.stat().st_size, "blobId": "0" * 40}
                for f in sorted(self.folder.iterdir())
            ]
            answer = {"id": ID, "sha": COMMIT, "siblings": files, "tags": []}
            self.send(request, json.dumps(answer).encode(), {}, body)
        elif path.startswith(f"/{ID}/resolve/") and file.is_file():
            content = file.read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            self.send(request, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body)
        elif path == "/api/models/openbmb/Gated":
            self.refuse(request, 403, "GatedRepo")
        else:
            self.refuse(request, 404, "RepoNotFound")

    def send(
        self, request: BaseHTTPRequestHandler, content: bytes, headers: dict[str, str], body: bool
    ) -> None:
        start = 0
        if span := request.headers.get("Range"):
            start = int(span.removeprefix("bytes=").split("-")[0])
            self.resumed.append(start)
        request.send_response(206 if start else 200)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        for name, value in {**headers, "Content-Length": str(len(content) - start)}.items():
            request.send_header(name, value)
        request.end_headers()
        if not body:
            return
        if self.break_after is not None and len(content) > self.break_after:
            request.wfile.write(content[start : start + self.break_after])
            self.break_after = None
            request.close_connection = True
            return
        request.wfile.write(content[start:])

    def refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = make_checkpoint("tiny", 0, tmp_path / "served", shard_bytes=900_000)
    (folder / "modeling_minicpm.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights again")
    (folder / "README.md").write_text("# A model")
    hub = Hub(folder)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def ask(
    hub: Hub | None,
    tmp_path: Path,
    model: str,
    *,
    offline: bool = False,
    confirm: str = "None",
    before: str = "",
    weights: bool = True,
) -> dict[str, Any]:
    """`resolve` in a process of its own, as the library reads its environment when imported."""
    code = f"""
import json, sys
{before}
from arkinfer.errors import ArkError
from arkinfer.frontend.hub import resolve
asked = []
try:
    folder = resolve({model!r}, offline={offline}, confirm={confirm}, weights={weights})
    found = dict(folder=str(folder), files=sorted(p.name for p in folder.iterdir()))
except ArkError as error:
    found = dict(error=type(error).__name__, text=str(error))
print(json.dumps(dict(found, asked=asked)))
"""
    url = hub.url if hub else "http://127.0.0.1:1"
    environment = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": ""}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


YES = "lambda *what: asked.append(what) or True"
WANTED = [
    "config.json",
    "generation_config.json",
    "model-00001-of-00003.safetensors",
    "model-00002-of-00003.safetensors",
    "model-00003-of-00003.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


def test_a_download_takes_only_what_is_needed_and_says_its_size(hub: Hub, tmp_path: Path) -> None:
    found = ask(hub, tmp_path, ID, confirm=YES)
    size = sum((hub.folder / name).stat().st_size for name in WANTED)
    assert found["files"] == WANTED
    assert found["asked"] == [[ID, size]]
    for name in WANTED:
        assert (Path(found["folder"]) / name).read_bytes() == (hub.folder / name).read_bytes()

    gets = [r for r in hub.requests if r.startswith("GET") and "resolve" in r]
    assert len(gets) == len(WANTED)
    again = ask(hub, tmp_path, ID, confirm=YES)
    assert (again["folder"], again["asked"]) == (found["folder"], [])
    assert [r for r in hub.requests if r.startswith("GET") and "resolve" in r] == gets

    hub.requests.clear()
    sockets = "import socket\nsocket.socket.connect = lambda *a: sys.exit('it dialled')"
    offline = ask(hub, tmp_path, ID, offline=True, before=sockets)
    assert offline["folder"] == found["folder"]
    assert hub.requests == []


def test_a_declined_download_takes_nothing(hub: Hub, tmp_path: Path) -> None:
    found = ask(hub, tmp_path, ID, confirm="lambda *what: False")
    assert found["error"] == "UsageError"
    assert found["text"] == f"{ID} was not downloaded. The download was declined."
    assert not any("resolve" in request for request in hub.requests)


def test_a_broken_download_continues_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.break_after = 300_000
    small = "import huggingface_hub.constants as c\nc.DOWNLOAD_CHUNK_SIZE = 50_000"
    first = ask(hub, tmp_path, ID, before=small)
    if "error" in first:  # else the library resumed by itself
        assert first["error"] == "ResourceError"
        assert f"{ID} could not be downloaded" in first["text"]
        offline = ask(hub, tmp_path, ID, offline=True)
        assert "is not in the cache" in offline["text"]
        first = ask(hub, tmp_path, ID, before=small)
    assert first["files"] == WANTED
    assert any(start > 0 for start in hub.resumed)
    for name in WANTED:
        assert (Path(first["folder"]) / name).read_bytes() == (hub.folder / name).read_bytes()


def test_what_the_hub_says_no_to(hub: Hub, tmp_path: Path) -> None:
    unknown = ask(hub, tmp_path, "openbmb/MiniCPM9")
    assert unknown["error"] == "UsageError"
    assert unknown["text"].startswith("The hub has no model openbmb/MiniCPM9.")
    gated = ask(hub, tmp_path, "openbmb/Gated")
    assert gated["error"] == "UsageError"
    assert gated["text"].startswith("openbmb/Gated may not be downloaded.")
    (hub.folder / "config.json").unlink()
    assert "has no config.json" in ask(hub, tmp_path, ID)["text"]


def test_a_model_without_readable_weights(hub: Hub, tmp_path: Path) -> None:
    for file in [*hub.folder.glob("*.safetensors*"), hub.folder / "pytorch_model.bin"]:
        file.unlink()
    (hub.folder / "model.gguf").write_bytes(b"GGUF")
    found = ask(hub, tmp_path, ID)
    assert found["error"] == "UsageError"
    assert "holds no weights that can be read" in found["text"]


def test_bin_weights_where_there_are_no_others(hub: Hub, tmp_path: Path) -> None:
    for file in hub.folder.glob("*.safetensors*"):
        file.unlink()
    assert "pytorch_model.bin" in ask(hub, tmp_path, ID)["files"]


def test_no_network_and_no_cache(tmp_path: Path) -> None:
    found = ask(None, tmp_path, ID)
    assert found["error"] == "ResourceError"
    assert found["text"].startswith(f"{ID} could not be downloaded.")
    assert "--offline" in found["text"]
    offline = ask(None, tmp_path, ID, offline=True)
    assert offline["error"] == "UsageError"
    assert offline["text"] == (
        f"{ID} is not in the cache of the hub. --offline forbids to download it. "
        "Run once without --offline, or give the folder of a copy."
    )


def test_a_full_disk(hub: Hub, tmp_path: Path) -> None:
    full = "import shutil, types\nshutil.disk_usage = lambda p: types.SimpleNamespace(free=1000)"
    found = ask(hub, tmp_path, ID, before=full)
    assert found["error"] == "ResourceError"
    assert found["text"].startswith(f"{ID} does not fit on the disk.")
    assert not any("resolve" in request for request in hub.requests)


def test_without_the_hub_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="huggingface-hub is not installed"):
        resolve(ID)


def test_folders_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_checkpoint("tiny", 0, tmp_path / "models" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert resolve(str(folder)) == folder
    assert resolve("models/tiny") == Path("models/tiny")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/models/tiny") == folder
    monkeypatch.chdir(folder)
    assert resolve(None) == folder


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("models/tinny", 'Did you mean "models/tiny"? '),
        ("./tiny", ""),
        ("a/b/c", ""),
        ("/no/where", ""),
        ("minicpm", ""),
        ("org/na me", ""),
        ("org/../x", ""),
        ("", ""),
    ],
)
def test_wrong_paths_are_not_taken_for_hub_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, hint: str
) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        resolve(model)
    assert str(caught.value) == (
        f'There is no folder "{model}". {hint}Give the folder that holds the checkpoint\'s '
        'config.json, a hub id like openbmb/MiniCPM4-0.5B, or "demo".'
    )


def test_a_gguf_file_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-q4_0.gguf").touch()
    assert resolve("tiny-q4_0.gguf") == Path("tiny-q4_0.gguf")
    expected = 'There is no file "./tiny-q40.gguf". Did you mean "tiny-q4_0.gguf"? '
    with pytest.raises(UsageError) as caught:
        resolve("./tiny-q40.gguf")
    assert str(caught.value).startswith(expected)
    with pytest.raises(UsageError, match=r'There is no file "models/x\.gguf"'):
        resolve("models/x.gguf")  # no hub id, though there is no folder "models"


def test_the_ternary_demo_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        resolve("demo-ternary")
    assert str(caught.value) == (
        '"demo-ternary" comes as an .ark file, not as a checkpoint. It is run, not built. '
        'Run it: arkinfer run demo-ternary "…"; or make its checkpoint with recipes/bitcpm.'
    )
    (tmp_path / "demo-ternary").mkdir()
    assert resolve("demo-ternary") == Path("demo-ternary")


def test_demo_is_the_packaged_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    monkeypatch.chdir(tmp_path)
    for model in ("demo", None):
        with pytest.raises(UsageError, match="has no demo model"):
            resolve(model)
    make_checkpoint("tiny", 0, tmp_path / "demo" / "checkpoint")
    assert resolve("demo") == resolve(None) == demo_checkpoint()
    assert demo_checkpoint() == tmp_path / "demo" / "checkpoint"


def test_a_plan_fetches_settings_only(hub: Hub, tmp_path: Path) -> None:
    found = ask(hub, tmp_path, ID, weights=False)
    assert found["files"] == ["config.json", "generation_config.json", "tokenizer.json",
                              "tokenizer_config.json"]  # fmt: skip
    assert not [request for request in hub.requests if "safetensors" in request]
    incomplete = ask(hub, tmp_path, ID, offline=True)
    assert "is not in the cache of the hub" in incomplete["text"]
